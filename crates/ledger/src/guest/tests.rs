//! A guest's log on a real file system: appending, other processes' appends, failures, compaction, locks.

use super::*;
use crate::change::Intended;
use crate::{Ledger, PathId, State};
use handover::Tracked;
use scsi::pr::{Key, OutAction, ReservationType};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

mod crash;
mod processes;

pub(super) fn owner() -> Owner {
    Owner("win-node-1".into())
}

pub(super) fn lun(number: u8) -> LunId {
    LunId(format!("naa.60000000000000000e0000000000{number:04x}"))
}

pub(super) fn path() -> PathId {
    PathId("host sas.5000 naa.5001,t,0x1".into())
}

pub(super) fn seen(node: &str) -> Change {
    Change::Seen { path: path(), node: node.into() }
}

pub(super) fn intent(key: u64) -> Change {
    let intended = Intended {
        action: OutAction::REGISTER,
        kind: ReservationType(0),
        reservation_key: Key::NONE,
        service_action_key: Key(key),
        aptpl: true,
        all_target_ports: false,
        unregister: false,
    };
    Change::Intent { path: path(), intended }
}

pub(super) fn commit(key: u64) -> Change {
    let held = Some(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
    let tracked = Tracked { key: Some(Key(key)), held, aptpl: true, all_target_ports: false };
    Change::Commit { path: path(), tracked, generation: Some(7) }
}

pub(super) fn open(state: &Path) -> Guest {
    Ledger::open(state).unwrap().guest(&owner()).unwrap()
}

pub(super) fn log_path(state: &Path) -> PathBuf {
    state.join("guests/win-node-1/log")
}

fn key_of(guest: &Guest) -> Option<Key> {
    guest.record(&lun(1)).and_then(|record| record.path(&path()).and_then(|path| path.tracked.key))
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), seen("/dev/sdb")), (lun(1), intent(5)), (lun(2), seen("/dev/sdc"))]).unwrap();
    guest.append(&[(lun(1), commit(5))]).unwrap();
    let again = open(state.path());
    assert_eq!(again.records(), guest.records());
    assert_eq!(key_of(&again), Some(Key(5)));
    assert_eq!(again.records().len(), 2);
}

#[test]
fn an_open_intent_shows_as_unverified_until_its_commit() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), intent(5))]).unwrap();
    assert_eq!(guest.record(&lun(1)).unwrap().standing(), State::Unverified);
    guest.append(&[(lun(1), commit(5))]).unwrap();
    assert_eq!(guest.record(&lun(1)).unwrap().standing(), State::Active);
}

#[test]
fn a_fenced_guest_that_may_have_registered_again_is_unverified_and_one_that_moved_stays_moved() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let enter = |state| Change::State { state, handover: None, why: None };
    for (found, standing) in
        [(State::Fenced, State::Unverified), (State::Lost, State::Unverified), (State::Moved, State::Moved)]
    {
        guest.append(&[(lun(1), enter(found)), (lun(1), intent(5))]).unwrap();
        assert_eq!(guest.record(&lun(1)).unwrap().standing(), standing, "{found:?}");
    }
}

#[test]
fn the_directories_are_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let state = parent.path().join("state");
    open(&state);
    for made in ["", "guests", "guests/win-node-1"] {
        assert_eq!(fs::metadata(state.join(made)).unwrap().permissions().mode() & 0o777, 0o700, "{made}");
    }
    for made in ["log", "lock"] {
        let path = state.join("guests/win-node-1").join(made);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{made}");
    }
}

#[test]
fn two_handles_see_each_others_appends_after_refresh() {
    let state = TempDir::new().unwrap();
    let (one, other) = (open(state.path()), open(state.path()));
    one.append(&[(lun(1), commit(1))]).unwrap();
    assert_eq!(key_of(&other), None);
    other.refresh().unwrap();
    assert_eq!(key_of(&other), Some(Key(1)));
    other.append(&[(lun(1), commit(2))]).unwrap();
    one.append(&[(lun(2), commit(3))]).unwrap();
    assert_eq!(key_of(&one), Some(Key(2)));
}

