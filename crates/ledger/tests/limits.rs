//! What a log may have at most, and logs that are not this version's to touch.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use ledger::{Change, Error, Ledger, MOST_HISTORY, MOST_OWED};
use rustix::fs::FileType;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;
use support::*;
use tempfile::TempDir;

fn is_full(result: &Result<(), Error>, what: &str) -> bool {
    matches!(result, Err(Error::Full { what: found, .. }) if found.contains(what))
}

#[test]
fn a_line_has_at_most_64_kib() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let length = || fs::metadata(log_path(state.path())).unwrap().len() as usize;
    let before = length();
    guest.append(&[(lun(1), wordy(1000))]).unwrap();
    let beside = length() - before - 1000;
    assert!(is_full(&guest.append(&[(lun(1), wordy((64 << 10) - beside + 1))]), "64 KiB"));
    guest.append(&[(lun(1), wordy((64 << 10) - beside))]).unwrap();
    assert_eq!(open(state.path()).records(), guest.records());
}

#[test]
fn a_log_has_at_most_64_mib_and_its_records_stay_usable() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let wordy_units =
        |from: u64, to: u64| -> Vec<_> { (from..to).map(|n| (lun(n), wordy(65_000))).collect() };
    guest.append(&wordy_units(0, 1000)).unwrap();
    let before = guest.records();
    assert!(is_full(&guest.append(&wordy_units(1000, 1040)), "64 MiB"));
    assert_eq!(guest.records(), before);
    guest.append(&[(lun(1), commit(7))]).unwrap();
    assert_eq!(key_of(&open(state.path()), &lun(1)), 7);
}

#[test]
fn a_full_log_of_which_much_still_counts_makes_room_all_the_same() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let units: Vec<_> = (0..300).map(|n| (lun(n), wordy(65_000))).collect();
    guest.append(&units).unwrap();
    let changes: Vec<_> = (0..20_000).map(|key| (lun(1), commit(key))).collect();
    // Of about 100 bytes each: with the units' more than a log may have.
    (0..30).for_each(|_| guest.append(&changes).unwrap());
    assert_eq!(open(state.path()).records(), guest.records());
}

#[test]
fn a_longer_log_is_refused_and_left_as_it_is() {
    let state = TempDir::new().unwrap();
    open(state.path());
    let log = File::options().write(true).open(log_path(state.path())).unwrap();
    log.set_len((64 << 20) + 1).unwrap();
    let refused = Ledger::open(state.path()).unwrap().guest(&owner());
    assert!(is_full(&refused.map(drop), "64 MiB"));
    assert_eq!(log.metadata().unwrap().len(), (64 << 20) + 1);
}

#[test]
fn a_full_record_takes_no_new_path_and_serves_those_that_it_has() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let paths = |from, to| (from..to).map(|number| (lun(1), commit_on(path(number), number + 1)));
    guest.append(&paths(0, 255).collect::<Vec<_>>()).unwrap();
    guest.append(&paths(255, 256).collect::<Vec<_>>()).unwrap();
    assert!(is_full(&guest.append(&[(lun(1), commit_on(path(256), 257))]), "256 paths"));
    guest.append(&[(lun(1), commit(300)), (lun(2), commit(1))]).unwrap();
    assert_eq!(key_of(&open(state.path()), &lun(1)), 300);
}

#[test]
fn a_guest_has_at_most_4096_logical_units() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&(0..4096).map(|number| (lun(number), commit(1))).collect::<Vec<_>>()).unwrap();
    assert!(is_full(&guest.append(&[(lun(4096), commit(1))]), "4096 logical units"));
    guest.append(&[(lun(4095), commit(2))]).unwrap();
    assert_eq!(key_of(&open(state.path()), &lun(4095)), 2);
}

fn freeze_files(state: &Path) -> usize {
    let files = fs::read_dir(log_path(state).parent().unwrap()).unwrap();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "freeze")).count()
}

