//! What has to be known of a logical unit whose guest takes its initiator port to another host: what ends with the session and
//! what would get lost with it. Used by `tenure device` before it logs out here and after it logged in there.

use super::{Inner, IscsiUnit, Target, not_sent};
use nexus::{Nexus, TransportError, unit_attention};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// More than any device queues (SAM-5 leaves that open).
const MOST_ATTENTIONS: usize = 32;
/// How long a logical unit may be busy, and how often that is looked at.
const BUSY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

impl Target {
    /// Whether there is a session, or could be made now.
    #[must_use]
    pub fn reach(&self) -> bool {
        matches!(self.session(), Ok(Some(_)))
    }
}

impl IscsiUnit {
    /// The guest has reserved it by RESERVE(6) or RESERVE(10): the target forgets that with the session (SPC-2 5.5.1).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.reserved.load(Ordering::Acquire)
    }

    /// Takes the unit attentions and deferred errors that wait for the guest, which runs no command: their sense data, oldest first. They
    /// are the caller's to keep.
    ///
    /// # Errors
    /// The device did not answer, was busy all the time, or never came to an end. What was taken comes along all the same.
    pub fn take_attentions(&self) -> (Vec<Vec<u8>>, Result<(), TransportError>) {
        take_attentions(&mut self.line())
    }
}

/// Takes the unit attentions and deferred errors that wait for `nexus`: their sense data, oldest first. They are the caller's to keep.
///
/// # Errors
/// As [`IscsiUnit::take_attentions`].
pub fn take_attentions(nexus: &mut dyn Nexus) -> (Vec<Vec<u8>>, Result<(), TransportError>) {
    take_within(nexus, BUSY)
}

fn take_within(nexus: &mut dyn Nexus, patience: Duration) -> (Vec<Vec<u8>>, Result<(), TransportError>) {
    let (mut taken, end) = (Vec::new(), Instant::now() + patience);
    while taken.len() < MOST_ATTENTIONS {
        match nexus.execute(&ready()) {
            Ok(ended) if is_the_guests(&ended) => taken.push(ended.sense),
            // What waits is told only with a command that it has room for.
            Ok(ended) if [Status::BUSY, Status::TASK_SET_FULL].contains(&ended.status) => {
                if Instant::now() >= end {
                    return (taken, Err(not_sent("the logical unit is busy")));
                }
                thread::sleep(LOOK);
            }
            Ok(_) => return (taken, Ok(())),
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Err(not_sent("its unit attentions have no end")))
}

/// It tells of something else than the command that it answers: the guest has to hear of it.
fn is_the_guests(ended: &Completion) -> bool {
    let deferred = ended.decoded_sense().is_some_and(|sense| sense.deferred);
    unit_attention(ended).is_some() || ended.status == Status::CHECK_CONDITION && deferred
}

/// Whether this is what every new session of an initiator port is told: 29h/07h I_T NEXUS LOSS OCCURRED, or 29h/00h from
/// targets that do not say it more exactly.
#[must_use]
pub fn is_of_a_login(sense: &[u8]) -> bool {
    let ended = Completion { status: Status::CHECK_CONDITION, sense: sense.to_vec(), data: Vec::new() };
    let code = unit_attention(&ended);
    code.is_some_and(|code| [AdditionalSense::NEXUS_LOSS, AdditionalSense::POWER_ON_OR_RESET].contains(&code))
}

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

impl Inner {
    /// A command of the guest's ended: it may have reserved the logical unit, or released it.
    pub(super) fn note_reserve(&self, request: &Request, ended: &Completion) {
        let reserved = match request.cdb.first() {
            Some(&(opcode::RESERVE_6 | opcode::RESERVE_10)) => true,
            Some(&(opcode::RELEASE_6 | opcode::RELEASE_10)) => false,
            _ => return,
        };
        if ended.status.is_good() {
            self.reserved.store(reserved, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::SenseKey;
    use std::collections::VecDeque;

    /// Answers in this order, and the last for ever.
    struct Script(VecDeque<Completion>);

    impl Nexus for Script {
        fn execute(&mut self, _: &Request) -> Result<Completion, TransportError> {
            let next = if self.0.len() > 1 { self.0.pop_front() } else { self.0.front().cloned() };
            Ok(next.unwrap())
        }
    }

    fn check(response: u8, key: SenseKey, code: AdditionalSense) -> Completion {
        let mut sense = vec![0; 18];
        (sense[0], sense[2], sense[7], sense[12], sense[13]) = (response, key.0, 10, code.asc, code.ascq);
        Completion { status: Status::CHECK_CONDITION, sense, data: Vec::new() }
    }

    fn taken(answers: Vec<Completion>, patience: Duration) -> (Vec<Vec<u8>>, bool) {
        let (taken, ended) = take_within(&mut Script(answers.into()), patience);
        (taken, ended.is_ok())
    }

    #[test]
    fn a_deferred_error_and_what_waits_behind_a_busy_moment_are_taken_for_the_guest() {
        let reset = check(0x70, SenseKey::UNIT_ATTENTION, AdditionalSense::TARGET_RESET);
        let late = check(0x71, SenseKey::MEDIUM_ERROR, AdditionalSense { asc: 0x0C, ascq: 0 });
        let not_ready = check(0x70, SenseKey::NOT_READY, AdditionalSense { asc: 4, ascq: 1 });
        let (busy, good) = (Completion::status(Status::BUSY), Completion::status(Status::GOOD));
        let answers = vec![late.clone(), busy.clone(), reset.clone(), good];
        assert_eq!(taken(answers, BUSY), (vec![late.sense, reset.sense.clone()], true));
        assert_eq!(taken(vec![reset.clone(), not_ready], BUSY), (vec![reset.sense.clone()], true));
        assert_eq!(taken(vec![reset.clone(), busy], Duration::ZERO), (vec![reset.sense.clone()], false));
        assert!(!taken(vec![reset], BUSY).1, "no end");
    }
}
