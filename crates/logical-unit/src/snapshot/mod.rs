//! What a logical unit knows beside its blocks, so that it can go on in another process as if nothing had happened: every
//! registration whatever its APTPL, the reservation, PRgeneration, the unit attentions that wait for each nexus, an SPC-2
//! reservation, mode pages. Unlike the [durable image](crate::aptpl) it is no power cycle.
//!
//! Format, all numbers big-endian: magic `TENURELU`, format version (2 bytes), length of the body (4 bytes), CRC32C of the body (4
//! bytes), body. The body of version 1 is: length (1 byte) and name of the profile; NAA name (8 bytes); number of blocks (8
//! bytes); flags (1 byte: bit 0 APTPL, bit 1 information lost, bit 2 stopped, bit 3 read only); PRgeneration (4 bytes); TYPE (1 byte, 0 without a
//! reservation); place of the single or marked holder among the registrations (4 bytes, FFFF_FFFFh for none); number of
//! registrations (4 bytes), each as in the durable image; an SPC-2 holder (1 byte: 1 and a nexus, or 0); number of nexuses with
//! unit attentions (4 bytes), for each: nexus, number of conditions (1 byte), conditions (1 byte each, oldest first); number of
//! mode pages (1 byte), for each: page code (1 byte), length (1 byte) and bytes of its body; length (1 byte) and bytes of the operator's
//! serial number, and of his NAA identifier, each of length 0 where there is none. A nexus is its relative target port
//! (2 bytes), length (2 bytes) and bytes of the TransportID.
//!
//! Used by `tenure device` when a guest moves ([`LogicalUnit::snapshot`](crate::LogicalUnit::snapshot),
//! [`LogicalUnit::resume`](crate::LogicalUnit::resume)) or is started again
//! ([`LogicalUnit::open_kept`](crate::LogicalUnit::open_kept)). [`Snapshot::parse`] refuses whatever is damaged or newer.

pub(crate) mod kept;
mod resume;
pub(crate) mod stamp;

pub use resume::{ResumeError, SnapshotError, must_present_alike, naa_of, names_itself};
pub use stamp::Stamp;

use crate::aptpl::{ImageError, SavedRegistration};
use crate::attention::Attention;
use crate::envelope::{Envelope, HEADER, Reader};
use crate::presentation::{Presentation, PresentationError, Serial, Wwn};
use crate::{ItNexus, Profile};
use scsi::TransportId;
use scsi::pr::ReservationType;

const MAGIC: [u8; 8] = *b"TENURELU";
/// The newest format.
pub const VERSION: u16 = 1;
const NO_HOLDER: u32 = u32::MAX;
/// The longest snapshot in bytes: thousands of registrations.
pub const MAX_LENGTH: usize = 1 << 20;
const ENVELOPE: Envelope = Envelope { magic: MAGIC, version: VERSION, longest: MAX_LENGTH - HEADER };

/// A logical unit between two processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the behaviour profile.
    pub profile: String,
    /// The NAA name of VPD page 83h: which logical unit it is.
    pub naa: u64,
    /// Its capacity.
    pub blocks: u64,
    /// The last valid APTPL.
    pub aptpl: bool,
    /// The reservation information is lost.
    pub lost: bool,
    /// START STOP UNIT has stopped it.
    pub stopped: bool,
    /// PRgeneration.
    pub generation: u32,
    /// Every registration.
    pub registrations: Vec<SavedRegistration>,
    /// The reservation: its type, and by its place in `registrations` the single holder, or for the all registrants types
    /// the registrant that some targets treat as holder.
    pub reservation: Option<(ReservationType, Option<u32>)>,
    /// Who holds an SPC-2 reservation.
    pub spc2: Option<ItNexus>,
    /// The unit attentions that wait, oldest first.
    pub attentions: Vec<(ItNexus, Vec<Attention>)>,
    /// Code and body of each mode page.
    pub modes: Vec<(u8, Vec<u8>)>,
    /// How it presents itself by the operator's wish.
    pub presentation: Presentation,
}

