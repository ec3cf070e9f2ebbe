//! What a record says of one nexus, as bytes: for a guest that takes the nexus along to another host, whose record then goes on
//! where this one ended.
//!
//! The bytes are a line of the log, checksum and all, with the changes that make the record out of nothing; a version of this
//! program that can read such a log can read them. Used by the vhost-user device. They may come from a peer: whatever reads them
//! asks the device before it believes them.

use crate::change::Change;
use crate::line::{Line, Said, Wrong};
use crate::names::{self, LunId, PathId};
use crate::record::{PathRecord, Record};
use scsi::{Sense, SenseKey};
use thiserror::Error;

/// Sense data is no longer than this (SPC-4 4.5.1).
const LONGEST_SENSE: usize = 252;

/// Why bytes are not what [`carried`] writes, or it cannot write them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CarriedError {
    /// They were changed, or are something else.
    #[error("the record of what the guest registered is damaged: {0}")]
    Damaged(String),
    /// They are whole, and say what this version does not know.
    #[error("the record of what the guest registered was written by a newer program ({0}): update this one")]
    Newer(String),
    /// What this nexus has is not known for sure, or it is not here.
    #[error("what the guest has registered is not known for sure: the record says {0}")]
    Unsure(&'static str),
    /// It has no room in a line.
    #[error("the record of what the guest registered is too long")]
    Length,
}

/// The bytes of what `record` says of `path`.
///
/// # Errors
/// [`CarriedError::Unsure`] while a command or a handover is under way or after one that ended in doubt; [`CarriedError::Length`].
pub fn carried(record: &Record, path: &PathId) -> Result<Vec<u8>, CarriedError> {
    let standing = record.standing();
    if standing.is_away() || standing == crate::State::Unverified {
        return Err(CarriedError::Unsure(standing.word()));
    }
    let line = |change| Line::new(0, record.lun.clone(), change).map_err(|_| CarriedError::Length);
    let lines = changes_of(record, path).into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
    match Line::pack(&lines) {
        (text, 1) => Ok(text.into_bytes()),
        _ => Err(CarriedError::Length),
    }
}

/// The record that [`carried`] wrote: of one nexus, with no command under way.
///
/// # Errors
/// [`CarriedError::Damaged`] or [`CarriedError::Newer`].
pub fn read_carried(bytes: &[u8]) -> Result<(Record, PathId), CarriedError> {
    let damaged = |what: &str| CarriedError::Damaged(what.to_owned());
    let line = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("it is cut short"))?;
    let lines = Line::parse(line).map_err(|wrong| match wrong {
        Wrong::Damaged(what) => CarriedError::Damaged(what),
        Wrong::Newer(what) => CarriedError::Newer(what),
    })?;
    let lun = lines.first().map(|line| line.lun.clone()).ok_or_else(|| damaged("it is empty"))?;
    let mut record = Record::new(lun);
    for line in &lines {
        if line.lun != record.lun {
            return Err(damaged("it is of two logical units"));
        }
        if let Said::Change(change) = &line.said {
            check(change)?;
            record.apply(line.at, change);
        }
    }
    names::check(&record.lun.0).map_err(|error| CarriedError::Damaged(error.to_string()))?;
    record.history.clear();
    match record.paths.as_slice() {
        [one] if !record.state.is_away() => {
            let path = one.path.clone();
            Ok((record, path))
        }
        _ => Err(damaged("it is not of one nexus that is here")),
    }
}

fn check(change: &Change) -> Result<(), CarriedError> {
    if let Some(path) = change.path() {
        names::check(&path.0).map_err(|error| CarriedError::Damaged(error.to_string()))?;
    }
    match change {
        Change::Intent { .. } => Err(CarriedError::Damaged("a command is under way".to_owned())),
        Change::Owed { sense: Some(sense), .. } if sense.len() > LONGEST_SENSE => {
            Err(CarriedError::Damaged("sense data that is too long".to_owned()))
        }
        Change::Owed { sense: Some(sense), .. } if !is_owed(sense) => {
            let what = "sense data of a command, and not what a guest can be owed";
            Err(CarriedError::Damaged(what.to_owned()))
        }
        _ => Ok(()),
    }
}

