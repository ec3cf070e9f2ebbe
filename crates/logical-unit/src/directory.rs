//! The directory of I_T nexuses (SAM-5 4.8): which names stand behind the handles.
//!
//! The reservation state holds small handles, so that it is cheap to clone and hash; whoever owns the
//! sessions (the logical unit, the explorer) implements [`Directory`].

use crate::{ItNexus, NexusId};
use scsi::TransportId;

/// What PERSISTENT RESERVE OUT and IN must know about the nexuses of the SCSI target device.
///
/// Under [`Identity::SessionInstance`](crate::profile::Identity) the same names come back as another
/// handle after a new login; [`Directory::resolve`] then answers the handle of the present session.
pub trait Directory {
    /// The names behind a handle, for READ FULL STATUS and the durable image.
    fn nexus(&self, id: NexusId) -> Option<&ItNexus>;

    /// The handle of a nexus, made if need be; `None` if the device has no room or no such target port.
    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId>;

    /// RELATIVE TARGET PORT IDENTIFIERs of the device, for ALL_TG_PT and REGISTER AND MOVE.
    fn target_ports(&self) -> &[u16];

    /// The known nexuses through `target_port` of every initiator port that `id` names: the wildcard
    /// of an iSCSI TransportID without ISID.
    fn ports_named(&mut self, id: &TransportId, target_port: u16) -> Vec<NexusId>;
}
