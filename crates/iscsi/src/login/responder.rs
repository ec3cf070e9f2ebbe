//! The target's half of the login phase (RFC 7143 clause 6): each request makes one response, and every
//! failure has its status class and detail. Used by [`crate::target`]; holds no socket.

use super::MAX_EXCHANGES;
use super::chap::{self, Chap};
use super::keys::{Parameters, Proposal};
use crate::pdu::{LoginFlags, LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::text::{Collector, Text};
use scsi::{IscsiName, Isid};

/// Who may log in to what.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The target's name.
    pub target: IscsiName,
    /// TargetPortalGroupTag.
    pub portal_group: u16,
    /// Credentials that initiators must show, for discovery too.
    pub chap: Option<Chap>,
    /// Wishes for the session.
    pub proposal: Proposal,
    /// Commands that an initiator may have under way.
    pub window: u32,
}

/// A response, and what it means for the connection.
#[derive(Debug)]
pub struct Reply {
    /// The header; the caller fills in the TSIH of a new session.
    pub response: LoginResponse,
    /// The data segment.
    pub data: Vec<u8>,
    /// Whether the login goes on.
    pub end: End,
}

/// How the login stands.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The next request is awaited.
    Continue,
    /// The response opens the full feature phase.
    Established(Box<Admitted>),
    /// The response tells of a failure; the connection is then to be closed.
    Failed,
}

/// Who has logged in, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Initiator name.
    pub initiator: IscsiName,
    /// Initiator session identifier.
    pub isid: Isid,
    /// A discovery session: no SCSI commands.
    pub discovery: bool,
    /// Connection identifier.
    pub cid: u16,
    /// What was negotiated.
    pub parameters: Parameters,
    /// The CmdSN of the first command.
    pub exp_cmd_sn: u32,
    /// The StatSN of the next response.
    pub stat_sn: u32,
}

#[derive(Debug)]
enum Security {
    /// AuthMethod has not been chosen.
    Open,
    /// CHAP was chosen; CHAP_A is due.
    Algorithm,
    /// The challenge was sent; the proof is due.
    Proof,
    Done,
}

/// One login under way.
#[derive(Debug)]
pub struct Responder {
    policy: Policy,
    challenge: [u8; chap::CHALLENGE_LENGTH],
    identifier: u8,
    security: Security,
    stage: Option<Stage>,
    initiator: Option<IscsiName>,
    discovery: bool,
    declared: bool,
    parameters: Parameters,
    collector: Collector,
    exchanges: u32,
}

type Outcome<T> = Result<T, LoginStatus>;

impl Responder {
    /// A login to be. `challenge` and `identifier` are fresh random bytes for each.
    #[must_use]
    pub fn new(policy: Policy, challenge: [u8; chap::CHALLENGE_LENGTH], identifier: u8) -> Self {
        let parameters = Parameters { max_recv: policy.proposal.max_recv, ..Parameters::default() };
        Self {
            policy,
            challenge,
            identifier,
            security: Security::Open,
            stage: None,
            initiator: None,
            discovery: false,
            declared: false,
            parameters,
            collector: Collector::default(),
            exchanges: 0,
        }
    }

    /// Answers one request.
    pub fn handle(&mut self, request: &LoginRequest, data: &[u8]) -> Reply {
        let stat_sn = self.exchanges;
        self.exchanges += 1;
        let (flags, text, status) = match self.answer(request, data) {
            Ok((flags, text)) => (flags, text, LoginStatus::SUCCESS),
            Err(status) => (LoginFlags(request.flags.0 & 0x0C), Text::default(), status),
        };
        let end = match (status, &self.initiator) {
            (LoginStatus::SUCCESS, Some(initiator)) if is_final(flags) => {
                End::Established(Box::new(Admitted {
                    initiator: initiator.clone(),
                    isid: request.isid,
                    discovery: self.discovery,
                    cid: request.cid,
                    parameters: self.parameters,
                    exp_cmd_sn: request.cmd_sn,
                    stat_sn: stat_sn.wrapping_add(1),
                }))
            }
            (LoginStatus::SUCCESS, _) => End::Continue,
            _ => End::Failed,
        };
        let response = self.response(request, flags, status, stat_sn);
        Reply { response, data: text.to_bytes(), end }
    }

