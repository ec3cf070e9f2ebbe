//! What pass-through and iSCSI logical units have in common: a command as the way to a real logical unit takes it, the
//! logical unit's own name, and what a guest is told instead of a completion.

use super::{Arrival, Ending};
use logical_unit::Aborted;
use nexus::unit_attention;
use scsi::block::{Access, Command, Operation};
use scsi::vpd::{DeviceIdentification, Page, page};
use scsi::{AdditionalSense, Completion, DataPhase, FieldError, Request, Sense, SenseKey, Status, opcode};

/// The most data that one command moves through memory of ours.
pub(super) const MOST_DATA: usize = 32 << 20;

/// Allocation length of INQUIRY for page 83h.
const PAGE_LENGTH: u16 = 4096;

/// A command as it is sent: the CDB without the padding of the ring, and one data phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) cdb: Vec<u8>,
    pub(super) data_out: usize,
    pub(super) data_in: usize,
}

impl Order {
    /// # Errors
    /// What the guest is answered where nothing can be sent: a CDB without a length that is known (group 3), one that the guest
    /// cut, data in both directions, more of it than fits.
    pub(super) fn of(command: &Arrival<'_>) -> Result<Self, Completion> {
        let Arrival { cdb, data_out, data_in, .. } = *command;
        let refused = |error: FieldError| Completion::check(&error.sense());
        let code = cdb.first().copied().ok_or_else(|| refused(FieldError::cdb(0)))?;
        let cdb = length_of(code).and_then(|length| cdb.get(..length)).ok_or_else(unknown_command)?;
        if data_out > MOST_DATA || data_out > 0 && data_in > 0 {
            return Err(refused(FieldError::cdb(0)));
        }
        Ok(Self { cdb: cdb.to_vec(), data_out, data_in: data_in.min(MOST_DATA) })
    }

    /// With all of its data-out.
    pub(super) fn request(&self, data_out: &[u8]) -> Request {
        let data = match (self.data_out, self.data_in) {
            (0, 0) => DataPhase::None,
            (0, room) => DataPhase::In(room),
            (length, _) => DataPhase::Out(data_out.get(..length).unwrap_or(data_out).to_vec()),
        };
        Request { cdb: self.cdb.clone(), data }
    }

    /// INQUIRY, REPORT LUNS and REQUEST SENSE neither report a unit attention nor clear one by CHECK CONDITION (SAM-5 5.14).
    pub(super) fn is_exempt(&self) -> bool {
        let exempt = [opcode::INQUIRY, opcode::REPORT_LUNS, opcode::REQUEST_SENSE];
        self.cdb.first().is_some_and(|code| exempt.contains(code))
    }
}

/// The length of a CDB by the group of its operation code (SPC-4 4.3.5.1); the vendor's groups are taken as Linux takes them.
const fn length_of(code: u8) -> Option<usize> {
    match code >> 5 {
        0 => Some(6),
        1 | 2 | 6 | 7 => Some(10),
        4 => Some(16),
        5 => Some(12),
        _ => None,
    }
}

