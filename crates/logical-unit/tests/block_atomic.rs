//! Atomicity under concurrency (SBC-4 4.29, 5.3): counters that lose nothing, blocks that are never torn.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::block::{Form, Operation};
use scsi::{SenseKey, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use support::{BLOCK, Host, memory, open};

const WIDE: Operation = Operation::WriteAtomic { boundary: 0 };

/// Adds one to the counter in block 0 by COMPARE AND WRITE, again and again until it was not overtaken.
fn increment(host: &Host) {
    loop {
        let old = host.read(0, 1);
        let count = u64::from_be_bytes(old[..8].try_into().unwrap());
        let mut new = old.clone();
        new[..8].copy_from_slice(&(count + 1).to_be_bytes());
        let swap = host.access(Operation::CompareAndWrite, Form::Sixteen, 0, 1, &[old, new].concat());
        if swap.status == Status::GOOD {
            return;
        }
        assert_eq!(swap.decoded_sense().unwrap().key, SenseKey::MISCOMPARE);
    }
}

#[test]
fn compare_and_write_of_many_hosts_loses_no_increment() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&format!("file={},size=1M", folder.path().join("lun").display()));
    for unit in [memory(), file] {
        thread::scope(|scope| {
            for number in 0..4 {
                let host = Host::new(&unit, number);
                scope.spawn(move || (0..200).for_each(|_| increment(&host)));
            }
        });
        assert_eq!(Host::new(&unit, 9).read(0, 1)[..8], 800_u64.to_be_bytes());
    }
}

#[test]
fn or_write_of_many_hosts_loses_no_bit() {
    let unit = memory();
    thread::scope(|scope| {
        for number in 0..8 {
            let host = Host::new(&unit, number);
            scope.spawn(move || {
                for byte in 0..BLOCK {
                    let mut bits = [0; BLOCK];
                    bits[byte] = 1 << number;
                    host.access(Operation::OrWrite, Form::Sixteen, 5, 1, &bits);
                }
            });
        }
    });
    assert_eq!(Host::new(&unit, 9).read(5, 1), [0xFF; BLOCK]);
}

#[test]
fn no_reader_sees_a_part_of_a_write_atomic() {
    // Across the border of two chunks of the store, each of which is consistent in itself.
    let unit = memory();
    let (lba, blocks) = (1024, 2048);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (reader, writer) = (Host::new(&unit, 1), Host::new(&unit, 2));
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let data = reader.read(lba, blocks);
                assert!(data.iter().all(|byte| *byte == data[0]), "torn");
            }
        });
        for round in 0..100_u8 {
            let data = vec![round; blocks as usize * BLOCK];
            let status = writer.access(WIDE, Form::Sixteen, lba, blocks, &data).status;
            if status != Status::GOOD {
                done.store(true, Ordering::Relaxed);
            }
            assert_eq!(status, Status::GOOD);
        }
        done.store(true, Ordering::Relaxed);
    });
}
