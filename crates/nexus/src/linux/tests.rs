//! SG_IO without a device: returned headers byte for byte, built after what x86-64 kernels before and
//! after 5.14 give, and nodes that are no SCSI disks.

mod recorded;

use super::sys::Returned;
use super::*;
use proptest::prelude::*;
use scsi::{AdditionalSense, Sense, SenseKey, Status};

/// The output part of `struct sg_io_hdr`, bytes 64 to 83, little endian: status, masked, msg and sense
/// length; host and driver status; resid; duration; info.
type Output = [u8; 20];

const GOOD: Output = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
/// CHECK CONDITION with 18 bytes of sense data; DRIVER_SENSE as before 5.14.
const CHECK_BEFORE_5_14: Output = [2, 1, 0, 18, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
const CHECK: Output = [2, 1, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
const CONFLICT: Output = [0x18, 0x0C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
const CONFLICT_WITH_NEXUS_FAILURE: Output =
    [0x18, 0x0C, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
const NEXUS_FAILURE: Output = [0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
/// 30.1 s; DRIVER_TIMEOUT as before 5.14.
const TIMEOUT_BEFORE_5_14: Output = [0, 0, 0, 0, 3, 0, 6, 0, 24, 0, 0, 0, 0x94, 0x75, 0, 0, 1, 0, 0, 0];
const TIMEOUT: Output = [0, 0, 0, 0, 3, 0, 0, 0, 24, 0, 0, 0, 0x94, 0x75, 0, 0, 1, 0, 0, 0];
const NO_CONNECT: Output = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

const ATTENTION: [u8; 18] = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, 5, 0, 0, 0, 0];

fn returned(bytes: Output) -> Returned {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Returned {
        status: bytes[0],
        masked_status: bytes[1],
        msg_status: bytes[2],
        sb_len_wr: bytes[3],
        host_status: half(4),
        driver_status: half(6),
        resid: word(8).cast_signed(),
        duration: word(12),
        info: word(16),
    }
}

/// The output header with another host status.
fn with_host(output: Output, host: HostStatus) -> Returned {
    Returned { host_status: host.0, ..returned(output) }
}

/// A sense buffer as the kernel leaves it: zero behind what was written.
fn sense_buffer(sense: &[u8]) -> [u8; sys::SENSE_LENGTH] {
    let mut buffer = [0; sys::SENSE_LENGTH];
    buffer[..sense.len()].copy_from_slice(sense);
    buffer
}

fn ended(returned: &Returned) -> Result<Completion, TransportError> {
    outcome::completion(returned, &sense_buffer(&ATTENTION), vec![0xAA; 24])
}

fn text(error: &TransportError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

fn unknown(returned: &Returned) -> Error {
    match ended(returned) {
        Err(TransportError::OutcomeUnknown(error)) => error,
        other => panic!("{returned:?}: {other:?}"),
    }
}

#[test]
fn good_is_a_completion_with_all_data() {
    let completion = ended(&returned(GOOD)).unwrap();
    assert_eq!(completion, Completion::good(vec![0xAA; 24]));
}

#[test]
fn short_transfer_cuts_the_data_and_nonsense_does_not() {
    let data = |resid| ended(&Returned { resid, ..returned(GOOD) }).unwrap().data.len();
    assert_eq!(data(16), 8);
    assert_eq!(data(24), 0);
    assert_eq!(data(25), 0);
    assert_eq!(data(-8), 24, "the device had more than was asked for");
}

#[test]
fn unit_attention_is_a_completion_before_and_after_5_14() {
    for output in [CHECK_BEFORE_5_14, CHECK] {
        let completion = ended(&returned(output)).unwrap();
        assert_eq!(completion.status, Status::CHECK_CONDITION);
        assert_eq!(completion.sense, ATTENTION, "nothing behind the 18 bytes that were written");
        let attention = crate::unit_attention(&completion);
        assert_eq!(attention, Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    }
}

#[test]
fn reservation_conflict_is_a_completion_however_the_kernel_puts_it() {
    for output in [CONFLICT, CONFLICT_WITH_NEXUS_FAILURE, NEXUS_FAILURE] {
        assert_eq!(ended(&returned(output)).unwrap().status, Status::RESERVATION_CONFLICT);
    }
}

#[test]
fn other_statuses_are_completions() {
    for status in
        [Status::BUSY, Status::TASK_SET_FULL, Status::TASK_ABORTED, Status::ACA_ACTIVE, Status(0x22)]
    {
        let returned = Returned { status: status.0, ..returned(CONFLICT) };
        assert_eq!(ended(&returned).unwrap().status, status);
    }
}

#[test]
fn host_codes_derived_from_sense_data_leave_the_answer_valid() {
    let derived = [
        HostStatus::TARGET_FAILURE,
        HostStatus::NEXUS_FAILURE,
        HostStatus::ALLOC_FAILURE,
        HostStatus::MEDIUM_ERROR,
        HostStatus::ERROR,
    ];
    for host in derived {
        assert_eq!(ended(&with_host(CHECK, host)).unwrap().status, Status::CHECK_CONDITION, "{host}");
        let without_sense = Returned { sb_len_wr: 0, ..with_host(CHECK, host) };
        assert!(ended(&without_sense).is_err(), "{host}");
    }
    let no_autosense = Returned { sb_len_wr: 0, ..returned(CHECK) };
    assert_eq!(ended(&no_autosense).unwrap().sense, []);
}

#[test]
fn driver_sense_with_a_forgotten_status_is_judged_by_the_sense_data() {
    let forgotten = Returned { status: 0, masked_status: 0, ..returned(CHECK_BEFORE_5_14) };
    assert_eq!(ended(&forgotten).unwrap().status, Status::CHECK_CONDITION);
    let recovered = Sense::new(SenseKey::RECOVERED_ERROR, AdditionalSense::NONE).to_fixed();
    let completion = outcome::completion(&forgotten, &sense_buffer(&recovered), vec![]).unwrap();
    assert_eq!((completion.status, completion.sense), (Status::GOOD, recovered));
}

#[test]
fn timeout_is_an_unknown_outcome_before_and_after_5_14() {
    for output in [TIMEOUT_BEFORE_5_14, TIMEOUT] {
        assert_eq!(unknown(&returned(output)).kind(), ErrorKind::TimedOut);
    }
    let driver_alone = Returned { host_status: 0, ..returned(TIMEOUT_BEFORE_5_14) };
    assert_eq!(unknown(&driver_alone).kind(), ErrorKind::TimedOut);
    assert_eq!(unknown(&with_host(CHECK, HostStatus::TIME_OUT)).kind(), ErrorKind::TimedOut);
    let beside_sense = Returned { driver_status: DriverStatus::TIMEOUT.0, ..returned(CHECK) };
    assert_eq!(unknown(&beside_sense).kind(), ErrorKind::TimedOut);
}

#[test]
fn no_connect_is_not_sent_only_if_refused_on_the_spot() {
    assert!(matches!(ended(&returned(NO_CONNECT)), Err(TransportError::NotSent(_))));
    let in_flight = Returned { duration: 180, ..returned(NO_CONNECT) };
    assert_eq!(unknown(&in_flight).kind(), ErrorKind::NotConnected);
    let answered_before = Returned { status: 2, sb_len_wr: 18, ..returned(NO_CONNECT) };
    unknown(&answered_before);
}

#[test]
fn every_other_host_error_is_an_unknown_outcome() {
    let refused =
        [HostStatus::OK, HostStatus::NO_CONNECT, HostStatus::PASSTHROUGH, HostStatus::NEXUS_FAILURE];
    for host in (0..0x20).map(HostStatus).filter(|host| !refused.contains(host)) {
        unknown(&with_host(GOOD, host));
    }
}

#[test]
fn good_with_something_amiss_is_an_unknown_outcome() {
    for driver in (1..8).chain([9, 15]) {
        unknown(&Returned { driver_status: driver, ..returned(GOOD) });
    }
    unknown(&Returned { info: 1, ..returned(GOOD) });
}

#[test]
fn text_of_a_failure_has_all_that_linux_reported() {
    let failure = ended(&with_host(CHECK_BEFORE_5_14, HostStatus::RESET)).unwrap_err();
    assert_eq!(
        text(&failure),
        "SG_IO: host status DID_RESET (0x08, the bus or device was reset), driver status DRIVER_SENSE (0x08), \
         status CHECK CONDITION, sense UNIT ATTENTION: REGISTRATIONS PREEMPTED (2a/05), after 1 ms"
    );
    let failure = ended(&with_host(TIMEOUT_BEFORE_5_14, HostStatus(0x77))).unwrap_err();
    assert_eq!(
        text(&failure),
        "SG_IO: host status 0x77, driver status DRIVER_TIMEOUT (0x06), status GOOD, no sense data, after 30100 ms"
    );
}

#[test]
fn a_failed_ioctl_is_not_sent_only_where_the_kernel_checks_first() {
    use rustix::io::Errno;
    for errno in [Errno::PERM, Errno::INVAL, Errno::NOTTY, Errno::NXIO] {
        assert!(matches!(outcome::ioctl_error(errno), TransportError::NotSent(_)), "{errno}");
    }
    for errno in [Errno::INTR, Errno::FAULT, Errno::NODEV, Errno::IO, Errno::NOMEM] {
        assert!(matches!(outcome::ioctl_error(errno), TransportError::OutcomeUnknown(_)), "{errno}");
    }
}

#[test]
fn nodes_that_are_no_scsi_disks_are_refused_with_advice() {
    let refused = |path: &str| SgDevice::open(path).unwrap_err().to_string();
    let directory = refused("/");
    assert_eq!(
        directory,
        "/ is neither a block nor a character device; give a SCSI disk such as /dev/sda or /dev/sg0"
    );
    assert!(refused("/dev/null").starts_with("/dev/null takes no SCSI commands"));
    let missing = refused("/dev/no-such-disk");
    assert_eq!(
        missing,
        "cannot open /dev/no-such-disk; list the SCSI disks of this machine with lsblk --scsi"
    );
}

/// A nexus to a device that refuses the ioctl, which is as far as one gets without a disk.
fn to_null() -> SgDevice {
    let device = std::fs::File::open("/dev/null").unwrap().into();
    SgDevice::from_fd(device).unwrap()
}

#[test]
fn a_refused_ioctl_says_so_and_was_not_sent() {
    let request = scsi::pr::request::clear(scsi::pr::Key(1));
    let error = to_null().execute(&request).unwrap_err();
    assert!(
        matches!(error, TransportError::NotSent(ref source) if source.raw_os_error() == Some(25)),
        "{error:?}"
    );
}

#[test]
fn cdbs_that_sg_io_cannot_carry_are_not_sent() {
    for length in [0, 17, 300] {
        let request = Request { cdb: vec![0; length], data: DataPhase::None };
        let error = to_null().execute(&request).unwrap_err();
        assert!(text(&error).contains("1 to 16 bytes"), "{error:?}");
    }
}

#[test]
fn timeouts_are_whole_milliseconds_and_never_for_ever() {
    let timeout = |duration| milliseconds(to_null().with_timeout(duration).timeout);
    assert_eq!(timeout(Duration::from_millis(1500)), 1500);
    assert_eq!(timeout(Duration::ZERO), 1);
    assert_eq!(timeout(Duration::MAX), u32::MAX - 1);
}

proptest! {
    /// Whatever a driver returns: GOOD is believed only if nothing contradicts it, and a status other
    /// than GOOD is never turned into GOOD.
    #[test]
    fn good_needs_a_clean_header(output: Output, sense in prop::collection::vec(any::<u8>(), 0..sys::SENSE_LENGTH)) {
        let returned = returned(output);
        let host = HostStatus(returned.host_status);
        if let Ok(completion) = outcome::completion(&returned, &sense, vec![0; 24]) {
            prop_assert!(completion.data.len() <= 24 && completion.sense.len() <= sense.len());
            if completion.status == Status::GOOD {
                prop_assert_eq!(returned.status, 0);
                prop_assert!(host == HostStatus::OK || host == HostStatus::PASSTHROUGH);
            }
        }
    }
}

#[test]
fn only_devices_are_taken_from_a_descriptor() {
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(!SgDevice::from_fd(null.into()).unwrap().is_writable());
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let device = SgDevice::from_fd(null.into()).unwrap();
    assert!(device.is_writable());
    assert_eq!(device.number(), rustix::fs::makedev(1, 3));
    let (pipe, _) = std::io::pipe().unwrap();
    assert!(SgDevice::from_fd(pipe.into()).is_err());
    let flags = rustix::fs::OFlags::PATH;
    let path = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).unwrap();
    assert!(SgDevice::from_fd(path).is_err());
}
