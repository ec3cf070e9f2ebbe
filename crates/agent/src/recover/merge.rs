//! What counts of one logical unit's last entries in two journals.
//!
//! An entry is acted upon only when it is durable on both hosts, or on the one that acts alone. So where one living host
//! has none nothing was begun; and where the hosts know different ways, the later way was begun only if it is one that a host
//! goes alone (*destination nonce*). Everything that is registered or removed by it is of the keys that both know: a peer
//! that lies, or mixes journals up, names no key of another guest.

use crate::journal::Last;
use handover::{Entry, Method};

/// What counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// How often the unit had been turned round. Odd: source and destination have changed places in the entries.
    pub turn: u16,
    /// The entry of the handover's source, and of its destination.
    pub entries: [Option<Entry>; 2],
}

/// The two are not of one handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the two journals have other keys")]
pub struct Mismatch;

/// Of each host its last entry, the outer `None` if it cannot be asked.
///
/// # Errors
/// [`Mismatch`]: nothing may be done then.
pub fn merge(source: Option<Option<Last>>, destination: Option<Option<Last>>) -> Result<Merged, Mismatch> {
    match (source, destination) {
        (Some(Some(source)), Some(Some(destination))) => both(source, destination),
        (Some(Some(source)), None) => Ok(Merged { turn: source.turn, entries: [Some(source.entry), None] }),
        (None, Some(Some(destination))) => {
            Ok(Merged { turn: destination.turn, entries: [None, Some(destination.entry)] })
        }
        _ => Ok(Merged::default()),
    }
}

fn both(source: Last, destination: Last) -> Result<Merged, Mismatch> {
    if source.entry.key != destination.entry.key {
        return Err(Mismatch);
    }
    if source.turn == destination.turn {
        return same_way(source.turn, source.entry, destination.entry);
    }
    let alone = |last: &Last| last.entry.method == Method::DestinationNonce;
    let later = if source.turn > destination.turn { source } else { destination };
    let turn = if alone(&later) { later.turn } else { source.turn.min(destination.turn) };
    let of = |last: Last| (last.turn == turn).then_some(last.entry);
    Ok(Merged { turn, entries: [of(source), of(destination)] })
}

/// What either says that the destination had before is not to be removed.
fn same_way(turn: u16, mut source: Entry, mut destination: Entry) -> Result<Merged, Mismatch> {
    let blind = |entry: &Entry| entry.method == Method::DestinationNonce;
    if source.nonce != destination.nonce || blind(&source) != blind(&destination) {
        return Err(Mismatch);
    }
    let had = source.destination_had | destination.destination_had;
    source.destination_had = had;
    destination.destination_had = had;
    Ok(Merged { turn, entries: [Some(source), Some(destination)] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::Role;
    use handover::journal::Stage;
    use scsi::pr::Key;

    fn last(turn: u16, stage: Stage, method: Method, nonce: u64) -> Last {
        let entry = Entry {
            stage,
            method,
            key: Key(1),
            nonce: Key(nonce),
            role: Role::Registrant,
            aptpl: false,
            generation: 0,
            source_paths: 1,
            holder: None,
            destination_had: 0,
            sharers: 0,
        };
        Last { turn, entry }
    }

    const FREEZE: fn() -> Last = || last(0, Stage::Freeze, Method::SourceNonce, 2);
    const MOVED: fn() -> Last = || last(0, Stage::Moved, Method::SourceNonce, 2);

    #[test]
    fn what_only_one_living_host_wrote_was_never_begun() {
        assert_eq!(merge(Some(Some(FREEZE())), Some(None)), Ok(Merged::default()));
        assert_eq!(merge(Some(None), Some(Some(MOVED()))), Ok(Merged::default()));
        assert_eq!(merge(Some(None), None), Ok(Merged::default()));
        assert_eq!(merge(Some(Some(FREEZE())), None).unwrap().entries, [Some(FREEZE().entry), None]);
    }

    #[test]
    fn a_key_that_is_not_the_guests_is_of_another_handover() {
        let mut other = FREEZE();
        other.entry.key = Key(9);
        assert_eq!(merge(Some(Some(FREEZE())), Some(Some(other))), Err(Mismatch));
        for other in
            [last(0, Stage::Take, Method::SourceNonce, 9), last(0, Stage::Take, Method::DestinationNonce, 2)]
        {
            assert_eq!(merge(Some(Some(FREEZE())), Some(Some(other))), Err(Mismatch), "{other:?}");
        }
    }

    #[test]
    fn what_the_destination_had_by_either_word_stays() {
        let mut had = FREEZE();
        had.entry.destination_had = 2;
        let merged = merge(Some(Some(had)), Some(Some(FREEZE()))).unwrap();
        assert!(merged.entries.iter().flatten().all(|entry| entry.destination_had == 2));
    }

    #[test]
    fn a_way_back_that_one_host_wrote_was_begun_only_if_it_went_alone() {
        let together = last(1, Stage::Freeze, Method::PreemptOwnKey, 7);
        let merged = merge(Some(Some(together)), Some(Some(MOVED()))).unwrap();
        assert_eq!((merged.turn, merged.entries), (0, [None, Some(MOVED().entry)]));
        let alone = last(1, Stage::Take, Method::DestinationNonce, 7);
        let merged = merge(Some(Some(alone)), Some(Some(MOVED()))).unwrap();
        assert_eq!((merged.turn, merged.entries), (1, [Some(alone.entry), None]));
    }
}