impl Snapshot {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        ENVELOPE.seal(&self.body())
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_short(&mut out, self.profile.as_bytes());
        out.extend(self.naa.to_be_bytes());
        out.extend(self.blocks.to_be_bytes());
        let flags = [self.aptpl, self.lost, self.stopped, self.presentation.read_only];
        out.push(flags.iter().rev().fold(0, |flags, flag| flags << 1 | u8::from(*flag)));
        out.extend(self.generation.to_be_bytes());
        let (kind, holder) = self.reservation.unwrap_or((ReservationType(0), None));
        out.push(kind.0);
        out.extend(holder.unwrap_or(NO_HOLDER).to_be_bytes());
        put_count(&mut out, self.registrations.len());
        self.registrations.iter().for_each(|saved| saved.put(&mut out));
        out.push(u8::from(self.spc2.is_some()));
        self.spc2.iter().for_each(|nexus| put_nexus(&mut out, nexus));
        put_count(&mut out, self.attentions.len());
        for (nexus, waiting) in &self.attentions {
            put_nexus(&mut out, nexus);
            put_short(&mut out, &waiting.iter().map(|one| *one as u8).collect::<Vec<_>>());
        }
        out.push(u8::try_from(self.modes.len()).unwrap_or(u8::MAX));
        for (code, body) in &self.modes {
            out.push(*code);
            put_short(&mut out, body);
        }
        let Presentation { serial, wwn, .. } = &self.presentation;
        put_short(&mut out, serial.as_ref().map_or("", Serial::as_str).as_bytes());
        put_short(&mut out, wwn.as_ref().map_or(&[], Wwn::as_bytes));
        out
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// [`ImageError`] for anything that [`Snapshot::to_bytes`] of this or an earlier version cannot have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut body = ENVELOPE.open(bytes)?;
        let snapshot = Self::parse_body(&mut body)?;
        body.end()?;
        snapshot.check()?;
        Ok(snapshot)
    }

    fn parse_body(body: &mut Reader<'_>) -> Result<Self, ImageError> {
        let profile = body.short()?.to_vec();
        let profile = String::from_utf8(profile).map_err(|_| ImageError::Content("a profile has no name"))?;
        let (naa, blocks) = (body.u64()?, body.u64()?);
        let flags = body.byte()?;
        if flags & !0x0F != 0 {
            return Err(ImageError::Content("an unknown flag is set"));
        }
        let generation = body.u32()?;
        let (kind, holder) = (body.byte()?, body.u32()?);
        let registrations = many(body, SavedRegistration::parse)?;
        let spc2 = match body.byte()? {
            0 => None,
            1 => Some(nexus(body)?),
            _ => return Err(ImageError::Content("an unknown flag is set")),
        };
        let attentions = many(body, |body| Ok((nexus(body)?, conditions(body.short()?)?)))?;
        let modes = (0..body.byte()?).map(|_| Ok((body.byte()?, body.short()?.to_vec())));
        let modes = modes.collect::<Result<_, ImageError>>()?;
        let presentation = presentation(flags & 8 != 0, body.short()?, body.short()?)?;
        let holder = (holder != NO_HOLDER).then_some(holder);
        if kind == 0 && holder.is_some() {
            return Err(ImageError::Content("there is a holder without a reservation"));
        }
        let reservation = (kind != 0).then_some((ReservationType(kind), holder));
        let (aptpl, lost, stopped) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        Ok(Self {
            profile,
            naa,
            blocks,
            aptpl,
            lost,
            stopped,
            generation,
            registrations,
            reservation,
            spc2,
            attentions,
            modes,
            presentation,
        })
    }

    /// The invariants of a logical unit's state.
    fn check(&self) -> Result<(), ImageError> {
        let wrong = |what| Err(ImageError::Content(what));
        if twice(self.registrations.iter().map(|one| &one.nexus)) {
            return wrong("a nexus is registered twice");
        }
        if twice(self.attentions.iter().map(|(nexus, _)| nexus)) {
            return wrong("the unit attentions of a nexus are there twice");
        }
        if self.registrations.iter().any(|one| one.key.is_none()) {
            return wrong("a registration has no key");
        }
        if self.lost && !self.registrations.is_empty() {
            return wrong("reservations are lost and there all the same");
        }
        let Some((kind, holder)) = self.reservation else { return Ok(()) };
        let count = self.registrations.len();
        let there = |at: u32| usize::try_from(at).is_ok_and(|at| at < count);
        let sound = match holder {
            None => kind.is_all_registrants() && count > 0,
            Some(at) => there(at),
        };
        if sound && kind.is_valid() { Ok(()) } else { wrong("the reservation has no holder of its type") }
    }

    /// The profile, if there is one of that name.
    fn known_profile(&self) -> Option<&'static Profile> {
        Profile::by_name(&self.profile)
    }
}

fn twice<'a>(nexuses: impl Iterator<Item = &'a ItNexus>) -> bool {
    let mut names: Vec<_> = nexuses.collect();
    names.sort();
    names.windows(2).any(|pair| pair.first() == pair.last())
}

/// At most 255 bytes.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(bytes.iter().take(length.into()));
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_nexus(out: &mut Vec<u8>, nexus: &ItNexus) {
    let id = nexus.initiator.to_bytes();
    out.extend(nexus.target_port.to_be_bytes());
    out.extend(u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(id);
}

fn nexus(body: &mut Reader<'_>) -> Result<ItNexus, ImageError> {
    let (target_port, length) = (body.u16()?, body.u16()?);
    let id = body.take(length.into())?;
    match TransportId::parse(id) {
        Ok((initiator, taken)) if taken == id.len() => Ok(ItNexus { initiator, target_port }),
        _ => Err(ImageError::Content("a TransportID is malformed")),
    }
}

fn presentation(read_only: bool, serial: &[u8], wwn: &[u8]) -> Result<Presentation, ImageError> {
    let wrong = |_| ImageError::Content("a serial number or an NAA identifier is none");
    let text = || std::str::from_utf8(serial).map_err(|_| PresentationError::Serial);
    let serial = (!serial.is_empty()).then(|| text().and_then(str::parse)).transpose().map_err(wrong)?;
    let wwn = (!wwn.is_empty()).then(|| Wwn::new(wwn)).transpose().map_err(wrong)?;
    Ok(Presentation { read_only, serial, wwn })
}

fn conditions(codes: &[u8]) -> Result<Vec<Attention>, ImageError> {
    let known = codes.iter().map(|code| Attention::of((*code).into()));
    let known: Option<Vec<_>> = known.collect();
    let known = known.ok_or(ImageError::Content("an unknown unit attention waits"))?;
    let mut sorted = known.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if known.is_empty() || sorted.len() != known.len() {
        return Err(ImageError::Content("a unit attention waits twice, or none does"));
    }
    Ok(known)
}

/// As many as are said to follow; each takes at least a byte, so nothing is made room for in advance.
fn many<T>(
    body: &mut Reader<'_>,
    mut one: impl FnMut(&mut Reader<'_>) -> Result<T, ImageError>,
) -> Result<Vec<T>, ImageError> {
    let mut all = Vec::new();
    for _ in 0..body.u32()? {
        all.push(one(body)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
