//! One iSCSI session: login, pipelines of commands, task management, discovery, logout.

use super::exchange::{Exchange, State};
use super::handshake::{self, Connection};
use super::nexus::IscsiNexus;
use super::outgoing::Burst;
use super::task::{Answer, Command, Kind, Task};
use super::{LoginError, SessionConfig, TaskResponse, Timeouts, reader};
use crate::login::Parameters;
use crate::pdu::{
    CommandFlags, LogoutReason, LogoutRequest, LogoutResult, Lun, NO_TAG, RejectReason, ScsiCommand,
    TaskFunction, TaskManagementRequest, TextFlags, TextRequest,
};
use crate::text::{Collector, Text, TextError};
use ::nexus::TransportError;
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, TransportId};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Most answers to one text request: a target that never ends its answer is not waited for for ever.
const TEXT_ROUNDS: usize = 256;

/// Longest CDB that an additional header segment can carry here (SPC-4 4.3.2: 260 bytes).
const MAX_CDB: usize = 260;
/// How long a timed-out command's ABORT TASK may take before the session is given up.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no session, or no answer from it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No TCP connection.
    #[error("cannot connect to the portal")]
    Connect(#[source] io::Error),
    /// The login failed.
    #[error("cannot log in")]
    Login(#[from] LoginError),
    /// The connection was lost or did not answer in time.
    #[error("the connection to the target was lost")]
    Transport(#[source] io::Error),
    /// The target rejected the request.
    #[error("the target rejected the request (reason {:#04x})", .0.0)]
    Rejected(RejectReason),
    /// The target did not log out.
    #[error("the target did not confirm the logout (response {})", .0.0)]
    Logout(LogoutResult),
    /// The target answered with text that cannot be read.
    #[error("the target sent malformed text")]
    Text(#[from] TextError),
    /// The target answered with something else.
    #[error("the target gave an answer of the wrong kind")]
    Protocol,
}

/// A session in its full feature phase. Clones share it; when the last clone and the last nexus are gone,
/// the connection is closed without a logout.
#[derive(Clone, Debug)]
pub struct Session {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    exchange: Arc<Exchange>,
    initiator: IscsiName,
    isid: Isid,
    timeouts: Timeouts,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // An error means that the socket is closed already.
        let _ = self.exchange.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Session {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`SessionError`] if there is no session; the target then has none either, or drops it as the connection is closed.
    pub fn login(config: &SessionConfig) -> Result<Self, SessionError> {
        Self::start(config, handshake::open(config, Some(&config.target))?)
    }

    fn start(config: &SessionConfig, connection: Connection) -> Result<Self, SessionError> {
        let Connection { stream, receiver, established } = connection;
        let exchange = Arc::new(Exchange::new(stream, &established));
        let shared = Arc::clone(&exchange);
        let reader = thread::Builder::new()
            .name("iscsi-reader".to_owned())
            .spawn(move || reader::run(&shared, receiver))
            .map_err(SessionError::Transport)?;
        let handle = Handle {
            exchange,
            initiator: config.initiator.clone(),
            isid: config.isid,
            timeouts: config.timeouts,
            reader: Some(reader),
        };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// The I_T_L nexus of this session to logical unit `lun`, a number below 2^24; others do not exist
    /// at any target and are addressed as 2^24 - 1.
    #[must_use]
    pub fn nexus(&self, lun: u64) -> IscsiNexus {
        IscsiNexus::new(self.clone(), lun_of(lun))
    }

    /// What was negotiated.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.handle.exchange.parameters
    }

    /// The initiator port: name and ISID.
    #[must_use]
    pub fn initiator_port(&self) -> TransportId {
        TransportId::iscsi(self.handle.initiator.clone(), self.handle.isid)
    }

    /// Whether commands can be sent: the connection lives, and neither side wants to log out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.handle.exchange.lock().is_open()
    }

    /// Logs out and closes the connection. `Ok` only if the target confirmed it: the session is then gone there too.
    ///
    /// # Errors
    /// [`SessionError`] if the target did not confirm; the connection is closed all the same.
    pub fn logout(&self) -> Result<(), SessionError> {
        let exchange = &self.handle.exchange;
        let mut state = exchange.lock();
        state.leaving = true;
        if std::mem::replace(&mut state.logout_sent, true) || state.has_failed() {
            return Err(SessionError::Transport(state.failure()));
        }
        let tag = state.enter(Lun::default(), Kind::Logout);
        let logout = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CLOSE_SESSION.on_wire(),
            initiator_task_tag: tag,
            cid: 0,
            cmd_sn: state.cmd_sn(true),
            exp_stat_sn: state.exp_stat_sn,
        };
        state.out.request(tag, &logout, &[], &[], exchange.parameters.digests);
        let answer = self.answer_of(state, tag);
        let mut state = exchange.lock();
        exchange.fail(&mut state, ErrorKind::NotConnected, "the session is logged out");
        match answer? {
            Answer::Logout(LogoutResult::CLOSED) => Ok(()),
            Answer::Logout(result) => Err(SessionError::Logout(result)),
            Answer::Rejected(reason) => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Protocol),
        }
    }

    /// ABORT TASK SET: ends every command of this nexus on `lun`.
    ///
    /// # Errors
    /// [`SessionError`] if no response came; what the function has done is then unknown. So for every function below.
    pub fn abort_task_set(&self, lun: u64) -> Result<TaskResponse, SessionError> {
        self.manage(TaskFunction::ABORT_TASK_SET, lun_of(lun))
    }

    /// CLEAR TASK SET: ends every command of every nexus on `lun`.
    ///
    /// # Errors
    /// As [`Session::abort_task_set`].
    pub fn clear_task_set(&self, lun: u64) -> Result<TaskResponse, SessionError> {
        self.manage(TaskFunction::CLEAR_TASK_SET, lun_of(lun))
    }

    /// LOGICAL UNIT RESET.
    ///
    /// # Errors
    /// As [`Session::abort_task_set`].
    pub fn reset_logical_unit(&self, lun: u64) -> Result<TaskResponse, SessionError> {
        self.manage(TaskFunction::LOGICAL_UNIT_RESET, lun_of(lun))
    }

    /// TARGET WARM RESET.
    ///
    /// # Errors
    /// As [`Session::abort_task_set`].
    pub fn warm_reset(&self) -> Result<TaskResponse, SessionError> {
        self.manage(TaskFunction::TARGET_WARM_RESET, Lun::default())
    }

    /// TARGET COLD RESET; the target drops the session afterwards.
    ///
    /// # Errors
    /// As [`Session::abort_task_set`].
    pub fn cold_reset(&self) -> Result<TaskResponse, SessionError> {
        self.manage(TaskFunction::TARGET_COLD_RESET, Lun::default())
    }

    fn manage(&self, function: TaskFunction, lun: Lun) -> Result<TaskResponse, SessionError> {
        let mut state = self.handle.exchange.lock();
        // Fixed now, as the requests leave in this order: a later command is not touched by the function.
        let affected = affected(&state, function, lun);
        let tag = self.queue_management(&mut state, function, lun, NO_TAG);
        match self.answer_of(state, tag)? {
            Answer::Management(response) => {
                if response == TaskResponse::FUNCTION_COMPLETE {
                    self.end_commands(&affected);
                }
                Ok(response)
            }
            Answer::Rejected(reason) => Err(SessionError::Rejected(reason)),
            _ => Err(SessionError::Protocol),
        }
    }

    /// Commands that a task management function ended get no response; their callers need not wait for one.
    fn end_commands(&self, tags: &[u32]) {
        let mut state = self.handle.exchange.lock();
        for tag in tags {
            state.answer(*tag, Answer::Ended("the command was aborted by task management"));
        }
        self.handle.exchange.notify();
    }

    fn queue_management(&self, state: &mut State, function: TaskFunction, lun: Lun, referenced: u32) -> u32 {
        let tag = state.enter(lun, Kind::Management);
        let request = TaskManagementRequest {
            immediate: true,
            function: function.on_wire(),
            lun,
            initiator_task_tag: tag,
            referenced_task_tag: referenced,
            cmd_sn: state.cmd_sn(true),
            exp_stat_sn: state.exp_stat_sn,
            ref_cmd_sn: 0,
            exp_data_sn: 0,
        };
        state.out.request(tag, &request, &[], &[], self.handle.exchange.parameters.digests);
        tag
    }

    /// Waits for one task's answer and forgets the task.
    fn answer_of(&self, state: MutexGuard<'_, State>, tag: u32) -> Result<Answer, SessionError> {
        let deadline = Instant::now() + self.handle.timeouts.command;
        let mut state = self.handle.exchange.wait(state, deadline, |state| state.is_answered(tag));
        let task = state.tasks.remove(&tag);
        task.and_then(|task| task.answer).ok_or_else(|| SessionError::Transport(state.failure()))
    }
}

