//! A stamp beside the medium that ties a [snapshot](super) to it: who takes the snapshot up finds it there, or has another medium (a file of
//! the same name on another disk, a copy, one restored from a backup), or somebody has served the medium since. Used by `tenure device`
//! for a guest that goes to another process.
//!
//! The file beside the durable image, with `.given` after its name, is the magic `TENUREGI`, the number of the stamp (16 bytes,
//! big-endian), and the CRC32C of both (4 bytes, big-endian).
//!
//! Guarantees: set and removed durably; one that cannot be read, or is damaged, fits nothing.

use super::resume::ResumeError;
use crate::aptpl::file::{read, remove, replace};
use crate::unit::LogicalUnit;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"TENUREGI";
const LENGTH: usize = 8 + 16 + 4;

/// What ties a snapshot to its medium; no two of them are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u128);

impl LogicalUnit {
    /// Whoever takes up the state that it has now will find `stamp`. A memory LUN has no place for one.
    ///
    /// # Errors
    /// The system's: the stamp may be there, or the one before it.
    pub fn stamp(&self, stamp: Stamp) -> io::Result<()> {
        self.image().map_or(Ok(()), |image| replace(&name(image), &to_bytes(stamp)))
    }

    /// It is about to be served: no state that was saved before is true any more.
    ///
    /// # Errors
    /// The system's: the stamp may still be there.
    pub fn unstamp(&self) -> io::Result<()> {
        self.image().map_or(Ok(()), |image| remove(&name(image)))
    }
}

/// Somebody serves the logical unit without a state that was saved before.
pub(crate) fn forget(image: &Path) -> Result<(), crate::OpenError> {
    remove(&name(image)).map_err(|source| crate::OpenError::File { path: name(image), source })
}

/// Whether `stamp` is beside the image.
pub(super) fn must_be(stamp: Stamp, image: &Path) -> Result<(), ResumeError> {
    match read(&name(image), LENGTH) {
        Ok(found) if found == to_bytes(stamp) => Ok(()),
        Ok(_) => Err(ResumeError::Stamp),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ResumeError::Stamp),
        Err(source) => Err(crate::OpenError::File { path: name(image), source }.into()),
    }
}

fn to_bytes(Stamp(number): Stamp) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &number.to_be_bytes()].concat();
    let sum = crc32c::crc32c(&bytes);
    bytes.extend(sum.to_be_bytes());
    bytes
}

fn name(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".given");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LunSpec;
    use std::fs;

    fn spec(folder: &Path) -> LunSpec {
        format!("file={},size=1M", folder.join("disk").display()).parse().unwrap()
    }

    #[test]
    fn a_stamp_stays_what_it_is() {
        assert_eq!(to_bytes(Stamp(0x0102)), *b"TENUREGI\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\xff\xcc\x63\x80");
    }

    #[test]
    fn a_state_is_taken_up_only_from_the_medium_that_it_was_saved_with_and_before_anybody_serves_it() {
        let folder = tempfile::tempdir().unwrap();
        let unit = LogicalUnit::open_kept(&spec(folder.path())).unwrap();
        let (snapshot, given) = (unit.snapshot().unwrap(), folder.path().join("disk.pr.given"));
        unit.stamp(Stamp(7)).unwrap();
        drop(unit);
        let resume = |stamp| LogicalUnit::resume_given(&spec(folder.path()), &snapshot, Stamp(stamp));
        assert!(matches!(resume(8), Err(ResumeError::Stamp)), "another state's");
        let unit = resume(7).unwrap();
        drop(unit);
        let unit = resume(7).unwrap();
        unit.unstamp().unwrap();
        unit.unstamp().unwrap();
        drop(unit);
        assert!(matches!(resume(7), Err(ResumeError::Stamp)), "it was served");
        for open in [LogicalUnit::open, LogicalUnit::open_kept, LogicalUnit::open_anew] {
            fs::write(&given, to_bytes(Stamp(7))).unwrap();
            drop(open(&spec(folder.path())).unwrap());
            assert!(!given.exists(), "served without the state");
        }
        fs::write(&given, b"TENUREGI").unwrap();
        assert!(matches!(resume(7), Err(ResumeError::Stamp)));
        fs::remove_file(&given).unwrap();
        fs::create_dir(&given).unwrap();
        assert!(resume(7).is_err());
    }
}