/// A unit attention or a deferred error: whatever command brings it, it says nothing of that one.
fn is_owed(sense: &[u8]) -> bool {
    Sense::parse(sense).is_some_and(|sense| sense.deferred || sense.key == SenseKey::UNIT_ATTENTION)
}

/// What makes a record that says `before` of this nexus (if it says anything) say what `record` does: what that says of others
/// stays, and so does what is owed to the guest. That was taken from it here and not given: whoever goes takes with it what it is
/// owed.
#[must_use]
pub fn changes_to(record: &Record, path: &PathId, before: Option<&Record>) -> Vec<(LunId, Change)> {
    let of = |record: &Record| record.path(path).map(|known| known.owed.clone()).unwrap_or_default();
    let (owed, comes) = (before.map(of).unwrap_or_default(), of(record));
    let given = Change::Owed { path: path.clone(), sense: None };
    let mut changes = vec![given; owed.len()];
    changes.extend(changes_of(record, path));
    let stays = owed.into_iter().filter(|sense| !comes.contains(sense));
    changes.extend(stays.map(|sense| Change::Owed { path: path.clone(), sense: Some(sense) }));
    // A handover that was noted here ends with this: the guest is here again.
    let last = before.and_then(|before| before.handover);
    for change in &mut changes {
        if let Change::State { handover, .. } = change {
            *handover = last;
        }
    }
    changes.into_iter().map(|change| (record.lun.clone(), change)).collect()
}