/// Commands.
impl Session {
    /// Sends commands to several logical units, a number below 2^24 each, as one pipeline, and collects what came of them, in
    /// their order. Commands to one logical unit reach it in this order.
    #[must_use]
    pub fn execute_all(&self, commands: &[(u64, &Request)]) -> Vec<Result<Completion, TransportError>> {
        let commands: Vec<_> = commands.iter().map(|(lun, request)| (lun_of(*lun), *request)).collect();
        self.execute(&commands)
    }

    /// Sends one command, and gives it up as soon as `given_up` says so: it is then aborted at the target before this returns.
    /// Whoever changes what `given_up` says has to call [`Session::wake`] afterwards.
    ///
    /// # Errors
    /// [`TransportError`] if no completion arrived.
    pub fn execute_unless(
        &self,
        lun: u64,
        request: &Request,
        given_up: &dyn Fn() -> bool,
    ) -> Result<Completion, TransportError> {
        let nothing = || TransportError::NotSent(ErrorKind::InvalidInput.into());
        self.pipeline(&[(lun_of(lun), request)], given_up).pop().ok_or_else(nothing)?
    }

    /// Has every caller that waits look whether its command was given up.
    pub fn wake(&self) {
        // Under the lock: who has looked already then waits, and is woken.
        let state = self.handle.exchange.lock();
        self.handle.exchange.notify();
        drop(state);
    }