#[test]
fn a_log_that_says_little_stays_small_however_often_it_is_said() {
    let state = TempDir::new().unwrap();
    let (guest, other) = (open(state.path()), open(state.path()));
    let batch: Vec<_> = (0..100).flat_map(|key| [(lun(1), intent(key)), (lun(1), commit(key))]).collect();
    for _ in 0..40 {
        guest.append(&batch).unwrap();
        assert!(fs::metadata(log_path(state.path())).unwrap().len() < 2 * SMALL);
    }
    guest.append(&[(lun(1), commit(42))]).unwrap();
    other.refresh().unwrap();
    assert_eq!(other.records(), guest.records());
    other.append(&[(lun(1), commit(43))]).unwrap();
    assert_eq!(key_of(&open(state.path())), Some(Key(43)));
}

#[test]
fn a_change_that_cannot_be_recorded_is_refused_and_changes_nothing() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), commit(1))]).unwrap();
    let before = (guest.records(), fs::read(log_path(state.path())).unwrap());
    let long = Change::State { state: State::Lost, handover: None, why: Some("x".repeat(65_536)) };
    assert!(matches!(guest.append(&[(lun(1), commit(2)), (lun(1), long)]), Err(Error::Full { .. })));
    for bad in ["", "a\0b", &"x".repeat(4097)] {
        let refused = guest.append(&[(lun(1), commit(2)), (LunId(bad.into()), seen("/dev/sdb"))]);
        assert!(matches!(refused, Err(Error::Name { .. })), "{refused:?}");
    }
    assert_eq!((guest.records(), fs::read(log_path(state.path())).unwrap()), before);
}

#[test]
fn another_owner_under_the_same_file_name_is_refused() {
    let state = TempDir::new().unwrap();
    open(state.path());
    let log = fs::read_to_string(log_path(state.path())).unwrap();
    fs::write(log_path(state.path()), log.replace("win-node-1", "win-node-2")).unwrap();
    let refused = Ledger::open(state.path()).unwrap().guest(&owner()).unwrap_err();
    assert!(refused.to_string().contains("belongs to Owner(\"win-node-2\")"), "{refused}");
}