/// What makes it out of nothing.
fn changes_of(record: &Record, path: &PathId) -> Vec<Change> {
    let known = record.path(path);
    let tracked = known.map(|known| known.tracked).unwrap_or_default();
    let seen = known.map(|known| Change::Seen { path: path.clone(), node: known.node.clone() });
    let commit = Change::Commit { path: path.clone(), tracked, generation: record.generation };
    let owed = |sense: &Vec<u8>| Change::Owed { path: path.clone(), sense: Some(sense.clone()) };
    let owed = known.into_iter().flat_map(|known: &PathRecord| known.owed.iter().map(owed));
    let kind = Change::Reservation { kind: record.reservation };
    let state = Change::State { state: record.found, handover: None, why: record.doubt.clone() };
    seen.into_iter().chain([commit]).chain(owed).chain([kind, state]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::HandoverId;
    use crate::{Intended, State};
    use handover::Tracked;
    use proptest::prelude::*;
    use scsi::pr::{Key, OutAction, ReservationType};

    fn path() -> PathId {
        PathId("iqn.a,i,0x800000000001 iqn.t,t,0x0001".into())
    }

    fn record() -> Record {
        let mut record = Record::new(LunId("naa.6001".into()));
        let tracked = Tracked {
            key: Some(Key(7)),
            held: Some(ReservationType::WRITE_EXCLUSIVE),
            aptpl: true,
            all_target_ports: false,
        };
        let sense = Some(vec![0x70, 0, 6]);
        for change in [
            Change::Seen { path: path(), node: "iscsi://host/iqn.t/0".into() },
            Change::Commit { path: path(), tracked, generation: Some(9) },
            Change::Owed { path: path(), sense },
            Change::Commit { path: PathId("another".into()), tracked, generation: None },
            Change::Reservation { kind: tracked.held },
        ] {
            record.apply(5, &change);
        }
        record
    }

    /// Without what is not carried.
    fn alone(mut record: Record) -> Record {
        record.paths.retain(|known| known.path == path());
        record.history.clear();
        record
    }

    fn applied(changes: &[(LunId, Change)], mut to: Record) -> Record {
        changes.iter().for_each(|(_, change)| to.apply(1, change));
        to
    }

    #[test]
    fn what_is_written_is_read_and_says_nothing_of_other_nexuses() {
        let bytes = carried(&record(), &path()).unwrap();
        assert_eq!(read_carried(&bytes), Ok((alone(record()), path())));
        let fresh = Record::new(LunId("naa.6001".into()));
        let (read, of) = read_carried(&carried(&fresh, &path()).unwrap()).unwrap();
        assert_eq!((read.path(&of).unwrap().tracked, read.found), (Tracked::default(), State::Active));
    }

    #[test]
    fn version_1_stays_readable() {
        let golden = include_bytes!("../tests/golden/carried-1.txt");
        assert_eq!(read_carried(golden), Ok((alone(record()), path())));
        assert_eq!(carried(&record(), &path()).unwrap(), golden, "and is what this version writes");
    }

    #[test]
    fn what_was_here_before_is_replaced_but_what_is_owed_and_a_handover_that_was_noted_ends() {
        let (stale, id) = (Tracked { key: Some(Key(3)), ..Tracked::default() }, Some(HandoverId(4)));
        let mut before = alone(record());
        for change in [
            Change::Commit { path: path(), tracked: stale, generation: Some(2) },
            Change::Owed { path: path(), sense: Some(vec![1]) },
            Change::State { state: State::Moved, handover: id, why: None },
        ] {
            before.apply(1, &change);
        }
        let changes = changes_to(&record(), &path(), Some(&before));
        let after = applied(&changes, before);
        let tracked = |record: &Record| record.path(&path()).map(|known| known.tracked);
        assert_eq!((after.state, tracked(&after)), (State::Active, tracked(&record())));
        assert_eq!((after.generation, after.reservation), (Some(9), record().reservation));
        let again = applied(&changes_to(&record(), &path(), Some(&after)), after.clone());
        assert_eq!(again.paths, after.paths, "the same once more changes nothing");
        let owed = |record: &Record| Vec::from(record.path(&path()).unwrap().owed.clone());
        assert_eq!(owed(&again), [vec![0x70, 0, 6], vec![1]], "what was taken here is still owed");
    }

    #[test]
    fn what_nobody_is_sure_of_is_not_carried() {
        let refused = |change: &Change| {
            let mut record = record();
            record.apply(1, change);
            matches!(carried(&record, &path()), Err(CarriedError::Unsure(_)))
        };
        let state = |state| Change::State { state, handover: Some(HandoverId(1)), why: None };
        let intended = Intended {
            action: OutAction::RELEASE,
            kind: ReservationType::WRITE_EXCLUSIVE,
            reservation_key: Key(7),
            service_action_key: Key::NONE,
            aptpl: false,
            all_target_ports: false,
            unregister: false,
        };
        assert!(refused(&state(State::Moved)) && refused(&state(State::Unverified)));
        assert!(refused(&Change::Intent { path: path(), intended }));
        assert!(!refused(&state(State::Fenced)));
    }

    #[test]
    fn every_cut_and_every_other_content_is_refused() {
        let bytes = carried(&record(), &path()).unwrap();
        for at in 0..bytes.len() {
            assert!(read_carried(&bytes[..at]).is_err(), "cut at {at}");
        }
        let of = |changes: &[(&str, Change)]| {
            let line = |(lun, change): &(&str, Change)| Line::new(0, LunId((*lun).into()), change.clone());
            let lines: Vec<_> = changes.iter().map(|change| line(change).unwrap()).collect();
            read_carried(Line::pack(&lines).0.as_bytes())
        };
        let commit = |path: &str| Change::Commit {
            path: PathId(path.into()),
            tracked: Tracked::default(),
            generation: None,
        };
        let moved = Change::State { state: State::Moved, handover: None, why: None };
        let long = Change::Owed { path: path(), sense: Some(vec![0; 253]) };
        let owed = |sense: &[u8]| ("a", Change::Owed { path: PathId("p".into()), sense: Some(sense.into()) });
        assert!(of(&[("a", commit("p"))]).is_ok());
        assert!(of(&[("a", commit("p")), owed(&[0x70, 0, 6]), owed(&[0x73, 3])]).is_ok());
        for wrong in [
            vec![("a", commit("p")), ("b", commit("p"))],
            vec![("a", commit("p")), ("a", commit("q"))],
            vec![("a", commit("p")), ("a", moved)],
            vec![("a", long)],
            vec![("", commit("p"))],
            vec![("a", commit("\0"))],
            vec![("a", commit("p")), owed(&[0x70, 0, 3])],
            vec![("a", commit("p")), owed(&[])],
            vec![("a", Change::Reservation { kind: None })],
        ] {
            assert!(matches!(of(&wrong), Err(CarriedError::Damaged(_))), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_carried(&bytes);
            let framed = crate::frame::framed(&String::from_utf8_lossy(&bytes));
            let _ = read_carried(framed.as_bytes());
        }
    }
}