    pub(super) fn execute(&self, commands: &[(Lun, &Request)]) -> Vec<Result<Completion, TransportError>> {
        self.pipeline(commands, &|| false)
    }

    fn pipeline(
        &self,
        commands: &[(Lun, &Request)],
        given_up: &dyn Fn() -> bool,
    ) -> Vec<Result<Completion, TransportError>> {
        let exchange = &self.handle.exchange;
        let deadline = Instant::now() + self.handle.timeouts.command;
        let mut tags = Vec::with_capacity(commands.len());
        let state = exchange.wait(exchange.lock(), deadline, |state| {
            if given_up() {
                return true;
            }
            while let Some((lun, request)) =
                commands.get(tags.len()).filter(|_| state.is_open() && state.window_is_open())
            {
                tags.push(self.queue_command(state, *lun, request));
            }
            let queued = tags.len() == commands.len() || !state.is_open();
            queued && tags.iter().all(|tag| state.is_answered(*tag))
        });
        let mut state = self.settle(state, &tags);
        let answers = tags.iter().map(|tag| state.tasks.remove(tag)).collect::<Vec<_>>();
        if state.leaving && state.tasks.is_empty() && !state.has_failed() {
            reader::queue_logout(exchange, &mut state);
            state = exchange.flush(state);
        }
        let mut outcomes: Vec<_> = answers.into_iter().map(|task| outcome(task, &state)).collect();
        outcomes.resize_with(commands.len(), || Err(TransportError::NotSent(state.failure())));
        outcomes
    }

