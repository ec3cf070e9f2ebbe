//! I_T nexuses as the device server knows them (SAM-5 4.7): the names of both ports, and the small
//! handle under which registrations, unit attentions and tasks refer to them. Used by every part of the crate.

use scsi::TransportId;

/// Handle of an I_T nexus inside one logical unit; the names live in a directory beside the pure state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NexusId(pub u32);

/// An I_T nexus: an initiator port and a target port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ItNexus {
    /// Name of the initiator port.
    pub initiator: TransportId,
    /// Relative target port identifier.
    pub target_port: u16,
}
