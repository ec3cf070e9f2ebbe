//! The listening socket: made at `-k`, or passed by the service manager (sd_listen_fds(3)).
//!
//! A socket that a dead helper left is replaced; one behind which somebody answers is not, and neither is anything else of that
//! name. Starts in one directory take turns, so that two of them cannot both find the same dead socket.

use super::error::StartError;
use super::made::Made;
use super::options::Options;
use listenfd::ListenFd;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, lstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another start may take. Anybody who may read the directory can take the lock, so it is not waited for for ever.
const TURN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(5);

/// A socket that is listened on.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    owner: String,
    made: Option<Made>,
}

impl Socket {
    /// The socket that was passed, else the one the options name.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        match activated(options)? {
            Some(_) if options.socket.is_some() => Err(StartError::BothSockets),
            Some(listener) => Self::passed(listener),
            None => Self::bind(&options.socket.clone().unwrap_or_else(|| options.name.socket().into())),
        }
    }

    fn passed(listener: UnixListener) -> Result<Self, StartError> {
        let address = listener.local_addr().map_err(StartError::Activated)?;
        let path = address.as_pathname().map(Path::to_owned);
        let path = path.or_else(|| Some(abstract_name(&address)?.into())).ok_or(StartError::NoOwner)?;
        Ok(Self { listener, owner: owner(&path), path, made: None })
    }

    fn bind(path: &Path) -> Result<Self, StartError> {
        if !path.is_absolute() {
            return Err(StartError::RelativeSocket(path.to_owned()));
        }
        let failed = |source| StartError::Listen { path: path.to_owned(), source };
        let _turn = path.parent().and_then(turn);
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let made = lstat(path).map_err(|errno| failed(errno.into()))?;
        let made = Some(Made::new(path.to_owned(), &made));
        Ok(Self { listener, path: path.to_owned(), owner: owner(path), made })
    }

    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose record is kept where `--vm` does not say.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The file that is removed at the end; none if the service manager has made it.
    pub(super) fn made(&self) -> Option<&Path> {
        self.made.as_ref().map(Made::path)
    }
}

/// What the service manager passed to this process, or to the one that sent it to the background.
fn activated(options: &Options) -> Result<Option<UnixListener>, StartError> {
    let ours = match std::env::var("LISTEN_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => options.detached,
    };
    if !ours {
        return Ok(None);
    }
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => Ok(None),
        1 => passed.take_unix_listener(0).map_err(StartError::Activated),
        many => Err(StartError::TooManySockets(many)),
    }
}

fn abstract_name(address: &std::os::unix::net::SocketAddr) -> Option<String> {
    use std::os::linux::net::SocketAddrExt;
    address.as_abstract_name().map(|name| format!("@{}", name.escape_ascii()))
}

/// The path as it is; one that is no text is escaped, so that no other becomes the same.
fn owner(path: &Path) -> String {
    path.to_str()
        .map_or_else(|| path.as_os_str().as_encoded_bytes().escape_ascii().to_string(), str::to_owned)
}

/// Keeps other starts in this directory out.
fn turn(directory: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    let deadline = Instant::now() + TURN;
    while flock(&opened, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        if Instant::now() > deadline {
            tracing::warn!("{} is locked by another process; going on without", directory.display());
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Some(opened)
}

/// Removes a socket that nobody listens on any more.
fn clear(path: &Path) -> Result<(), StartError> {
    let failed = |source: io::Error| StartError::Listen { path: path.to_owned(), source };
    match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno.into())),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => {
            return Err(StartError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match answers(path) {
        Ok(true) => Err(StartError::SocketInUse(path.to_owned())),
        Ok(false) => std::fs::remove_file(path).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Whether somebody listens, however busy.
fn answers(path: &Path) -> rustix::io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno),
    }
}
