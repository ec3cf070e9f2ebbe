//! Hands a guest's records to the user of `-u`, who could not open its files otherwise.
//!
//! The directory may be the user's already, and what lies in it the user's choice: nothing is followed, and a file
//! that has another name elsewhere is left alone, because that name could be `/etc/shadow`.

use super::{Account, PrivilegeError};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Result;
use std::path::Path;

/// STATE/guests/GUEST has files alone, so this is one more.
const DEPTH_MAX: usize = 2;
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Gives `directory` and what is in it to `account`.
pub(super) fn give(directory: &Path, account: Account) -> std::result::Result<(), PrivilegeError> {
    fs::openat(CWD, directory, FLAGS | OFlags::DIRECTORY, Mode::empty())
        .and_then(|opened| give_directory(opened, account, DEPTH_MAX))
        .map_err(|errno| PrivilegeError::Ownership { path: directory.to_owned(), source: errno.into() })
}

/// What is in it first: from the moment the directory is theirs, the user could exchange its entries.
fn give_directory(directory: OwnedFd, account: Account, depth: usize) -> Result<()> {
    if depth > 0 {
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                give_entry(&directory, entry.file_name(), account, depth)?;
            }
        }
    }
    fs::fchown(directory, account.uid, account.gid)
}

fn give_entry(directory: &OwnedFd, name: &std::ffi::CStr, account: Account, depth: usize) -> Result<()> {
    let seen = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !givable(&seen) {
        return Ok(());
    }
    let entry = fs::openat(directory, name, FLAGS, Mode::empty())?;
    let opened = fs::fstat(&entry)?;
    match FileType::from_raw_mode(opened.st_mode) {
        FileType::Directory => give_directory(entry, account, depth - 1),
        _ if givable(&opened) => fs::fchown(entry, account.uid, account.gid),
        _ => Ok(()),
    }
}

/// Directories, and files that have one name only.
fn givable(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => stat.st_nlink == 1,
        _ => false,
    }
}