#[test]
fn a_target_that_changes_its_name_all_the_time_fills_no_directory() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let _held = guest.share(&lun(0), Instant::now()).unwrap();
    for number in 1..6000 {
        drop(guest.share(&lun(number), Instant::now()).unwrap());
    }
    assert!(freeze_files(state.path()) <= 4096 + 64);
    assert!(matches!(open(state.path()).freeze(&lun(0), Instant::now()), Err(Error::Locked(_))));
}

#[test]
fn logical_units_that_cannot_be_recorded_cannot_be_locked() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&(0..4096).map(|number| (lun(number), commit(1))).collect::<Vec<_>>()).unwrap();
    (0..4096).for_each(|number| drop(guest.share(&lun(number), Instant::now()).unwrap()));
    assert!(is_full(&guest.share(&lun(4096), Instant::now()).map(drop), "4096 logical units"));
    assert_eq!(freeze_files(state.path()), 4096);
}

#[test]
fn a_fifo_in_the_place_of_a_log_is_refused_and_waited_for_by_nobody() {
    let state = TempDir::new().unwrap();
    open(state.path());
    fs::remove_file(log_path(state.path())).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, log_path(state.path()), FileType::Fifo, 0o600.into(), 0).unwrap();
    for ledger in [Ledger::open(state.path()).unwrap(), Ledger::read_only(state.path()).unwrap()] {
        let error = ledger.guest(&owner()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn history_and_owed_attentions_end_where_they_should_also_after_compaction() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let owed = |number: u8| Change::Owed { path: path(0), sense: Some(vec![number]) };
    guest.append(&(0..40).map(|number| (lun(1), owed(number))).collect::<Vec<_>>()).unwrap();
    for from in [0, 1500] {
        guest.append(&(from..from + 1500).map(|key| (lun(1), commit(key))).collect::<Vec<_>>()).unwrap();
    }
    assert!(fs::metadata(log_path(state.path())).unwrap().len() < 64 << 10, "not compacted");
    for guest in [&guest, &open(state.path())] {
        let record = guest.record(&lun(1)).unwrap();
        assert_eq!((record.history.len(), record.paths[0].owed.len()), (MOST_HISTORY, MOST_OWED));
        assert_eq!(record.paths[0].owed[31], [31]);
        assert_eq!(record.history[0].change, commit(2984));
    }
}

/// What stands in the log is refused with these words, and stays as it is.
fn refused(log: &str, words: &[&str]) {
    let state = TempDir::new().unwrap();
    open(state.path());
    fs::write(log_path(state.path()), log).unwrap();
    let error = Ledger::open(state.path()).unwrap().guest(&owner()).unwrap_err().to_string();
    let name = log_path(state.path()).display().to_string();
    assert!(words.iter().chain(&[name.as_str()]).all(|word| error.contains(word)), "{error}");
    assert_eq!(fs::read_to_string(log_path(state.path())).unwrap(), log);
    assert!(Ledger::read_only(state.path()).unwrap().guest(&owner()).is_err());
}

#[test]
fn a_log_from_the_future_is_refused_and_left_as_it_is() {
    let words = ["was written by a newer version", "use that version"];
    refused("tenure-ledger 2 \"win-node-1\"\nanything\n", &words);
    let json = r#"{"at":1,"lun":"naa.1","change":"teleport"}"#;
    let line = format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    refused(&format!("tenure-ledger 1 \"win-node-1\"\n{line}"), &words);
}

#[test]
fn a_log_damaged_in_the_middle_or_another_owners_is_refused_and_left_as_it_is() {
    let json = r#"{"at":1,"lun":"naa.1","change":"reservation","type":5}"#;
    let line = format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    let damaged = line.replace("naa.1", "naa.2");
    refused(&format!("tenure-ledger 1 \"win-node-1\"\n{line}{damaged}{line}"), &["line 3", "wrong checksum"]);
    refused(&format!("tenure-ledger 1 \"other\"\n{line}"), &["belongs to", "other"]);
}
