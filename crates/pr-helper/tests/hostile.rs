//! Hostile clients leave no descriptor, no thread and no memory behind. A program of its own, because it counts those of the process.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use pr_helper::server::Limits;
use rustix::fd::AsFd;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::*;

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Every kind of bad input once.
fn attack(path: &Path) {
    let fd = null();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let path_only = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    Client::raw(path).0.write_all(&[0, 0]).unwrap();
    Client::raw(path).0.write_all(&[0xFF; 4]).unwrap();
    for descriptors in [0, 2, 3, 253] {
        Client::connect(path).send(&pr_in(8), &vec![fd.as_fd(); descriptors]).unwrap();
    }
    let _ = Client::connect(path).send(&[0x12; 16], &[fd.as_fd()]);
    let _ = Client::connect(path).send(&pr_out(0xFFFF_FFFF, &[]), &[fd.as_fd()]);
    Client::connect(path).send(&pr_out(8192, &[0; 100]), &[fd.as_fd()]).unwrap();
    let mut client = Client::connect(path);
    for odd in [pipe.as_fd(), socket.as_fd(), path_only.as_fd(), client.0.try_clone().unwrap().as_fd()] {
        assert!(client.request(&pr_out(100, &[0xFF; 100]), odd).is_some());
    }
    // Stalls, with a descriptor under way.
    let stalled = Client::connect(path);
    stalled.send(&pr_in(8)[..5], &[fd.as_fd()]).unwrap();
    let mut stalled = stalled;
    assert!(stalled.is_closed());
}

#[test]
fn hostile_clients_leave_descriptors_threads_and_memory_flat() {
    let limits = Limits { deadline: Duration::from_millis(5), ..Limits::default() };
    let server = Running::new(Arc::new(AtOnce), limits);
    let settled = |base: (usize, usize)| {
        wait_until("all is given back", || (count("/proc/self/fd"), count("/proc/self/task")) == base);
    };
    let base = (count("/proc/self/fd"), count("/proc/self/task"));
    (0..50).for_each(|_| attack(&server.path));
    settled(base);
    let before = resident();
    (0..200).for_each(|_| attack(&server.path));
    settled(base);
    assert!(resident() < before + 2048, "grew from {before} to {} KiB", resident());
}
