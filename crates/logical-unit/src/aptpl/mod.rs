//! The durable image of APTPL (SPC-4 5.13.5): what a logical unit keeps through power loss.
//!
//! Format, all numbers big-endian: magic `TENUREPR`, format version (2 bytes), length of the body
//! (4 bytes), CRC32C of the body (4 bytes), body. The body of version 1 is: flags (1 byte: bit 0 APTPL,
//! bit 1 information lost), TYPE (1 byte, 0 without a reservation), index of the single holder (4 bytes,
//! FFFF_FFFFh for none), number of registrations (4 bytes), and for each: key (8 bytes), flags (1 byte:
//! bit 0 ALL_TG_PT), relative target port (2 bytes), length (2 bytes) and bytes of the TransportID.
//!
//! Registrations are saved by name, for a handle means nothing after a restart. [`Image::parse`] refuses
//! whatever is damaged or newer; it never guesses.

pub(crate) mod file;

pub use file::{FileError, load, save};

use crate::envelope::{Envelope, EnvelopeError, HEADER, Reader};
use crate::reservations::{Holder, Registration, Reservation, Reservations};
use crate::{Directory, ItNexus, PrUnit, Profile};
use scsi::TransportId;
use scsi::pr::{Key, ReservationType};

const MAGIC: [u8; 8] = *b"TENUREPR";
const VERSION: u16 = 1;
const NO_HOLDER: u32 = u32::MAX;
/// The longest body: more registrations than any profile takes, each as long as can be.
const LONGEST_BODY: usize = 10 + 65_536 * (13 + scsi::transport_id::MAX_LENGTH);
/// The largest image in bytes; a longer file is not one.
pub const MAX_LENGTH: usize = HEADER + LONGEST_BODY;
const ENVELOPE: Envelope = Envelope { magic: MAGIC, version: VERSION, longest: LONGEST_BODY };

/// Why bytes are not a durable image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It is cut short or too long, begins otherwise, is newer or damaged.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The content contradicts itself.
    #[error("its content is inconsistent: {0}")]
    Content(&'static str),
}

/// A saved registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRegistration {
    /// The nexus by its names.
    pub nexus: ItNexus,
    /// Its key, not zero.
    pub key: Key,
    /// Registered by ALL_TG_PT.
    pub all_target_ports: bool,
}

/// What non-volatile memory holds. PRGENERATION is not part of it: it restarts at zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The last valid APTPL. If it is zero, nothing else is kept.
    pub aptpl: bool,
    /// The reservation information is lost.
    pub lost: bool,
    /// The registrations.
    pub registrations: Vec<SavedRegistration>,
    /// The reservation: its type, and the single holder by its place in `registrations`; `None` for the
    /// all registrants types.
    pub reservation: Option<(ReservationType, Option<u32>)>,
}

impl Image {
    /// What must be durable of `unit` now.
    #[must_use]
    pub fn of(unit: &PrUnit, directory: &dyn Directory) -> Self {
        let state = unit.reservations();
        let mut image = Self { aptpl: state.aptpl(), lost: state.is_lost(), ..Self::default() };
        if !state.aptpl() {
            return image;
        }
        let mut holder = None;
        for one in state.registrations().iter() {
            let Some(nexus) = directory.nexus(one.nexus).cloned() else { continue };
            if state.reservation().is_some_and(|held| held.holder == Holder::One(one.nexus)) {
                holder = u32::try_from(image.registrations.len()).ok();
            }
            let (key, all_target_ports) = (one.key, one.all_target_ports);
            image.registrations.push(SavedRegistration { nexus, key, all_target_ports });
        }
        image.reservation = state.reservation().map(|held| (held.kind, holder));
        image
    }

