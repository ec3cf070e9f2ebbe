//! Who takes part: the nexuses of both hosts, the other nodes, and a stranger who never registers; their
//! keys, and their names for READ FULL STATUS and REGISTER AND MOVE. Used by every other module.

use logical_unit::{Directory, ItNexus, NexusId};
use scsi::pr::Key;
use scsi::{IscsiName, Isid, TransportId};
use std::sync::LazyLock;

/// The guest's key.
pub(crate) const GUEST_KEY: Key = Key(0x1A);
/// The key that methods 5 and 6 use for a moment.
pub(crate) const NONCE: Key = Key(0x99);
/// Most paths of one host.
pub(crate) const PATHS: usize = 2;
/// A nexus that nobody registers: what it may do, any unregistered nexus may.
pub(crate) const STRANGER: NexusId = NexusId(6);

/// A host of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Source,
    Destination,
}

impl Host {
    pub(crate) const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 1,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// One value for each host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PerHost<T> {
    pub(crate) source: T,
    pub(crate) destination: T,
}

impl<T> PerHost<T> {
    pub(crate) const fn at(&self, host: Host) -> &T {
        match host {
            Host::Source => &self.source,
            Host::Destination => &self.destination,
        }
    }

    pub(crate) const fn at_mut(&mut self, host: Host) -> &mut T {
        match host {
            Host::Source => &mut self.source,
            Host::Destination => &mut self.destination,
        }
    }
}

/// The nexus of a host's path, where the host has its own identity.
pub(crate) fn nexus_of(host: Host, path: usize) -> NexusId {
    let at = host.index() * PATHS + path.min(PATHS - 1);
    NexusId(u32::try_from(at).unwrap_or(0))
}

/// The nexuses of a host with `paths` paths.
pub(crate) fn nexuses_of(host: Host, paths: usize) -> impl Iterator<Item = NexusId> {
    (0..paths.min(PATHS)).map(move |path| nexus_of(host, path))
}

/// The nexus of another node.
pub(crate) const fn node(index: u8) -> NexusId {
    NexusId(4 + index as u32)
}

/// A node's own key.
pub(crate) const fn own_key(index: u8) -> Key {
    Key(0x2B + 0x11 * index as u64)
}

/// Short name of a nexus in traces.
pub(crate) const fn nexus_name(nexus: NexusId) -> &'static str {
    match nexus.0 {
        0 => "S",
        1 => "S'",
        2 => "D",
        3 => "D'",
        4 => "H",
        5 => "J",
        _ => "a stranger",
    }
}

static NAMES: LazyLock<Vec<ItNexus>> = LazyLock::new(|| {
    let names = ["source", "source", "destination", "destination", "node-h", "node-j", "stranger"];
    let ports = [1, 2, 1, 2, 1, 1, 1];
    names.iter().zip(ports).filter_map(|(name, target_port)| it_nexus(name, target_port)).collect()
});

fn it_nexus(name: &str, target_port: u16) -> Option<ItNexus> {
    let name = IscsiName::new(&format!("iqn.2026-01.example:{name}")).ok()?;
    let isid = Some(Isid([0, 2, 0x3D, 0, 0, 1]));
    Some(ItNexus { initiator: TransportId::Iscsi { name, isid }, target_port })
}

/// The fixed directory of this cast.
pub(crate) struct Cast;

impl Directory for Cast {
    fn nexus(&self, id: NexusId) -> Option<&ItNexus> {
        usize::try_from(id.0).ok().and_then(|at| NAMES.get(at))
    }

    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId> {
        let at = NAMES.iter().position(|known| known == nexus)?;
        u32::try_from(at).ok().map(NexusId)
    }

    fn target_ports(&self) -> &[u16] {
        &[1, 2]
    }

    fn ports_named(&mut self, id: &TransportId, target_port: u16) -> Vec<NexusId> {
        let named = |nexus: &ItNexus| nexus.initiator == *id && nexus.target_port == target_port;
        (0..7).zip(NAMES.iter()).filter(|(_, nexus)| named(nexus)).map(|(id, _)| NexusId(id)).collect()
    }
}

/// The TransportID and relative target port of a path's nexus.
pub(crate) fn name_of(nexus: NexusId) -> Option<&'static ItNexus> {
    usize::try_from(nexus.0).ok().and_then(|at| NAMES.get(at))
}
