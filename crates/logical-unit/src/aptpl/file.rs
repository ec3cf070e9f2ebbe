//! The durable image as a file: replaced whole or not at all, and never overwritten when it is damaged.

use super::{Image, ImageError, MAX_LENGTH};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Why the image cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the reservation file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be written; what it held before is still there.
    #[error("cannot write the reservation file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not an image that this program can read. It is left as it is.
    #[error(
        "the reservation file {} cannot be used; restore it from a copy or use the program that wrote it; \
         to give up the registrations it holds, move it away and start again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
}

/// Reads the image at `path`; `None` if there is no such file.
///
/// # Errors
/// [`FileError::Read`], or [`FileError::Damaged`] for a file that is damaged or of a later format.
pub fn load(path: &Path) -> Result<Option<Image>, FileError> {
    let bytes = match read(path, MAX_LENGTH) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path: path.to_owned(), source }),
    };
    let image =
        Image::parse(&bytes).map_err(|source| FileError::Damaged { path: path.to_owned(), source })?;
    Ok(Some(image))
}

/// One byte more than the `longest` that it can have, so that a longer file is seen to be one.
pub(crate) fn read(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the image so that after any crash the file holds either the old or the new one: a new file
/// beside it, synced, renamed over it, the directory synced.
///
/// # Errors
/// [`FileError::Write`]; the old image is then still in force, unless only the last sync failed.
pub fn save(path: &Path, image: &Image) -> Result<(), FileError> {
    replace(path, &image.to_bytes()).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Durably; after a crash the file is the old one or this.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside: OsString = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// Removes a file durably, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| File::open(folder_of(path))?.sync_all()),
    }
}

/// A name alone is one of the current directory.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
