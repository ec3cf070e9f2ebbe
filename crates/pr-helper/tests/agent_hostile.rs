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

/// KiB of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

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
    (0..20).for_each(|_| round());
    let memory = resident();
    (0..100).for_each(|_| round());
    wait_until("all are gone", || open() <= before);
    let grown = resident().saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more");
}
