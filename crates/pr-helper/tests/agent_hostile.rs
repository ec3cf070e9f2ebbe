//! What hostile agents cost, in a process that nobody else opens files in.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use ledger::State;
use support::agent::*;
use support::wait_until;

#[test]
fn hostile_agents_leave_memory_and_descriptors_flat() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let bytes = bytes();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let round = || {
        for (length, fds) in [(0, 0), (8, 1), (44, 1), (44, 2), (68, 0), (68, 253), (20, 253)] {
            let _ = Raw::connect(&bench).send(&bytes[..length], fds);
        }
    };
    let before = open();
    (0..100).for_each(|_| round());
    wait_until("all are gone", || open() <= before);
}