#[test]
fn names_of_any_form_have_records_of_their_own() {
    let state = TempDir::new().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    let long = "/run/".repeat(100);
    let names = ["a", "..", ".", "a/b", "a%2Fb", "é", &long, &format!("{long}x")];
    for name in names {
        let guest = ledger.guest(&Owner(name.into())).unwrap();
        guest.append(&[(LunId(name.into()), seen(name))]).unwrap();
        drop(guest.share(&LunId(name.into()), Instant::now()).unwrap());
    }
    let mut found: Vec<_> =
        ledger.guests().unwrap().into_iter().map(|guest| guest.unwrap().owner().0.clone()).collect();
    found.sort();
    let mut wanted = names.map(str::to_owned).to_vec();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn a_ledger_opened_to_be_read_changes_no_file() {
    let state = TempDir::new().unwrap();
    assert!(matches!(Ledger::read_only(&state.path().join("none")), Err(Error::Missing(_))));
    open(state.path()).append(&[(lun(1), commit(1))]).unwrap();
    let mut torn = fs::read(log_path(state.path())).unwrap();
    torn.extend(b"0123 torn");
    fs::write(log_path(state.path()), &torn).unwrap();
    let ledger = Ledger::read_only(state.path()).unwrap();
    let guest = ledger.guests().unwrap().pop().unwrap().unwrap();
    assert_eq!((guest.owner(), key_of(&guest)), (&owner(), Some(Key(1))));
    assert!(matches!(guest.append(&[(lun(1), commit(2))]), Err(Error::ReadOnly(_))));
    assert!(matches!(guest.share(&lun(1), Instant::now()), Err(Error::ReadOnly(_))));
    assert!(matches!(ledger.guest(&Owner("nobody".into())), Err(Error::Missing(_))));
    assert_eq!(fs::read(log_path(state.path())).unwrap(), torn);
}

#[test]
fn a_damaged_log_hides_no_other_guest_and_is_left_as_it_is() {
    let state = TempDir::new().unwrap();
    let ledger = Ledger::open(state.path()).unwrap();
    ledger.guest(&Owner("sound".into())).unwrap();
    (1..=2).for_each(|key| open(state.path()).append(&[(lun(1), commit(key))]).unwrap());
    let mut bytes = fs::read(log_path(state.path())).unwrap();
    bytes[60] ^= 1;
    fs::write(log_path(state.path()), &bytes).unwrap();
    let guests = ledger.guests().unwrap();
    assert_eq!(guests.iter().filter(|guest| guest.is_ok()).count(), 1);
    let error = ledger.guest(&owner()).unwrap_err().to_string();
    assert!(error.contains("line 2: wrong checksum") && error.contains("restore it from a copy"), "{error}");
    assert_eq!(fs::read(log_path(state.path())).unwrap(), bytes);
}

#[test]
fn the_freeze_lock_is_shared_by_commands_and_excludes_a_handover() {
    let state = TempDir::new().unwrap();
    let (helper, agent) = (open(state.path()), open(state.path()));
    let soon = || Instant::now() + Duration::from_millis(20);
    let first = helper.share(&lun(1), soon()).unwrap();
    let second = helper.share(&lun(1), soon()).unwrap();
    assert!(matches!(agent.freeze(&lun(1), soon()), Err(Error::Locked(_))));
    drop(agent.freeze(&lun(2), soon()).unwrap());
    drop((first, second));
    let frozen = agent.freeze(&lun(1), soon()).unwrap();
    assert!(matches!(helper.share(&lun(1), soon()), Err(Error::Locked(_))));
    drop(frozen);
    drop(helper.share(&lun(1), soon()).unwrap());
}

#[test]
fn a_freeze_lock_whose_file_was_removed_is_taken_by_its_name() {
    let state = TempDir::new().unwrap();
    let (helper, agent) = (open(state.path()), open(state.path()));
    drop(helper.share(&lun(1), Instant::now()).unwrap());
    let file = format!("{}.freeze", lun(1).0);
    fs::remove_file(log_path(state.path()).with_file_name(file)).unwrap();
    let _shared = helper.share(&lun(1), Instant::now()).unwrap();
    assert!(matches!(agent.freeze(&lun(1), Instant::now()), Err(Error::Locked(_))));
}

#[test]
fn locking_again_and_again_opens_no_more_files() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let open_files =
        || fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let ours = || open_files().filter(|file| file.starts_with(state.path())).count();
    let hold =
        |number| (0..9).map(|_| guest.share(&lun(number), Instant::now()).unwrap()).collect::<Vec<_>>();
    drop(hold(1));
    let after_one = ours();
    assert!(after_one <= 6, "{after_one}");
    (0..20).for_each(|_| drop(hold(1)));
    assert_eq!(ours(), after_one);
    (0..200).for_each(|number| drop(hold(number)));
    assert!(ours() < 150, "{}", ours());
}

/// Half an append, with everything held that this process holds for it, is what a slow disk looks like.
#[test]
fn reading_does_not_wait_for_an_append_of_this_process_and_sees_nothing_of_it() {
    let state = TempDir::new().unwrap();
    let guest = Arc::new(open(state.path()));
    guest.append(&[(lun(1), commit(1))]).unwrap();
    let before = guest.records();
    let _writer = lock(&guest.writer);
    let _lock = guest.lock().unwrap();
    let _writing = Writing::begin(&guest.inner);
    let mut log = File::options().append(true).open(log_path(state.path())).unwrap();
    io::Write::write_all(&mut log, b"0123").unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    let reader = Arc::clone(&guest);
    std::thread::spawn(move || done.send(reader.refresh().map(|()| reader.records())));
    assert_eq!(is_done.recv_timeout(Duration::from_secs(2)).unwrap().unwrap(), before);
}

