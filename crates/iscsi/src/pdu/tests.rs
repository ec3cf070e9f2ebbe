//! Every header both ways: golden bytes with a distinct value in each field, and any bytes at all.

use super::*;
use proptest::prelude::*;
use scsi::Isid;

/// Emitting what was parsed keeps every field, for any bytes.
fn assert_stable<H: Header + PartialEq + fmt::Debug>(bhs: &Bhs) {
    let header = H::parse(bhs);
    let emitted = header.emit();
    assert_eq!(Opcode::of(&emitted), H::OPCODE);
    assert_eq!(H::parse(&emitted), header);
}

proptest! {
    #[test]
    fn every_header_survives_any_bytes(low: [u8; 24], high: [u8; 24]) {
        let mut bhs = [0; BHS_LENGTH];
        bhs[..24].copy_from_slice(&low);
        bhs[24..].copy_from_slice(&high);
        assert_stable::<NopOut>(&bhs);
        assert_stable::<NopIn>(&bhs);
        assert_stable::<ScsiCommand>(&bhs);
        assert_stable::<ScsiResponse>(&bhs);
        assert_stable::<TaskManagementRequest>(&bhs);
        assert_stable::<TaskManagementResponse>(&bhs);
        assert_stable::<LoginRequest>(&bhs);
        assert_stable::<LoginResponse>(&bhs);
        assert_stable::<TextRequest>(&bhs);
        assert_stable::<TextResponse>(&bhs);
        assert_stable::<DataOut>(&bhs);
        assert_stable::<DataIn>(&bhs);
        assert_stable::<LogoutRequest>(&bhs);
        assert_stable::<LogoutResponse>(&bhs);
        assert_stable::<SnackRequest>(&bhs);
        assert_stable::<R2t>(&bhs);
        assert_stable::<AsyncMessage>(&bhs);
        assert_stable::<Reject>(&bhs);
    }

    #[test]
    fn serial_numbers_compare_across_the_wrap(a: u32, ahead in 0u32..0x7FFF_FFFF) {
        prop_assert!(serial_at_most(a, a.wrapping_add(ahead)));
        prop_assert!(ahead == 0 || !serial_at_most(a.wrapping_add(ahead), a));
    }
}

/// A header of 48 bytes from its three interesting parts: bytes 0 to 3, 8 to 15, and from 16 on.
fn golden(head: [u8; 4], middle: [u8; 8], tail: &[u8]) -> Bhs {
    let mut bhs = [0; BHS_LENGTH];
    bhs[..4].copy_from_slice(&head);
    bhs[8..16].copy_from_slice(&middle);
    bhs[16..16 + tail.len()].copy_from_slice(tail);
    bhs
}

