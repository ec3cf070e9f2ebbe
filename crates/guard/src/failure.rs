//! What a client is answered when a command got no completion, or never left: the status and sense data that QEMU's own
//! helper gives, so that guests see the same. Used by `Guard`, and by whoever opens devices.

use nexus::TransportError;
use nexus::linux::{DriverStatus, HostStatus, SgIoFailure};
use rustix::io::Errno;
use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey, Status};
use std::io;

/// I/O PROCESS TERMINATED: the answer where nothing more is known.
const TERMINATED: AdditionalSense = AdditionalSense::new(0x00, 0x06);
/// COMMAND TIMEOUT DURING PROCESSING.
const TIMEOUT: AdditionalSense = AdditionalSense::new(0x2E, 0x02);
/// LOGICAL UNIT DOES NOT RESPOND TO SELECTION.
const NOT_RESPONDING: AdditionalSense = AdditionalSense::new(0x05, 0x00);
/// COMMANDS CLEARED BY DEVICE SERVER.
const ABORTED: AdditionalSense = AdditionalSense::new(0x2F, 0x02);
/// I_T NEXUS LOSS OCCURRED.
const NEXUS_LOSS: AdditionalSense = AdditionalSense::new(0x29, 0x07);

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

/// It could not be recorded, so it was not sent; or the target failed for good.
#[must_use]
pub fn not_recorded() -> Completion {
    check(SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE)
}

/// The parameter list is not all that the guest meant: to send a part would be to send another command.
#[must_use]
pub fn cut_list() -> Completion {
    check(SenseKey::ILLEGAL_REQUEST, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR)
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

/// The host's word goes before the driver's, and that before the device's.
fn from_sg_io(failure: &SgIoFailure) -> Completion {
    match from_host(failure.host) {
        // What the device said to it is more than what the kernel made of it.
        Some(ended) if ended.status == Status::CHECK_CONDITION => {
            failure.sense.as_ref().map_or(ended, Completion::check)
        }
        Some(ended) => ended,
        None => from_driver(failure),
    }
}

/// QEMU's table (its `scsi/utils.c`, since 6.0); `None` where that goes on to look at the driver's status.
fn from_host(host: HostStatus) -> Option<Completion> {
    Some(match host {
        HostStatus::NO_CONNECT => check(SenseKey::ABORTED_COMMAND, NOT_RESPONDING),
        HostStatus::BUS_BUSY => Completion::status(Status::BUSY),
        HostStatus::TIME_OUT => check(SenseKey::ABORTED_COMMAND, TIMEOUT),
        HostStatus::BAD_TARGET => {
            check(SenseKey::ABORTED_COMMAND, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE)
        }
        HostStatus::ABORT => check(SenseKey::ABORTED_COMMAND, ABORTED),
        HostStatus::RESET => check(SenseKey::UNIT_ATTENTION, AdditionalSense::POWER_ON_OR_RESET),
        HostStatus::TRANSPORT_DISRUPTED => check(SenseKey::UNIT_ATTENTION, NEXUS_LOSS),
        HostStatus::TARGET_FAILURE => not_recorded(),
        HostStatus::NEXUS_FAILURE => Completion::status(Status::RESERVATION_CONFLICT),
        HostStatus::ALLOC_FAILURE => check(SenseKey::DATA_PROTECT, AdditionalSense::SPACE_ALLOCATION_FAILED),
        HostStatus::MEDIUM_ERROR => check(SenseKey::MEDIUM_ERROR, AdditionalSense::UNRECOVERED_READ_ERROR),
        _ => return None,
    })
}

/// Never GOOD, which is also what stands in the place of a status that did not come.
fn from_driver(failure: &SgIoFailure) -> Completion {
    match (failure.driver.error(), failure.status, &failure.sense) {
        (DriverStatus::TIMEOUT, _, _) => Completion::status(Status::BUSY),
        (_, Status::GOOD | Status::CHECK_CONDITION, Some(sense)) => Completion::check(sense),
        (_, Status::GOOD | Status::CHECK_CONDITION, None) => check(SenseKey::ABORTED_COMMAND, TERMINATED),
        (_, status, _) => Completion::status(status),
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

    fn sg_io(host: HostStatus, driver: DriverStatus, status: Status, sense: Option<Sense>) -> Completion {
        let failure = SgIoFailure { status, host, driver, sense, duration_ms: 1 };
        answer(&TransportError::OutcomeUnknown(io::Error::other(failure)))
    }

    fn shown(ended: &Completion) -> (u8, Option<(u8, u8, u8)>) {
        let sense = ended.decoded_sense().map(|sense| (sense.key.0, sense.code.asc, sense.code.ascq));
        (ended.status.0, sense)
    }

    /// Host statuses as Linux numbers them; where there is no row QEMU goes on to the driver's status.
    #[test]
    fn each_host_status_is_answered_as_the_incumbent_does() {
        let rows = [
            (0x01, 2, Some((0xB, 0x05, 0x00))),
            (0x02, 8, None),
            (0x03, 2, Some((0xB, 0x2E, 0x02))),
            (0x04, 2, Some((0xB, 0x08, 0x00))),
            (0x05, 2, Some((0xB, 0x2F, 0x02))),
            (0x08, 2, Some((6, 0x29, 0x00))),
            (0x0E, 2, Some((6, 0x29, 0x07))),
            (0x10, 2, Some((4, 0x44, 0x00))),
            (0x11, 0x18, None),
            (0x12, 2, Some((7, 0x27, 0x07))),
            (0x13, 2, Some((3, 0x11, 0x00))),
        ];
        for host in 0..0x20 {
            let row = rows.iter().find(|row| row.0 == host);
            let expected = row.map_or((2, Some((0xB, 0x00, 0x06))), |row| (row.1, row.2));
            let ended = sg_io(HostStatus(host), DriverStatus::OK, Status::GOOD, None);
            assert_eq!(shown(&ended), expected, "{host:#04x}");
        }
    }

    #[test]
    fn the_host_goes_before_the_driver_and_that_before_the_device() {
        let conflict = Status::RESERVATION_CONFLICT;
        let timed_out = |host| shown(&sg_io(host, DriverStatus::TIMEOUT, conflict, None));
        assert_eq!(timed_out(HostStatus::TIME_OUT), (2, Some((0xB, 0x2E, 0x02))));
        assert_eq!(timed_out(HostStatus::ERROR), (8, None));
        let said = shown(&sg_io(HostStatus::ERROR, DriverStatus::OK, conflict, None));
        assert_eq!(said, (0x18, None));
    }

    #[test]
    fn sense_data_of_the_device_is_not_replaced() {
        let sense = || Some(Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED));
        for host in [HostStatus::RESET, HostStatus::TARGET_FAILURE, HostStatus::REQUEUE] {
            let ended = sg_io(host, DriverStatus::SENSE, Status::CHECK_CONDITION, sense());
            assert_eq!(shown(&ended), (2, Some((6, 0x2A, 0x05))), "{host}");
        }
    }
}
