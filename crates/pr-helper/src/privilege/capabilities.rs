//! CAP_SYS_RAWIO and nothing else, in every set that a thread has.

use super::Measure;
use rustix::io::{Errno, Result};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// SG_IO with PERSISTENT RESERVE OUT takes it on a device that the caller may write to.
const KEPT: CapabilitySet = CapabilitySet::SYS_RAWIO;

/// Empties the bounding set. It goes first, while CAP_SETPCAP is held; without it nothing could be gained through
/// the set anyway, because no program can be started.
pub(super) fn empty_bounding_set() -> Result<()> {
    for capability in CapabilitySet::all() {
        match thread::remove_capability_from_bounding_set(capability) {
            // Not ours to change, or younger than this kernel.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Drops every capability but CAP_SYS_RAWIO, which stays only if it was there.
pub(super) fn keep_raw_io() -> Result<Measure> {
    let had = thread::capabilities(None)?;
    let kept = had.permitted & KEPT;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    // A service manager that has given nothing more may well have taken the call away too.
    if had != sets {
        thread::set_capabilities(None, sets)?;
    }
    thread::set_keep_capabilities(false)?;
    match thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    Ok(match kept {
        KEPT => Measure::Applied,
        _ => Measure::Failed("CAP_SYS_RAWIO was not there to keep: the kernel may refuse SG_IO".into()),
    })
}
