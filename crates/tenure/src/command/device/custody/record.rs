//! What is durable about where a guest is: one file for each guest in `DIR/devices`, replaced as a whole before each step.
//!
//! Format, all numbers big-endian: magic `TENUREGU`, format version (2 bytes), length of the body (4 bytes), CRC32C of the body (4
//! bytes), body. The body of version 1 is: length (1 byte) and name of the host that it is kept by; the same of the guest; how often
//! the guest has changed hands (8 bytes); place (1 byte: 0 here, 1 expected, 2 giving, 3 away, 4 taking, 5 owned); handover (16
//! bytes); length (1 byte) and name of the other host; length (4 bytes) and bytes of the device's state.
//!
//! Guarantees: after any crash the file has either the place before or the one after; a damaged or newer one is refused and left
//! as it is, and so is another host's; one process at a time has it; what was read at its start is durable.

use super::place;
use crate::exit::Failure;
use anyhow::{Context, anyhow};
use logical_unit::envelope::{Envelope, EnvelopeError, HEADER, Reader};
use peer::HostName;
use peer::message::Id;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vhost_user_scsi::saved;

/// A state and what is around it.
const LONGEST: usize = saved::MAX_LENGTH + 1024;
const ENVELOPE: Envelope = Envelope { magic: *b"TENUREGU", version: 1, longest: LONGEST - HEADER };

/// A device's state.
pub(in crate::command::device) type State = Arc<[u8]>;
pub(in crate::command::device) type Place = place::Place<HostName, State>;
pub(in crate::command::device) type Entry = place::Entry<HostName, State>;

/// Whose record it is: on a shared file system it could be another host's, or of another guest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    host: String,
    guest: String,
}

const fn code(place: &Place) -> u8 {
    match place {
        Place::Here => 0,
        Place::Expected { .. } => 1,
        Place::Giving { .. } => 2,
        Place::Away { .. } => 3,
        Place::Taking { .. } => 4,
        Place::Owned { .. } => 5,
    }
}

