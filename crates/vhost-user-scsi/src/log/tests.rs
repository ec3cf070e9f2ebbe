//! The log over a memfd: which bits, and that none is lost while it is turned on under writers.

use super::*;
use crate::memory::tests::memfd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

fn log_of(length: u64) -> (DirtyLog, File) {
    let file = memfd(length);
    let log = DirtyLog::default();
    log.set_base(file.try_clone().unwrap(), 0, length).unwrap();
    (log, file)
}

fn bytes(file: &File, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn every_page_that_a_range_touches_and_no_other() {
    let (log, file) = log_of(4096);
    log.mark(0, 4096 * 100);
    assert_eq!(bytes(&file, 16), [0; 16], "it is off");
    log.turn(true);
    log.mark(4096 * 3 + 4095, 2);
    assert_eq!(bytes(&file, 2), [0b0001_1000, 0]);
    log.mark(4096 * 7, 4096 * 10);
    assert_eq!(bytes(&file, 4), [0b1001_1000, 0xFF, 1, 0]);
    log.mark(4096 * 100, 0);
    assert_eq!(bytes(&file, 4096)[4..], [0; 4092]);
    assert!(log.is_marked(4096 * 16) && !log.is_marked(4096 * 17));
    log.turn(false);
    log.mark(4096 * 50, 1);
    assert!(!log.is_marked(4096 * 50));
}

#[test]
fn a_page_beyond_the_log_is_told_once_and_written_nowhere() {
    let file = memfd(8192);
    let log = DirtyLog::default();
    // The log is the first hundred bytes of a longer file.
    log.set_base(file.try_clone().unwrap(), 0, 100).unwrap();
    log.turn(true);
    log.mark(799 * 4096, 4096);
    assert_eq!((bytes(&file, 100)[99], log.take_missed()), (0x80, None));
    log.mark(798 * 4096, 4 * 4096);
    assert_eq!(bytes(&file, 8192)[100..], [0; 8092]);
    assert_eq!(bytes(&file, 100)[99], 0xC0, "what has a bit is marked");
    assert_eq!(log.take_missed(), Some(800 * 4096));
    log.mark(u64::MAX - 1, u64::MAX);
    assert_eq!(log.take_missed(), None, "told once");
    assert_eq!(bytes(&file, 8192)[100..], [0; 8092]);
    log.forget();
    assert!(!log.is_on());
    log.turn(true);
    log.mark(4096, 1);
    assert_eq!(log.take_missed(), Some(4096), "no log at all");
}

#[test]
fn a_log_that_is_not_in_its_file_is_refused() {
    let log = DirtyLog::default();
    assert!(matches!(log.set_base(memfd(100), 0, 101), Err(Error::BeyondFile { .. })));
    assert!(matches!(log.set_base(memfd(100), 50, 51), Err(Error::BeyondFile { .. })));
    assert!(matches!(log.set_base(memfd(100), 0, 0), Err(Error::Empty)));
    assert!(log.set_base(memfd(100), u64::MAX, 2).is_err());
    // Sparse files cost a front end nothing.
    assert!(matches!(log.set_base(memfd(1 << 40), 0, LENGTH_MAX + 1), Err(Error::TooLong { .. })));
    assert!(log.set_base(memfd(5000), 4097, 100).is_ok(), "an offset within a page");
}

#[test]
fn what_one_migration_had_no_bit_for_is_nothing_against_the_next() {
    let (log, _file) = log_of(1);
    log.turn(true);
    log.mark(8 * PAGE, 1);
    log.turn(false);
    log.turn(true);
    assert_eq!(log.take_missed(), None, "of the migration before");
    log.mark(9 * PAGE, 1);
    log.set_base(memfd(2), 0, 2).unwrap();
    log.turn(true);
    assert_eq!(log.take_missed(), Some(9 * PAGE), "no log has a mark of it, however long the new one is");
    log.turn(false);
    log.turn(true);
    log.mark(16 * PAGE, 1);
    assert_eq!(log.take_missed(), Some(16 * PAGE), "told of each migration");
}

/// A writer that finds the log off has written before whoever turned it on looks: one of the two is always so.
#[test]
fn turned_on_under_a_writer_no_write_is_lost() {
    for _ in 0..200 {
        let (log, _file) = log_of(64);
        let log = Arc::new(log);
        let memory = Arc::new(AtomicU64::new(0));
        let writer = {
            let (log, memory) = (Arc::clone(&log), Arc::clone(&memory));
            std::thread::spawn(move || {
                memory.store(1, Ordering::Relaxed);
                log.mark(0, 1);
            })
        };
        log.turn(true);
        let copied = memory.load(Ordering::Relaxed);
        writer.join().unwrap();
        assert!(copied == 1 || log.is_marked(0));
    }
}

#[test]
fn a_new_base_takes_what_is_marked_from_then_on() {
    let (log, old) = log_of(64);
    log.turn(true);
    log.mark(0, 1);
    let new = memfd(128);
    log.set_base(new.try_clone().unwrap(), 0, 128).unwrap();
    log.mark(4096, 1);
    assert_eq!((bytes(&old, 1)[0], bytes(&new, 1)[0]), (1, 2));
}
