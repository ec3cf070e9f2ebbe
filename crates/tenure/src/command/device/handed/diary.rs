//! The journal of a guest's handovers between two devices: the agent's format and rules ([`agent::journal`]), in `devices/handovers` below
//! `--state`. What it calls the guest's UUID is the *ticket* here: the custody's handover in which the bearer gave the guest away. One
//! ticket may take several attempts.

use super::HandError;
use agent::conduct::{self, NotDurable};
use agent::guests::from_begun;
use agent::journal::{Begun, Book, Entries, Handover, Journals, Lun as BegunLun, OwnPath};
use agent::migrate::{Last, Leg};
use agent::ownership::Marks;
use agent::recover;
use handover::known_targets::TargetIdentity;
use handover::{Entry, Port, Side, UnitIndex, Verdict};
use ledger::{HandoverId, LunId};
use peer::message::Record;
use rustix::rand::{GetRandomFlags, getrandom};
use scsi::AdditionalSense;
use scsi::pr::Key;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a handover ended of which nothing is left to be done.
pub(super) const SETTLED: &str = "settled";
/// How one ended that did not come about, or not for all: there will be another.
pub(super) const KEPT: &str = "kept";

/// A handover that has not ended.
pub(super) type Under = Handover;

/// Who makes durable what commands took from the guest.
pub(super) type Owe = Box<dyn FnMut(&[(UnitIndex, Vec<AdditionalSense>)]) -> bool + Send>;

/// A guest's journal, of which this is the only user.
#[derive(Clone, Debug)]
pub(in crate::command::device) struct Diary(Arc<Mutex<Book>>);

/// A logical unit of a handover as it begins.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) lun: LunId,
    pub(super) node: String,
    pub(super) own: Port,
    pub(super) theirs: Vec<Port>,
    pub(super) key: Option<Key>,
    pub(super) nonce: Key,
    pub(super) target: Option<TargetIdentity>,
}

/// A handover as it begins.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    pub(super) handover: u128,
    pub(super) ticket: u128,
    pub(super) side: Side,
    pub(super) peer: String,
    pub(super) units: Vec<Unit>,
}

fn unwritten(error: &agent::journal::Error) -> HandError {
    HandError::Journal(error.to_string())
}

/// The words for a ticket.
pub(super) fn ticket_words(ticket: u128) -> String {
    HandoverId(ticket).to_string()
}

impl Diary {
    /// Opens it.
    ///
    /// # Errors
    /// Another user has it, or it cannot be read or made.
    pub(super) fn open(state: &Path, host: &str, guest: &str) -> Result<Self, HandError> {
        let journals = Journals::new(&state.join("devices"), host);
        let book = journals.open(guest).map_err(|error| unwritten(&error))?;
        Ok(Self(Arc::new(Mutex::new(book))))
    }

