//! One path: the [`Route`] to a logical unit and the nexus at its end, which is opened again after the session was lost.
//!
//! # When an unknown outcome is one
//! [`Outcome::Unknown`] promises that the command will not be executed from now on. A lost transport alone does not
//! prove that: the target may hold the command, in a session that it believes to be alive, and execute it after the
//! other host has acted. So after a loss the link tries, as long as its timeout, until the path is *restored*, and only
//! that settles the outcome; the last attempt has that time once more. A loss without a command under way is waited for
//! as well: a failover of the target that is over in time costs nothing but that time. It is spent once for each outage and
//! not for each command; while the outage goes on, a further command makes one short attempt.
//! - `iscsi://`: a login with the same initiator name and ISID reinstates the session (RFC 7143 6.3.5). The target ends
//!   the old one and its tasks before it answers. The old socket was closed by a reset, so that this host's kernel sends
//!   nothing of it any more.
//! - `/dev/…`: opening the node ends nothing. What is relied on is the kernel: SG_IO returns from a timeout only after
//!   the error handling has aborted the command or reset the unit, and where the transport itself was lost the kernel
//!   logs in anew before the device server can be spoken to again. So the path counts as restored when an INQUIRY is
//!   answered, which neither reports nor clears a unit attention. A SIGKILL within SG_IO leaves the command to the
//!   kernel; that is a crash of this process, and recovery begins with a proof.
//!
//! - A session that several links share: as for `iscsi://`, where one login serves all of them, and the time for an outage is
//!   spent once for all. A command that took too long there is aborted; where the target confirms that, the session
//!   goes on and nothing is to be restored.
//! - Through the helper: the path counts as restored when an INQUIRY is answered. The helper carries out one command of a
//!   nexus after the other, so that whatever it answers, every earlier command has ended. A command that it refuses was
//!   certainly not sent, and is no loss of the path.
//!
//! If the path is not restored in time, the link [dangles](Link::dangles): its last changing command may still be
//! executed, and the driver must not report it to the procedure. A late read changes nothing and does not count.

use super::port::PAUSE;
use super::{Error, Opened, Route, told, words};
use handover::{CommandId, Outcome, Port};
use iscsi::initiator::Session;
use nexus::{Nexus, TransportError};
use scsi::{Completion, DataPhase, Request, opcode};
use std::thread;
use std::time::{Duration, Instant};

/// What one attempt may take once the time for an outage is spent.
const LATE_ATTEMPT: Duration = Duration::from_secs(1);

/// What one path is asked to do.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Send a command.
    Command(Request),
    /// Log out for good.
    Close,
    /// Log in.
    Open,
}

impl Job {
    /// The command, if it is one.
    pub(super) const fn command(&self) -> Option<&Request> {
        if let Self::Command(request) = self { Some(request) } else { None }
    }
}

/// One path of one host.
#[derive(Debug)]
pub struct Link {
    route: Route,
    timeout: Duration,
    way: Option<Opened>,
    /// The shared session that was used last.
    number: u64,
    /// Logged out for good: nothing here logs in again unless it is asked to.
    closed: bool,
    /// A command that may change the device may still be executed.
    dangles: bool,
    /// Until when the present outage is waited for.
    outage: Option<Instant>,
    /// How often the session was lost although the target was there.
    displaced: u32,
    /// No outage is waited for beyond this.
    limit: Option<Instant>,
    /// Why the last command without an answer had none.
    trouble: Option<String>,
}

impl Link {
    /// A path that is open already.
    #[must_use]
    pub fn open(route: impl Into<Route>, timeout: Duration, way: Opened) -> Self {
        let number = way.number();
        Self { way: Some(way), number, closed: false, ..Self::closed(route, timeout) }
    }

    /// A path that cannot be reached now, or must not be opened before the procedure asks for it.
    #[must_use]
    pub fn closed(route: impl Into<Route>, timeout: Duration) -> Self {
        Self {
            route: route.into(),
            timeout,
            way: None,
            number: 0,
            closed: true,
            dangles: false,
            outage: None,
            displaced: 0,
            limit: None,
            trouble: None,
        }
    }

