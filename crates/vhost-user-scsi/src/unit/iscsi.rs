//! A logical unit at an iSCSI target, through our own initiator: every command is [`Work`], several are under way at once, and
//! all logical units of a guest at one target share one session, whose name and ISID are the guest's own.
//!
//! A lost connection: commands whose outcome nobody knows end as lost, those that were not sent wait for a new login with the
//! same name and ISID, which ends the old session at the target (RFC 7143 6.3.5). Nobody logs in after the identity was given
//! away ([`Target::give_away`]). Used by `tenure device`.

mod moving;

pub use moving::{is_of_a_login, take_attentions};

use super::keep::Keeper;
use super::remote::{self, Names, Order};
use super::{Admission, Arrival, Ending, Function, Managed, Unit, Work};
use crate::event::Teller;
use ::iscsi::initiator::{Session, SessionConfig, SessionError, TaskResponse};
use guard::{Identity, identify};
use logical_unit::{Aborted, Executing, Task, TaskSet};
use nexus::{Nexus, TransportError};
use scsi::{Completion, Request, TransportId};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// After a login that failed until the next one, and no longer than this however many fail in a row.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often a command that waits looks whether there is a session by now.
const LOOK: Duration = Duration::from_millis(100);
/// How long a command waits for a new login unless the caller says otherwise: as long as Linux's initiator does.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The login failed.
    #[error("cannot log in to {target} at {portal}")]
    Login {
        /// Target name.
        target: String,
        /// `HOST:PORT`.
        portal: String,
        /// What is wrong.
        source: SessionError,
    },
    /// The guest's name and ISID belong to another host now.
    #[error("the guest's initiator port was given away")]
    GivenAway,
    /// The logical unit does not say what it is, or there is none.
    #[error("LUN {0} of the target does not answer INQUIRY with its names")]
    NoLogicalUnit(u64),
}

/// A target as one guest's initiator port reaches it.
#[derive(Debug)]
pub struct Target {
    config: SessionConfig,
    patience: Duration,
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Debug)]
struct Place {
    session: Option<Session>,
    /// Counts sessions, from 1.
    number: u64,
    /// No login before this, and how long to wait after the next that fails.
    again: Instant,
    pause: Duration,
    given_away: bool,
    /// The target did not confirm the last logout.
    unsure: bool,
    /// Somebody is logging in.
    busy: bool,
    /// The log knows that there is no session.
    told: bool,
}

impl Target {
    /// Logs in. `patience`: how long a command waits for a new login when the connection is lost.
    ///
    /// # Errors
    /// [`TargetError::Login`].
    pub fn login(config: SessionConfig, patience: Duration) -> Result<Arc<Self>, TargetError> {
        let target = Self::new(config, patience, false);
        target.enter()?;
        Ok(Arc::new(target))
    }

    /// A target that nobody logs in to before [`Target::take_back`]: the guest's initiator port is still another host's, whose session
    /// a login would end.
    #[must_use]
    pub fn away(config: SessionConfig, patience: Duration) -> Arc<Self> {
        Arc::new(Self::new(config, patience, true))
    }

    fn new(config: SessionConfig, patience: Duration, given_away: bool) -> Self {
        let (again, pause) = (Instant::now(), PAUSE);
        let (session, number, unsure, busy, told) = (None, 0, false, false, false);
        let place = Place { session, number, again, pause, given_away, unsure, busy, told };
        Self { config, patience, place: Mutex::new(place), changed: Condvar::new() }
    }

