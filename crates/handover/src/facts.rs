//! What was read from the logical unit before the guest is paused: the ground on which [`crate::plan`] chooses.

use crate::known_targets::{Known, TargetIdentity, Traits};
use crate::plan::Situation;
use crate::role::Role;
use crate::settings::{Port, Settings};
use scsi::pr::{Capabilities, FullStatus, FullStatusDescriptor, Key, Reservation, ReservationType};

/// Whether both sides see the same logical unit (VPD page 83h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SameUnit {
    /// A unique designator of the logical unit is the same on both sides.
    Same,
    /// The designators differ.
    Different,
    /// A side has none that is unique.
    Unknown,
}

/// What does not change while the logical unit is there; read once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Survey {
    /// Whether both sides see the same logical unit.
    pub same_unit: SameUnit,
    /// Standard INQUIRY data, destination's side (the source's where there is no destination session).
    pub target: TargetIdentity,
    /// REPORT SUPPORTED OPERATION CODES on REGISTER AND MOVE; unknown if the device does not say.
    pub move_reported: Known,
}

/// How one side's nexuses stand in READ FULL STATUS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Bit i: path i is registered with the guest's key.
    pub with_key: u8,
    /// Bit i: path i is registered with another key.
    pub with_other_key: u8,
    /// The path that is the single holder, or, for the all registrants types, the first that is registered.
    pub holder: Option<u8>,
}

/// What READ FULL STATUS told, reduced to what a handover needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FullStatusDigest {
    /// PRGENERATION of that reply.
    pub generation: u32,
    /// The source's nexuses.
    pub source: Standing,
    /// The destination's nexuses.
    pub destination: Standing,
    /// Nexuses of neither side that have the guest's key.
    pub sharers: u16,
    /// Type of the reservation, whoever holds it.
    pub kind: Option<ReservationType>,
}

/// Everything that was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Identity and INQUIRY.
    pub survey: Survey,
    /// What the table knows of this target.
    pub traits: Traits,
    /// The guest's key: given, or learnt from READ FULL STATUS.
    pub key: Key,
    /// REPORT CAPABILITIES; `None` if the device rejects it.
    pub capabilities: Option<Capabilities>,
    /// PRGENERATION of the READ KEYS reply that `keys` is from.
    pub generation: u32,
    /// READ KEYS.
    pub keys: Vec<Key>,
    /// READ KEYS could not return all.
    pub keys_truncated: bool,
    /// READ RESERVATION.
    pub reservation: Option<Reservation>,
    /// READ FULL STATUS; `None` if the device has none or it cannot be used.
    pub full_status: Option<FullStatusDigest>,
}

impl Facts {
    /// How often the guest's key is listed.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.keys.iter().filter(|key| **key == self.key).count()
    }

    pub(crate) fn shift_generation(&mut self, by: u32) {
        self.generation = self.generation.wrapping_sub(by);
        if let Some(status) = &mut self.full_status {
            status.generation = status.generation.wrapping_sub(by);
        }
    }

    /// The source's role as far as it can be told.
    #[must_use]
    pub fn role(&self) -> Role {
        self.evidence(1).role()
    }

    /// Nexuses of neither side have the key, or may have it. `paths`: the source's.
    fn shared(&self, paths: usize) -> bool {
        match self.full_status {
            Some(status) => status.sharers > 0,
            None => self.listed() > paths,
        }
    }

    fn evidence(&self, paths: usize) -> RoleEvidence {
        RoleEvidence {
            key: self.key,
            reservation: self.reservation,
            full_status: self.full_status,
            shared: self.shared(paths),
        }
    }

    /// What the choice of a method depends on.
    pub(crate) fn situation<'a>(&self, settings: &'a Settings) -> Situation<'a> {
        let paths = settings.source.len();
        Situation {
            settings,
            traits: self.traits,
            role: self.evidence(paths).role(),
            shared: self.shared(paths),
            move_reported: self.survey.move_reported,
            holder_known: paths == 1 || self.full_status.is_some_and(|status| status.source.holder.is_some()),
            role_sure: self.full_status.is_some(),
            port_proved: true,
            excluded: 0,
        }
    }

    /// PTPL_A: what every REGISTER of ours must send as APTPL.
    #[must_use]
    pub fn aptpl(&self) -> bool {
        self.capabilities.is_some_and(|capabilities| capabilities.persist_active)
    }
}