/// Bytes of data-out that a CDB names, for the commands with a parameter list (SPC-4 6, SBC-3 5). How long the blocks of a WRITE are only
/// the logical unit knows.
pub(super) fn list_length(cdb: &[u8]) -> Option<u64> {
    let (at, width) = match *cdb.first()? {
        opcode::MODE_SELECT_6 => (4, 1),
        opcode::SEND_DIAGNOSTIC => (3, 2),
        opcode::WRITE_BUFFER => (6, 3),
        opcode::UNMAP | opcode::SANITIZE | opcode::MODE_SELECT_10 => (7, 2),
        opcode::PERSISTENT_RESERVE_OUT => (5, 4),
        opcode::THIRD_PARTY_COPY_OUT => (10, 4),
        opcode::MAINTENANCE_OUT => (6, 4),
        _ => return None,
    };
    let field = cdb.get(at..at + width)?;
    Some(field.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

fn unknown_command() -> Completion {
    check(SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_COMMAND_OPERATION_CODE)
}

/// A READ or WRITE that moves whole blocks and asks for nothing beside: what a block device can do as well.
pub(super) fn plain_access(cdb: &[u8]) -> Option<Access> {
    let Ok(Command::Access(access)) = Command::parse(cdb) else { return None };
    let control = access.extent.form.length() - 1;
    let plain = access.protect == 0 && cdb.get(control).is_some_and(|byte| byte & 0x04 == 0);
    let moves = match access.operation {
        // What the kernel makes of FUA depends on what it believes of the write cache, which the guest may have switched.
        Operation::Read | Operation::Write => !access.fua,
        _ => false,
    };
    (plain && moves && access.extent.blocks > 0).then_some(access)
}

/// What a logical unit calls itself in page 83h, as it stands there.
pub(super) type Names = Vec<u8>;

/// INQUIRY for [`names`]. It does not disturb a unit attention.
pub(super) fn names_request() -> Request {
    let [high, low] = PAGE_LENGTH.to_be_bytes();
    let cdb = vec![opcode::INQUIRY, 1, page::DEVICE_IDENTIFICATION, high, low, 0];
    Request { cdb, data: DataPhase::In(PAGE_LENGTH.into()) }
}

/// The names of the logical unit, those of the port it was reached through left out; none without a name: any other would be the same.
pub(super) fn names(completion: &Completion) -> Option<Names> {
    if !completion.status.is_good() {
        return None;
    }
    let body = Page::parse(&completion.data).filter(|page| page.code == page::DEVICE_IDENTIFICATION)?.body;
    let identification = DeviceIdentification::parse(&body);
    let designators: Vec<_> = identification.logical_unit_names().into_iter().cloned().collect();
    (!designators.is_empty()).then(|| DeviceIdentification { designators }.to_bytes())
}

/// The parameters of the logical unit changed, as this unit attention says: what virtio-scsi drivers look at again (PARAMETERS,
/// MODE PARAMETERS and CAPACITY DATA CHANGED).
pub(super) fn parameters_changed(completion: &Completion) -> Option<AdditionalSense> {
    let code = unit_attention(completion)?;
    matches!((code.asc, code.ascq), (0x2A, 0x00 | 0x01 | 0x09)).then_some(code)
}

pub(super) fn check(key: SenseKey, code: AdditionalSense) -> Completion {
    Completion::check(&Sense::new(key, code))
}

/// The logical unit cannot be reached, and nothing was sent.
pub(super) fn not_ready() -> Ending {
    Ending::Status(check(SenseKey::NOT_READY, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE))
}

/// The way is there and did not take the command.
pub(super) fn failed() -> Ending {
    Ending::Status(check(SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE))
}

/// How a command ends that was ended before it was sent.
pub(super) fn ended(how: Aborted) -> Ending {
    match how {
        Aborted::Silently => Ending::Aborted,
        Aborted::TaskAbortedStatus => Ending::Status(Completion::status(Status::TASK_ABORTED)),
        Aborted::Reset => Ending::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::vpd::{Association, CodeSet, Designator, DesignatorType};

    fn arrival(cdb: &[u8], data_out: usize, data_in: usize) -> Arrival<'_> {
        Arrival { id: 1, cdb, data_out, data_in }
    }

    #[test]
    fn a_cdb_loses_the_padding_of_the_ring_and_one_without_known_length_is_refused() {
        for (code, length) in
            [(0x00, 6), (0x28, 10), (0x5F, 10), (0x88, 16), (0xA8, 12), (0xC1, 10), (0xE0, 10)]
        {
            let mut cdb = [0; 32];
            cdb[0] = code;
            assert_eq!(Order::of(&arrival(&cdb, 0, 0)).unwrap().cdb.len(), length, "{code:#x}");
        }
        for cdb in [&[0x7F; 32][..], &[0x28; 9], &[]] {
            assert_eq!(Order::of(&arrival(cdb, 0, 0)).unwrap_err().status, Status::CHECK_CONDITION);
        }
    }

    #[test]
    fn data_goes_one_way_and_is_bounded() {
        let cdb = [0; 6];
        Order::of(&arrival(&cdb, 1, 1)).unwrap_err();
        Order::of(&arrival(&cdb, MOST_DATA + 1, 0)).unwrap_err();
        let order = Order::of(&arrival(&cdb, 0, usize::MAX)).unwrap();
        assert_eq!(order.request(&[]).data, DataPhase::In(MOST_DATA));
        let order = Order::of(&arrival(&cdb, 3, 0)).unwrap();
        assert_eq!(order.request(&[1, 2, 3, 4]).data, DataPhase::Out(vec![1, 2, 3]));
        assert_eq!(Order::of(&arrival(&cdb, 0, 0)).unwrap().request(&[]).data, DataPhase::None);
    }

    #[test]
    fn the_length_of_a_parameter_list_is_read_where_the_command_has_it() {
        for (code, at, length) in [
            (0x15, 4, &[0xFF][..]),
            (0x55, 7, &[1, 2]),
            (0x1D, 3, &[1, 2]),
            (0x3B, 6, &[1, 2, 3]),
            (0x42, 7, &[1, 2]),
            (0x48, 7, &[1, 2]),
            (0x5F, 5, &[1, 2, 3, 4]),
            (0x83, 10, &[1, 2, 3, 4]),
            (0xA4, 6, &[1, 2, 3, 4]),
        ] {
            let mut cdb = [0; 32];
            cdb[0] = code;
            assert_eq!(list_length(&cdb), Some(0), "{code:#x}");
            cdb[at..at + length.len()].copy_from_slice(length);
            let wanted = length.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            assert_eq!(list_length(&cdb), Some(wanted), "{code:#x}");
        }
        assert_eq!((list_length(&[0x2A; 10]), list_length(&[0x5F; 8]), list_length(&[])), (None, None, None));
    }

    #[test]
    fn only_a_plain_read_or_write_is_one_for_a_block_device() {
        let cdb = |code, flags, blocks, control| [code, flags, 0, 0, 0, 0, 0, 0, blocks, control];
        assert!(plain_access(&cdb(0x28, 0, 1, 0)).is_some());
        assert!(plain_access(&cdb(0x2A, 0, 1, 0)).is_some());
        for other in [
            cdb(0x28, 0x08, 1, 0),
            cdb(0x2A, 0x08, 1, 0),
            cdb(0x28, 0x20, 1, 0),
            cdb(0x2A, 0x20, 1, 0),
            cdb(0x28, 0, 0, 0),
            cdb(0x28, 0, 1, 4),
            cdb(0x2E, 0, 1, 0),
            cdb(0x35, 0, 1, 0),
            cdb(0x41, 0, 1, 0),
        ] {
            assert!(plain_access(&other).is_none(), "{other:02x?}");
        }
    }

    #[test]
    fn a_unit_keeps_its_name_through_another_port() {
        let designator = |association, byte| Designator {
            protocol: None,
            code_set: CodeSet::BINARY,
            association,
            kind: DesignatorType::NAA,
            bytes: vec![byte; 8],
        };
        let told = |unit, port| {
            let designators =
                vec![designator(Association::LOGICAL_UNIT, unit), designator(Association::TARGET_PORT, port)];
            let body = DeviceIdentification { designators }.to_bytes();
            let page = Page { peripheral: 0, code: page::DEVICE_IDENTIFICATION, body };
            names(&Completion::good(page.to_bytes()))
        };
        assert_eq!(told(1, 2), told(1, 3));
        assert_ne!(told(1, 2), told(2, 2));
        assert_eq!(names(&Completion::status(Status::BUSY)), None);
        assert_eq!(names(&Completion::good(vec![0; 3])), None);
        let nameless = Page { peripheral: 0, code: page::DEVICE_IDENTIFICATION, body: Vec::new() };
        assert_eq!(names(&Completion::good(nameless.to_bytes())), None);
    }

    #[test]
    fn a_change_of_parameters_is_told_from_other_attentions() {
        let told = |asc, ascq| {
            let sense = Sense::unit_attention(AdditionalSense::new(asc, ascq));
            parameters_changed(&Completion::check(&sense)).is_some()
        };
        assert!(told(0x2A, 0x09) && told(0x2A, 0x01) && told(0x2A, 0x00));
        assert!(!told(0x2A, 0x03) && !told(0x29, 0x00));
        let error = Sense::new(SenseKey::ILLEGAL_REQUEST, AdditionalSense::new(0x2A, 0x09));
        assert_eq!(parameters_changed(&Completion::check(&error)), None);
    }
}