    /// The refusal of a request for a reason outside of this negotiation.
    #[must_use]
    pub fn refuse(&self, request: &LoginRequest, status: LoginStatus) -> Reply {
        let stat_sn = self.exchanges.saturating_sub(1);
        let response = self.response(request, LoginFlags(request.flags.0 & 0x0C), status, stat_sn);
        Reply { response, data: Vec::new(), end: End::Failed }
    }

    fn response(
        &self,
        request: &LoginRequest,
        flags: LoginFlags,
        status: LoginStatus,
        stat_sn: u32,
    ) -> LoginResponse {
        LoginResponse {
            flags,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: request.tsih,
            initiator_task_tag: request.initiator_task_tag,
            stat_sn,
            exp_cmd_sn: request.cmd_sn,
            max_cmd_sn: request.cmd_sn.wrapping_add(self.policy.window).wrapping_sub(1),
            status,
        }
    }

    fn answer(&mut self, request: &LoginRequest, data: &[u8]) -> Outcome<(LoginFlags, Text)> {
        if request.version_min != 0 {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        if request.tsih != 0 {
            // One connection per session: nothing can be added to one.
            return Err(LoginStatus::SESSION_DOES_NOT_EXIST);
        }
        let stage = self.enter_stage(request.flags)?;
        let more = request.flags.has(LoginFlags::CONTINUE);
        let transit = request.flags.has(LoginFlags::TRANSIT);
        if self.exchanges > MAX_EXCHANGES || (more && transit) {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let collected = self.collector.add(data, more).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        let Some(text) = collected else {
            return Ok((LoginFlags::stay(stage), Text::default()));
        };
        if text.has_duplicates() {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let first = self.initiator.is_none();
        if first {
            self.introduce(&text)?;
        }
        let mut reply = Text::default();
        if first && !self.discovery {
            reply.push("TargetPortalGroupTag", self.policy.portal_group.to_string());
        }
        match stage {
            Stage::Security => self.authenticate(&text, &mut reply)?,
            _ if self.is_proven() => {}
            _ => return Err(LoginStatus::AUTHENTICATION_FAILURE),
        }
        self.negotiate(stage, &text, &mut reply)?;
        Ok((self.next_flags(stage, request.flags)?, reply))
    }

    /// Stages only go forward (RFC 7143 6.3).
    fn enter_stage(&mut self, flags: LoginFlags) -> Outcome<Stage> {
        let stage = flags.current().filter(|stage| *stage != Stage::FullFeature);
        let stage = stage.ok_or(LoginStatus::INITIATOR_ERROR)?;
        if self.stage.is_some_and(|known| known != stage) {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        self.stage = Some(stage);
        Ok(stage)
    }

    /// The keys of the first request say who comes and to whom (RFC 7143 6.3).
    fn introduce(&mut self, text: &Text) -> Outcome<()> {
        let name = text.get("InitiatorName").ok_or(LoginStatus::MISSING_PARAMETER)?;
        let name = IscsiName::new(name).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        self.discovery = match text.get("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(LoginStatus::SESSION_TYPE_NOT_SUPPORTED),
        };
        let target = text.get("TargetName").map(|name| IscsiName::new(name).ok());
        match target {
            Some(target) if target.as_ref() != Some(&self.policy.target) => {
                return Err(LoginStatus::TARGET_NOT_FOUND);
            }
            None if !self.discovery => return Err(LoginStatus::MISSING_PARAMETER),
            _ => {}
        }
        self.initiator = Some(name);
        Ok(())
    }

    const fn is_proven(&self) -> bool {
        self.policy.chap.is_none() || matches!(self.security, Security::Done)
    }

    fn authenticate(&mut self, text: &Text, reply: &mut Text) -> Outcome<()> {
        match self.security {
            Security::Open => self.choose_method(text, reply),
            Security::Algorithm => self.challenge(text, reply),
            Security::Proof => self.judge(text, reply),
            Security::Done => Ok(()),
        }
    }

    fn choose_method(&mut self, text: &Text, reply: &mut Text) -> Outcome<()> {
        let Some(methods) = text.get("AuthMethod") else { return Ok(()) };
        let method = if self.policy.chap.is_some() { "CHAP" } else { "None" };
        if !methods.split(',').any(|offered| offered == method) {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        }
        reply.push("AuthMethod", method);
        self.security = if self.policy.chap.is_some() { Security::Algorithm } else { Security::Done };
        Ok(())
    }

    fn challenge(&mut self, text: &Text, reply: &mut Text) -> Outcome<()> {
        // An empty request merely asks us to go on.
        let Some(algorithms) = text.get("CHAP_A") else { return Ok(()) };
        if !algorithms.split(',').any(|offered| offered == "5") {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        }
        reply.push("CHAP_A", "5");
        reply.push("CHAP_I", self.identifier.to_string());
        reply.push("CHAP_C", chap::encode(&self.challenge));
        self.security = Security::Proof;
        Ok(())
    }

    fn judge(&mut self, text: &Text, reply: &mut Text) -> Outcome<()> {
        let Some(chap) = &self.policy.chap else { return Err(LoginStatus::TARGET_ERROR) };
        let (name, proof) = (text.get("CHAP_N"), text.get("CHAP_R").and_then(chap::decode));
        let (Some(name), Some(proof)) = (name, proof) else {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        };
        let secret = &chap.initiator.secret;
        if name != chap.initiator.user || !chap::proves(&proof, self.identifier, secret, &self.challenge) {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        }
        if let Some(challenge) = text.get("CHAP_C") {
            let target = chap.target.as_ref().ok_or(LoginStatus::AUTHENTICATION_FAILURE)?;
            let challenge = chap::decode(challenge).ok_or(LoginStatus::INITIATOR_ERROR)?;
            let identifier = text.get("CHAP_I").and_then(|value| value.parse().ok());
            let identifier = identifier.ok_or(LoginStatus::INITIATOR_ERROR)?;
            // Our own challenge sent back asks us to prove what the initiator is to prove.
            if challenge == self.challenge {
                return Err(LoginStatus::AUTHENTICATION_FAILURE);
            }
            reply.push("CHAP_N", &target.user);
            reply.push("CHAP_R", chap::encode(&chap::response(identifier, &target.secret, &challenge)));
        }
        self.security = Security::Done;
        Ok(())
    }

    fn negotiate(&mut self, stage: Stage, text: &Text, reply: &mut Text) -> Outcome<()> {
        for (key, value) in text.iter().filter(|(key, _)| !is_introduction(key)) {
            let answer = self.parameters.respond(&self.policy.proposal, key, value);
            if let Some(answer) = answer.map_err(|_| LoginStatus::INITIATOR_ERROR)? {
                reply.push(key, answer);
            }
        }
        if stage == Stage::Operational && !std::mem::replace(&mut self.declared, true) {
            reply.push("MaxRecvDataSegmentLength", self.parameters.max_recv.to_string());
        }
        Ok(())
    }

    /// Grants the transit that the initiator asks for, once it has proven who it is.
    fn next_flags(&mut self, stage: Stage, flags: LoginFlags) -> Outcome<LoginFlags> {
        if !flags.has(LoginFlags::TRANSIT) || !self.is_proven() {
            return Ok(LoginFlags::stay(stage));
        }
        let next = flags.next().filter(|next| *next != stage && *next != Stage::Security);
        let next = next.ok_or(LoginStatus::INITIATOR_ERROR)?;
        self.stage = Some(next);
        Ok(LoginFlags::transit(stage, next))
    }
}

fn is_final(flags: LoginFlags) -> bool {
    flags.has(LoginFlags::TRANSIT) && flags.next() == Some(Stage::FullFeature)
}

/// Keys that are not operational parameters: they are judged elsewhere, or tell of the initiator only.
fn is_introduction(key: &str) -> bool {
    let named =
        matches!(key, "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" | "AuthMethod");
    named || matches!(key, "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_N" | "CHAP_R")
}
