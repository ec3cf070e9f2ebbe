//! Three initiator ports and two target ports, and the directory that knows them: few, so that random
//! commands meet each other.

use logical_unit::{Directory, ItNexus, NexusId};
use scsi::{IscsiName, Isid, TransportId};

/// Nexuses there are.
pub const NEXUSES: u8 = 6;

/// A nexus by number, modulo [`NEXUSES`].
pub fn nexus(number: u8) -> ItNexus {
    let number = number % NEXUSES;
    ItNexus { initiator: port(number % 3), target_port: u16::from(number / 3) + 1 }
}

/// An initiator port by number: two of one iSCSI device, and one of SAS.
pub fn port(number: u8) -> TransportId {
    let name = IscsiName::new("iqn.2026-01.example:a").expect("a legal name");
    match number % 4 {
        0 => TransportId::iscsi(name, Isid([0, 2, 0x3D, 0, 0, 1])),
        1 => TransportId::iscsi(name, Isid([0, 2, 0x3D, 0, 0, 2])),
        2 => TransportId::Sas(0x5000_C500_0000_0001),
        // The wildcard: every port of the iSCSI device.
        _ => TransportId::Iscsi { name, isid: None },
    }
}

/// The names behind the handles; makes new ones up to a limit.
pub struct Names(Vec<ItNexus>);

impl Default for Names {
    fn default() -> Self {
        Self((0..NEXUSES).map(nexus).collect())
    }
}

impl Directory for Names {
    fn nexus(&self, id: NexusId) -> Option<&ItNexus> {
        self.0.get(usize::try_from(id.0).ok()?)
    }

    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId> {
        let known = self.0.iter().position(|known| known == nexus);
        let at = known.or_else(|| {
            let room = self.0.len() < 64 && self.target_ports().contains(&nexus.target_port);
            room.then(|| {
                self.0.push(nexus.clone());
                self.0.len() - 1
            })
        })?;
        u32::try_from(at).ok().map(NexusId)
    }

    fn target_ports(&self) -> &[u16] {
        &[1, 2]
    }

    fn ports_named(&mut self, id: &TransportId, target_port: u16) -> Vec<NexusId> {
        let named =
            |(_, nexus): &(u32, &ItNexus)| id.names(&nexus.initiator) && nexus.target_port == target_port;
        (0..).zip(&self.0).filter(named).map(|(at, _)| NexusId(at)).collect()
    }
}
