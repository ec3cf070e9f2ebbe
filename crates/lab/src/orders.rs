//! Orders that come from outside as lines of a file that grows: how a program in a VM is told something while it runs.

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Orders that are appended to a file.
#[derive(Debug)]
pub(crate) struct Orders<T> {
    path: PathBuf,
    done: usize,
    kind: PhantomData<T>,
}

impl<T: DeserializeOwned> Orders<T> {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into(), done: 0, kind: PhantomData }
    }

    /// The next, with its number, if it is there in full.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, T)>> {
        let Ok(text) = std::fs::read_to_string(&self.path) else { return Ok(None) };
        let Some(line) = text.split_inclusive('\n').nth(self.done).filter(|line| line.ends_with('\n')) else {
            return Ok(None);
        };
        let order = serde_json::from_str(line).context("an order")?;
        self.done += 1;
        Ok(Some((self.done - 1, order)))
    }
}

/// Appends one.
pub(crate) fn give(path: &Path, order: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(order)?;
    line.push('\n');
    Ok(OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_once_each_and_half_a_line_is_waited_for() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut orders = Orders::<(u8, String)>::new(file.path());
        assert!(orders.next().unwrap().is_none());
        file.write_all(b"[1,\"a").unwrap();
        assert!(orders.next().unwrap().is_none());
        file.write_all(b"\"]\n").unwrap();
        assert_eq!(orders.next().unwrap(), Some((0, (1, "a".into()))));
        assert!(orders.next().unwrap().is_none());
        give(file.path(), &(2, "b")).unwrap();
        assert_eq!(orders.next().unwrap(), Some((1, (2, "b".into()))));
    }
}
