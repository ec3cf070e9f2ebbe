//! Atomicity under concurrency (SBC-4 4.29, 5.3): counters and bits that many hosts change and none loses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::block::{Form, Operation};
use scsi::{SenseKey, Status};
use std::thread;
use support::{BLOCK, Host, memory, open};

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
