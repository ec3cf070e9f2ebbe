//! What a returned SG_IO header says about the command: completed, never sent, or unknown.
//!
//! Pure, so that it is tested against headers byte for byte. The rule of [`TransportError`] decides doubtful
//! cases: *not sent* is claimed only where the command cannot have reached the device server, a
//! completion only where the device server answered, and everything else is unknown and must be probed.

use super::status::{DriverStatus, HostStatus};
use super::sys::Returned;
use crate::TransportError;
use rustix::io::Errno;
use scsi::{Completion, Sense, SenseKey, Status};
use std::fmt;
use std::io::{Error, ErrorKind};

/// `info` bit: the driver saw something other than a plain GOOD.
const SG_INFO_CHECK: u32 = 0x1;

/// An SG_IO that ended without an answer of the device server; its text has all that Linux reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SgIoFailure {
    /// SCSI status byte, as far as one was received.
    pub status: Status,
    /// Host status.
    pub host: HostStatus,
    /// Driver status.
    pub driver: DriverStatus,
    /// Decoded sense data.
    pub sense: Option<Sense>,
    /// Milliseconds from submission to the end.
    pub duration_ms: u32,
}

impl fmt::Display for SgIoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, host, driver, duration_ms, .. } = self;
        write!(f, "SG_IO: host status {host}, driver status {driver}, status {status}, ")?;
        match &self.sense {
            Some(sense) => write!(f, "sense {sense}")?,
            None => f.write_str("no sense data")?,
        }
        write!(f, ", after {duration_ms} ms")
    }
}

impl std::error::Error for SgIoFailure {}

/// The completion of a command that SG_IO returned: `sense` and `data` are the whole buffers it got.
pub(super) fn completion(
    returned: &Returned,
    sense: &[u8],
    data: Vec<u8>,
) -> Result<Completion, TransportError> {
    let sense = sense.get(..usize::from(returned.sb_len_wr)).unwrap_or(sense).to_vec();
    match answered(returned, &sense) {
        Some(status) => Ok(Completion { status, sense, data: transferred(returned, data) }),
        None => Err(failure(returned, &sense)),
    }
}

/// The status that the device server gave, if it is certain that it gave one.
fn answered(returned: &Returned, sense: &[u8]) -> Option<Status> {
    let status = Status(returned.status);
    let host = HostStatus(returned.host_status);
    let driver = DriverStatus(returned.driver_status).error();
    if host == HostStatus::NEXUS_FAILURE && matches!(status, Status::GOOD | Status::RESERVATION_CONFLICT) {
        // The only cause Linux has for this code; some adapters give it instead of the status.
        return Some(Status::RESERVATION_CONFLICT);
    }
    if status == Status::GOOD {
        return good(returned, host, driver, sense);
    }
    // Codes that the kernel derives from a status and sense data, and errors noticed beside them.
    let beside_an_answer = matches!(
        host,
        HostStatus::OK
            | HostStatus::ERROR
            | HostStatus::PASSTHROUGH
            | HostStatus::SOFT_ERROR
            | HostStatus::TARGET_FAILURE
            | HostStatus::NEXUS_FAILURE
            | HostStatus::ALLOC_FAILURE
            | HostStatus::MEDIUM_ERROR
    );
    let proven = host == HostStatus::OK || status != Status::CHECK_CONDITION || Sense::parse(sense).is_some();
    (beside_an_answer && proven && driver != DriverStatus::TIMEOUT).then_some(status)
}

/// GOOD is also what stands in the header when no status came, so nothing else may be amiss.
fn good(returned: &Returned, host: HostStatus, driver: DriverStatus, sense: &[u8]) -> Option<Status> {
    let clean = matches!(host, HostStatus::OK | HostStatus::PASSTHROUGH);
    let unexplained =
        host == HostStatus::OK && driver == DriverStatus::OK && returned.info & SG_INFO_CHECK != 0;
    match driver {
        DriverStatus::OK if clean && !unexplained => Some(Status::GOOD),
        // Older drivers set DRIVER_SENSE and forget the status.
        DriverStatus::SENSE if clean && reports_failure(sense) => Some(Status::CHECK_CONDITION),
        DriverStatus::SENSE if clean => Some(Status::GOOD),
        _ => None,
    }
}

fn reports_failure(sense: &[u8]) -> bool {
    let harmless = [SenseKey::NO_SENSE, SenseKey::RECOVERED_ERROR];
    Sense::parse(sense).is_some_and(|sense| !sense.deferred && !harmless.contains(&sense.key))
}

/// Data-in without the bytes that did not come.
fn transferred(returned: &Returned, data: Vec<u8>) -> Vec<u8> {
    let missing = usize::try_from(returned.resid).unwrap_or(0);
    let length = data.len().saturating_sub(missing);
    scsi::truncate(data, length)
}

fn failure(returned: &Returned, sense: &[u8]) -> TransportError {
    let failure = SgIoFailure {
        status: Status(returned.status),
        host: HostStatus(returned.host_status),
        driver: DriverStatus(returned.driver_status),
        sense: Sense::parse(sense),
        duration_ms: returned.duration,
    };
    let timed_out = failure.host == HostStatus::TIME_OUT || failure.driver.error() == DriverStatus::TIMEOUT;
    match failure.host {
        _ if timed_out => TransportError::OutcomeUnknown(Error::new(ErrorKind::TimedOut, failure)),
        // Refused on the spot. After some time it may be a command in flight whose device went away.
        HostStatus::NO_CONNECT if returned.duration == 0 && sense.is_empty() && returned.status == 0 => {
            TransportError::NotSent(Error::new(ErrorKind::NotConnected, failure))
        }
        HostStatus::NO_CONNECT => {
            TransportError::OutcomeUnknown(Error::new(ErrorKind::NotConnected, failure))
        }
        _ => TransportError::OutcomeUnknown(Error::other(failure)),
    }
}

/// An ioctl that failed as a whole. The kernel gives these codes before it queues the command; others,
/// e.g. INTR and FAULT, may come when the command is already under way.
pub(super) fn ioctl_error(errno: Errno) -> TransportError {
    let before = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::INVAL,
        Errno::MSGSIZE,
        Errno::NOTTY,
        Errno::BADF,
        Errno::NXIO,
        Errno::DOM,
        Errno::BUSY,
    ];
    if before.contains(&errno) {
        TransportError::NotSent(errno.into())
    } else {
        TransportError::OutcomeUnknown(errno.into())
    }
}
