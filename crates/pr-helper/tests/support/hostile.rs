//! Clients that send whatever they should not, and a look at what that leaves behind in a process.

use super::daemon::status;
use super::{Client, null, pr_in, pr_out, wait_until};
use rustix::fd::{AsFd, OwnedFd};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What a process has: descriptors and threads.
pub fn held(pid: u32) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

/// Resident memory in KiB.
fn resident(pid: u32) -> usize {
    status(pid, "VmRSS").split_whitespace().next().unwrap().parse().unwrap()
}

/// Descriptors of everything that is no SCSI device.
fn odd_descriptors() -> Vec<OwnedFd> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (socket, peer) = UnixStream::pair().unwrap();
    let path_only = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let files = [tempfile::tempfile().unwrap().into(), fs::File::open("/").unwrap().into(), null()];
    [read, write, socket.into(), peer.into(), path_only, epoll].into_iter().chain(files).collect()
}

/// Every kind of bad input once. Gives the clients that stall, each with a descriptor under way.
pub fn attack(path: &Path) -> Vec<Client> {
    let fd = null();
    Client::raw(path).0.write_all(&[0, 0]).unwrap();
    Client::raw(path).0.write_all(&[0xFF; 4]).unwrap();
    for (request, descriptors) in [
        (pr_in(8), 0),
        (pr_in(8), 2),
        (pr_in(8), 3),
        (pr_in(8), 253),
        (vec![0x12; 16], 1),
        (pr_out(0xFFFF_FFFF, &[]), 1),
    ] {
        let mut client = Client::connect(path);
        client.send(&request, &vec![fd.as_fd(); descriptors]).unwrap();
        assert!(client.is_closed());
    }
    Client::connect(path).send(&pr_out(8192, &[0; 100]), &[fd.as_fd()]).unwrap();
    // Gone before the reply.
    Client::connect(path).send(&pr_out(24, &[0; 24]), &[fd.as_fd()]).unwrap();
    let mut client = Client::connect(path);
    let own = client.0.try_clone().unwrap().into();
    for odd in odd_descriptors().into_iter().chain([own]) {
        for request in [pr_in(8192), pr_out(0, &[]), pr_out(100, &[0xFF; 100]), pr_out(8192, &[0x5F; 8192])] {
            assert!(client.request(&request, &odd).is_some());
        }
    }
    let stall = |request: &[u8]| {
        let client = Client::connect(path);
        client.send(request, &[fd.as_fd()]).unwrap();
        client
    };
    [&pr_in(8)[..1], &pr_in(8)[..15], &pr_out(24, &[0; 23])].map(stall).into()
}

/// Attacks so and so often, and checks that nothing of it stays.
pub fn stays_flat(path: &Path, pid: u32, before: usize, after: usize, mut attack: impl FnMut(&Path)) {
    let base = held(pid);
    let settled = || wait_until("all is given back", || held(pid) == base);
    (0..before).for_each(|_| attack(path));
    settled();
    let memory = resident(pid);
    (0..after).for_each(|_| attack(path));
    settled();
    // 14 connections and 50 requests each time: a leak of 200 bytes for a connection, or 60 for a request, shows.
    assert!(resident(pid) < memory + 512, "grew from {memory} to {} KiB", resident(pid));
}
