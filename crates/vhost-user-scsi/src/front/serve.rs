//! The accept loop of one device's socket. Used by `tenure device`, on a thread for each guest.
//!
//! A second front end waits in the socket's backlog until the first has gone: one that reconnects before we have noticed that its
//! connection is gone is not turned away. It waits likewise while the host has no descriptor or memory for it: a listener that is lost
//! would be lost for ever, and with it the guest's disks. Front ends at different sockets of one device are served side by side; whose
//! rings are processed is the gate's to say, and a change there wakes each of them.

use super::Error;
use super::handler::Handler;
use crate::device::Device;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

/// How long it is until a front end is let in that the host had no room for.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Ends [`serve`] from another thread: the front end is disconnected, what is under way is waited for.
#[derive(Debug)]
pub struct Stop {
    told: OwnedFd,
    current: Mutex<Option<UnixStream>>,
}

impl Stop {
    /// A handle for one [`serve`].
    ///
    /// # Errors
    /// No eventfd is to be had.
    pub fn new() -> io::Result<Self> {
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { told, current: Mutex::new(None) })
    }

    /// Ends it; returns at once.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.told, &1_u64.to_ne_bytes());
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*current {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn is_told(&self) -> bool {
        self.is_told_within(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    fn is_told_within(&self, time: Timespec) -> bool {
        let mut polled = [PollFd::new(&self.told, PollFlags::IN)];
        poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// The front end that `stop` disconnects.
    fn set_current(&self, socket: Option<UnixStream>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }
}

/// Serves front ends that connect to `listener`, one at a time, until it is stopped.
///
/// # Errors
/// The listener failed. Nothing that a front end does is an error here.
pub fn serve(listener: &UnixListener, device: &Arc<Device>, stop: &Stop) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut short = false;
    while !stop.is_told() {
        if let Some(socket) = next(listener, device.name(), stop, &mut short)? {
            connected(socket, device, stop);
        }
    }
    Ok(())
}

/// Waits for the next front end. Nothing where it is to end, or where there is no room for a front end now, which is said once.
fn next(
    listener: &UnixListener,
    device: &str,
    stop: &Stop,
    short: &mut bool,
) -> io::Result<Option<UnixStream>> {
    match wait(listener, stop).and_then(|()| listener.accept()) {
        Ok((socket, _)) => {
            *short = false;
            Ok(Some(socket))
        }
        Err(error) if has_none(&error) => Ok(None),
        Err(error) if is_short(&error) => {
            if !std::mem::replace(short, true) {
                tracing::error!(device, %error, "a front end has to wait");
            }
            let _ = stop.is_told_within(PAUSE);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Until somebody connects, or it is to end.
fn wait(listener: &UnixListener, stop: &Stop) -> io::Result<()> {
    let mut polled = [PollFd::new(listener, PollFlags::IN), PollFd::new(&stop.told, PollFlags::IN)];
    poll(&mut polled, None)?;
    Ok(())
}

/// Nobody is there, or not any more.
fn has_none(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// Somebody is there, and cannot be let in now. That passes: other connections end, memory is given back.
fn is_short(error: &io::Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::PROTO, Errno::PERM];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

fn connected(socket: UnixStream, device: &Arc<Device>, stop: &Stop) {
    let name = device.name();
    if let Some(why) = device.gate().turns_away() {
        return tracing::warn!(device = name, why, "a front end is turned away");
    }
    let handles = socket.set_nonblocking(false).and_then(|()| Ok((socket.try_clone()?, socket.try_clone()?)));
    let (for_stop, for_queues) = match handles {
        Ok(handles) => handles,
        Err(error) => return tracing::warn!(device = name, %error, "a front end cannot be served"),
    };
    stop.set_current(Some(for_stop));
    tracing::info!(device = name, "a front end has connected");
    let handler = match Handler::new(Arc::clone(device), Some(for_queues)) {
        Ok(handler) => Arc::new(Mutex::new(handler)),
        Err(error) => return tracing::warn!(device = name, %error, "a front end cannot be served"),
    };
    let _connected = device.connected();
    let error = if stop.is_told() { VhostError::Disconnected } else { converse(socket, &handler) };
    lock(&handler).end(!stop.is_told());
    stop.set_current(None);
    match error {
        VhostError::Disconnected => tracing::info!(device = name, "the front end has gone"),
        error => tracing::warn!(device = name, %error, "the front end was disconnected"),
    }
}

fn lock(handler: &Mutex<Handler>) -> MutexGuard<'_, Handler> {
    handler.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers messages, and does what the gate says, until the connection ends; why it did.
fn converse(socket: UnixStream, handler: &Arc<Mutex<Handler>>) -> VhostError {
    let watched = match socket.try_clone() {
        Ok(watched) => watched,
        Err(error) => return VhostError::ReqHandlerError(error),
    };
    let changes = lock(handler).door().descriptor();
    let mut messages = BackendReqHandler::from_stream(socket, Arc::clone(handler));
    loop {
        let until = lock(handler).until();
        let done = match happened(&watched, &changes, until) {
            Ok(Happened::Message) => messages.handle_request(),
            Ok(Happened::Change) => follow(handler).map_err(VhostError::from),
            Err(error) => Err(VhostError::ReqHandlerError(error)),
        };
        match done {
            Ok(()) | Err(VhostError::SocketRetry(_)) => {}
            Err(error) => return error,
        }
    }
}

/// Does what the gate says now.
fn follow(handler: &Mutex<Handler>) -> Result<(), Error> {
    let mut handler = lock(handler);
    handler.door().hear();
    handler.advance()
}

/// Why a connection's thread goes on.
enum Happened {
    /// The front end says something, or is gone.
    Message,
    /// The gate may say something else.
    Change,
}

fn happened(socket: &UnixStream, changes: &OwnedFd, until: Option<Instant>) -> io::Result<Happened> {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled = [PollFd::new(socket, PollFlags::IN), PollFd::new(changes, PollFlags::IN)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) if polled.first().is_some_and(|first| !first.revents().is_empty()) => {
                return Ok(Happened::Message);
            }
            Ok(_) => return Ok(Happened::Change),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::fs::File;
    use std::process::Command;

    const CHILD: &str = "TENURE_TEST_NO_DESCRIPTORS";

    /// In a process of its own, whose descriptors are nobody else's.
    #[test]
    fn a_front_end_waits_while_there_are_no_descriptors_and_is_let_in_afterwards() {
        if std::env::var_os(CHILD).is_some() {
            return run_out_of_descriptors();
        }
        let name = "a_front_end_waits_while_there_are_no_descriptors_and_is_let_in_afterwards";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("front::serve::tests::{name}"), "--test-threads=1", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{out}{child:?}");
    }

    fn run_out_of_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, mut short) = (Stop::new().unwrap(), false);
        let _front_end = UnixStream::connect(&path).unwrap();
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(next(&listener, "test", &stop, &mut short).unwrap().is_none() && short);
        drop(taken);
        assert!(next(&listener, "test", &stop, &mut short).unwrap().is_some() && !short);
        stop.stop();
        assert!(next(&listener, "test", &stop, &mut short).unwrap().is_none() && !short, "nobody is there");
    }

    #[test]
    fn a_listener_that_is_none_is_an_error() {
        let (stop, device) = (Stop::new().unwrap(), Device::new("test", Default::default(), None));
        let broken = UnixListener::from(OwnedFd::from(UnixStream::pair().unwrap().0));
        assert!(serve(&broken, &Arc::new(device), &stop).is_err());
    }
}
