//! Where qemu-pr-helper closes the connection, so does tenure-pr-helper; where it answers, this one answers the same bytes, and
//! both streams go on. Debian has it in the package qemu-system-common; without it there is nothing to compare with.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use rustix::fd::{AsFd, OwnedFd};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use support::daemon::Place;
use support::*;

/// The incumbent, on a socket of its own.
struct Incumbent {
    process: Child,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Incumbent {
    /// `None` where it is not installed.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incumbent.sock");
        let process = match Command::new("qemu-pr-helper").arg("-q").arg("-k").arg(&path).spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            started => started.unwrap(),
        };
        let incumbent = Self { process, path, _directory: directory };
        wait_until("the incumbent listens", || UnixStream::connect(&incumbent.path).is_ok());
        Some(incumbent)
    }
}

impl Drop for Incumbent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request: its bytes in fragments, each with so many descriptors.
type Row = (&'static str, Vec<(Vec<u8>, usize)>);

fn rows() -> Vec<Row> {
    let whole = |bytes: Vec<u8>, descriptors| vec![(bytes, descriptors)];
    let opcode = |code| [&[code][..], &[0; 15]].concat();
    let list = |length: u16| pr_out(length.into(), &vec![0; length.into()]);
    vec![
        ("no descriptor", whole(pr_in(8), 0)),
        ("two descriptors", whole(pr_in(8), 2)),
        ("hundreds of descriptors", whole(pr_in(8), 253)),
        ("one, with the CDB's second half", vec![(pr_in(8)[..8].to_vec(), 0), (pr_in(8)[8..].to_vec(), 1)]),
        ("one with each half", vec![(pr_in(8)[..8].to_vec(), 1), (pr_in(8)[8..].to_vec(), 1)]),
        ("TEST UNIT READY", whole(opcode(0x00), 1)),
        ("INQUIRY", whole(opcode(0x12), 1)),
        ("PR IN, nothing allocated", whole(pr_in(0), 1)),
        ("PR IN, 8192 bytes", whole(pr_in(8192), 1)),
        ("PR IN, 8193 bytes", whole(pr_in(8193), 1)),
        ("PR OUT without a list", whole(list(0), 1)),
        ("PR OUT, 8 bytes", whole(list(8), 1)),
        ("PR OUT, 24 bytes", whole(list(24), 1)),
        ("PR OUT, 8192 bytes", whole(list(8192), 1)),
        ("PR OUT, 8193 bytes", whole(pr_out(8193, &[]), 1)),
    ]
}

/// Sends the row, then a request that is known to be answered: what comes back?
fn replies(path: &Path, fragments: &[(Vec<u8>, usize)], fd: &OwnedFd) -> Vec<Vec<u8>> {
    let mut client = Client::connect(path);
    for (bytes, descriptors) in fragments {
        // A server that has closed after an earlier fragment takes no more.
        let _ = client.send(bytes, &vec![fd.as_fd(); *descriptors]);
    }
    let first = client.reply();
    let second = first.is_some().then(|| client.request(&pr_in(8), null())).flatten();
    first.into_iter().chain(second).map(|reply| telling(&reply)).collect()
}

/// Of the 96 bytes for sense data those that fixed format has without additional bytes; all of the rest.
fn telling(reply: &[u8]) -> Vec<u8> {
    [&reply[..8 + 18], &reply[104..]].concat()
}

/// What is no SCSI device, and what is not opened for writing.
fn descriptors() -> Vec<(&'static str, OwnedFd)> {
    let ((socket, _), (read, write)) = (UnixStream::pair().unwrap(), std::io::pipe().unwrap());
    let path = rustix::fs::open("/dev/null", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let read_only = std::fs::File::open("/dev/null").unwrap();
    vec![
        ("/dev/null", null()),
        ("/dev/null to be read", read_only.into()),
        ("/dev/null as a path", path),
        ("a file", tempfile::tempfile().unwrap().into()),
        ("a directory", std::fs::File::open("/").unwrap().into()),
        ("a socket", socket.into()),
        ("a pipe's reading end", read.into()),
        ("a pipe's writing end", write.into()),
    ]
}

/// Asks for `features` and says whether a request is answered afterwards.
fn takes_features(path: &Path, features: [u8; 4]) -> bool {
    let mut client = Client::raw(path);
    client.0.read_exact(&mut [0; 4]).unwrap();
    client.0.write_all(&features).unwrap();
    client.request(&pr_in(8), null()).is_some()
}

#[test]
fn replies_and_closed_connections_are_the_incumbents() {
    let Some(incumbent) = Incumbent::start() else {
        return skipped("qemu-pr-helper is not installed");
    };
    let place = Place::new();
    let ours = place.serve(["-q"]);
    for (what, fragments) in rows() {
        for (device, fd) in descriptors() {
            let (here, there) =
                (replies(&ours.socket, &fragments, &fd), replies(&incumbent.path, &fragments, &fd));
            assert_eq!(here, there, "{what} on {device}");
        }
    }
}

#[test]
fn a_list_that_is_cut_is_refused_where_the_incumbent_sends_a_part_of_it() {
    let Some(incumbent) = Incumbent::start() else {
        return skipped("qemu-pr-helper is not installed");
    };
    let place = Place::new();
    let ours = place.serve(["-q"]);
    let cut = [(pr_out(0x0001_0018, &[0; 24]), 1)];
    let [here, there] = [&ours.socket, &incumbent.path].map(|path| replies(path, &cut, &null()));
    assert_eq!((here.len(), there.len()), (2, 2), "both streams go on");
    assert_eq!((here[0][10], &here[0][20..22]), (5, &[0x1A, 0][..]));
}

#[test]
fn features_are_taken_as_the_incumbent_takes_them() {
    let Some(incumbent) = Incumbent::start() else {
        return skipped("qemu-pr-helper is not installed");
    };
    let place = Place::new();
    let ours = place.serve(["-q"]);
    for features in [[0, 0, 0, 0], [0, 0, 0, 2], [0x80, 0, 0, 0]] {
        let (here, there) =
            (takes_features(&ours.socket, features), takes_features(&incumbent.path, features));
        assert_eq!(here, there, "features {features:?}");
    }
}
