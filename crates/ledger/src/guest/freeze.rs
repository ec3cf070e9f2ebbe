//! The freeze lock of a logical unit: shared by every PERSISTENT RESERVE OUT of the guest, held alone by a handover.
//!
//! Each is a file in the guest's directory. A target can name any number of logical units; the files are about as many as there
//! may be records, and those that nobody holds and nothing is recorded of make room for others.

use super::{Guest, MOST_UNITS};
use crate::error::Error;
use crate::lock::{Lock, Mode};
use crate::names::{self, LunId};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FlockOperation, OFlags, flock, fstat, unlinkat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::time::Instant;

const SUFFIX: &str = ".freeze";

impl Guest {
    /// Holds the freeze lock of a logical unit together with others: for one PERSISTENT RESERVE OUT of the guest.
    ///
    /// # Errors
    /// [`Error::Locked`] if a handover holds it beyond the deadline; [`Error::Full`] for more logical units than can be
    /// recorded; [`Error::Io`].
    pub fn share(&self, lun: &LunId, deadline: Instant) -> Result<Lock, Error> {
        self.freeze_lock(lun, Mode::Shared, deadline)
    }

    /// Holds the freeze lock of a logical unit alone: no PERSISTENT RESERVE OUT of the guest is under way or begins.
    ///
    /// # Errors
    /// [`Error::Locked`] if others hold it beyond the deadline; [`Error::Full`]; [`Error::Io`].
    pub fn freeze(&self, lun: &LunId, deadline: Instant) -> Result<Lock, Error> {
        self.freeze_lock(lun, Mode::Exclusive, deadline)
    }

    fn freeze_lock(&self, lun: &LunId, mode: Mode, deadline: Instant) -> Result<Lock, Error> {
        names::check(&lun.0)?;
        let (name, idle) = (|| freeze_name(lun), self.freezes.of(lun));
        self.lock_open(&idle, mode, deadline, || self.freeze_file(&name()), name)
    }

    fn freeze_file(&self, name: &str) -> Result<OwnedFd, Error> {
        match self.lock_file(name, OFlags::empty()) {
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                if self.freezes.are_to_be_counted() {
                    self.make_room()?;
                }
                self.freezes.made_one();
                self.lock_file(name, OFlags::CREATE)
            }
            opened => opened,
        }
    }

    fn make_room(&self) -> Result<(), Error> {
        let path = || self.folder.path.clone();
        let mut names = self.folder.names().map_err(Error::io("read", path()))?;
        names.retain(|name| name.ends_with(SUFFIX));
        if names.len() < MOST_UNITS {
            return Ok(());
        }
        let recorded: BTreeSet<String> =
            self.inner().log.records().map(|record| freeze_name(&record.lun)).collect();
        let idle = |name: &&String| !recorded.contains(*name) && self.remove_idle(name);
        match names.iter().filter(idle).count() {
            0 => Err(Error::Full { path: path(), what: "a guest has at most 4096 logical units" }),
            _ => Ok(()),
        }
    }

    /// Removes a freeze lock that nobody holds.
    fn remove_idle(&self, name: &str) -> bool {
        let Ok(file) = self.folder.open(name, OFlags::RDWR) else { return false };
        self.remove_locked(&file, name)
    }

    /// `file` had this name when it was opened. By now another may have removed it and a third have made it anew, and only
    /// who holds the lock of the file that has the name may remove the name.
    fn remove_locked(&self, file: &OwnedFd, name: &str) -> bool {
        flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && fstat(file).is_ok_and(|found| found.st_nlink > 0)
            && unlinkat(&self.folder.fd, name, AtFlags::empty()).is_ok()
    }
}

fn freeze_name(lun: &LunId) -> String {
    format!("{}{SUFFIX}", names::file_name(&lun.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ledger, Owner};

    #[test]
    fn two_that_make_room_at_once_remove_no_lock_that_is_held() {
        let state = tempfile::tempdir().unwrap();
        let open = || Ledger::open(state.path()).unwrap().guest(&Owner("db".into())).unwrap();
        let (guest, agent) = (open(), open());
        let lun = LunId("naa.6001".into());
        let name = freeze_name(&lun);
        drop(guest.share(&lun, Instant::now()).unwrap());
        let opened_first = guest.folder.open(&name, OFlags::RDWR).unwrap();
        assert!(agent.remove_idle(&name));
        let command = guest.share(&lun, Instant::now()).unwrap();
        assert!(!guest.remove_locked(&opened_first, &name));
        agent.freeze(&lun, Instant::now()).expect_err("a command is under way");
        drop(command);
    }
}
