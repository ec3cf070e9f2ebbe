//! The synthetic front end against a back end that nobody here wrote: Debian's `qemu-storage-daemon` with its vhost-user-blk export.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use lab::front_end::block::{self, Block};
use lab::front_end::keeper::Keeper;
use lab::front_end::load::{Job, Kind, Until, run};
use lab::front_end::{FrontEnd, Gone, Shape};
use lab::process::Background;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const PROGRAM: &str = "qemu-storage-daemon";
const BLOCK: u32 = 4096;
const BLOCKS: usize = 64;
const SMALL: Shape =
    Shape { size: 32, requests: 8, room: BLOCK, segment: 512, indirect: true, event_idx: true };

/// A back end over a file, which another one may have open too.
struct Daemon {
    process: Background,
    socket: PathBuf,
}

impl Daemon {
    fn start(directory: &Path, name: &str) -> Self {
        let socket = directory.join(name);
        let disk = directory.join("disk");
        if !disk.exists() {
            std::fs::File::create(&disk).unwrap().set_len(u64::from(BLOCK) * BLOCKS as u64).unwrap();
        }
        let file = format!("driver=file,node-name=disk,locking=off,filename={}", disk.display());
        let export = format!(
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=2,addr.type=unix,addr.path={}",
            socket.display()
        );
        let mut command = Command::new(PROGRAM);
        command.args(["--blockdev", &file, "--export", &export]);
        Self { process: Background::start(&mut command).unwrap(), socket }
    }
}

/// In memory: this back end synchronises every write, and nothing here is about power.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap()
}

fn is_skipped() -> bool {
    let is_there = Command::new(PROGRAM).arg("--version").output().is_ok_and(|told| told.status.success());
    if !is_there {
        assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "{PROGRAM} is not installed");
        eprintln!("skipped: {PROGRAM} is not installed");
    }
    !is_there
}

fn connect(daemon: &Daemon, queues: usize, shape: Shape) -> FrontEnd {
    let (front, bytes) = block::connect(&daemon.socket, &block::setting(queues, shape)).unwrap();
    assert_eq!(bytes, u64::from(BLOCK) * BLOCKS as u64);
    front
}

fn keep(keeper: &mut Keeper, front: &mut FrontEnd, ring: usize, writes: u64) {
    let end = keeper.written + writes;
    let ring = front.ring(ring).unwrap();
    keeper.run(ring, &Block, 8, |keeper| keeper.written < end).unwrap();
    keeper.settle(ring, &Block).unwrap();
}

#[test]
fn what_is_written_is_found_again_however_the_rings_are_made() {
    if is_skipped() {
        return;
    }
    for (indirect, event_idx) in [(true, true), (false, true), (true, false), (false, false)] {
        let directory = directory();
        let daemon = Daemon::start(directory.path(), "socket");
        let mut front = connect(&daemon, 2, Shape { indirect, event_idx, ..SMALL });
        let mut keeper = Keeper::new(BLOCKS, BLOCK, 1).unwrap();
        for ring in [0, 1, 0] {
            keep(&mut keeper, &mut front, ring, 100);
        }
        keeper.check_all(front.ring(1).unwrap(), &Block).unwrap();
        assert!(keeper.checked > 64 && keeper.written >= 300);
    }
}

#[test]
fn a_sector_that_is_not_what_was_acknowledged_is_found() {
    if is_skipped() {
        return;
    }
    let directory = directory();
    let daemon = Daemon::start(directory.path(), "socket");
    let mut front = connect(&daemon, 1, SMALL);
    let mut keeper = Keeper::new(BLOCKS, BLOCK, 1).unwrap();
    keep(&mut keeper, &mut front, 0, 200);
    keeper.check_all(front.ring(0).unwrap(), &Block).unwrap();
    let disk = std::fs::File::options().write(true).open(directory.path().join("disk")).unwrap();
    disk.write_all_at(&[0xFF], 5 * u64::from(BLOCK) + 1025).unwrap();
    let error = keeper.check_all(front.ring(0).unwrap(), &Block).unwrap_err();
    assert!(error.to_string().contains("block 5, sector 2"), "{error}");
}

#[test]
fn a_driver_goes_on_with_its_rings_where_its_device_was_killed() {
    if is_skipped() {
        return;
    }
    let directory = directory();
    let mut daemon = Daemon::start(directory.path(), "socket");
    let mut front = connect(&daemon, 1, SMALL);
    let mut keeper = Keeper::new(BLOCKS, BLOCK, 3).unwrap();
    keep(&mut keeper, &mut front, 0, 100);
    daemon.process.kill();
    // This back end keeps no record of what is under way, so no more than one request may be.
    let error = keeper.run(front.ring(0).unwrap(), &Block, 1, |_| true).unwrap_err();
    assert!(error.is::<Gone>(), "{error:#}");
    std::fs::remove_file(&daemon.socket).unwrap();
    let daemon = Daemon::start(directory.path(), "socket");
    front.reconnect(&daemon.socket).unwrap();
    front.ring(0).unwrap().kick().unwrap();
    keep(&mut keeper, &mut front, 0, 100);
    keeper.check_all(front.ring(0).unwrap(), &Block).unwrap();
}

#[test]
fn a_guest_moves_to_another_device_with_every_page_that_was_written() {
    if is_skipped() {
        return;
    }
    let directory = directory();
    let [here, there] = ["here", "there"].map(|name| Daemon::start(directory.path(), name));
    let mut front = connect(&here, 1, SMALL);
    let mut keeper = Keeper::new(BLOCKS, BLOCK, 4).unwrap();
    keep(&mut keeper, &mut front, 0, 50);
    let moved = front.migrate(&there.socket, |front, _| {
        keep(&mut keeper, front, 0, 50);
        Ok(())
    });
    let moved = moved.unwrap();
    assert!(moved.logged > 0 && moved.copied_again >= moved.logged, "{moved:?}");
    keep(&mut keeper, &mut front, 0, 50);
    keeper.check_all(front.ring(0).unwrap(), &Block).unwrap();
}

#[test]
fn a_rate_counts_what_was_done() {
    if is_skipped() {
        return;
    }
    let directory = directory();
    let daemon = Daemon::start(directory.path(), "socket");
    let mut front = connect(&daemon, 1, SMALL);
    let span = u64::from(BLOCK) * BLOCKS as u64;
    for (kind, random) in [(Kind::Write, None), (Kind::Read, Some(1)), (Kind::Flush, None)] {
        let job = Job { kind, length: BLOCK, depth: 4, span, random, until: Until::Requests(500) };
        let rate = run(front.ring(0).unwrap(), &Block, &job).unwrap();
        assert_eq!(rate.requests, 500);
        assert!(rate.per_second() > 0.0 && rate.kicks > 0 && rate.latency(0.99) >= rate.latency(0.5));
    }
}
