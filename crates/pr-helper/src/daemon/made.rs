//! A file that this process made and removes at its end, unless somebody else's has taken its place by then.

use rustix::fs::Stat;
use std::path::{Path, PathBuf};

/// A name in the file system and the file that had it when it was made.
#[derive(Debug)]
pub(super) struct Made {
    path: PathBuf,
    file: (u64, u64),
}

impl Made {
    pub(super) fn new(path: PathBuf, file: &Stat) -> Self {
        Self { path, file: (file.st_dev, file.st_ino) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads to this file.
    pub(super) fn is_current(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
}
