//! Disks that are full, read-only, or fail to keep what they took: what was acknowledged stays, and nothing else appears.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

mod support;

use ledger::{Error, Ledger};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::*;
use tempfile::TempDir;

/// In a mount namespace of its own, runs the role on a file system of its own. Needs root.
fn on_own_disk(role: &str) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a file system");
        assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "nothing may be skipped");
        return;
    }
    let state = TempDir::new().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(r#"mount -t tmpfs -o size=1m,mode=0700 tmpfs "$LEDGER_TEST_STATE" && exec "$@""#).arg("sh");
    command.arg(std::env::current_exe().unwrap());
    become_another(&mut command, role, state.path());
    let ended = command.output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && told.contains("said done"), "{told}");
}

/// Not a test of its own: without a role it does nothing.
#[test]
fn the_other_process() {
    let Some((role, state)) = role() else { return };
    match role.as_str() {
        "append" => append_on_a_full_disk(&state),
        "compact" => compact_on_a_full_disk(&state),
        "read-only" => use_a_read_only_disk(&state),
        other => panic!("no role {other}"),
    }
    say("done");
}

/// Takes all that is free but so many KiB.
fn fill(state: &Path, leave: u64) {
    let mut file = File::create(state.join("ballast")).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(leave << 10)).unwrap();
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Io { doing: "write", source, .. } if source.kind() == ErrorKind::StorageFull)
}

/// Appends keys until the disk refuses; the last that was taken.
fn append_until_full(guest: &ledger::Guest, first: u64) -> u64 {
    for key in first.. {
        if let Err(error) = guest.append(&[(lun(1), intent(key)), (lun(1), commit(key))]) {
            assert!(is_full(&error), "{error}");
            return key - 1;
        }
    }
    unreachable!("no disk is endless")
}

fn append_on_a_full_disk(state: &Path) {
    let guest = open(state);
    fill(state, 4);
    let last = append_until_full(&guest, 1);
    let kept = fs::read(log_path(state)).unwrap();
    assert!(last > 0 && kept.ends_with(b"\n"));
    assert_eq!(append_until_full(&guest, last + 1), last);
    assert_eq!(fs::read(log_path(state)).unwrap(), kept);
    guest.refresh().unwrap();
    for again in [&guest, &open(state)] {
        assert_eq!(key_of(again, &lun(1)), last);
    }
    fs::remove_file(state.join("ballast")).unwrap();
    guest.append(&[(lun(1), commit(last + 1))]).unwrap();
    assert_eq!(open(state).records(), guest.records());
}

fn compact_on_a_full_disk(state: &Path) {
    let guest = open(state);
    let live: Vec<_> = (2..30).map(|number| (lun(number), wordy(2048))).collect();
    guest.append(&live).unwrap();
    let mut key = 0;
    while fs::metadata(log_path(state)).unwrap().len() < (256 << 10) - 1024 {
        key += 1;
        guest.append(&[(lun(1), intent(key)), (lun(1), commit(key))]).unwrap();
    }
    // Enough for many more lines, too little for a second log.
    fill(state, 32);
    let last = append_until_full(&guest, key + 1);
    let length = fs::metadata(log_path(state)).unwrap().len();
    assert!(length > (256 << 10) + (16 << 10), "lines had no room any more at {length} bytes");
    assert!(!log_path(state).with_file_name("log.new").exists());
    fs::remove_file(state.join("ballast")).unwrap();
    guest.append(&[(lun(1), commit(last + 1))]).unwrap();
    assert!(fs::metadata(log_path(state)).unwrap().len() < 128 << 10, "not compacted once there was room");
    assert_eq!(open(state).records(), guest.records());
}

fn use_a_read_only_disk(state: &Path) {
    let guest = open(state);
    guest.append(&[(lun(1), commit(7))]).unwrap();
    drop(guest.share(&lun(1), Instant::now()).unwrap());
    drop(guest);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(state).status().unwrap();
    assert!(remounted.success());
    let guest = open(state);
    guest.refresh().unwrap();
    let _shared = guest.share(&lun(1), Instant::now()).unwrap();
    assert!(matches!(open(state).freeze(&lun(1), Instant::now()), Err(Error::Locked(_))));
    let error = guest.append(&[(lun(1), commit(8))]).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    for guest in [guest, Ledger::read_only(state).unwrap().guest(&owner()).unwrap()] {
        assert_eq!(key_of(&guest, &lun(1)), 7);
    }
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_keeps_what_it_took() {
    on_own_disk("append");
}

#[test]
fn a_disk_too_full_to_compact_takes_changes_as_long_as_it_can() {
    on_own_disk("compact");
}

#[test]
fn on_a_read_only_disk_everything_works_but_to_append() {
    on_own_disk("read-only");
}

/// Runs `work` on a thread for which these system calls fail with EIO.
fn where_fails(calls: &[i64], work: impl FnOnce() + Send) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let fail = SeccompAction::Errno(rustix::io::Errno::IO.raw_os_error().cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, fail, arch).unwrap().try_into().unwrap();
    std::thread::scope(|scope| {
        let failing = scope.spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            work();
        });
        failing.join().unwrap();
    });
}

#[test]
fn a_line_that_the_disk_may_not_have_kept_was_never_written() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    guest.append(&[(lun(1), commit(1))]).unwrap();
    let before = (guest.records(), fs::read(log_path(state.path())).unwrap());
    where_fails(&[libc::SYS_fdatasync], || {
        let error = guest.append(&[(lun(1), commit(2))]).unwrap_err();
        assert!(error.to_string().contains("Input/output error"), "{error}");
    });
    assert_eq!((guest.records(), fs::read(log_path(state.path())).unwrap()), before);
    guest.append(&[(lun(1), commit(3))]).unwrap();
    assert_eq!(open(state.path()).records(), guest.records());
}

#[test]
fn a_log_whose_header_was_not_kept_is_begun_again() {
    let state = TempDir::new().unwrap();
    where_fails(&[libc::SYS_fdatasync, libc::SYS_fsync], || {
        assert!(matches!(Ledger::open(state.path()).unwrap().guest(&owner()), Err(Error::Io { .. })));
    });
    assert_eq!(fs::read(log_path(state.path())).unwrap(), b"");
    open(state.path()).append(&[(lun(1), commit(1))]).unwrap();
    assert_eq!(key_of(&open(state.path()), &lun(1)), 1);
}

#[test]
fn a_compaction_that_the_disk_may_not_have_kept_leaves_the_old_log_in_force() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    where_fails(&[libc::SYS_fsync], || {
        let batch: Vec<_> = (0..2000).map(|key| (lun(1), commit(key))).collect();
        guest.append(&batch).unwrap();
    });
    assert!(fs::metadata(log_path(state.path())).unwrap().len() > 256 << 10);
    assert!(!log_path(state.path()).with_file_name("log.new").exists());
    assert_eq!(key_of(&open(state.path()), &lun(1)), 1999);
}