    /// There is a session, as far as is known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.present().is_some()
    }

    /// The guest's initiator port.
    #[must_use]
    pub fn initiator_port(&self) -> TransportId {
        TransportId::iscsi(self.config.initiator.clone(), self.config.isid)
    }

    /// Logs out, for good: no command of the guest reaches the target through this process any more.
    ///
    /// # Errors
    /// The target did not confirm the logout: whether it has ended the session is not known. The connection is closed all the same; the
    /// next attempt ends the session by a new one.
    pub fn give_away(&self) -> Result<(), SessionError> {
        self.part(true)
    }

    /// The same for a process that ends, or that served nobody: the guest may be elsewhere by then, so that no session is made, which
    /// would end the one that it has there.
    ///
    /// # Errors
    /// The target did not confirm the logout.
    pub fn leave(&self) -> Result<(), SessionError> {
        self.part(false)
    }

    /// `surely`: what an earlier logout left in doubt is made up for.
    fn part(&self, surely: bool) -> Result<(), SessionError> {
        let mut place = self.lock();
        place.given_away = true;
        // A login that is under way must not outlive this.
        while place.busy {
            place = self.changed.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
        let (session, unsure) = (place.session.take(), place.unsure);
        drop(place);
        self.changed.notify_all();
        let ended = match session {
            Some(session) => session.logout(),
            // A session that may be there yet is ended by another one of the same port, which can be asked to end.
            None if !unsure => return Ok(()),
            None if surely => Session::login(&self.config).and_then(|session| session.logout()),
            None => return Ok(()),
        };
        self.lock().unsure = ended.is_err();
        ended
    }

    /// The identity is this host's again: the next command logs in.
    pub fn take_back(&self) {
        self.lock().given_away = false;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session and its number, made anew if need be and it is time for that; `Ok(None)`: later.
    fn session(&self) -> Result<Option<(Session, u64)>, TargetError> {
        let place = self.lock();
        if place.given_away {
            return Err(TargetError::GivenAway);
        }
        if let Some(session) = place.session.as_ref().filter(|session| session.is_open()) {
            return Ok(Some((session.clone(), place.number)));
        }
        if place.busy || Instant::now() < place.again {
            return Ok(None);
        }
        drop(place);
        self.enter()
    }

    /// One login at a time, and the lock is not held meanwhile: what needs no session must not wait for it.
    fn enter(&self) -> Result<Option<(Session, u64)>, TargetError> {
        let mut place = self.lock();
        if place.busy || place.given_away {
            return Ok(None);
        }
        place.busy = true;
        // Who waits for an answer of the old one need not: its end may take until the target has said something.
        let old = place.session.take();
        drop(place);
        drop(old);
        let entered = Session::login(&self.config);
        let mut place = self.lock();
        place.busy = false;
        self.changed.notify_all();
        match entered {
            Ok(session) => {
                place.number += 1;
                (place.told, place.unsure, place.pause) = (false, false, PAUSE);
                place.session = Some(session.clone());
                tracing::info!(target = %self.config.target, portal = %self.config.portal, "logged in");
                Ok(Some((session, place.number)))
            }
            Err(source) => {
                place.again = Instant::now() + place.pause;
                place.pause = (place.pause * 2).min(LONGEST_PAUSE);
                if !std::mem::replace(&mut place.told, true) {
                    tracing::warn!(target = %self.config.target, portal = %self.config.portal, error = %source, "no session");
                }
                let (target, portal) = (self.config.target.to_string(), self.config.portal.clone());
                Err(TargetError::Login { target, portal, source })
            }
        }
    }

    /// Waits a little, or until something has changed.
    fn rest(&self) {
        let place = self.lock();
        let _ = self.changed.wait_timeout(place, LOOK).unwrap_or_else(PoisonError::into_inner);
    }

    /// The session that is there, whoever may be logging in.
    fn present(&self) -> Option<Session> {
        self.lock().session.clone().filter(Session::is_open)
    }
}

/// A logical unit at a target.
#[derive(Debug)]
pub struct IscsiUnit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: Arc<Target>,
    lun: u64,
    /// Learnt in the first session.
    names: OnceLock<Names>,
    keeper: OnceLock<Keeper>,
    teller: OnceLock<Teller>,
    /// The last session in which the logical unit said its names.
    verified: AtomicU64,
    tasks: Arc<TaskSet>,
    /// The guest has an SPC-2 reservation (RESERVE), which ends with the session.
    reserved: AtomicBool,
    /// Count task management functions that end commands at the target.
    resets: AtomicU64,
    clears: AtomicU64,
}

impl IscsiUnit {
    /// The logical unit `lun` of `target`; it must be there. PERSISTENT RESERVE commands pass it like others until somebody keeps
    /// account ([`Self::keep`]).
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn open(target: &Arc<Target>, lun: u64) -> Result<Self, TargetError> {
        let absent = || TargetError::NoLogicalUnit(lun);
        let (session, number) = target.session()?.ok_or_else(absent)?;
        let unit = Self::unseen(target, lun);
        if unit.0.is_same(&session, number) { Ok(unit) } else { Err(absent()) }
    }

    /// The logical unit `lun` of a target to which nobody has logged in yet; the first that is found there is the one.
    #[must_use]
    pub fn unseen(target: &Arc<Target>, lun: u64) -> Self {
        Self(Arc::new(Inner {
            target: Arc::clone(target),
            lun,
            names: OnceLock::new(),
            keeper: OnceLock::new(),
            teller: OnceLock::new(),
            verified: AtomicU64::new(0),
            tasks: Arc::default(),
            reserved: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            clears: AtomicU64::new(0),
        }))
    }

    /// Which logical unit this is, and which nexus leads to it; none for one without a name.
    ///
    /// # Errors
    /// What the device answered instead, or what stands for that where nothing answered.
    pub fn identify(&self) -> Result<Option<Identity>, Completion> {
        identify(&mut self.line(), node(&self.0.target.config, self.0.lun))
    }

