//! Which logical unit is behind a nexus, and which nexus it is: what a record is found by (SPC-4 7.8, DESIGN: same LUN by VPD
//! page 83h). The device itself is asked. Used by whoever opens a way to a logical unit.

use crate::host::Host;
use crate::names;
use handover::Port;
use ledger::{LunId, PathId};
use nexus::Nexus;
use scsi::Completion;

/// A logical unit and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The logical unit.
    pub lun: LunId,
    /// The I_T nexus: the same for every node and after a reboot, another for every other nexus, as far as the kernel tells.
    pub path: PathId,
    /// The device node.
    pub node: String,
    /// How the target names the nexus, as far as this side knows; both names are needed for READ FULL STATUS.
    pub port: Port,
}

/// What stands behind a nexus that knows its own initiator port, such as a session of this process: the same names as those
/// of a device of the kernel's. `node`: how people call the way. `None` for a device that has no name of its own.
///
/// # Errors
/// The device did not answer, or said nothing of its names.
pub fn identify(nexus: &mut dyn Nexus, node: String) -> Result<Option<Identity>, Completion> {
    let names = names::ask(nexus)?;
    let unknown = || "initiator unknown".to_owned();
    Ok(identity(names, nexus.initiator_port(), unknown, node))
}

/// What stands behind a device of the kernel's, of which `host` is what the kernel knows.
///
/// # Errors
/// As [`identify`].
pub fn identify_device(nexus: &mut dyn Nexus, host: &Host<'_>) -> Result<Option<Identity>, Completion> {
    let names = names::ask(nexus)?;
    let initiator = nexus.initiator_port().or_else(|| host.initiator());
    Ok(identity(names, initiator, || host.initiator_words(), host.node()))
}

/// Whether `nexus` still leads where it did when it was identified.
///
/// # Errors
/// As [`identify`].
pub fn is_same(identity: &Identity, nexus: &mut dyn Nexus) -> Result<bool, Completion> {
    let names = names::ask(nexus)?;
    let same_unit = names.lun.as_ref() == Some(&identity.lun.0);
    Ok(same_unit && names.relative_target_port == identity.port.target_port)
}

fn identity(
    names: names::Names,
    initiator: Option<scsi::TransportId>,
    words: impl FnOnce() -> String,
    node: String,
) -> Option<Identity> {
    let this_end = initiator.as_ref().map_or_else(words, ToString::to_string);
    let path = PathId(format!("{this_end} {}", names.target_port));
    let port = Port { initiator, target_port: names.relative_target_port };
    Some(Identity { lun: LunId(names.lun?), path, node, port })
}
