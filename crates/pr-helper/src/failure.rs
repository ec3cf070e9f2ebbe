//! What a client is answered when a command got no completion, or never left: the status and sense data that QEMU's own
//! helper gives, so that guests see the same. Used by `service` and `opening`.

use nexus::TransportError;
use nexus::linux::{DriverStatus, HostStatus, SgIoFailure};
use rustix::io::Errno;
use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey, Status};
use std::io;

/// I/O PROCESS TERMINATED: the answer where nothing more is known.
const TERMINATED: AdditionalSense = AdditionalSense::new(0x00, 0x06);
/// COMMAND TIMEOUT DURING PROCESSING.
const TIMEOUT: AdditionalSense = AdditionalSense::new(0x2E, 0x02);

/// The descriptor is none of a SCSI device.
#[must_use]
pub fn not_a_device() -> Completion {
    check(SenseKey::ABORTED_COMMAND, TERMINATED)
}

/// It is not allowed: opened for reading only, refused by policy, or not possible without harm.
#[must_use]
pub fn not_allowed() -> Completion {
    check(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_COMMAND_OPERATION_CODE)
}

/// It could not be recorded, so it was not sent.
#[must_use]
pub fn not_recorded() -> Completion {
    check(SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE)
}

/// What a target that does not have this field answers.
#[must_use]
pub fn bad_field(field: FieldError) -> Completion {
    Completion::check(&field.sense())
}

/// The answer for a command that ended without a completion.
#[must_use]
pub fn answer(error: &TransportError) -> Completion {
    let (TransportError::NotSent(source) | TransportError::OutcomeUnknown(source)) = error;
    let sg_io = source.get_ref().and_then(|inner| inner.downcast_ref::<SgIoFailure>());
    match sg_io {
        Some(failure) => from_sg_io(failure),
        None => from_errno(source),
    }
}

fn from_sg_io(failure: &SgIoFailure) -> Completion {
    if failure.driver.error() == DriverStatus::TIMEOUT {
        return Completion::status(Status::BUSY);
    }
    match failure.host {
        HostStatus::BUS_BUSY => Completion::status(Status::BUSY),
        HostStatus::TIME_OUT => check(SenseKey::ABORTED_COMMAND, TIMEOUT),
        HostStatus::NEXUS_FAILURE => Completion::status(Status::RESERVATION_CONFLICT),
        _ => check(SenseKey::ABORTED_COMMAND, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE),
    }
}

fn from_errno(error: &io::Error) -> Completion {
    match Errno::from_io_error(error) {
        Some(Errno::DOM) => Completion::status(Status::TASK_SET_FULL),
        Some(Errno::BADE) => Completion::status(Status::RESERVATION_CONFLICT),
        Some(Errno::NODEV | Errno::REMOTEIO | Errno::NOMEM) => not_recorded(),
        Some(Errno::NODATA) => check(SenseKey::MEDIUM_ERROR, AdditionalSense::UNRECOVERED_READ_ERROR),
        Some(Errno::NOMEDIUM) => check(SenseKey::NOT_READY, AdditionalSense::MEDIUM_NOT_PRESENT),
        Some(Errno::INVAL) => check(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_FIELD_IN_CDB),
        Some(Errno::NOSPC) => check(SenseKey::DATA_PROTECT, AdditionalSense::SPACE_ALLOCATION_FAILED),
        _ => not_a_device(),
    }
}

fn check(key: SenseKey, code: AdditionalSense) -> Completion {
    Completion::check(&Sense::new(key, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(errno: Errno) -> (u8, Option<(u8, u8, u8)>) {
        let ended = answer(&TransportError::NotSent(errno.into()));
        let sense = ended.decoded_sense().map(|sense| (sense.key.0, sense.code.asc, sense.code.ascq));
        (ended.status.0, sense)
    }

    #[test]
    fn each_errno_is_answered_as_the_incumbent_does() {
        for (code, status, sense) in [
            (Errno::DOM, 0x28, None),
            (Errno::BADE, 0x18, None),
            (Errno::NODEV, 2, Some((4, 0x44, 0))),
            (Errno::NODATA, 2, Some((3, 0x11, 0))),
            (Errno::NOMEDIUM, 2, Some((2, 0x3A, 0))),
            (Errno::INVAL, 2, Some((5, 0x24, 0))),
            (Errno::NOSPC, 2, Some((7, 0x27, 7))),
            (Errno::NOTTY, 2, Some((0xB, 0, 6))),
        ] {
            assert_eq!(errno(code), (status, sense), "{code}");
        }
    }

    #[test]
    fn each_host_status_is_answered_as_the_incumbent_does() {
        let driver = DriverStatus::OK;
        let ended = |host, driver| {
            let failure = SgIoFailure { status: Status::GOOD, host, driver, sense: None, duration_ms: 1 };
            answer(&TransportError::OutcomeUnknown(io::Error::other(failure)))
        };
        assert_eq!(ended(HostStatus::BUS_BUSY, driver).status, Status::BUSY);
        assert_eq!(ended(HostStatus::OK, DriverStatus::TIMEOUT).status, Status::BUSY);
        assert_eq!(
            ended(HostStatus::TIME_OUT, driver).decoded_sense().map(|sense| sense.code),
            Some(TIMEOUT)
        );
    }
}