    /// Makes sure that no command whose time is up can still be executed later, when its caller has
    /// looked at the device already: each is aborted, and a session that does not even do that is closed. A command
    /// that does not exist any more is over too (RFC 7143 11.6.1: the response comes after all of its own PDUs);
    /// any other answer, a Reject included, has aborted nothing.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>, tags: &[u32]) -> MutexGuard<'a, State> {
        let open: Vec<_> = tags.iter().copied().filter(|tag| !state.is_answered(*tag)).collect();
        if open.is_empty() || state.has_failed() {
            return state;
        }
        let exchange = &self.handle.exchange;
        let mut aborts = Vec::with_capacity(open.len());
        for tag in &open {
            let lun = state.tasks.get(tag).map_or_else(Lun::default, |task| task.lun);
            aborts.push(self.queue_management(&mut state, TaskFunction::ABORT_TASK, lun, *tag));
        }
        let deadline = Instant::now() + ABORT_TIMEOUT.min(self.handle.timeouts.command);
        let answered = |state: &mut State| aborts.iter().all(|tag| state.is_answered(*tag));
        state = exchange.wait(state, deadline, answered);
        let answers: Vec<_> = aborts.iter().map(|tag| state.tasks.remove(tag)).collect();
        let over = open
            .iter()
            .zip(&answers)
            .all(|(tag, abort)| has_ended(abort.as_ref()) || state.is_answered(*tag));
        if !over && !state.has_failed() {
            exchange.fail(
                &mut state,
                ErrorKind::TimedOut,
                "the target does not abort a command that takes too long",
            );
            state = exchange.wait(state, deadline, |_| true);
        }
        state
    }

    fn queue_command(&self, state: &mut State, lun: Lun, request: &Request) -> u32 {
        let Parameters { digests, immediate_data, initial_r2t, first_burst, max_send, .. } =
            self.handle.exchange.parameters;
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (direction, length) = match &request.data {
            DataPhase::None => (CommandFlags::default(), 0),
            DataPhase::In(length) => (CommandFlags::READ, *length),
            DataPhase::Out(data) => (CommandFlags::WRITE, data.len()),
        };
        let mut command = Command::new(request);
        let immediate = if immediate_data { size(max_send).min(size(first_burst)) } else { 0 };
        let immediate = command.unsolicited(immediate).to_vec();
        let rest = if initial_r2t { 0 } else { size(first_burst).saturating_sub(immediate.len()) };
        let unsolicited = command.unsolicited(rest).to_vec();
        let (cdb, ahs) = split_cdb(&request.cdb);
        let tag = state.enter(lun, Kind::Command(command));
        let header = ScsiCommand {
            immediate: false,
            flags: direction
                .with(CommandFlags::SIMPLE)
                .with(CommandFlags::FINAL.when(unsolicited.is_empty())),
            lun,
            initiator_task_tag: tag,
            expected_data_transfer_length: u32::try_from(length).unwrap_or(u32::MAX),
            cmd_sn: state.cmd_sn(false),
            exp_stat_sn: state.exp_stat_sn,
            cdb,
        };
        state.out.request(tag, &header, &ahs, &immediate, digests);
        let offset = u32::try_from(immediate.len()).unwrap_or(u32::MAX);
        let burst = Burst { lun, tag, transfer_tag: NO_TAG, offset, exp_stat_sn: state.exp_stat_sn };
        state.out.data_out(&burst, &unsolicited, size(max_send), digests);
        tag
    }
}

/// Whether an ABORT TASK says that its command is over.
fn has_ended(abort: Option<&Task>) -> bool {
    let over = [TaskResponse::FUNCTION_COMPLETE, TaskResponse::TASK_DOES_NOT_EXIST];
    matches!(abort.and_then(|task| task.answer.as_ref()), Some(Answer::Management(said)) if over.contains(said))
}

/// The commands under way that a function will end.
fn affected(state: &State, function: TaskFunction, lun: Lun) -> Vec<u32> {
    let everywhere = matches!(function, TaskFunction::TARGET_WARM_RESET | TaskFunction::TARGET_COLD_RESET);
    let hit = |task: &Task| matches!(task.kind, Kind::Command(_)) && (everywhere || task.lun == lun);
    state.tasks.iter().filter(|(_, task)| hit(task)).map(|(tag, _)| *tag).collect()
}

fn lun_of(number: u64) -> Lun {
    Lun::from_number(number).unwrap_or(Lun([0xD2, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]))
}

