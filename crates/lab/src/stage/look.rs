//! What an initiator port has on a logical unit, asked for as that port: with its name and ISID, in a session of its own.

use crate::states::{login, run};
use anyhow::{Result, bail};
use scsi::pr::{Key, request};
use scsi::{Completion, Request, Status};

/// Sends a command as the initiator port of a DEVICE, again where a unit attention comes first. A session that is open under
/// that name and ISID ends.
///
/// # Errors
/// If the target does not let it in, or the transport is lost.
pub fn insist(device: &str, request: &Request) -> Result<Completion> {
    run(&mut login(device)?, request)
}

/// Whether the initiator port of a DEVICE is registered with this key: REGISTER from the key to itself is GOOD only then.
///
/// # Errors
/// If the target does not let it in, or answers anything else than yes or no.
pub fn has_key(device: &str, key: Key, aptpl: bool) -> Result<bool> {
    let completion = insist(device, &request::register(key, key, aptpl))?;
    match completion.status {
        Status::GOOD => Ok(true),
        Status::RESERVATION_CONFLICT => Ok(false),
        other => bail!("REGISTER ended {other}"),
    }
}
