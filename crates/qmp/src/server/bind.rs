//! Where a server listens: a socket that has its permissions from its first moment on.

use rustix::fs::{AtFlags, CWD, Mode, chmodat, lstat};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A listener and its name, which is removed with it unless it leads to somebody else's socket by then.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl Bound {
    /// The listener.
    #[must_use]
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Without it nobody can connect in any case.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`; `mode` says who may connect, as for a file that is written to. A socket that a dead process left is
/// replaced.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if somebody answers there already or it is no socket; whatever the system says.
pub fn bind(path: &Path, mode: u32) -> io::Result<Bound> {
    refuse_if_in_use(path)?;
    // Under another name until it has its permissions.
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}", std::process::id()));
    let staged = PathBuf::from(staged);
    let _ = std::fs::remove_file(&staged);
    let listener = UnixListener::bind(&staged)?;
    let publish = || {
        chmodat(CWD, &staged, Mode::from_raw_mode(mode), AtFlags::empty())?;
        let file = identity(&staged)?;
        std::fs::rename(&staged, path).map(|()| file)
    };
    let file = publish().inspect_err(|_| drop(std::fs::remove_file(&staged)))?;
    Ok(Bound { listener, path: path.to_owned(), file })
}

fn refuse_if_in_use(path: &Path) -> io::Result<()> {
    let in_use =
        |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {why}", path.display())));
    match UnixStream::connect(path) {
        Ok(_) => in_use("served by a process that is alive"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A dead socket and a file that is none answer alike.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            in_use("there is a file that is no socket")
        }
        Err(error) => Err(error),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let stat = lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}
