//! One path: a DEVICE and the nexus to it, which is opened again after the session was lost.
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
//! If the path is not restored in time, the link [dangles](Link::dangles): its last changing command may still be
//! executed, and the driver must not report it to the procedure. A late read changes nothing and does not count.

use super::{Device, Opened, words};
use handover::{CommandId, Outcome, Port};
use nexus::{Nexus, TransportError};
use scsi::{Completion, DataPhase, Request, opcode};
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts to restore a path: a target that restarts needs a while to listen again.
const RESTORE_PAUSE: Duration = Duration::from_millis(50);
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

/// One path of one host.
#[derive(Debug)]
pub struct Link {
    device: Device,
    timeout: Duration,
    way: Option<Opened>,
    /// Logged out for good: nothing here logs in again unless it is asked to.
    closed: bool,
    /// A command that may change the device may still be executed.
    dangles: bool,
    /// Until when the present outage is waited for.
    outage: Option<Instant>,
    /// How often the session was lost although the target was there.
    displaced: u32,
}

impl Link {
    /// A path that is open already.
    #[must_use]
    pub const fn open(device: Device, timeout: Duration, way: Opened) -> Self {
        Self { device, timeout, way: Some(way), closed: false, dangles: false, outage: None, displaced: 0 }
    }

    /// A path that cannot be reached now, or must not be opened before the procedure asks for it.
    #[must_use]
    pub const fn closed(device: Device, timeout: Duration) -> Self {
        Self { device, timeout, way: None, closed: true, dangles: false, outage: None, displaced: 0 }
    }

    /// How the path is named on the target.
    #[must_use]
    pub fn port(&self) -> Port {
        let known = || self.way.as_ref().and_then(Nexus::initiator_port);
        Port { initiator: self.device.initiator_port().or_else(known), target_port: None }
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
        let commands: Vec<Request> = jobs
            .iter()
            .filter_map(|(_, job)| if let Job::Command(request) = job { Some(request.clone()) } else { None })
            .collect();
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
        if self.way.is_none() && !self.closed {
            self.sit_out();
        }
        let Some(way) = &mut self.way else { return vec![Outcome::NotSent; requests.len()] };
        let outcomes: Vec<Outcome> = way.execute_all(requests).into_iter().map(outcome).collect();
        if outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Done(_))) {
            self.settle(requests.iter().zip(&outcomes));
        }
        outcomes
    }

    /// Some of these have no answer: closes the way, and opens it again so that they are certain to be over.
    fn settle<'a>(&mut self, mut told: impl Iterator<Item = (&'a Request, &'a Outcome)>) {
        self.way = None;
        self.dangles |= told.any(|(request, outcome)| *outcome == Outcome::Unknown && changes(request));
        self.displaced += u32::from(self.sit_out());
    }

    /// Tries to restore the path until the time for this outage is spent; whether the first attempt was enough.
    fn sit_out(&mut self) -> bool {
        let spent = *self.outage.get_or_insert_with(|| Instant::now() + self.timeout);
        if self.restore(spent) {
            return true;
        }
        while Instant::now() < spent {
            thread::sleep(RESTORE_PAUSE);
            if self.restore(spent) {
                break;
            }
        }
        false
    }

    /// Opens the way; where a command dangles, it counts only if that command is over.
    fn restore(&mut self, spent: Instant) -> bool {
        let late = Instant::now() >= spent;
        let patience = if late { self.timeout.min(LATE_ATTEMPT) } else { self.timeout };
        if self.reopen(patience) == Outcome::NotSent {
            return false;
        }
        let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 36, 0], data: DataPhase::In(36) };
        let answers = |way: &mut Opened| way.execute(&inquiry).is_ok();
        if self.dangles && !self.way.as_mut().is_some_and(answers) {
            self.way = None;
            return false;
        }
        (self.dangles, self.outage) = (false, None);
        true
    }

    fn close(&mut self) -> Outcome {
        self.closed = true;
        match self.way.take().map(Opened::close) {
            Some(Ok(())) => Outcome::Done(Completion::good(Vec::new())),
            Some(Err(_)) => Outcome::Unknown,
            None => Outcome::NotSent,
        }
    }

    /// `patience` is for the login alone.
    fn reopen(&mut self, patience: Duration) -> Outcome {
        match self.device.open_within(patience, self.timeout) {
            Ok(way) => {
                (self.way, self.closed) = (Some(way), false);
                Outcome::Done(Completion::good(Vec::new()))
            }
            Err(_) => Outcome::NotSent,
        }
    }
}

impl Nexus for Link {
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

/// Whether it would matter that the command is executed late.
fn changes(request: &Request) -> bool {
    !words::reads(request) && request.cdb.first() != Some(&opcode::TEST_UNIT_READY)
}
