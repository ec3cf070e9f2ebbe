//! A third initiator that reads keys, reservation and registrations of a logical unit as fast as it can, and remembers with
//! times what it saw.

use anyhow::{Context, Result, anyhow, ensure};
use iscsi::initiator::Session;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::{
    Capabilities, FullStatus, FullStatusDescriptor, InAction, Key, ReadKeys, ReadReservation, Reservation,
    ReservationType, request,
};
use scsi::{Status, TransportId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Unit attentions that may stand before an answer.
const ATTENTIONS: usize = 8;

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// Initiator name; another TransportID as text.
    pub port: String,
    /// Its key.
    pub key: Key,
    /// The reservation that it holds.
    pub holds: Option<ReservationType>,
}

/// What one command showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// READ KEYS, sorted.
    Keys(Vec<Key>),
    /// READ RESERVATION.
    Reservation(Option<Reservation>),
    /// READ FULL STATUS, sorted.
    Registrations(Vec<Registration>),
    /// REPORT CAPABILITIES: whether reservations outlive a loss of power.
    Aptpl(bool),
}

/// The same thing seen again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When the first of these commands was sent, since the watch began.
    pub from: Duration,
    /// When the first was answered.
    pub first: Duration,
    /// When the last was sent.
    pub last: Duration,
    /// When the last was answered.
    pub to: Duration,
    /// How many commands.
    pub times: u64,
    /// The longest time without an answer, before the first of them too.
    pub blind: Duration,
    /// What.
    pub seen: Seen,
}

/// The four commands.
const ACTIONS: [InAction; 4] = [
    InAction::READ_KEYS,
    InAction::READ_RESERVATION,
    InAction::READ_FULL_STATUS,
    InAction::REPORT_CAPABILITIES,
];

/// Somebody who watches until told to stop.
#[derive(Debug)]
pub struct Watch {
    going: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Result<Vec<Sight>>>>,
    begun: Instant,
}

impl Watch {
    /// Begins to watch LUN 0, with a session for each of the four commands that `log_in` makes for a number.
    ///
    /// # Errors
    /// If the target refuses a session.
    pub fn begin(log_in: impl Fn(u8) -> Result<Session>) -> Result<Self> {
        let going = Arc::new(AtomicBool::new(true));
        let begun = Instant::now();
        let mut watch = Self { going: Arc::clone(&going), watchers: Vec::new(), begun };
        for (number, action) in (1..).zip(ACTIONS) {
            let (session, going) = (log_in(number)?, Arc::clone(&going));
            watch.watchers.push(thread::spawn(move || look(&session, action, &going, begun)));
        }
        Ok(watch)
    }

    /// How long it has been watched.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Ends it and tells what was seen: of each command in the order of time.
    ///
    /// # Errors
    /// If a command failed.
    pub fn end(mut self) -> Result<Vec<Vec<Sight>>> {
        self.going.store(false, SeqCst);
        let watchers = std::mem::take(&mut self.watchers);
        watchers.into_iter().map(|one| one.join().map_err(|_| anyhow!("the watcher died"))?).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.going.store(false, SeqCst);
    }
}

fn look(session: &Session, action: InAction, going: &AtomicBool, begun: Instant) -> Result<Vec<Sight>> {
    let mut nexus = session.nexus(0);
    let mut sights: Vec<Sight> = Vec::new();
    let mut before = begun.elapsed();
    loop {
        // The last look begins when the watch is over, and so sees the end.
        let over = !going.load(SeqCst);
        let from = begun.elapsed();
        let seen = see(&mut nexus, action)?;
        let to = begun.elapsed();
        let blind = to.saturating_sub(before);
        before = to;
        match sights.last_mut().filter(|last| last.seen == seen) {
            Some(sight) => {
                (sight.last, sight.to, sight.times) = (from, to, sight.times + 1);
                sight.blind = sight.blind.max(blind);
            }
            None => sights.push(Sight { from, first: to, last: from, to, times: 1, blind, seen }),
        }
        if over {
            return Ok(sights);
        }
    }
}

/// What a nexus sees of a logical unit by one of the four commands.
///
/// # Errors
/// If the command fails, or what it returns makes no sense.
pub fn see(nexus: &mut dyn Nexus, action: InAction) -> Result<Seen> {
    let ended = retry_unit_attention(nexus, &request::read(action, 4096), ATTENTIONS)?.completion;
    ensure!(ended.status == Status::GOOD, "{action:?}: {}", ended.status);
    parse(action, &ended.data).with_context(|| format!("{action:?}: {:02x?}", ended.data))
}

fn parse(action: InAction, data: &[u8]) -> Option<Seen> {
    Some(match action {
        InAction::READ_KEYS => {
            let mut keys = ReadKeys::parse(data)?.keys;
            keys.sort_unstable();
            Seen::Keys(keys)
        }
        InAction::READ_RESERVATION => Seen::Reservation(ReadReservation::parse(data)?.reservation),
        InAction::READ_FULL_STATUS => {
            let descriptors = FullStatus::parse(data).filter(|status| !status.truncated)?.descriptors;
            let mut registrations: Vec<_> = descriptors.iter().map(registration).collect();
            registrations.sort();
            Seen::Registrations(registrations)
        }
        _ => Seen::Aptpl(Capabilities::parse(data)?.persist_active),
    })
}

fn registration(descriptor: &FullStatusDescriptor) -> Registration {
    let port = match &descriptor.initiator_port {
        Ok(TransportId::Iscsi { name, .. }) => name.to_string(),
        other => format!("{other:?}"),
    };
    Registration { port, key: descriptor.key, holds: descriptor.holds.map(|(_, kind)| kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aptpl_is_what_is_active_and_not_what_the_target_can() {
        // REPORT CAPABILITIES: PTPL_C is bit 0 of byte 2, PTPL_A of byte 3.
        let capabilities =
            |can, active| parse(InAction::REPORT_CAPABILITIES, &[0, 8, can, active, 0, 0, 0, 0]);
        assert_eq!(capabilities(1, 1), Some(Seen::Aptpl(true)));
        assert_eq!(capabilities(1, 0), Some(Seen::Aptpl(false)));
    }

    #[test]
    fn keys_are_seen_in_one_order_and_a_reservation_with_its_type() {
        let listed = [[0; 7].as_slice(), &[16], &[0; 7], &[9], &[0; 7], &[5]].concat();
        assert_eq!(parse(InAction::READ_KEYS, &listed), Some(Seen::Keys(vec![Key(5), Key(9)])));
        let held = [[0; 7].as_slice(), &[16], &[0; 7], &[9], &[0; 5], &[3, 0, 0]].concat();
        let seen = parse(InAction::READ_RESERVATION, &held);
        let Some(Seen::Reservation(Some(held))) = seen else { panic!("{seen:?}") };
        assert_eq!((held.key, held.kind), (Key(9), ReservationType::EXCLUSIVE_ACCESS));
    }

    #[test]
    fn an_answer_that_is_cut_short_is_nothing_seen() {
        // Of READ FULL STATUS a list that says it is longer.
        assert_eq!(parse(InAction::READ_FULL_STATUS, &[0, 0, 0, 1, 0, 0, 0, 200]), None);
        assert_eq!(parse(InAction::READ_KEYS, &[0; 3]), None);
    }
}