/// What decides the source's role, from either the facts or the look inside the pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RoleEvidence {
    pub(crate) key: Key,
    pub(crate) reservation: Option<Reservation>,
    pub(crate) full_status: Option<FullStatusDigest>,
    /// Nexuses of neither side may have the key.
    pub(crate) shared: bool,
}

impl RoleEvidence {
    /// READ FULL STATUS ties the holder to a nexus and so outweighs READ RESERVATION, which shows a key that may be
    /// shared. The source is paused and cannot become the holder, so an older reply errs to the safe side.
    pub(crate) fn role(self) -> Role {
        if let Some(status) = self.full_status {
            return status.role();
        }
        match self.reservation {
            None => Role::Registrant,
            Some(held) if held.kind.is_all_registrants() => Role::AllRegistrants(held.kind),
            Some(held) if held.key != self.key => Role::Member(held.kind),
            Some(held) if self.shared => Role::HolderOrSharer(held.kind),
            Some(held) => Role::Holder(held.kind),
        }
    }
}

impl FullStatusDigest {
    /// Reduces a reply. The key is that of the source's first path where it is not given. `None` if the reply is cut,
    /// or does not tell the sides apart.
    pub(crate) fn of(status: &FullStatus, key: Option<Key>, settings: &Settings) -> Option<(Key, Self)> {
        let source = Placed::all(status, &settings.source)?;
        let destination = Placed::all(status, &settings.destination)?;
        // A source that is not there has no key to tell.
        let learnt = source.first().map(|first| first.map_or(Key::NONE, |descriptor| descriptor.key));
        let key = key.or(learnt)?;
        let with_key = status.descriptors.iter().filter(|descriptor| descriptor.key == key).count();
        let (source, destination) = (Standing::of(&source, key), Standing::of(&destination, key));
        let ours = source.with_key.count_ones() + destination.with_key.count_ones();
        let sharers = u16::try_from(with_key).unwrap_or(u16::MAX).saturating_sub(u16::try_from(ours).ok()?);
        let kind = status.descriptors.iter().find_map(|descriptor| descriptor.holds).map(|(_, kind)| kind);
        Some((key, Self { generation: status.generation, source, destination, sharers, kind }))
    }

    /// The source is registered, but on no path with the guest's key.
    pub(crate) const fn source_has_another_key(&self) -> bool {
        self.source.with_key == 0 && self.source.with_other_key != 0
    }

    /// The source's role.
    #[must_use]
    pub fn role(&self) -> Role {
        match (self.source.with_key, self.kind) {
            (0, _) => Role::Unregistered,
            (_, None) => Role::Registrant,
            (_, Some(kind)) if kind.is_all_registrants() => Role::AllRegistrants(kind),
            (_, Some(kind)) if self.source.holder.is_some() => Role::Holder(kind),
            (_, Some(kind)) => Role::Member(kind),
        }
    }
}

/// Finds the descriptors of a side's paths.
struct Placed;

impl Placed {
    /// The descriptor of each path, if it is registered; `None` if a path's name is not known, the reply is cut, or
    /// a descriptor fits a path whose target port is not known and is not the only one to do so.
    fn all<'a>(status: &'a FullStatus, ports: &[Port]) -> Option<Vec<Option<&'a FullStatusDescriptor>>> {
        if status.truncated {
            return None;
        }
        ports.iter().map(|port| Self::one(status, port)).collect()
    }

    fn one<'a>(status: &'a FullStatus, port: &Port) -> Option<Option<&'a FullStatusDescriptor>> {
        let name = port.initiator.as_ref()?;
        let fits = |descriptor: &&FullStatusDescriptor| {
            let right_port = descriptor.all_target_ports
                || port.target_port.is_none_or(|target| target == descriptor.relative_target_port);
            descriptor.initiator_port.as_ref() == Ok(name) && right_port
        };
        let mut found = status.descriptors.iter().filter(fits);
        let first = found.next();
        if found.next().is_some() { None } else { Some(first) }
    }
}

impl Standing {
    fn of(paths: &[Option<&FullStatusDescriptor>], key: Key) -> Self {
        let mut standing = Self::default();
        for (index, descriptor) in (0u8..).zip(paths) {
            let Some(descriptor) = descriptor else { continue };
            let mask = 1 << (index & 7);
            if descriptor.key == key {
                standing.with_key |= mask;
            } else {
                standing.with_other_key |= mask;
            }
            if descriptor.holds.is_some() {
                standing.holder = standing.holder.or(Some(index));
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests;
