//! What is durable about where a guest is: one file for each guest in `DIR/devices`, replaced as a whole before each step.
//!
//! Format, all numbers big-endian: magic `TENUREGU`, format version (2 bytes), length of the body (4 bytes), CRC32C of the body (4
//! bytes), body. The body of version 1 is: place (1 byte: 0 here, 1 expected, 2 giving, 3 away, 4 taking); handover (16 bytes);
//! length (1 byte) and name of the other host; length (4 bytes) and bytes of the device's state.
//!
//! Guarantees: after any crash the file has either the place before or the one after; a damaged or newer one is refused and left
//! as it is; one process at a time has it.

use crate::exit::Failure;
use anyhow::{Context, anyhow};
use peer::HostName;
use peer::message::Id;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use vhost_user_scsi::saved;

const MAGIC: [u8; 8] = *b"TENUREGU";
const VERSION: u16 = 1;
const HEADER: usize = 18;
/// A state and what is around it.
const LONGEST: usize = saved::MAX_LENGTH + 1024;

/// Where a guest is, as this process has made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command::device) enum Place {
    /// Here, and nobody else may serve it. With a state, the LUNs are to be opened with it first.
    Here { state: Vec<u8> },
    /// At that host, from where it is to come.
    Expected { from: HostName },
    /// Its state was given to that host, which has not said yet that it is in force there.
    Giving { id: Id, to: HostName, state: Vec<u8> },
    /// At that host.
    Away { id: Id, to: HostName },
    /// Its state came from that host, which may not know yet that it is in force here.
    Taking { id: Id, from: HostName, state: Vec<u8> },
}

impl Place {
    /// Here, with nothing to be done first.
    pub(in crate::command::device) const HERE: Self = Self::Here { state: Vec::new() };