#[test]
fn a_log_that_was_replaced_by_one_of_the_same_length_is_read_anew() {
    let (state, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let guest = open(state.path());
    guest.append(&[(lun(1), commit(1))]).unwrap();
    open(other.path()).append(&[(lun(1), commit(2))]).unwrap();
    fs::rename(log_path(other.path()), log_path(state.path())).unwrap();
    guest.refresh().unwrap();
    assert_eq!(key_of(&guest), Some(Key(2)));
}

#[test]
fn appends_that_wait_are_written_together_and_one_that_does_not_fit_fails_alone() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let most = |units: std::ops::Range<usize>| units.map(|unit| (LunId(unit.to_string()), seen("/dev/sdb")));
    guest.append(&most(0..MOST_UNITS).collect::<Vec<_>>()).unwrap();
    let known = |key: u64| vec![(LunId(key.to_string()), commit(key))];
    let (appends, disk) = ([known(1), most(5000..5001).collect(), known(2)], lock(&guest.writer));
    std::thread::scope(|scope| {
        let threads = appends.each_ref().map(|changes| scope.spawn(|| guest.append(changes)));
        while lock(&guest.waiting).len() < 3 {
            std::thread::yield_now();
        }
        drop(disk);
        let ended = threads.map(|thread| thread.join().unwrap());
        assert!(matches!(ended, [Ok(()), Err(Error::Full { .. }), Ok(())]), "{ended:?}");
    });
    let again = open(state.path());
    assert_eq!(again.records(), guest.records());
    for key in [1, 2] {
        assert_eq!(again.record(&LunId(key.to_string())).unwrap().paths[0].tracked.key, Some(Key(key)));
    }
}

/// Power may fail when any of the blocks of one append has reached the disk, and no other.
#[test]
fn an_append_that_reached_the_disk_in_part_is_as_if_it_had_not_been() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), commit(1))]).unwrap();
    let (before, start) = (guest.records(), fs::metadata(log_path(state.path())).unwrap().len() as usize);
    let fenced = Change::State { state: State::Fenced, handover: None, why: None };
    guest.append(&[(lun(1), commit(2)), (lun(2), seen("/dev/sdb")), (lun(1), fenced)]).unwrap();
    let whole = fs::read(log_path(state.path())).unwrap();
    for cut in start..whole.len() {
        let mut first_missing = whole.clone();
        first_missing[start..=cut].fill(0);
        fs::write(log_path(state.path()), &first_missing).unwrap();
        assert_eq!(open(state.path()).records(), before, "the first {cut} bytes are missing");
    }
}

#[test]
fn reading_waits_for_no_process_that_stopped_in_the_middle_of_an_append() {
    let state = TempDir::new().unwrap();
    let (guest, other) = (open(state.path()), open(state.path()));
    other.append(&[(lun(1), commit(1))]).unwrap();
    let _stopped = other.lock().unwrap();
    let begun = Instant::now();
    guest.refresh().unwrap();
    assert_eq!(key_of(&guest), Some(Key(1)));
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn a_line_that_was_read_and_taken_back_does_not_hide_another_of_its_length() {
    let state = TempDir::new().unwrap();
    let (guest, other) = (open(state.path()), open(state.path()));
    let length = fs::metadata(log_path(state.path())).unwrap().len();
    other.append(&[(lun(1), commit(1))]).unwrap();
    guest.refresh().unwrap();
    // Its fdatasync failed, and the writer cut it.
    File::options().write(true).open(log_path(state.path())).unwrap().set_len(length).unwrap();
    open(state.path()).append(&[(lun(1), commit(2))]).unwrap();
    guest.refresh().unwrap();
    assert_eq!(key_of(&guest), Some(Key(2)));
}

#[test]
fn a_log_whose_first_write_left_only_its_length_is_begun_anew() {
    let state = TempDir::new().unwrap();
    open(state.path());
    let length = fs::metadata(log_path(state.path())).unwrap().len();
    fs::write(log_path(state.path()), vec![0; usize::try_from(length).unwrap()]).unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), commit(1))]).unwrap();
    assert_eq!(key_of(&open(state.path())), Some(Key(1)));
}

#[test]
fn threads_that_wait_for_another_process_wait_together() {
    let state = TempDir::new().unwrap();
    let (guest, other) = (open(state.path()), open(state.path()));
    let stopped = other.lock().unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let guest = &guest;
            scope.spawn(move || {
                let error = guest.append(&[(lun(number), commit(1))]).unwrap_err();
                assert!(matches!(error, Error::Locked(_)), "{error}");
            });
        }
    });
    // The first began alone; the others waited for the second try together.
    assert!(begun.elapsed() < PATIENCE * 5 / 2, "{:?}", begun.elapsed());
    drop(stopped);
}
