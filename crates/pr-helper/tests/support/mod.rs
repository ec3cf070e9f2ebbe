//! A client that sends what it is told, byte for byte, and a server in this process over a service that answers at once.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test; each program uses its part"
)]

pub mod agent;
pub mod daemon;
pub mod hostile;

use pr_helper::server::{Limits, Server};
use pr_helper::wire::{Features, REPLY_LENGTH};
use pr_helper::{Caller, Command, Serve};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use scsi::{AdditionalSense, Completion, Sense, SenseKey};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No wait of any test takes longer; a test that gets here has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A PERSISTENT RESERVE IN with READ KEYS.
pub fn pr_in(allocation: u16) -> Vec<u8> {
    let [high, low] = allocation.to_be_bytes();
    vec![0x5E, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0]
}

/// A PERSISTENT RESERVE OUT with REGISTER, and its list.
pub fn pr_out(length: u32, list: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = length.to_be_bytes();
    [&[0x5F, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0], list].concat()
}

/// Says what this machine cannot check. Where nothing may be skipped (`cargo xtask test --no-skip`) that is a failure.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    assert!(std::env::var_os("TENURE_NO_SKIP").is_none(), "nothing may be skipped, but {why}");
}

/// Waits until `done`, at most [`PATIENCE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection.
pub struct Client(pub UnixStream);

impl Client {
    /// Connects, and shakes no hands.
    pub fn raw(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Connects and asks for no features, as every QEMU does.
    pub fn connect(path: &Path) -> Self {
        let mut client = Self::raw(path);
        let mut word = [0; 4];
        client.0.read_exact(&mut word).unwrap();
        client.0.write_all(&Features::default().to_bytes()).unwrap();
        client
    }

    /// Sends bytes with descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    }

    /// Sends a request, and gives the whole reply; `None` if the server closes the connection.
    pub fn request(&mut self, bytes: &[u8], fd: impl AsFd) -> Option<Vec<u8>> {
        self.send(bytes, &[fd.as_fd()]).ok()?;
        self.reply()
    }

    /// The next reply; `None` if the server closes the connection.
    pub fn reply(&mut self) -> Option<Vec<u8>> {
        let mut reply = vec![0; REPLY_LENGTH];
        self.read_or_end(&mut reply)?;
        let payload = i32::from_be_bytes(reply[4..8].try_into().unwrap());
        reply.resize(REPLY_LENGTH + usize::try_from(payload).unwrap(), 0);
        self.read_or_end(&mut reply[REPLY_LENGTH..])?;
        Some(reply)
    }

    /// `true` if the server closes; a byte of it, or silence, is a failed test.
    pub fn is_closed(&mut self) -> bool {
        self.read_or_end(&mut [0]).is_none()
    }

    fn read_or_end(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buffer) {
            Ok(()) => Some(()),
            // A reset is an end with bytes of ours unread.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                None
            }
            Err(error) => panic!("neither a reply nor an end: {error}"),
        }
    }
}

/// Any descriptor.
pub fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

/// Answers PR IN with a pattern and anything else with GOOD.
pub struct AtOnce;

impl Serve for AtOnce {
    fn serve(&self, _: &Caller, command: Command) -> Completion {
        Completion::good(if command.cdb[0] == 0x5E { vec![0xA5; 8192] } else { Vec::new() })
    }

    fn cleanup(&self, _: &Caller, _: OwnedFd) -> Completion {
        Completion::check(&Sense::new(SenseKey::NO_SENSE, AdditionalSense::NONE))
    }
}

/// A server on a thread, and its socket.
pub struct Running {
    pub path: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    _directory: tempfile::TempDir,
}

impl Running {
    pub fn new(serve: Arc<dyn Serve>, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pr.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let server = Server::new(serve, limits);
        let thread = std::thread::spawn(move || server.run(&listener, stopped));
        Self { path, stop, thread: Some(thread), _directory: directory }
    }

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        self.stop.write_all(b"x").unwrap();
    }

    /// Waits until it has stopped.
    pub fn join(&mut self) {
        self.end().unwrap();
    }

    /// Waits until it has stopped, and says how it went.
    pub fn end(&mut self) -> std::io::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.stop.write_all(b"x");
            let _ = thread.join();
        }
    }
}
