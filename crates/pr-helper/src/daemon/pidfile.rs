//! The pidfile: made and locked the way QEMU's programs do it, so that two helpers never share one.

use super::error::StartError;
use crate::listening::Made;
use rustix::fs::{FlockOperation, fcntl_lock, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A pidfile with this process's number. The lock is a process's (fcntl(2)): it lasts while the file is open.
#[derive(Debug)]
pub(super) struct Pidfile {
    made: Made,
    _locked: File,
}

impl Pidfile {
    pub(super) fn make(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Pidfile { path: path.to_owned(), source };
        loop {
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
    }

    pub(super) fn path(&self) -> &Path {
        self.made.path()
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn write(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}
