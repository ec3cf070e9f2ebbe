//! Processes that append, compact and die at any moment: everything that was acknowledged is there, and nothing but
//! what was sent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

mod support;

use ledger::Ledger;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use support::*;
use tempfile::TempDir;

/// Bytes of each append beside the key: a compaction every fifty appends or so.
const BULK: usize = 5000;

/// Not a test of its own: without a role it does nothing. `FIRST LUN COUNT`: appends so many keys from the first on to that
/// logical unit, and says each once it is acknowledged.
#[test]
fn the_other_process() {
    let Some((role, state)) = role() else { return };
    let numbers: Vec<u64> = role.split(' ').map(|number| number.parse().unwrap()).collect();
    let [first, unit, count] = numbers[..] else { panic!("{role}") };
    let guest = open(&state);
    for key in first..first + count {
        guest
            .append(&[(lun(unit), wordy(BULK)), (lun(unit), intent(key)), (lun(unit), commit(key))])
            .unwrap();
        say(key);
    }
}

/// Numbers that are scattered and the same in every run.
struct Scattered(u64);

impl Scattered {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn acknowledged(other: &mut Other) -> Option<u64> {
    other.hear().map(|word| word.parse().unwrap())
}

/// Starts a process, kills it at some moment, and gives the last key that it said.
fn killed(state: &Path, first: u64, scattered: &mut Scattered) -> u64 {
    let mut other = Other::start(&format!("{first} 1 100000"), state);
    let mut last = first - 1;
    for _ in 0..=scattered.below(70) {
        last = acknowledged(&mut other).unwrap();
    }
    // Half of them at once, when the next append has hardly begun.
    sleep(Duration::from_micros(scattered.below(2) * scattered.below(2000)));
    other.kill();
    while let Some(key) = acknowledged(&mut other) {
        last = key;
    }
    last
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let state = TempDir::new().unwrap();
    let mut scattered = Scattered(3);
    let mut last = 0;
    for round in 0..25 {
        last = killed(state.path(), last + 1, &mut scattered);
        let guest = open(state.path());
        let found = key_of(&guest, &lun(1));
        assert!(
            found == last || found == last + 1,
            "round {round}: {found} is recorded, {last} was acknowledged"
        );
        guest.append(&[(lun(9), commit(last))]).unwrap();
        assert_eq!(open(state.path()).records(), guest.records());
        last = found;
    }
}

#[test]
fn processes_that_append_and_compact_at_once_lose_nothing_while_others_die_and_read() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let mut others = [2, 3].map(|unit| Other::start(&format!("1 {unit} 150"), state.path()));
    let mut victim = Other::start("1 4 100000", state.path());
    let reader = Ledger::read_only(state.path()).unwrap().guest(&owner()).unwrap();
    let mut victims = 0;
    for key in 1..=150 {
        guest.append(&[(lun(1), wordy(BULK)), (lun(1), commit(key))]).unwrap();
        reader.refresh().unwrap();
        assert_eq!(key_of(&reader, &lun(1)), key);
        if key % 10 == 0 {
            victim.kill();
            victims = std::iter::from_fn(|| acknowledged(&mut victim)).last().unwrap_or(victims);
            victim = Other::start(&format!("{} 4 100000", victims + 2), state.path());
        }
    }
    for other in &mut others {
        assert_eq!(std::iter::from_fn(|| acknowledged(other)).last(), Some(150));
    }
    drop(victim);
    let again = open(state.path());
    assert_eq!([1, 2, 3].map(|unit| key_of(&again, &lun(unit))), [150; 3]);
    assert!(key_of(&again, &lun(4)) >= victims);
    let written = 600 * BULK as u64;
    assert!(fs::metadata(log_path(state.path())).unwrap().len() < written / 4, "never compacted");
}