/// The header's 16 CDB bytes, and the rest as an extended CDB segment (RFC 7143 11.2.2.3).
fn split_cdb(cdb: &[u8]) -> ([u8; 16], Vec<u8>) {
    let cdb = cdb.get(..MAX_CDB).unwrap_or(cdb);
    let mut head = [0; 16];
    head.iter_mut().zip(cdb).for_each(|(to, from)| *to = *from);
    let Some(rest) = cdb.get(16..).filter(|rest| !rest.is_empty()) else { return (head, Vec::new()) };
    let length = u16::try_from(rest.len() + 1).unwrap_or(u16::MAX);
    let mut ahs = length.to_be_bytes().to_vec();
    ahs.extend([1, 0]);
    ahs.extend(rest);
    (head, ahs)
}

/// What a caller learns of a command: only an answer says that it was executed, and only bytes
/// that never left say that it was not.
fn outcome(task: Option<Task>, state: &State) -> Result<Completion, TransportError> {
    let unknown = |reason: &str| TransportError::OutcomeUnknown(io::Error::other(reason));
    match task {
        Some(Task { answer: Some(Answer::Completion(completion)), .. }) => Ok(completion),
        Some(Task { answer: Some(Answer::Rejected(reason)), .. }) => {
            Err(unknown(&format!("the target rejected the command (reason {:#04x})", reason.0)))
        }
        Some(Task { answer: Some(Answer::Ended(reason)), .. }) => Err(unknown(reason)),
        Some(Task { sent: false, .. }) => Err(TransportError::NotSent(state.failure())),
        _ => Err(TransportError::OutcomeUnknown(state.failure())),
    }
}

/// A target that a portal told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// Target name.
    pub name: String,
    /// `HOST:PORT,GROUP` of each portal, as received.
    pub addresses: Vec<String>,
}

/// Asks a portal for its targets (SendTargets=All, RFC 7143 appendix C). The configuration's target name is not used.
///
/// # Errors
/// [`SessionError`] if the discovery session fails.
pub fn discover(config: &SessionConfig) -> Result<Vec<DiscoveredTarget>, SessionError> {
    let session = Session::start(config, handshake::open(config, None)?)?;
    let text = session.text(&Text::default().with("SendTargets", "All"))?;
    // The targets are known; whether the portal also says goodbye does not matter.
    let _ = session.logout();
    let mut targets: Vec<DiscoveredTarget> = Vec::new();
    for (key, value) in text.iter() {
        match (key, targets.last_mut()) {
            ("TargetName", _) => {
                targets.push(DiscoveredTarget { name: value.to_owned(), addresses: Vec::new() })
            }
            ("TargetAddress", Some(target)) => target.addresses.push(value.to_owned()),
            _ => {}
        }
    }
    Ok(targets)
}

impl Session {
    /// Sends text and gathers the answer over as many responses as the target needs.
    fn text(&self, text: &Text) -> Result<Text, SessionError> {
        let exchange = &self.handle.exchange;
        let (mut bytes, mut target_transfer_tag, mut lun) = (text.to_bytes(), NO_TAG, Lun::default());
        let mut collector = Collector::default();
        for _ in 0..TEXT_ROUNDS {
            let mut state = exchange.lock();
            let tag = state.enter(lun, Kind::Text);
            let request = TextRequest {
                immediate: true,
                flags: TextFlags::FINAL,
                lun,
                initiator_task_tag: tag,
                target_transfer_tag,
                cmd_sn: state.cmd_sn(true),
                exp_stat_sn: state.exp_stat_sn,
            };
            state.out.request(tag, &request, &[], &bytes, exchange.parameters.digests);
            match self.answer_of(state, tag)? {
                Answer::Text { data, tag, lun: at, more } => {
                    if let Some(whole) = collector.add(&data, more)? {
                        return Ok(whole);
                    }
                    (bytes, target_transfer_tag, lun) = (Vec::new(), tag, at);
                }
                Answer::Rejected(reason) => return Err(SessionError::Rejected(reason)),
                _ => return Err(SessionError::Protocol),
            }
        }
        Err(SessionError::Protocol)
    }
}