    /// The same, where no login is waited for longer than until `end`.
    ///
    /// # Errors
    /// As [`Self::identify`].
    pub fn identify_until(&self, end: Instant) -> Result<Option<Identity>, Completion> {
        identify(&mut Line { end: Some(end), ..self.line() }, node(&self.0.target.config, self.0.lun))
    }

    /// From now on `keeper` keeps account of the guest's registrations; the first one that is given does.
    pub fn keep(&self, keeper: Keeper) {
        let _ = self.0.keeper.set(keeper);
    }

    /// Who keeps account.
    #[must_use]
    pub fn keeper(&self) -> Option<&Keeper> {
        self.0.keeper.get()
    }

    /// The guest's nexus, for commands that are none of the guest's own.
    #[must_use]
    pub fn nexus(&self) -> Box<dyn Nexus> {
        Box::new(self.line())
    }

    /// The same, for commands that wait for a new login no longer than until `end`.
    #[must_use]
    pub fn nexus_until(&self, end: Instant) -> Box<dyn Nexus> {
        Box::new(Line { end: Some(end), ..self.line() })
    }

    fn line(&self) -> Line<'static> {
        Line { unit: Arc::clone(&self.0), executing: None, end: None }
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.0.target
    }
}

/// What a record calls the way to a logical unit: never with the secret of a URL.
#[must_use]
pub fn node(config: &SessionConfig, lun: u64) -> String {
    format!("iscsi://{}/{}/{lun}", config.portal, config.target)
}

impl Drop for IscsiUnit {
    fn drop(&mut self) {
        self.0.tasks.close();
    }
}

impl Unit for IscsiUnit {
    fn admit(&self, command: &Arrival<'_>) -> Admission {
        match Order::of(command) {
            Ok(order) => {
                let task = self.0.tasks.begin(command.id);
                Admission::Work(Box::new(Sending { unit: Arc::clone(&self.0), task, order }))
            }
            Err(completion) => Admission::Ended(Ending::Status(completion)),
        }
    }

    /// A command under way is given up here and aborted at the target before its function is complete.
    fn manage(&self, function: Function) -> Managed {
        let unit = &self.0;
        match function {
            Function::AbortTask(id) => {
                unit.tasks.interrupt(Some(id));
                unit.wake();
                unit.tasks.abort(id);
                Managed::Complete
            }
            Function::AbortTaskSet => {
                unit.tasks.interrupt(None);
                unit.wake();
                unit.tasks.abort_all(Aborted::Silently, None);
                Managed::Complete
            }
            Function::ClearTaskSet => {
                unit.at_target(Session::clear_task_set, &unit.clears, Aborted::Silently)
            }
            Function::LogicalUnitReset => {
                unit.at_target(Session::reset_logical_unit, &unit.resets, Aborted::Reset)
            }
            // It would take the session of the guest's other logical units with it.
            Function::NexusReset => Managed::Rejected,
        }
    }

    /// Of blocks the logical unit alone knows how long they are; it reports a residual where it took less.
    fn data_out_length(&self, cdb: &[u8]) -> Option<u64> {
        remote::list_length(cdb)
    }

    fn listen(&self, teller: Teller) {
        let _ = self.0.teller.set(teller);
    }
}

impl Inner {
    fn wake(&self) {
        if let Some(session) = self.target.present() {
            session.wake();
        }
        self.target.changed.notify_all();
    }

    /// A function that the target carries out on all commands of the logical unit.
    fn at_target(
        &self,
        function: fn(&Session, u64) -> Result<TaskResponse, SessionError>,
        counter: &AtomicU64,
        how: Aborted,
    ) -> Managed {
        let Some(session) = self.target.present() else { return Managed::Lost };
        counter.fetch_add(1, Ordering::AcqRel);
        match function(&session, self.lun) {
            Ok(TaskResponse::FUNCTION_COMPLETE) => {
                if how == Aborted::Reset {
                    self.reserved.store(false, Ordering::Release);
                }
                self.tasks.abort_all(how, None);
                Managed::Complete
            }
            Ok(_) => Managed::Rejected,
            Err(_) => Managed::Lost,
        }
    }

    /// Whether the logical unit is still the one that it was, asked once in every session: LUNs can be given to others.
    fn is_same(&self, session: &Session, number: u64) -> bool {
        if self.verified.load(Ordering::Acquire) == number {
            return true;
        }
        let same = names_at(session, self.lun)
            .is_some_and(|names| *self.names.get_or_init(|| names.clone()) == names);
        if same {
            if self.verified.swap(number, Ordering::AcqRel) > 0 {
                self.reserved.store(false, Ordering::Release);
                // Nobody heard what the target said meanwhile.
                self.keeper.get().into_iter().for_each(Keeper::doubt);
            }
        } else {
            tracing::warn!(target = %self.target.config.target, lun = self.lun, "another logical unit, or none, stands there after the login");
        }
        same
    }
}