    /// Opens a path; `timeout` bounds the login and every command.
    ///
    /// # Errors
    /// If the device cannot be opened or the target cannot be logged in to.
    pub fn connect(route: impl Into<Route>, timeout: Duration) -> Result<Self, Error> {
        let route = route.into();
        let way = route.open(0, timeout, timeout)?;
        Ok(Self::open(route, timeout, way))
    }

    /// How the path is named on the target.
    #[must_use]
    pub fn port(&self) -> Port {
        let known = || self.way.as_ref().and_then(Nexus::initiator_port);
        Port { initiator: self.route.initiator_port().or_else(known), target_port: None }
    }

    /// A command without an answer may still be executed: nothing may rest on what the device shows now.
    #[must_use]
    pub const fn dangles(&self) -> bool {
        self.dangles
    }

    /// The session was lost again and again while the target could be logged in to at once: most likely somebody else
    /// logs in under the same name, and each login ends the other's session.
    #[must_use]
    pub const fn is_displaced(&self) -> bool {
        self.displaced > 1
    }

    /// Why the last command that had no answer had none, until it is asked for.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// From now on no outage is waited for beyond this.
    pub(super) const fn wait_no_longer_than(&mut self, limit: Instant) {
        self.limit = Some(limit);
    }

    /// The way, for those who share what is below it.
    pub(super) const fn route(&self) -> &Route {
        &self.route
    }

    /// The thread that used this link is gone, and nobody knows what it sent.
    pub(super) fn abandoned(&mut self) {
        self.dangles = true;
        self.way = None;
    }

    /// Sends one command; it is not logged in again for it after it was closed for good.
    pub fn send(&mut self, request: &Request) -> Outcome {
        self.execute_all(std::slice::from_ref(request)).pop().unwrap_or(Outcome::NotSent)
    }

    /// Does these in order; one outcome for each.
    pub(crate) fn carry_out(&mut self, jobs: &[(CommandId, Job)]) -> Vec<Outcome> {
        let commands: Vec<Request> = jobs.iter().filter_map(|(_, job)| job.command().cloned()).collect();
        if commands.len() == jobs.len() {
            return self.execute_all(&commands);
        }
        jobs.iter().map(|(_, job)| self.one(job)).collect()
    }

    fn one(&mut self, job: &Job) -> Outcome {
        match job {
            Job::Command(request) => self.send(request),
            Job::Close => self.close(),
            Job::Open => self.reopen(self.timeout),
        }
    }

    fn execute_all(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.make_ready();
        let results = self.way.as_mut().map(|way| way.execute_all(requests));
        self.take_in(&requests.iter().collect::<Vec<_>>(), results.unwrap_or_default())
    }

    /// Opens the way if it is lost, unless it was closed for good.
    pub(super) fn make_ready(&mut self) {
        if self.way.as_ref().is_some_and(Opened::is_gone) {
            self.way = None;
        }
        if self.way.is_none() && !self.closed {
            self.sit_out();
        }
    }

    /// The shared session that is used now, and the logical unit behind it.
    pub(super) fn shared(&self) -> Option<(&Session, u64)> {
        match (&self.way, &self.route) {
            (Some(Opened::Shared { nexus, .. }), Route::Shared { lun, .. }) => Some((nexus.session(), *lun)),
            _ => None,
        }
    }

    /// What came of these, which were sent over the way; of those that nothing is told of, nothing left.
    pub(super) fn take_in(
        &mut self,
        requests: &[&Request],
        results: Vec<Result<Completion, TransportError>>,
    ) -> Vec<Outcome> {
        let sound = results.iter().all(|result| result.as_ref().map_or_else(is_refusal, |_| true));
        self.trouble = results
            .iter()
            .find_map(|result| result.as_ref().err())
            .map(|error| told(error))
            .or(self.trouble.take());
        let mut outcomes: Vec<Outcome> = results.into_iter().map(outcome).collect();
        outcomes.resize(requests.len(), Outcome::NotSent);
        if self.way.is_some() && !sound {
            self.settle(requests.iter().copied().zip(&outcomes));
        }
        outcomes
    }