    /// One word for it.
    pub(in crate::command::device) const fn word(&self) -> &'static str {
        match self {
            Self::Here { .. } => "here",
            Self::Expected { .. } => "expected",
            Self::Giving { .. } => "giving",
            Self::Away { .. } => "away",
            Self::Taking { .. } => "taking",
        }
    }

    /// The other host.
    pub(in crate::command::device) const fn other(&self) -> Option<&HostName> {
        match self {
            Self::Here { .. } => None,
            Self::Expected { from } | Self::Taking { from, .. } => Some(from),
            Self::Giving { to, .. } | Self::Away { to, .. } => Some(to),
        }
    }

    /// The state of the device, where it is on its way.
    pub(in crate::command::device) fn state(&self) -> &[u8] {
        match self {
            Self::Here { state } | Self::Giving { state, .. } | Self::Taking { state, .. } => state,
            Self::Expected { .. } | Self::Away { .. } => &[],
        }
    }

    fn id(&self) -> Id {
        match self {
            Self::Here { .. } | Self::Expected { .. } => Id(0),
            Self::Giving { id, .. } | Self::Away { id, .. } | Self::Taking { id, .. } => *id,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Here { .. } => 0,
            Self::Expected { .. } => 1,
            Self::Giving { .. } => 2,
            Self::Away { .. } => 3,
            Self::Taking { .. } => 4,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = vec![self.code()];
        body.extend(self.id().0.to_be_bytes());
        let other = self.other().map_or("", HostName::as_str);
        body.push(u8::try_from(other.len()).unwrap_or(u8::MAX));
        body.extend(other.as_bytes());
        body.extend(u32::try_from(self.state().len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend(self.state());
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_be_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(crc32c::crc32c(&body).to_be_bytes());
        out.extend(body);
        out
    }

    /// What is wrong with the bytes, if they are none of [`Self::to_bytes`].
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let cut = || "it is cut short or has bytes behind its end".to_owned();
        let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(cut)?;
        let mut header = Reader(header);
        if header.array() != Some(MAGIC) {
            return Err("it does not begin like the record of a guest".into());
        }
        match header.array().map(u16::from_be_bytes) {
            Some(VERSION) => {}
            version => return Err(format!("its format version {} is not known here", version.unwrap_or(0))),
        }
        if header.number().ok_or_else(cut)? != body.len() {
            return Err(cut());
        }
        if header.array().map(u32::from_be_bytes) != Some(crc32c::crc32c(body)) {
            return Err("its checksum does not match its content".into());
        }
        Self::parse_body(Reader(body)).ok_or_else(|| "its content is inconsistent".into())
    }

    fn parse_body(mut body: Reader<'_>) -> Option<Self> {
        let [code] = body.array()?;
        let id = Id(u128::from_be_bytes(body.array()?));
        let [length] = body.array()?;
        let other = std::str::from_utf8(body.take(length.into())?).ok()?;
        let length = body.number()?;
        let state = body.take(length)?.to_vec();
        if !body.0.is_empty() {
            return None;
        }
        let other: Option<HostName> = other.parse().ok();
        match (code, other) {
            (0, None) => Some(Self::Here { state }),
            (1, Some(from)) if state.is_empty() => Some(Self::Expected { from }),
            (2, Some(to)) => Some(Self::Giving { id, to, state }),
            (3, Some(to)) if state.is_empty() => Some(Self::Away { id, to }),
            (4, Some(from)) => Some(Self::Taking { id, from, state }),
            _ => None,
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }
}

/// A guest's file, of which this process is the only user.
#[derive(Debug)]
pub(in crate::command::device) struct RecordFile {
    path: PathBuf,
    lock: File,
}

impl RecordFile {
    /// Opens the record of `guest` in `state`, making directories that are missing; and what it says.
    ///
    /// # Errors
    /// Refused if another process has it, or it is damaged or newer; failed if it cannot be read.
    pub(in crate::command::device) fn open(
        state: &Path,
        guest: &str,
    ) -> Result<(Self, Option<Place>), Failure> {
        let folder = state.join("devices");
        create(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(ledger::file_name(guest));
        let lock = lock(&path)?;
        let place = Self::read(&path)?;
        Ok((Self { path, lock }, place))
    }

    /// What the record of `guest` in `state` says, for who only wants to know whether the guest is here. None where there is none, or it
    /// cannot be looked for.
    ///
    /// # Errors
    /// Refused if it is damaged or newer.
    pub(in crate::command::device) fn peek(state: &Path, guest: &str) -> Result<Option<Place>, Failure> {
        let path = state.join("devices").join(ledger::file_name(guest));
        match File::open(&path) {
            Ok(_) => Self::read(&path),
            Err(_) => Ok(None),
        }
    }

    fn read(path: &Path) -> Result<Option<Place>, Failure> {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(anyhow!(error).context(path.display().to_string()).into()),
        }
        let unfit = |why| {
            Failure::refused(format!(
                "{}: {why}; it says which host has the guest: if that is this one for certain, remove the file",
                path.display()
            ))
        };
        Place::parse(&bytes).map(Some).map_err(unfit)
    }

    /// Makes `place` durable, in place of what was there.
    ///
    /// # Errors
    /// The system's; what was there before holds then, or what was to be.
    pub(in crate::command::device) fn write(&self, place: &Place) -> io::Result<()> {
        let beside = beside(&self.path, "%new");
        let mut file = File::create(&beside)?;
        file.write_all(&place.to_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for RecordFile {
    /// Closing the file would not do: a process that another thread has just forked holds a copy of it until it calls exec.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn create(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn lock(path: &Path) -> Result<File, Failure> {
    let path = beside(path, "%lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Failure::refused(format!(
            "{}: another device of this host has that guest; each has a --state of its own",
            path.display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(anyhow!(error).context(path.display().to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn places() -> Vec<Place> {
        let host = || "there.example".parse::<HostName>().unwrap();
        let (id, state) = (Id(0x0123_4567_89AB_CDEF), b"state".to_vec());
        vec![
            Place::HERE,
            Place::Here { state: state.clone() },
            Place::Expected { from: host() },
            Place::Giving { id, to: host(), state: state.clone() },
            Place::Away { id, to: host() },
            Place::Taking { id, from: host(), state },
        ]
    }

    #[test]
    fn version_1_stays_readable() {
        let golden = include_bytes!("../../../../tests/golden/guest-record-v1.bin");
        assert_eq!(Place::parse(golden).as_ref(), Ok(&places()[3]));
        assert_eq!(places()[3].to_bytes(), golden, "and is what this version writes");
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for place in places() {
            let bytes = place.to_bytes();
            assert_eq!(Place::parse(&bytes).as_ref(), Ok(&place));
            for at in 0..bytes.len() {
                assert!(Place::parse(&bytes[..at]).is_err(), "{place:?} cut at {at}");
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert!(Place::parse(&damaged).is_err(), "{place:?} byte {at}");
            }
        }
    }

    #[test]
    fn a_record_outlives_its_process_and_has_one_user() {
        let directory = tempfile::TempDir::new().unwrap();
        let (file, found) = RecordFile::open(directory.path(), "a/b").unwrap();
        assert_eq!(found, None);
        for place in places() {
            file.write(&place).unwrap();
            assert_eq!(RecordFile::peek(directory.path(), "a/b").unwrap(), Some(place));
        }
        assert_eq!(RecordFile::open(directory.path(), "a/b").unwrap_err().exit, Exit::Refused);
        drop(file);
        let (_file, found) = RecordFile::open(directory.path(), "a/b").unwrap();
        assert_eq!(found, places().pop());
        assert_eq!(RecordFile::peek(directory.path(), "other").unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_refused_and_stays() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = directory.path().join("devices");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a"), b"TENUREGU").unwrap();
        assert_eq!(RecordFile::open(directory.path(), "a").unwrap_err().exit, Exit::Refused);
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"TENUREGU");
    }
}
