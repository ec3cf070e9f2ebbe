//! Unix sockets that are listened on, and other files that a process makes and removes at its end.
//!
//! A socket that a dead process left is replaced; one behind which somebody answers is not, and neither is anything else of
//! that name. Starts in one directory take turns, so that two of them cannot both find the same dead socket.

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat, flock, lstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another start may take. Anybody who may read the directory can take the lock, so it is not waited for for ever.
const TURN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(5);

/// Why nothing can be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody does already.
    #[error("{} is served by a process that is alive; end it, or give another path", .0.display())]
    InUse(PathBuf),
    /// It would have to be removed.
    #[error("{} is there and is no socket; remove it, or give another path", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Bytes that the name of a Unix socket may have (unix(7), and a NUL behind it).
const LONGEST: usize = 107;
const SUFFIX: &str = ".sock";

/// Where a socket is to be: at `path`, or, if that is a directory or ends with a slash, in it under the name that a guest's
/// records have, `NAME.sock`. So one line of configuration does for all helpers of a host, and whoever knows the guest finds
/// the socket. A name that is too long is cut, and ends with a checksum of the whole. A directory behind a slash is made.
///
/// # Errors
/// There is no name, it cannot be made to fit, or the directory cannot be made.
pub fn place(path: &Path, name: Option<&OsStr>) -> io::Result<PathBuf> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        make_directory(path)?;
    } else if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let name = name.ok_or_else(|| io::Error::other("without records there is no name for it"))?;
    let name = name.to_string_lossy();
    // Without a slash of its own at the end.
    let directory: PathBuf = path.components().collect();
    let room = LONGEST.saturating_sub(directory.as_os_str().len() + 1 + SUFFIX.len());
    fitted(&name, room).map(|name| directory.join(name + SUFFIX)).ok_or_else(|| {
        io::Error::other(format!("{} is too long a directory for a socket", directory.display()))
    })
}

/// `name` in at most `room` bytes.
fn fitted(name: &str, room: usize) -> Option<String> {
    if name.len() <= room {
        return Some(name.to_owned());
    }
    let sum = format!("~{:08x}", crc32c::crc32c(name.as_bytes()));
    let kept = room.checked_sub(sum.len()).filter(|&kept| kept >= 8)?;
    Some(name.get(..kept)?.to_owned() + &sum)
}

/// For everybody to look into: what is in it has its own permissions.
fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Listens on a path; the socket is removed when [`Made`] is dropped.
///
/// # Errors
/// [`ListenError`].
pub fn listen(path: &Path) -> Result<(UnixListener, Made), ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    let _turn = path.parent().and_then(turn);
    clear(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let made = lstat(path).map_err(|errno| failed(errno.into()))?;
    Ok((listener, Made::new(path.to_owned(), &made)))
}

/// A name in the file system and the file that had it when it was made. Dropping it removes the file, unless somebody else's
/// has taken its place by then.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    file: (u64, u64),
}

impl Made {
    pub(crate) fn new(path: PathBuf, file: &Stat) -> Self {
        Self { path, file: (file.st_dev, file.st_ino) }
    }

    /// The name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads to this file.
    pub(crate) fn is_current(&self) -> bool {
        rustix::fs::lstat(&self.path).is_ok_and(|now| (now.st_dev, now.st_ino) == self.file)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.is_current() {
            // After a change of user this may not be ours to do; the next start copes with what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
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
fn clear(path: &Path) -> Result<(), ListenError> {
    let failed = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
    match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno.into())),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match answers(path) {
        Ok(true) => Err(ListenError::InUse(path.to_owned())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_was_replaced_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let make = || {
            fs::write(&path, "").unwrap();
            Made::new(path.clone(), &rustix::fs::lstat(&path).unwrap())
        };
        drop(make());
        assert!(!path.exists());
        let made = make();
        fs::rename(&path, directory.path().join("old")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(made);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }

    #[test]
    fn in_a_directory_each_guest_has_a_socket_whose_name_fits() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| place(directory.path(), Some(OsStr::new(name))).unwrap();
        assert_eq!(place("db-1"), directory.path().join("db-1.sock"));
        let long = "%D0%91".repeat(33);
        let (one, other) = (place(&format!("{long}1")), place(&format!("{long}2")));
        assert_ne!(one, other);
        for path in [&one, &other] {
            assert!(path.as_os_str().len() <= LONGEST);
            assert!(UnixListener::bind(path).is_ok());
        }
    }

    #[test]
    fn a_slash_makes_a_directory_and_nothing_else_is_taken_for_one() {
        let above = tempfile::tempdir().unwrap();
        let name = Some(OsStr::new("a"));
        let path = above.path().join("agents");
        assert_eq!(place(&path, name).unwrap(), path);
        let slash = PathBuf::from(format!("{}/", path.display()));
        assert_eq!(place(&slash, name).unwrap(), path.join("a.sock"));
        assert_eq!(place(&path, name).unwrap(), path.join("a.sock"));
        assert!(place(&slash, None).is_err());
        assert!(place(Path::new("/no/such/place/"), name).is_err());
        let deep = above.path().join("d".repeat(90));
        fs::create_dir(&deep).unwrap();
        assert!(place(&deep, name).is_ok() || deep.as_os_str().len() > 100);
        assert!(place(&deep, Some(OsStr::new(&"x".repeat(50)))).is_err());
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, made) = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse(_))));
        drop((listener, made));
        assert!(!path.exists());
        fs::write(&path, "data").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::Io { .. })));
    }

    #[test]
    fn two_that_find_the_same_dead_socket_take_turns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        drop(UnixListener::bind(&path).unwrap());
        let turn = turn(directory.path()).unwrap();
        let (done, finished) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || done.send(listen(&path)).unwrap());
        assert!(finished.recv_timeout(Duration::from_millis(100)).is_err(), "it did not wait for its turn");
        drop(turn);
        assert!(finished.recv_timeout(TURN).unwrap().is_ok());
        other.join().unwrap();
    }

    #[test]
    fn a_busy_listener_is_alive_and_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse(_))));
    }
}
