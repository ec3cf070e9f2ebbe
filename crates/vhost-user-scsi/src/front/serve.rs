//! The accept loop of one device's socket. Used by `tenure device`, on a thread for each guest.
//!
//! A second front end waits in the socket's backlog until the first has gone: one that reconnects before we have noticed that its
//! connection is gone is not turned away.

use super::handler::Handler;
use crate::device::Device;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

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
        let mut polled = [PollFd::new(&self.told, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
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
    while !stop.is_told() {
        let mut polled = [PollFd::new(listener, PollFlags::IN), PollFd::new(&stop.told, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        match listener.accept() {
            Ok((socket, _)) => connected(socket, device, stop),
            Err(error) if passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Errors of one connection, or of none at all.
fn passing(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

fn connected(socket: UnixStream, device: &Arc<Device>, stop: &Stop) {
    let name = device.name();
    let handles = socket.set_nonblocking(false).and_then(|()| Ok((socket.try_clone()?, socket.try_clone()?)));
    let (for_stop, for_queues) = match handles {
        Ok(handles) => handles,
        Err(error) => return tracing::warn!(device = name, %error, "a front end cannot be served"),
    };
    stop.set_current(Some(for_stop));
    tracing::info!(device = name, "a front end has connected");
    let _connected = device.connected();
    let handler = Arc::new(Mutex::new(Handler::new(Arc::clone(device), Some(for_queues))));
    let error = if stop.is_told() { VhostError::Disconnected } else { converse(socket, &handler) };
    handler.lock().unwrap_or_else(PoisonError::into_inner).end();
    stop.set_current(None);
    match error {
        VhostError::Disconnected => tracing::info!(device = name, "the front end has gone"),
        error => tracing::warn!(device = name, %error, "the front end was disconnected"),
    }
}

/// Answers messages until the connection ends; why it did.
fn converse(socket: UnixStream, handler: &Arc<Mutex<Handler>>) -> VhostError {
    let mut messages = BackendReqHandler::from_stream(socket, Arc::clone(handler));
    loop {
        match messages.handle_request() {
            Ok(()) | Err(VhostError::SocketRetry(_)) => {}
            Err(error) => return error,
        }
    }
}
