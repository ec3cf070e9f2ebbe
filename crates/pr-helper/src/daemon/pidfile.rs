//! The pidfile: made and locked the way QEMU's programs do it, so that two helpers never share one.

use super::error::StartError;
use crate::listening::Made;
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// How often a file is taken that has lost its name by then.
const TRIES: u32 = 16;

/// A pidfile with this process's number. The lock is a process's (fcntl(2)): it lasts while the file is open.
#[derive(Debug)]
pub(super) struct Pidfile {
    made: Made,
    _locked: File,
}

impl Pidfile {
    pub(super) fn make(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Pidfile { path: path.to_owned(), source };
        for _ in 0..TRIES {
            let file = open(path).map_err(failed)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => return Err(StartError::PidfileLocked(path.to_owned())),
                Err(errno) => return Err(failed(errno.into())),
            }
            let made = Made::new(path.to_owned(), &fstat(&file).map_err(|errno| failed(errno.into()))?);
            // Its owner may have removed it between opening and locking; then the lock is on a file without a name.
            if made.is_current() {
                write(&file).map_err(failed)?;
                return Ok(Self { made, _locked: file });
            }
        }
        Err(failed(io::Error::other("it is replaced again and again")))
    }

    pub(super) fn path(&self) -> &Path {
        self.made.path()
    }
}

/// Never what a link leads to, which would be emptied, and waits for nobody behind a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is there and is no file")),
    }
}

fn write(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_or_what_is_no_file_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("precious"), "data").unwrap();
        symlink(path("precious"), path("link")).unwrap();
        symlink(path("nothing"), path("dangling")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["link", "dangling", "directory", "fifo"] {
            let refused = Pidfile::make(&path(name)).unwrap_err();
            assert!(matches!(refused, StartError::Pidfile { .. }), "{name}: {refused}");
            assert!(fs::symlink_metadata(path(name)).is_ok());
        }
        assert_eq!(fs::read(path("precious")).unwrap(), b"data");
        assert!(!path("nothing").exists());
    }
}