fn to_bytes(owner: &Owner, entry: &Entry) -> Vec<u8> {
    let place = &entry.place;
    let mut body = Vec::new();
    put_short(&mut body, &owner.host);
    put_short(&mut body, &owner.guest);
    body.extend(entry.epoch.to_be_bytes());
    body.push(code(place));
    body.extend(place.id().0.to_be_bytes());
    put_short(&mut body, place.other().map_or("", HostName::as_str));
    let state: &[u8] = place.state().map_or(&[], |state| state);
    body.extend(u32::try_from(state.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(state);
    ENVELOPE.seal(&body)
}

/// A host's or guest's name, which is no longer than 255 bytes.
fn put_short(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(text.bytes().take(length.into()));
}

/// What is wrong with the bytes, if they are none of [`to_bytes`].
fn parse(bytes: &[u8]) -> Result<(Owner, Entry), String> {
    let body = ENVELOPE.open(bytes).map_err(|error| error.to_string())?;
    let (owner, epoch, place) = parse_body(body).map_err(|error| error.to_string())?;
    let place = place.ok_or("its content is inconsistent")?;
    Ok((owner, Entry { epoch, place }))
}

/// Whose it is, how often the guest has changed hands, and where it is, if that makes sense.
fn parse_body(mut body: Reader<'_>) -> Result<(Owner, u64, Option<Place>), EnvelopeError> {
    let mut name = || body.short().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let owner = Owner { host: name()?, guest: name()? };
    let epoch = body.u64()?;
    let code = body.byte()?;
    let id = Id(u128::from_be_bytes(body.array()?));
    let other = body.short()?;
    let other: Option<HostName> = std::str::from_utf8(other).ok().and_then(|name| name.parse().ok());
    let length = body.length()?;
    let state: State = body.take(length)?.into();
    body.end()?;
    let place = match (code, other) {
        (0, None) if state.is_empty() => Some(Place::Here),
        (1, Some(from)) if state.is_empty() => Some(Place::Expected { from }),
        (2, Some(to)) => Some(Place::Giving { id, to, state }),
        (3, Some(to)) if state.is_empty() => Some(Place::Away { id, to }),
        (4, Some(from)) => Some(Place::Taking { id, from, state }),
        (5, None) => Some(Place::Owned { state }),
        _ => None,
    };
    Ok((owner, epoch, place))
}

/// A guest's file, of which this process is the only user.
#[derive(Debug)]
pub(in crate::command::device) struct RecordFile {
    path: PathBuf,
    owner: Owner,
    lock: File,
}

impl RecordFile {
    /// Opens the record that `host` has of `guest` in `state`, making directories that are missing; and what it says.
    ///
    /// # Errors
    /// Refused if another process has it, or it is damaged, newer or another host's; failed if it cannot be read, or made durable.
    pub(in crate::command::device) fn open(
        state: &Path,
        host: &HostName,
        guest: &str,
    ) -> Result<(Self, Option<Entry>), Failure> {
        let folder = state.join("devices");
        create(&folder).with_context(|| format!("--state: {}", folder.display()))?;
        let path = folder.join(ledger::file_name(guest));
        let lock = lock(&path)?;
        let owner = Owner { host: host.to_string(), guest: guest.to_owned() };
        let entry = match Self::read(&path)? {
            Some((found, _)) if found != owner => return Err(foreign(&path, &found)),
            found => found.map(|(_, entry)| entry),
        };
        let own = Self { path, owner, lock };
        // Who wrote it may have been killed before it was durable: what was read is to be true after a power failure as well.
        let durable = entry.as_ref().map_or(Ok(()), |entry| own.write(entry));
        durable.with_context(|| own.path.display().to_string())?;
        Ok((own, entry))
    }

    /// What the record of `guest` in `state` says, for who only wants to know whether the guest is here. None where there is none, or only
    /// another user may know.
    ///
    /// # Errors
    /// Refused if it is damaged or newer, or a device has it; failed if it cannot be read.
    pub(in crate::command::device) fn peek(state: &Path, guest: &str) -> Result<Option<Entry>, Failure> {
        let path = state.join("devices").join(ledger::file_name(guest));
        match File::open(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Ok(None)
            }
            _ => {
                let _locked = lock(&path)?;
                Ok(Self::read(&path)?.map(|(_, entry)| entry))
            }
        }
    }

    fn read(path: &Path) -> Result<Option<(Owner, Entry)>, Failure> {
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
        parse(&bytes).map(Some).map_err(unfit)
    }

    /// Makes `entry` durable, in place of what was there.
    ///
    /// # Errors
    /// The system's; what was there before holds then, or what was to be.
    pub(in crate::command::device) fn write(&self, entry: &Entry) -> io::Result<()> {
        let beside = beside(&self.path, "%new");
        let mut file = File::create(&beside)?;
        file.write_all(&to_bytes(&self.owner, entry))?;
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

fn foreign(path: &Path, found: &Owner) -> Failure {
    Failure::refused(format!(
        "{}: it is the record of guest {} at host {there}: every host has a --state of its own, and keeps its name: if this is that host, \
         give --host {there}",
        path.display(),
        found.guest,
        there = found.host
    ))
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
    let file = file.with_context(|| format!("--state: {}", path.display()))?;
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

    fn places() -> Vec<Entry> {
        let host = || "there.example".parse::<HostName>().unwrap();
        let (id, state) = (Id(0x0123_4567_89AB_CDEF), State::from(*b"state"));
        let places = [
            Place::Here,
            Place::Expected { from: host() },
            Place::Giving { id, to: host(), state: state.clone() },
            Place::Away { id, to: host() },
            Place::Taking { id, from: host(), state: state.clone() },
            Place::Owned { state },
        ];
        places.into_iter().map(|place| Entry { epoch: 7, place }).collect()
    }

    fn owner() -> Owner {
        Owner { host: "here".into(), guest: "a/b".into() }
    }

    fn open(state: &Path, host: &str) -> Result<(RecordFile, Option<Entry>), Exit> {
        RecordFile::open(state, &host.parse().unwrap(), "a/b").map_err(|failure| failure.exit)
    }

    #[test]
    fn version_1_stays_readable() {
        let golden = include_bytes!("../../../../tests/golden/guest-record-v1.bin");
        assert_eq!(to_bytes(&owner(), &places()[2]), golden, "what this version writes");
        assert_eq!(parse(golden), Ok((owner(), places()[2].clone())));
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for entry in places() {
            let bytes = to_bytes(&owner(), &entry);
            assert_eq!(parse(&bytes), Ok((owner(), entry.clone())));
            for at in 0..bytes.len() {
                assert!(parse(&bytes[..at]).is_err(), "{entry:?} cut at {at}");
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert!(parse(&damaged).is_err(), "{entry:?} byte {at}");
            }
        }
    }

    #[test]
    fn a_record_outlives_its_process_and_has_one_user() {
        let directory = tempfile::TempDir::new().unwrap();
        let (file, found) = open(directory.path(), "here").unwrap();
        assert_eq!(found, None);
        for entry in places() {
            file.write(&entry).unwrap();
        }
        assert_eq!(open(directory.path(), "here").unwrap_err(), Exit::Refused);
        assert_eq!(RecordFile::peek(directory.path(), "a/b").unwrap_err().exit, Exit::Refused);
        drop(file);
        assert_eq!(RecordFile::peek(directory.path(), "a/b").unwrap(), places().pop());
        let (_file, found) = open(directory.path(), "here").unwrap();
        assert_eq!(found, places().pop());
        assert_eq!(RecordFile::peek(directory.path(), "other").unwrap(), None);
    }

    #[test]
    fn what_is_read_is_made_durable_before_anybody_is_told_of_it() {
        let directory = tempfile::TempDir::new().unwrap();
        let (file, _) = open(directory.path(), "here").unwrap();
        file.write(&places()[3]).unwrap();
        let new = beside(&file.path, "%new");
        drop(file);
        fs::create_dir(&new).unwrap();
        assert_eq!(open(directory.path(), "here").unwrap_err(), Exit::Failed);
        fs::remove_dir(&new).unwrap();
        assert_eq!(open(directory.path(), "here").unwrap().1, Some(places().swap_remove(3)));
    }

    #[test]
    fn a_record_of_another_host_is_left_alone() {
        let directory = tempfile::TempDir::new().unwrap();
        open(directory.path(), "here").unwrap().0.write(&places()[0]).unwrap();
        assert_eq!(open(directory.path(), "there").unwrap_err(), Exit::Refused);
        assert_eq!(open(directory.path(), "here").unwrap().1, Some(places().swap_remove(0)));
    }

    #[test]
    fn a_damaged_record_is_refused_and_stays() {
        let directory = tempfile::TempDir::new().unwrap();
        let folder = directory.path().join("devices");
        fs::create_dir(&folder).unwrap();
        let path = folder.join(ledger::file_name("a/b"));
        fs::write(&path, b"TENUREGU").unwrap();
        assert_eq!(open(directory.path(), "here").unwrap_err(), Exit::Refused);
        assert_eq!(fs::read(path).unwrap(), b"TENUREGU");
    }
}
