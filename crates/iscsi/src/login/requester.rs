//! The initiator's half of the login phase (RFC 7143 clause 6): a state machine that turns each
//! response into the next request. Used by [`crate::initiator`]; holds no socket.

use super::chap::{self, Chap};
use super::keys::{KeyError, Parameters, Proposal};
use super::{LOGIN_DATA_LIMIT, MAX_EXCHANGES};
use crate::pdu::{LoginFlags, LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::text::{Collector, Text, TextError};
use scsi::{IscsiName, Isid};

/// What to log in as, where, and with which wishes.
#[derive(Clone, Debug)]
pub struct LoginPlan {
    /// Initiator name.
    pub initiator: IscsiName,
    /// Initiator session identifier.
    pub isid: Isid,
    /// Target name; `None` for a discovery session.
    pub target: Option<IscsiName>,
    /// Credentials; with them, CHAP is insisted on.
    pub chap: Option<Chap>,
    /// Wishes for the session.
    pub proposal: Proposal,
    /// Challenge for mutual CHAP; fresh random bytes for each login.
    pub challenge: [u8; chap::CHALLENGE_LENGTH],
}

/// Why a login ended without a session.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The target is elsewhere.
    #[error("the target has moved {}to {address:?}", if *.permanent { "for good " } else { "" })]
    Redirected {
        /// TargetAddress: host, port, portal group tag.
        address: String,
        /// Whether to remember that.
        permanent: bool,
    },
    /// The target refused.
    #[error("the target refused the login: {0}")]
    Refused(LoginStatus),
    /// The target did not prove who it is, or wants an authentication that is not configured.
    #[error("authentication failed: {0}")]
    Authentication(&'static str),
    /// The target answered with a parameter value it may not choose.
    #[error("the target broke the parameter negotiation")]
    Key(#[from] KeyError),
    /// The target sent text that cannot be read.
    #[error("the target sent malformed login text")]
    Text(#[from] TextError),
    /// The target broke the protocol.
    #[error("the target broke the login protocol: {0}")]
    Protocol(&'static str),
}

/// What to do after a response.
#[derive(Debug)]
pub enum Step {
    /// Send this request with this data and hand in the response.
    Send(LoginRequest, Vec<u8>),
    /// The session is in its full feature phase.
    Done(Established),
}

/// A finished login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// What was negotiated.
    pub parameters: Parameters,
    /// The target's session handle.
    pub tsih: u16,
    /// The next StatSN to acknowledge.
    pub exp_stat_sn: u32,
    /// CmdSN of the first command.
    pub cmd_sn: u32,
    /// Highest CmdSN that the target accepts.
    pub max_cmd_sn: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// AuthMethod was offered.
    Method,
    /// CHAP_A was sent; the challenge is due.
    Challenge,
    /// CHAP_R was sent; the verdict, and with mutual CHAP the target's proof, is due.
    Proof,
    /// Parameters were offered.
    Operational,
}

/// One login under way.
#[derive(Debug)]
pub struct Requester {
    plan: LoginPlan,
    state: State,
    parameters: Parameters,
    collector: Collector,
    exp_stat_sn: u32,
    exchanges: u32,
    /// CHAP_I of our own challenge.
    mutual_identifier: u8,
}

const FIRST_CMD_SN: u32 = 1;

impl Requester {
    /// A login that starts with [`Requester::start`].
    #[must_use]
    pub fn new(plan: LoginPlan) -> Self {
        let parameters = Parameters { max_recv: plan.proposal.max_recv, ..Parameters::default() };
        Self {
            plan,
            state: State::Method,
            parameters,
            collector: Collector::default(),
            exp_stat_sn: 0,
            exchanges: 0,
            mutual_identifier: 0,
        }
    }

    /// The first request: who we are, whom we want, and how we prove it.
    pub fn start(&mut self) -> (LoginRequest, Vec<u8>) {
        let mut text = Text::default().with("InitiatorName", self.plan.initiator.as_str());
        match &self.plan.target {
            Some(target) => {
                text.push("SessionType", "Normal");
                text.push("TargetName", target.as_str());
            }
            None => text.push("SessionType", "Discovery"),
        }
        if self.plan.chap.is_some() {
            text.push("AuthMethod", "CHAP");
            self.request(LoginFlags::stay(Stage::Security), &text)
        } else {
            text.push("AuthMethod", "None");
            self.request(LoginFlags::transit(Stage::Security, Stage::Operational), &text)
        }
    }

    /// Takes a response and says what follows.
    ///
    /// # Errors
    /// [`LoginError`] if there will be no session; the connection is then to be closed.
    pub fn handle(&mut self, response: &LoginResponse, data: &[u8]) -> Result<Step, LoginError> {
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginError::Protocol("the negotiation does not end"));
        }
        if response.status != LoginStatus::SUCCESS {
            return Err(refusal(response.status, data));
        }
        self.exp_stat_sn = response.stat_sn.wrapping_add(1);
        let more = response.flags.has(LoginFlags::CONTINUE);
        let Some(text) = self.collector.add(data, more)? else {
            return Ok(self.send(LoginFlags::stay(self.stage()), &Text::default()));
        };
        match self.state {
            State::Method => self.method_chosen(response, &text),
            State::Challenge => self.challenged(&text),
            State::Proof => self.proven(response, &text),
            State::Operational => self.negotiated(response, &text),
        }
    }

    const fn stage(&self) -> Stage {
        match self.state {
            State::Operational => Stage::Operational,
            _ => Stage::Security,
        }
    }

    fn method_chosen(&mut self, response: &LoginResponse, text: &Text) -> Result<Step, LoginError> {
        match (text.get("AuthMethod"), self.plan.chap.is_some()) {
            (Some("CHAP"), true) => {
                self.state = State::Challenge;
                let algorithm = Text::default().with("CHAP_A", "5");
                Ok(self.send(LoginFlags::stay(Stage::Security), &algorithm))
            }
            (None | Some("None"), false) => self.enter_operational(response),
            (_, true) => Err(LoginError::Authentication("the target did not choose CHAP")),
            (_, false) => Err(LoginError::Authentication("the target wants credentials")),
        }
    }

    fn challenged(&mut self, text: &Text) -> Result<Step, LoginError> {
        let Some(chap) = &self.plan.chap else {
            return Err(LoginError::Protocol("a challenge without CHAP"));
        };
        if text.get("CHAP_A") != Some("5") {
            return Err(LoginError::Authentication("the target did not choose MD5"));
        }
        let identifier = text.get("CHAP_I").and_then(|value| value.parse::<u8>().ok());
        let challenge = text.get("CHAP_C").and_then(chap::decode);
        let (Some(identifier), Some(challenge)) = (identifier, challenge) else {
            return Err(LoginError::Protocol("a malformed CHAP challenge"));
        };
        // Answering our own challenge would lend our secret to an impostor (RFC 7143 12.1.3).
        if challenge == self.plan.challenge {
            return Err(LoginError::Authentication("the target reflected our challenge"));
        }
        let proof = chap::response(identifier, &chap.initiator.secret, &challenge);
        let mut answer =
            Text::default().with("CHAP_N", &chap.initiator.user).with("CHAP_R", chap::encode(&proof));
        if chap.target.is_some() {
            answer.push("CHAP_I", identifier.wrapping_add(1).to_string());
            answer.push("CHAP_C", chap::encode(&self.plan.challenge));
        }
        self.state = State::Proof;
        self.mutual_identifier = identifier.wrapping_add(1);
        Ok(self.send(LoginFlags::transit(Stage::Security, Stage::Operational), &answer))
    }

    fn proven(&mut self, response: &LoginResponse, text: &Text) -> Result<Step, LoginError> {
        let expected = self.plan.chap.as_ref().and_then(|chap| chap.target.as_ref());
        if let Some(target) = expected {
            let proof = text.get("CHAP_R").and_then(chap::decode).unwrap_or_default();
            let named = text.get("CHAP_N") == Some(&target.user);
            if !named || !chap::proves(&proof, self.mutual_identifier, &target.secret, &self.plan.challenge) {
                return Err(LoginError::Authentication("the target did not prove its name"));
            }
        }
        self.enter_operational(response)
    }

    /// Offers the parameters once the target has left the security stage; asks again while it has not.
    fn enter_operational(&mut self, response: &LoginResponse) -> Result<Step, LoginError> {
        if !response.flags.has(LoginFlags::TRANSIT) {
            let leave = LoginFlags::transit(Stage::Security, Stage::Operational);
            return Ok(self.send(leave, &Text::default()));
        }
        if response.flags.next() != Some(Stage::Operational) {
            return Err(LoginError::Protocol("an unexpected next stage"));
        }
        self.state = State::Operational;
        let offer = Parameters::offer(&self.plan.proposal);
        Ok(self.send(LoginFlags::transit(Stage::Operational, Stage::FullFeature), &offer))
    }

    fn negotiated(&mut self, response: &LoginResponse, text: &Text) -> Result<Step, LoginError> {
        for (key, value) in text.iter() {
            self.parameters.accept(&self.plan.proposal, key, value)?;
        }
        if !response.flags.has(LoginFlags::TRANSIT) {
            let leave = LoginFlags::transit(Stage::Operational, Stage::FullFeature);
            return Ok(self.send(leave, &Text::default()));
        }
        if response.flags.next() != Some(Stage::FullFeature) {
            return Err(LoginError::Protocol("an unexpected next stage"));
        }
        Ok(Step::Done(Established {
            parameters: self.parameters,
            tsih: response.tsih,
            exp_stat_sn: self.exp_stat_sn,
            cmd_sn: FIRST_CMD_SN,
            max_cmd_sn: response.max_cmd_sn,
        }))
    }

    fn send(&self, flags: LoginFlags, text: &Text) -> Step {
        let (request, data) = self.request(flags, text);
        Step::Send(request, data)
    }

    fn request(&self, flags: LoginFlags, text: &Text) -> (LoginRequest, Vec<u8>) {
        let request = LoginRequest {
            immediate: true,
            flags,
            version_max: 0,
            version_min: 0,
            isid: self.plan.isid,
            tsih: 0,
            initiator_task_tag: 0,
            cid: 0,
            cmd_sn: FIRST_CMD_SN,
            exp_stat_sn: self.exp_stat_sn,
        };
        let data = text.to_bytes();
        debug_assert!(data.len() <= LOGIN_DATA_LIMIT, "our own keys are short");
        (request, data)
    }
}

fn refusal(status: LoginStatus, data: &[u8]) -> LoginError {
    if status.class() != 1 {
        return LoginError::Refused(status);
    }
    let text = Text::parse(data).unwrap_or_default();
    let address = text.get("TargetAddress").unwrap_or_default().chars().take(300).collect();
    LoginError::Redirected { address, permanent: status == LoginStatus::TARGET_MOVED_PERMANENTLY }
}
