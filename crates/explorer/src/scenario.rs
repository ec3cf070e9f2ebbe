//! The configurations that are searched: target profile, role of the guest, other nodes, sharing of
//! the key, persistence, paths, method. Each has its own initial state and its own search.

use crate::cast::{GUEST_KEY, Host, nexus_of, nexuses_of, node, own_key};
use crate::device::Device;
use handover::Method;
use logical_unit::{NexusId, Profile};
use scsi::Request;
use scsi::pr::{Key, ReservationType, request};
use std::fmt;

/// What the guest is to the logical unit when the handover begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The guest made the reservation and holds it (types 1, 3, 5, 6: alone; 7, 8: with every registrant).
    Holder(ReservationType),
    /// The same, and nobody else is registered yet.
    Alone(ReservationType),
    /// Another node made the reservation; the guest is registered.
    Member(ReservationType),
    /// Registered; nobody holds a reservation.
    RegistrantOnly,
    /// Was registered; another node has removed it. `true`: that node also holds a reservation.
    Fenced(bool),
}

impl Role {
    /// Every role, the types of the standard each.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut roles: Vec<_> = ReservationType::ALL.map(Self::Holder).into();
        roles.extend(ReservationType::ALL.map(Self::Alone));
        roles.extend(ReservationType::ALL.map(Self::Member));
        roles.extend([Self::RegistrantOnly, Self::Fenced(false), Self::Fenced(true)]);
        roles
    }

    /// The type of the reservation, whoever holds it.
    #[must_use]
    pub const fn kind(self) -> Option<ReservationType> {
        match self {
            Self::Holder(kind) | Self::Alone(kind) | Self::Member(kind) => Some(kind),
            Self::Fenced(true) => Some(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY),
            Self::RegistrantOnly | Self::Fenced(false) => None,
        }
    }

    /// Whether the guest alone holds the reservation.
    #[must_use]
    pub const fn is_single_holder(self) -> bool {
        matches!(self, Self::Holder(kind) | Self::Alone(kind) if !kind.is_all_registrants())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(kind) => write!(f, "holder-{}", kind.0),
            Self::Alone(kind) => write!(f, "alone-{}", kind.0),
            Self::Member(kind) => write!(f, "member-{}", kind.0),
            Self::RegistrantOnly => f.write_str("registrant"),
            Self::Fenced(false) => f.write_str("fenced"),
            Self::Fenced(true) => f.write_str("fenced-reserved"),
        }
    }
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// How the target behaves.
    pub profile: &'static Profile,
    /// What the guest is.
    pub role: Role,
    /// Other nodes: 1 or 2.
    pub nodes: u8,
    /// Whether the first other node uses the guest's key.
    pub shared: bool,
    /// Whether everybody registers with APTPL.
    pub aptpl: bool,
    /// Paths of each host.
    pub paths: u8,
    /// The source is dead from the start.
    pub source_dead: bool,
    /// The method asked for; `None` lets the plan choose.
    pub method: Option<Method>,
}

impl Scenario {
    /// One other node with a key of its own, one path, nothing persistent, a living source, the plan's own choice.
    #[cfg(test)]
    pub(crate) const fn plain(profile: &'static Profile, role: Role) -> Self {
        let (nodes, shared, aptpl, paths, source_dead) = (1, false, false, 1, false);
        Self { profile, role, nodes, shared, aptpl, paths, source_dead, method: None }
    }

    /// The key of another node.
    pub(crate) const fn key_of(&self, index: u8) -> Key {
        if self.shared && index == 0 { GUEST_KEY } else { own_key(index) }
    }

    /// The guest's nexuses on the source.
    pub(crate) fn guest_nexuses(&self) -> impl Iterator<Item = NexusId> {
        nexuses_of(Host::Source, usize::from(self.paths))
    }

    /// The other nodes' nexuses.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NexusId> {
        (0..self.nodes).map(node)
    }

    /// The logical unit with everybody registered and the reservation made; `None` if this target cannot have it so.
    pub(crate) fn device(&self) -> Option<Device> {
        let mut device = Device::new(self.profile);
        let commands = self.registrations().into_iter().chain(self.reservation()).chain(self.sharer_again());
        for (nexus, command) in commands {
            if !device.prepare(nexus, &command) {
                return None;
            }
        }
        self.nodes().for_each(|nexus| device.forget_attentions(nexus));
        device.shift_generation(device.generation());
        self.is_as_meant(&device).then_some(device)
    }

    fn registrations(&self) -> Vec<(NexusId, Request)> {
        let guest = self.guest_nexuses().map(|nexus| (nexus, GUEST_KEY));
        let nodes = (0..self.nodes).map(|index| (node(index), self.key_of(index)));
        let alone = matches!(self.role, Role::Alone(_));
        let nodes = nodes.filter(|_| !alone);
        guest
            .chain(nodes)
            .map(|(nexus, key)| (nexus, request::register(Key::NONE, key, self.aptpl)))
            .collect()
    }

    /// What makes the role out of the registrations.
    fn reservation(&self) -> Vec<(NexusId, Request)> {
        let source = nexus_of(Host::Source, 0);
        match self.role {
            Role::Holder(kind) | Role::Alone(kind) => {
                vec![(source, request::reserve(GUEST_KEY, kind))]
            }
            Role::Member(kind) => vec![(node(0), request::reserve(self.key_of(0), kind))],
            Role::RegistrantOnly => Vec::new(),
            Role::Fenced(reserved) => self.fencing(reserved),
        }
    }

    /// The last node fences; the first holds a reservation before that, if one is wanted.
    fn fencing(&self, reserved: bool) -> Vec<(NexusId, Request)> {
        let (kind, last) = (ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY, self.nodes.saturating_sub(1));
        let reserve = (node(0), request::reserve(self.key_of(0), kind));
        let fence = (node(last), request::preempt(self.key_of(last), GUEST_KEY, kind));
        if reserved { vec![reserve, fence] } else { vec![fence] }
    }

    /// A node that shares the key fell with the guest and comes back.
    fn sharer_again(&self) -> Option<(NexusId, Request)> {
        let fell = self.shared && matches!(self.role, Role::Fenced(_));
        fell.then(|| (node(0), request::register_and_ignore(GUEST_KEY, self.aptpl)))
    }

    /// A fenced guest must be unregistered: some targets do not let every node do that.
    fn is_as_meant(&self, device: &Device) -> bool {
        let fenced = matches!(self.role, Role::Fenced(_));
        let registered = self.guest_nexuses().any(|nexus| device.key(nexus).is_some());
        let reserved = device.reservation().map(|(kind, _)| kind) == self.role.kind();
        fenced != registered && reserved && device.aptpl() == self.aptpl
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} nodes={}", self.profile.name, self.role, self.nodes)?;
        write!(f, " shared={} aptpl={} paths={}", self.shared, self.aptpl, self.paths)?;
        if self.source_dead {
            f.write_str(" source-dead")?;
        }
        match self.method {
            Some(method) => write!(f, " method={method}"),
            None => f.write_str(" method=auto"),
        }
    }
}