    /// Looks whether the journal is this host's, if there is one.
    ///
    /// # Errors
    /// [`HandError::Foreign`], or it cannot be read.
    pub(in crate::command::device) fn owner(state: &Path, host: &str, guest: &str) -> Result<(), HandError> {
        let read = Journals::new(&state.join("devices"), host).read(guest);
        read.map(drop).map_err(|error| match error {
            agent::journal::Error::Foreign { path, host, .. } => {
                HandError::Foreign { path: path.display().to_string(), host }
            }
            error => unwritten(&error),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handover of this ticket that is under way, with this part of this host.
    pub(super) fn under_way(&self, ticket: u128, side: Side) -> Option<Under> {
        let is_it = |one: &&Handover| one.begun.uuid == ticket_words(ticket) && one.begun.side == side;
        self.book().open_handover().filter(is_it).cloned()
    }

    /// The one that is under way with this part of this host, and its ticket.
    pub(super) fn any_under_way(&self, side: Side) -> Option<(u128, Under)> {
        let open = self.book().open_handover().filter(|one| one.begun.side == side).cloned()?;
        Some((HandoverId::from_hex(&open.begun.uuid)?.0, open))
    }

    /// One that is under way by another ticket, or with another part, is of the past: the other host ended it alone, or it never began
    /// there. Nothing is taken from it.
    ///
    /// # Errors
    /// That it is over is not durable.
    pub(super) fn end_others(&self, ticket: u128, side: Side) -> Result<(), HandError> {
        let open = self.book().open_handover().map(|one| one.begun.handover);
        let Some(other) = open.filter(|_| self.under_way(ticket, side).is_none()) else { return Ok(()) };
        tracing::warn!(handover = %other, "a handover of the past was never ended here");
        self.end(KEPT)
    }

    /// The handover of this id, if it is of this ticket, with this part of this host.
    pub(super) fn of(&self, handover: u128, ticket: u128, side: Side) -> Option<Handover> {
        let is_it = |one: &&Handover| {
            let begun = &one.begun;
            (begun.handover.0, begun.side) == (handover, side) && begun.uuid == ticket_words(ticket)
        };
        self.book().handovers().iter().rev().find(is_it).cloned()
    }

    /// A handover begins.
    ///
    /// # Errors
    /// It is not durable.
    pub(super) fn begin(&self, beginning: &Beginning) -> Result<(), HandError> {
        self.book().begin(begun(beginning)).map_err(|error| unwritten(&error))
    }

    /// It is over.
    ///
    /// # Errors
    /// That is not durable.
    pub(super) fn end(&self, verdict: &str) -> Result<(), HandError> {
        self.book().end(verdict).map_err(|error| unwritten(&error))
    }

    /// Where the entries of `units` units go, and what is owed.
    pub(super) fn pages(&self, units: usize, owe: Owe) -> Pages {
        let all = (0..units).filter_map(|unit| u16::try_from(unit).ok()).map(UnitIndex).collect();
        Pages { entries: Entries::new(Arc::clone(&self.0), all), owe }
    }
}

/// A journal as a leader or a follower writes to it.
pub(super) struct Pages {
    entries: Entries,
    owe: Owe,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl conduct::Journal for Pages {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        self.entries.append(round, entries)
    }

    fn owe(&mut self, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        (self.owe)(owed)
    }
}

/// The guest goes on at the destination, with its registration or without it.
pub(super) const fn is_settled(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Moved | Verdict::Fenced { .. } | Verdict::Lost)
}

fn begun(of: &Beginning) -> Begun {
    let lun = |unit: &Unit| BegunLun {
        lun: unit.lun.0.clone(),
        own: vec![OwnPath { device: unit.node.clone(), port: unit.own.clone() }],
        peer: unit.theirs.clone(),
        key: unit.key,
        nonce: unit.nonce,
        target: unit.target,
    };
    Begun {
        handover: HandoverId(of.handover),
        uuid: ticket_words(of.ticket),
        side: of.side,
        peer: of.peer.clone(),
        luns: of.units.iter().map(lun).collect(),
        method: None,
        allow_absence: false,
        stays_paused: false,
        orchestrated: false,
    }
}

/// What a journal has of a handover, in the words of the messages.
pub(super) fn tell(handover: &Handover) -> Record {
    let begin = from_begun(&handover.begun);
    recover::tell(&begin, Marks::default(), &last(handover), handover.verdict.clone())
}

/// The last entry of each unit of a handover.
pub(super) fn last(handover: &Handover) -> Vec<Option<Last>> {
    let of = |unit: usize| {
        let last = handover.last.get(&UnitIndex(u16::try_from(unit).ok()?))?;
        Some(Last { leg: Leg::There, entry: last.entry })
    };
    (0..handover.begun.luns.len()).map(of).collect()
}

/// A key, or the half of an id, that nobody uses.
///
/// # Errors
/// The system has none.
pub(super) fn fresh() -> Result<u64, HandError> {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(HandError::Unfit("the system has no random bytes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::conduct::Journal;
    use handover::journal::Stage;
    use handover::{Method, Role};

    fn beginning(ticket: u128, luns: &[&str]) -> Beginning {
        let unit = |lun: &&str| Unit {
            lun: LunId((*lun).to_owned()),
            node: "node".to_owned(),
            own: Port::default(),
            theirs: vec![Port::default()],
            key: Some(Key(1)),
            nonce: Key(2),
            target: None,
        };
        let (side, peer) = (Side::Destination, "alpha".to_owned());
        Beginning { handover: ticket << 1, ticket, side, peer, units: luns.iter().map(unit).collect() }
    }

    fn entry(stage: Stage) -> Entry {
        Entry {
            stage,
            method: Method::SourceNonce,
            key: Key(1),
            nonce: Key(2),
            role: Role::Registrant,
            aptpl: false,
            generation: 0,
            source_paths: 1,
            holder: None,
            destination_had: 0,
            sharers: 0,
        }
    }

    #[test]
    fn a_handover_is_known_by_its_ticket_and_part_also_when_it_has_ended() {
        let folder = tempfile::TempDir::new().unwrap();
        let diary = Diary::open(folder.path(), "beta", "db1").unwrap();
        assert!(matches!(Diary::open(folder.path(), "beta", "db1"), Err(HandError::Journal(_))), "one user");
        diary.begin(&beginning(7, &["naa.1", "naa.2"])).unwrap();
        let mut pages = diary.pages(2, Box::new(|_| true));
        pages
            .append(1, &[(UnitIndex(0), entry(Stage::Moved)), (UnitIndex(1), entry(Stage::Freeze))])
            .unwrap();
        assert_eq!(tell(&diary.under_way(7, Side::Destination).unwrap()).luns.len(), 2);
        diary.end(KEPT).unwrap();
        drop((pages, diary));
        let diary = Diary::open(folder.path(), "beta", "db1").unwrap();
        assert!(diary.under_way(7, Side::Destination).is_none());
        let of = |ticket, side| diary.of(14, ticket, side).is_some();
        assert_eq!(
            (of(7, Side::Destination), of(7, Side::Source), of(8, Side::Destination)),
            (true, false, false)
        );
    }

    #[test]
    fn a_handover_of_the_past_that_was_never_ended_is_none_of_this_ticket() {
        let folder = tempfile::TempDir::new().unwrap();
        let diary = Diary::open(folder.path(), "beta", "db1").unwrap();
        diary.begin(&beginning(7, &["naa.1"])).unwrap();
        diary.end_others(7, Side::Destination).unwrap();
        assert!(diary.under_way(7, Side::Destination).is_some(), "its own");
        let ticket = |side| diary.any_under_way(side).map(|(ticket, _)| ticket);
        assert_eq!((ticket(Side::Destination), ticket(Side::Source)), (Some(7), None));
        assert!(
            diary.under_way(8, Side::Destination).is_none() && diary.under_way(7, Side::Source).is_none()
        );
        diary.end_others(8, Side::Destination).unwrap();
        assert!(diary.under_way(7, Side::Destination).is_none());
        diary.begin(&beginning(8, &["naa.1"])).unwrap();
    }
}