    /// Some of these have no answer: unless they are certainly over, closes the way, and opens it again so that they are.
    fn settle<'a>(&mut self, mut told: impl Iterator<Item = (&'a Request, &'a Outcome)>) {
        if self.way.as_ref().is_some_and(Opened::has_settled) {
            return;
        }
        self.way = None;
        self.dangles |= told.any(|(request, outcome)| *outcome == Outcome::Unknown && changes(request));
        let at_once = self.sit_out();
        self.displaced += u32::from(at_once && self.route.session_is_ours());
    }

    /// Tries to restore the path until the time for this outage is spent; whether the first attempt was enough.
    fn sit_out(&mut self) -> bool {
        let spent = self.route.outage(&mut self.outage, self.timeout);
        let spent = self.limit.map_or(spent, |limit| spent.min(limit));
        if self.restore(spent) {
            return true;
        }
        while Instant::now() < spent {
            thread::sleep(PAUSE);
            if self.restore(spent) {
                break;
            }
        }
        false
    }

    /// Opens the way; where a command dangles, or opening proves nothing, it counts only if a command is answered.
    fn restore(&mut self, spent: Instant) -> bool {
        let late = Instant::now() >= spent;
        let patience = if late { self.timeout.min(LATE_ATTEMPT) } else { self.timeout };
        if self.reopen(patience) == Outcome::NotSent {
            return false;
        }
        let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 36, 0], data: DataPhase::In(36) };
        let answers = |way: &mut Opened| way.execute(&inquiry).is_ok();
        if self.route.needs_answer(self.dangles) && !self.way.as_mut().is_some_and(answers) {
            self.way = None;
            return false;
        }
        (self.dangles, self.outage) = (false, None);
        true
    }

    /// A session that others use as well is ended for all of them at once (`Lines`), and not by one.
    fn close(&mut self) -> Outcome {
        if matches!(self.route, Route::Shared { .. }) {
            return Outcome::NotSent;
        }
        self.closed = true;
        match self.way.take().map(Opened::close) {
            Some(Ok(())) => Outcome::Done(Completion::good(Vec::new())),
            Some(Err(Error::NotOurs)) => Outcome::NotSent,
            Some(Err(_)) => Outcome::Unknown,
            None => Outcome::NotSent,
        }
    }

    /// The session that it shared was ended by somebody else, for all that used it.
    pub(super) fn closed_with_others(&mut self) {
        (self.way, self.closed) = (None, true);
    }

    /// `patience` is for the login alone.
    fn reopen(&mut self, patience: Duration) -> Outcome {
        match self.route.open(self.number, patience, self.timeout) {
            Ok(way) => {
                self.number = way.number();
                (self.way, self.closed) = (Some(way), false);
                Outcome::Done(Completion::good(Vec::new()))
            }
            Err(error) => {
                self.trouble = Some(told(&error));
                Outcome::NotSent
            }
        }
    }
}

impl Nexus for Link {
    fn initiator_port(&self) -> Option<scsi::TransportId> {
        self.port().initiator
    }

    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let lost = || std::io::ErrorKind::NotConnected.into();
        match self.send(request) {
            Outcome::Done(completion) => Ok(completion),
            Outcome::NotSent => Err(TransportError::NotSent(lost())),
            Outcome::Unknown => Err(TransportError::OutcomeUnknown(lost())),
        }
    }
}

fn outcome(result: Result<Completion, TransportError>) -> Outcome {
    match result {
        Ok(completion) => Outcome::Done(completion),
        Err(TransportError::NotSent(_)) => Outcome::NotSent,
        Err(TransportError::OutcomeUnknown(_)) => Outcome::Unknown,
    }
}

/// The helper said that it does not send the command; the path is as good as before.
fn is_refusal(error: &TransportError) -> bool {
    let TransportError::NotSent(cause) = error else { return false };
    cause.get_ref().is_some_and(|cause| cause.is::<pr_helper::Refused>())
}

/// Whether it would matter that the command is executed late.
fn changes(request: &Request) -> bool {
    !words::reads(request) && request.cdb.first() != Some(&opcode::TEST_UNIT_READY)
}
