//! A guest's device between two processes: what of it is not in the guest's memory, and what VMMs do not carry for this kind of
//! device. The logical units' own state is opaque here.
//!
//! Format, all numbers big-endian: magic `TENUREVS`, format version (2 bytes), length of the body (4 bytes), CRC32C of the body (4
//! bytes), body. The body of version 1 is: length (1 byte) and name of the guest; number of request queues (2 bytes); number of
//! logical units (2 bytes), for each: number (1 byte), kind (1 byte), flags (1 byte: bit 0 REPORTED
//! LUNS DATA HAS CHANGED waits), length (2 bytes) and text of what page 83h calls it, length
//! (4 bytes) and bytes of its state. A reader takes older versions; whatever is damaged, newer or too long is refused.
//!
//! Used by `tenure device` when a guest moves to another process.

use logical_unit::envelope::{Envelope, EnvelopeError, HEADER, Reader};
use std::collections::BTreeSet;
use thiserror::Error;

/// The newest format.
pub const VERSION: u16 = 1;
/// The longest state in bytes.
pub const MAX_LENGTH: usize = 2 << 20;
const ENVELOPE: Envelope = Envelope { magic: *b"TENUREVS", version: VERSION, longest: MAX_LENGTH - HEADER };

/// Why bytes are not a device's state.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SavedError {
    /// It is cut short or too long, begins otherwise, is newer or damaged.
    #[error("the device's state is not what it should be: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The content contradicts itself.
    #[error("the device's state is inconsistent: {0}")]
    Content(&'static str),
}

/// What carries out a logical unit's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Tenure itself, over a file or a block device.
    Emulated = 1,
    /// A target, over iSCSI: the guest takes its initiator port along.
    Iscsi = 2,
    /// A target or a disk of the host, to which the guest is another initiator port on each host.
    Handed = 3,
}

/// A logical unit in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedLun {
    /// Its number.
    pub number: u8,
    /// What it is.
    pub kind: Kind,
    /// REPORTED LUNS DATA HAS CHANGED waits for the guest.
    pub changed: bool,
    /// What VPD page 83h calls it, as `naa.…`.
    pub name: String,
    /// Its own state.
    pub state: Vec<u8>,
}

/// A device's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The guest, which is the I_T nexus of that name.
    pub guest: String,
    /// Request queues of the device.
    pub request_queues: u16,
    /// Its logical units, by ascending number.
    pub luns: Vec<SavedLun>,
}

impl Saved {
    /// The bytes.
    ///
    /// # Errors
    /// [`EnvelopeError::Length`] if that is more than can be carried.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SavedError> {
        let out = ENVELOPE.seal(&self.body()?);
        if out.len() > MAX_LENGTH { Err(EnvelopeError::Length.into()) } else { Ok(out) }
    }

    fn body(&self) -> Result<Vec<u8>, SavedError> {
        let long = |_| EnvelopeError::Length;
        let mut out = vec![u8::try_from(self.guest.len()).map_err(long)?];
        out.extend(self.guest.as_bytes());
        out.extend(self.request_queues.to_be_bytes());
        out.extend(u16::try_from(self.luns.len()).map_err(long)?.to_be_bytes());
        for lun in &self.luns {
            out.extend([lun.number, lun.kind as u8, u8::from(lun.changed)]);
            out.extend(u16::try_from(lun.name.len()).map_err(long)?.to_be_bytes());
            out.extend(lun.name.as_bytes());
            out.extend(u32::try_from(lun.state.len()).map_err(long)?.to_be_bytes());
            out.extend(&lun.state);
        }
        Ok(out)
    }

    /// Reads a device's state.
    ///
    /// # Errors
    /// [`SavedError`] for anything that [`Saved::to_bytes`] of this or an earlier version cannot have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, SavedError> {
        Self::parse_body(ENVELOPE.open(bytes)?)
    }

    fn parse_body(mut body: Reader<'_>) -> Result<Self, SavedError> {
        let guest = text(body.short()?)?;
        let request_queues = body.u16()?;
        let mut luns = Vec::new();
        for _ in 0..body.u16()? {
            luns.push(lun(&mut body)?);
        }
        body.end()?;
        let numbers: BTreeSet<u8> = luns.iter().map(|lun| lun.number).collect();
        if numbers.len() != luns.len() {
            return Err(SavedError::Content("a logical unit number is there twice"));
        }
        Ok(Self { guest, request_queues, luns })
    }
}

fn text(bytes: &[u8]) -> Result<String, SavedError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| SavedError::Content("a name is no text"))
}

fn lun(body: &mut Reader<'_>) -> Result<SavedLun, SavedError> {
    let [number, kind, flags] = body.array()?;
    if flags > 1 {
        return Err(SavedError::Content("an unknown flag is set"));
    }
    let kind = match kind {
        1 => Kind::Emulated,
        2 => Kind::Iscsi,
        3 => Kind::Handed,
        _ => return Err(SavedError::Content("a logical unit of an unknown kind")),
    };
    let length = body.u16()?;
    let name = text(body.take(length.into())?)?;
    let length = body.length()?;
    let state = body.take(length)?.to_vec();
    Ok(SavedLun { number, kind, changed: flags == 1, name, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Saved {
        let lun = |number, kind, name: &str, state: &[u8]| SavedLun {
            number,
            kind,
            changed: number == 7,
            name: name.into(),
            state: state.to_vec(),
        };
        Saved {
            guest: "db1".into(),
            request_queues: 4,
            luns: vec![
                lun(0, Kind::Emulated, "naa.30000000000000ab", b"state"),
                lun(7, Kind::Iscsi, "eui.1", b""),
            ],
        }
    }

    #[test]
    fn version_1_stays_readable() {
        let golden = include_bytes!("../tests/golden/saved-v1.bin");
        assert_eq!(Saved::parse(golden), Ok(sample()));
        assert_eq!(sample().to_bytes().unwrap(), golden, "and is what this version writes");
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_refused_and_a_newer_one_says_what_to_do() {
        let bytes = sample().to_bytes().unwrap();
        for at in 0..bytes.len() {
            assert!(Saved::parse(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Saved::parse(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        let mut newer = bytes;
        newer[9] = 2;
        let error = Saved::parse(&newer).unwrap_err();
        assert!(error.to_string().contains("update"), "{error}");
    }

    #[test]
    fn more_than_can_be_carried_and_one_number_twice_are_refused() {
        let mut saved = sample();
        saved.luns[1].number = 0;
        let bytes = saved.to_bytes().unwrap();
        assert!(matches!(Saved::parse(&bytes), Err(SavedError::Content(_))));
        saved.luns[0].state = vec![0; MAX_LENGTH];
        assert_eq!(saved.to_bytes(), Err(EnvelopeError::Length.into()));
        let longer = ENVELOPE.seal(&vec![0; MAX_LENGTH]);
        assert_eq!(Saved::parse(&longer), Err(EnvelopeError::Length.into()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            guest in "[a-z]{1,20}",
            request_queues in any::<u16>(),
            luns in prop::collection::btree_map(any::<u8>(), ("[a-z.0-9]{0,30}", prop::collection::vec(any::<u8>(), 0..50)), 0..8),
        ) {
            let lun = |(number, (name, state))| SavedLun { number, kind: Kind::Handed, changed: false, name, state };
            let saved = Saved { guest, request_queues, luns: luns.into_iter().map(lun).collect() };
            prop_assert_eq!(Saved::parse(&saved.to_bytes().unwrap()), Ok(saved));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Saved::parse(&bytes);
            let _ = Saved::parse_body(Reader(&bytes));
        }
    }
}
