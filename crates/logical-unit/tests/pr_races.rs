//! Reservations under many threads: fencing is complete when its status says so, and nothing waits for ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use scsi::pr::{Key, ReservationType, request};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use support::{BLOCK, Host, good, memory};

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const SHARED: ReservationType = ReservationType(5);

/// Writes the block with ever new content until the first WRITE that does not end GOOD.
fn write_until_fenced(victim: &Host, started: &AtomicBool) {
    for content in 1.. {
        if !victim.raw(&WRITE, &[content as u8; BLOCK]).status.is_good() {
            return;
        }
        started.store(content > 3, Ordering::Release);
    }
}

#[test]
fn no_write_reaches_the_medium_after_preempt_and_abort_has_ended() {
    for _ in 0..100 {
        let unit = memory();
        let (holder, victim) = (Host::new(&unit, 1), Host::new(&unit, 2));
        good(holder.send(&request::register(Key(0), Key(1), false)));
        good(victim.send(&request::register(Key(0), Key(2), false)));
        good(holder.send(&request::reserve(Key(1), SHARED)));
        let started = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_fenced(&victim, &started));
            while !started.load(Ordering::Acquire) {
                thread::yield_now();
            }
            good(holder.send(&request::preempt_and_abort(Key(1), Key(2), SHARED)));
            let fenced = holder.read(0, 1);
            writer.join().unwrap();
            assert_eq!(holder.read(0, 1), fenced);
        });
    }
}

/// What one host of the storm does, again and again.
fn rage(host: &Host, number: u8) {
    let key = Key(u64::from(number));
    for round in 0..300_u64 {
        let victim = Key(round % 4 + 1);
        let _ = host.send(&request::register_and_ignore(key, false));
        let _ = host.send(&request::reserve(key, SHARED));
        let _ = host.raw(&WRITE, &[number; BLOCK]);
        let _ = host.send(&request::preempt_and_abort(key, victim, SHARED));
        match round % 16 {
            3 => host.unit.reset(),
            7 => host.unit.clear_task_set(&host.handle),
            11 => host.unit.abort_task_set(&host.handle),
            13 => {
                let guest = Host::new(&host.unit, 9);
                let _ = guest.send(&request::register_and_ignore(key, false));
                host.unit.nexus_lost(&guest.handle);
            }
            _ => {}
        }
    }
}

#[test]
fn hosts_that_abort_each_other_never_wait_for_ever() {
    let unit = memory();
    let (done, ended) = mpsc::channel();
    for number in 1..=4 {
        let (host, done) = (Host::new(&unit, number), done.clone());
        thread::spawn(move || {
            rage(&host, number);
            done.send(()).unwrap();
        });
    }
    for _ in 0..4 {
        ended.recv_timeout(Duration::from_secs(30)).expect("every host comes to its end");
    }
}