#[test]
fn scsi_command_lies_as_in_clause_11_3() {
    let cdb = [0x28, 0, 0, 0, 0, 9, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    let command = ScsiCommand {
        immediate: true,
        flags: CommandFlags::FINAL.with(CommandFlags::READ).with(CommandFlags::SIMPLE),
        lun: Lun([0, 3, 0, 0, 0, 0, 0, 0]),
        initiator_task_tag: 0x0102_0304,
        expected_data_transfer_length: 0x1000,
        cmd_sn: 0x1111_2222,
        exp_stat_sn: 0x3333_4444,
        cdb,
    };
    let mut tail = vec![1, 2, 3, 4, 0, 0, 0x10, 0, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44];
    tail.extend(cdb);
    assert_eq!(command.emit(), golden([0x41, 0xC1, 0, 0], [0, 3, 0, 0, 0, 0, 0, 0], &tail));
}

#[test]
fn scsi_response_lies_as_in_clause_11_4() {
    let response = ScsiResponse {
        flags: ResponseFlags::FINAL.with(ResponseFlags::UNDERFLOW),
        response: ResponseCode::COMPLETED,
        status: 2,
        initiator_task_tag: 1,
        snack_tag: 2,
        stat_sn: 3,
        exp_cmd_sn: 4,
        max_cmd_sn: 5,
        exp_data_sn: 6,
        bidirectional_residual: 7,
        residual: 8,
    };
    let tail: Vec<u8> = (1u32..=8).flat_map(u32::to_be_bytes).collect();
    assert_eq!(response.emit(), golden([0x21, 0x82, 0, 2], [0; 8], &tail));
}

#[test]
fn data_in_with_status_lies_as_in_clause_11_7() {
    let data = DataIn {
        flags: DataFlags::FINAL.with(DataFlags::STATUS).with(DataFlags::OVERFLOW),
        status: 0x18,
        lun: Lun::default(),
        initiator_task_tag: 1,
        target_transfer_tag: 2,
        stat_sn: 3,
        exp_cmd_sn: 4,
        max_cmd_sn: 5,
        data_sn: 6,
        buffer_offset: 7,
        residual: 8,
    };
    let tail: Vec<u8> = (1u32..=8).flat_map(u32::to_be_bytes).collect();
    assert_eq!(data.emit(), golden([0x25, 0x85, 0, 0x18], [0; 8], &tail));
}

#[test]
fn ready_to_transfer_lies_as_in_clause_11_8() {
    let bhs = golden([0x31, 0x80, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], &{
        let tail: Vec<u8> = (1u32..=8).flat_map(u32::to_be_bytes).collect();
        tail
    });
    let r2t = R2t::parse(&bhs);
    assert_eq!(r2t.lun.number(), Some(1));
    assert_eq!((r2t.initiator_task_tag, r2t.target_transfer_tag, r2t.stat_sn), (1, 2, 3));
    assert_eq!((r2t.exp_cmd_sn, r2t.max_cmd_sn, r2t.r2t_sn), (4, 5, 6));
    assert_eq!((r2t.buffer_offset, r2t.desired_length), (7, 8));
    assert_eq!(r2t.emit(), bhs);
}

#[test]
fn login_pdus_lie_as_in_clauses_11_12_and_11_13() {
    let request = LoginRequest {
        immediate: true,
        flags: LoginFlags::transit(Stage::Operational, Stage::FullFeature),
        version_max: 0,
        version_min: 0,
        isid: Isid([0, 2, 0x3D, 1, 2, 3]),
        tsih: 0x0506,
        initiator_task_tag: 7,
        cid: 8,
        cmd_sn: 9,
        exp_stat_sn: 10,
    };
    let tail = [0, 0, 0, 7, 0, 8, 0, 0, 0, 0, 0, 9, 0, 0, 0, 10];
    assert_eq!(request.emit(), golden([0x43, 0x87, 0, 0], [0, 2, 0x3D, 1, 2, 3, 5, 6], &tail));

    let bhs = golden([0x23, 0x81, 0, 0], [0, 2, 0x3D, 1, 2, 3, 5, 6], &{
        let mut tail = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        tail.extend([2, 1]);
        tail
    });
    let response = LoginResponse::parse(&bhs);
    assert_eq!(response.status, LoginStatus::AUTHENTICATION_FAILURE);
    assert_eq!(
        (response.flags.current(), response.flags.next()),
        (Some(Stage::Security), Some(Stage::Operational))
    );
    assert_eq!((response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn), (1, 2, 3));
    assert_eq!(response.emit(), bhs);
}

#[test]
fn task_management_logout_and_async_fields_keep_their_places() {
    let tail: Vec<u8> = (1u32..=6).flat_map(u32::to_be_bytes).collect();
    let request = TaskManagementRequest::parse(&golden([0x42, 0x81, 0, 0], [0; 8], &tail));
    assert_eq!(request.function.code(), TaskFunction::ABORT_TASK);
    assert_eq!((request.referenced_task_tag, request.cmd_sn, request.ref_cmd_sn), (2, 3, 5));

    let mut tail: Vec<u8> = (1u32..=6).flat_map(u32::to_be_bytes).collect();
    tail.extend([0, 7, 0, 8]);
    let response = LogoutResponse::parse(&golden([0x26, 0x80, 0, 0], [0; 8], &tail));
    assert_eq!((response.stat_sn, response.time2wait, response.time2retain), (3, 7, 8));

    let mut tail = vec![0; 20];
    tail.extend([1, 9, 0, 2, 0, 3, 0, 4]);
    let message = AsyncMessage::parse(&golden([0x32, 0x80, 0, 0], [0; 8], &tail));
    assert_eq!(message.event, AsyncEvent::LOGOUT_REQUEST);
    assert_eq!((message.vendor_code, message.parameter1, message.parameter3), (9, 2, 4));
}

#[test]
fn reserved_login_stage_is_told_apart() {
    assert_eq!(LoginFlags(0x08).current(), None);
    assert_eq!(LoginFlags(0x82).next(), None);
}