    /// The logical unit after power on.
    ///
    /// # Errors
    /// [`ImageError::Content`] if `directory` has no place for a registered nexus.
    pub fn restore(
        &self,
        profile: &'static Profile,
        directory: &mut dyn Directory,
    ) -> Result<PrUnit, ImageError> {
        let mut registrations = Vec::with_capacity(self.registrations.len());
        for saved in &self.registrations {
            let no_place = ImageError::Content("a registered nexus is not one of this target");
            let nexus = directory.resolve(&saved.nexus).ok_or(no_place)?;
            let (key, all_target_ports) = (saved.key, saved.all_target_ports);
            registrations.push(Registration { nexus, key, all_target_ports });
        }
        let reservation = self.reservation.map(|(kind, holder)| {
            let single = holder.and_then(|at| registrations.get(usize::try_from(at).ok()?));
            let first = registrations.iter().map(|one| one.nexus).min();
            let marked = first.filter(|_| profile.marked_holder);
            let holder = single.map_or(Holder::All { marked }, |one| Holder::One(one.nexus));
            Reservation { kind, holder }
        });
        // Without REPLACE LOST RESERVATION there would be no way out of the lost state.
        let lost = self.lost && profile.support.replace_lost;
        let state = Reservations::restored(registrations, reservation, self.aptpl, lost);
        Ok(PrUnit::restored(profile, state))
    }

    /// The bytes of the image.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        ENVELOPE.seal(&self.body())
    }

    fn body(&self) -> Vec<u8> {
        let (kind, holder) = self.reservation.unwrap_or((ReservationType(0), None));
        let mut out = vec![u8::from(self.aptpl) | u8::from(self.lost) << 1, kind.0];
        out.extend(holder.unwrap_or(NO_HOLDER).to_be_bytes());
        out.extend(u32::try_from(self.registrations.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.registrations.iter().for_each(|saved| saved.put(&mut out));
        out
    }

    /// Reads an image.
    ///
    /// # Errors
    /// [`ImageError`] for anything that [`Image::to_bytes`] cannot have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let image = Self::parse_body(&mut ENVELOPE.open(bytes)?)?;
        image.check()?;
        Ok(image)
    }

    fn parse_body(body: &mut Reader<'_>) -> Result<Self, ImageError> {
        let [flags, kind] = body.array()?;
        if flags & !0x03 != 0 {
            return Err(ImageError::Content("an unknown flag is set"));
        }
        let (holder, count) = (body.u32()?, body.u32()?);
        let mut registrations = Vec::new();
        for _ in 0..count {
            registrations.push(SavedRegistration::parse(body)?);
        }
        body.end()?;
        let holder = (holder != NO_HOLDER).then_some(holder);
        if kind == 0 && holder.is_some() {
            return Err(ImageError::Content("there is a holder without a reservation"));
        }
        let reservation = (kind != 0).then_some((ReservationType(kind), holder));
        Ok(Self { aptpl: flags & 1 != 0, lost: flags & 2 != 0, registrations, reservation })
    }

    /// The invariants of a reservation state.
    fn check(&self) -> Result<(), ImageError> {
        let count = self.registrations.len();
        let mut names: Vec<_> = self.registrations.iter().map(|one| &one.nexus).collect();
        names.sort();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(ImageError::Content("a nexus is registered twice"));
        }
        if self.registrations.iter().any(|one| one.key.is_none()) {
            return Err(ImageError::Content("a registration has no key"));
        }
        if !self.aptpl && (count > 0 || self.reservation.is_some()) || self.lost && count > 0 {
            return Err(ImageError::Content("it holds registrations that were not to be kept"));
        }
        let Some((kind, holder)) = self.reservation else { return Ok(()) };
        let sound = match holder {
            None => kind.is_all_registrants() && count > 0,
            Some(at) => !kind.is_all_registrants() && usize::try_from(at).is_ok_and(|at| at < count),
        };
        if sound && kind.is_valid() {
            Ok(())
        } else {
            Err(ImageError::Content("the reservation has no holder of its type"))
        }
    }
}

impl SavedRegistration {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let id = self.nexus.initiator.to_bytes();
        out.extend(self.key.0.to_be_bytes());
        out.push(u8::from(self.all_target_ports));
        out.extend(self.nexus.target_port.to_be_bytes());
        out.extend(u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(id);
    }

    pub(crate) fn parse(body: &mut Reader<'_>) -> Result<Self, ImageError> {
        let key = Key(body.u64()?);
        let flags = body.byte()?;
        let (target_port, length) = (body.u16()?, body.u16()?);
        let id = body.take(length.into())?;
        let wrong = ImageError::Content("a TransportID is malformed");
        match TransportId::parse(id) {
            Ok((initiator, taken)) if taken == id.len() && flags <= 1 => {
                Ok(Self { nexus: ItNexus { initiator, target_port }, key, all_target_ports: flags == 1 })
            }
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests;