fn names_at(session: &Session, lun: u64) -> Option<Names> {
    let request = remote::names_request();
    let completion = session.execute_all(&[(lun, &request)]).pop()?.ok()?;
    // Peripheral qualifier: a logical unit is there.
    remote::names(&completion).filter(|_| completion.data.first().is_some_and(|byte| byte >> 5 == 0))
}

/// A command for a thread that may wait.
#[derive(Debug)]
struct Sending {
    unit: Arc<Inner>,
    task: Task,
    order: Order,
}

impl Work for Sending {
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending {
        let Self { unit, task, order } = *self;
        let executing = match task.enter() {
            Ok(executing) => executing,
            Err(how) => return remote::ended(how),
        };
        let counts = || [&unit.resets, &unit.clears].map(|count| count.load(Ordering::Acquire));
        let ([resets, clears], request) = (counts(), order.request(data_out));
        let mut line = Line { unit: Arc::clone(&unit), executing: Some(&executing), end: None };
        let result = line.carry_out(&order, &request);
        let [now_reset, now_cleared] = counts();
        match result {
            // What the guard answers for a command that was given up is for nobody any more.
            Ok(_) if executing.is_interrupted() => Ending::Aborted,
            Ok(completion) => Ending::Status(completion),
            Err(_) if now_reset != resets => Ending::Reset,
            Err(_) if executing.is_interrupted() || now_cleared != clears => Ending::Aborted,
            Err(TransportError::NotSent(error)) if is_absent(&error) => remote::not_ready(),
            Err(_) => Ending::Lost,
        }
    }

    fn data_out(&self) -> usize {
        self.order.data_out
    }
}

/// The guest's nexus to the logical unit, over whatever session there is.
#[derive(Debug)]
struct Line<'a> {
    unit: Arc<Inner>,
    /// The guest's command, which may be given up; own commands are not.
    executing: Option<&'a Executing>,
    /// Beyond this no login is waited for.
    end: Option<Instant>,
}

impl Line<'_> {
    fn carry_out(&mut self, order: &Order, request: &Request) -> Result<Completion, TransportError> {
        let unit = Arc::clone(&self.unit);
        let Some(keeper) = unit.keeper.get() else { return self.execute(request) };
        if let Some(ended) = keeper.execute(self, request) {
            return Ok(ended);
        }
        if let Some(owed) = if order.is_exempt() { None } else { keeper.owed(self) } {
            return Ok(owed);
        }
        self.execute(request).inspect(|completion| keeper.told(self, request, completion))
    }
}

impl Nexus for Line<'_> {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let given_up = || self.executing.is_some_and(Executing::is_interrupted);
        let result = self.unit.send(request, self.end, &given_up);
        if let Ok(completion) = &result {
            self.unit.note_reserve(request, completion);
            let changed = remote::parameters_changed(completion);
            changed.zip(self.unit.teller.get()).into_iter().for_each(|(code, to)| to.changed(code));
        }
        result
    }

    fn initiator_port(&self) -> Option<TransportId> {
        Some(self.unit.target.initiator_port())
    }
}

/// The target is there, and not with this logical unit.
fn absent() -> TransportError {
    TransportError::NotSent(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "another logical unit, or none, stands there",
    ))
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

fn not_sent(why: &'static str) -> TransportError {
    TransportError::NotSent(io::Error::new(io::ErrorKind::NotConnected, why))
}

impl Inner {
    /// Sends a command, over a new session if it could not be sent over the old one.
    fn send(
        &self,
        request: &Request,
        end: Option<Instant>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<Completion, TransportError> {
        let deadline = Instant::now() + self.target.patience;
        let deadline = end.map_or(deadline, |end| end.min(deadline));
        while !given_up() {
            match self.target.session() {
                Ok(Some((session, number))) if self.is_same(&session, number) => {
                    match session.execute_unless(self.lun, request, given_up) {
                        Err(TransportError::NotSent(_)) => {}
                        ended => return ended,
                    }
                }
                Ok(Some((session, _))) if session.is_open() => return Err(absent()),
                Err(TargetError::GivenAway) => return Err(not_sent("the initiator port was given away")),
                Ok(_) | Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(not_sent("there is no session"));
            }
            self.target.rest();
        }
        Err(not_sent("the command was given up"))
    }
}

#[cfg(test)]
mod tests;
