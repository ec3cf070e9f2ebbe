//! The socket that listens.

use super::guests::Hold;
use super::{
    Address, Arc, Fresh, Guests, Service, SharedTerms, TcpListener, TurnedAway, UnixListener, UnixStream, io,
    serve, thread,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How long to wait when the system has no descriptor or thread left.
const BREATH: Duration = Duration::from_millis(100);

/// Nobody can listen there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}")]
pub struct BindError {
    /// Where.
    pub address: Address,
    /// Why.
    pub source: io::Error,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens for peers until it is dropped, which ends their links too.
pub struct Listener {
    address: Address,
    guests: Guests,
    /// Closing it wakes the thread.
    wake: Option<UnixStream>,
    thread: Option<thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens at `address` and serves.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        address: &Address,
        terms: Arc<SharedTerms>,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address: address.clone(), source };
        let (socket, bound) = bind(address).map_err(failed)?;
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let guests = Guests::default();
        let hall = Hall { socket, woken, guests: guests.clone(), terms, service };
        let thread = thread::Builder::new().name("peers".into()).spawn(move || hall.run()).map_err(failed)?;
        Ok(Self { address: bound, guests, wake: Some(wake), thread: Some(thread) })
    }

    /// Whether it still lets peers in.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Where it listens: with the port that the system picked for port 0.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell: a panic of it was reported when it happened.
            let _ = thread.join();
        }
        self.guests.end();
        if let Address::Unix(path) = &self.address {
            // Whoever starts next removes it, if this fails.
            let _ = fs::remove_file(path);
        }
    }
}

fn bind(address: &Address) -> io::Result<(Socket, Address)> {
    match address {
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text)?;
            listener.set_nonblocking(true)?;
            let bound = Address::Tcp(listener.local_addr()?.to_string());
            Ok((Socket::Tcp(listener), bound))
        }
        Address::Unix(path) => {
            remove_leftover(path)?;
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok((Socket::Unix(listener), address.clone()))
        }
    }
}

/// A socket that nobody listens at was left by an agent that was killed.
fn remove_leftover(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The thread that lets people in.
struct Hall {
    socket: Socket,
    woken: UnixStream,
    guests: Guests,
    terms: Arc<SharedTerms>,
    service: Arc<dyn Service>,
}

impl Hall {
    fn run(&self) {
        while self.wait() {
            match self.accept() {
                Ok((fresh, hold, from)) => self.let_in(fresh, hold, from),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    self.service.turned_away("", &error.into());
                    thread::sleep(BREATH);
                }
            }
        }
    }

    /// Whether to go on.
    fn wait(&self) -> bool {
        let listener: BorrowedFd<'_> = match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        };
        let mut ready = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) => ready.last().is_none_or(|woken| woken.revents().is_empty()),
            Err(errno) => errno == rustix::io::Errno::INTR,
        }
    }

    fn accept(&self) -> io::Result<(Fresh, Hold, String)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (socket, from) = listener.accept()?;
                socket.set_nonblocking(false)?;
                let hold = Hold::Tcp(socket.try_clone()?);
                Ok((Fresh::Tcp(socket), hold, from.to_string()))
            }
            Socket::Unix(listener) => {
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(false)?;
                let hold = Hold::Unix(socket.try_clone()?);
                Ok((Fresh::Unix(socket), hold, "this host".to_owned()))
            }
        }
    }

    fn let_in(&self, fresh: Fresh, hold: Hold, from: String) {
        let Some(mut guest) = self.guests.enter(hold) else {
            return self.service.turned_away(&from, &TurnedAway::TooMany);
        };
        let (terms, service) = (self.terms.get(), Arc::clone(&self.service));
        let started = thread::Builder::new().name("peer".into()).spawn(move || {
            if let Err(why) = serve(fresh, &terms, service.as_ref(), &mut guest) {
                service.turned_away(&from, &why);
            }
        });
        if let Err(error) = started {
            self.service.turned_away("", &error.into());
        }
    }
}

/// The caller has gone again, or there was none.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}
