//! Reject, Asynchronous Message and SNACK Request (RFC 7143 11.17, 11.9, 11.16).

use super::lun::Lun;
use super::wire::{code, header};

code! {
    /// Why a PDU is rejected (RFC 7143 11.17.1).
    RejectReason {
        /// The data digest was wrong.
        DATA_DIGEST_ERROR = 0x02;
        /// SNACK is not supported.
        SNACK_REJECT = 0x03;
        /// The PDU is not legal here.
        PROTOCOL_ERROR = 0x04;
        /// The opcode is not supported.
        COMMAND_NOT_SUPPORTED = 0x05;
        /// Too many immediate commands.
        IMMEDIATE_COMMAND_REJECT = 0x06;
        /// No such task.
        TASK_IN_PROGRESS = 0x07;
        /// No such data to acknowledge.
        INVALID_DATA_ACK = 0x08;
        /// A field of the PDU is wrong.
        INVALID_PDU_FIELD = 0x09;
        /// No resources for a long operation.
        LONG_OPERATION_REJECT = 0x0A;
        /// Waiting for a logout.
        WAITING_FOR_LOGOUT = 0x0C;
    }
}

header! {
    /// Reject (RFC 7143 11.17). Its data segment is the header of the rejected PDU.
    Reject = REJECT {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// The reason.
        reason: RejectReason = 2;
        /// Always [`super::NO_TAG`].
        initiator_task_tag: u32 = 16;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Only for rejected SNACKs and data.
        data_sn: u32 = 36;
    }
}

code! {
    /// What the target reports (RFC 7143 11.9.1).
    AsyncEvent {
        /// A SCSI event; sense data is in the data segment.
        SCSI = 0;
        /// The initiator must log out within Parameter3 seconds.
        LOGOUT_REQUEST = 1;
        /// The target drops a connection.
        CONNECTION_DROPPED = 2;
        /// The target drops every connection of the session.
        SESSION_DROPPED = 3;
        /// The target asks for parameter negotiation within Parameter3 seconds.
        NEGOTIATION_REQUEST = 4;
        /// Every task on the logical unit is terminated.
        TASKS_TERMINATED = 5;
    }
}

header! {
    /// Asynchronous Message (RFC 7143 11.9).
    AsyncMessage = ASYNC_MESSAGE {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// For SCSI events.
        lun: Lun = 8;
        /// Always [`super::NO_TAG`].
        initiator_task_tag: u32 = 16;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// What happened.
        event: AsyncEvent = 36;
        /// Vendor code.
        vendor_code: u8 = 37;
        /// Depends on the event, e.g. a connection identifier.
        parameter1: u16 = 38;
        /// Depends on the event, e.g. seconds to wait.
        parameter2: u16 = 40;
        /// Depends on the event, e.g. seconds until the target acts.
        parameter3: u16 = 42;
    }
}

header! {
    /// SNACK Request (RFC 7143 11.16); only above error recovery level 0, so the target rejects it.
    SnackRequest = SNACK_REQUEST {
        /// The F bit and the type.
        flags: u8 = 1;
        /// The addressed logical unit.
        lun: Lun = 8;
        /// The task, or [`super::NO_TAG`].
        initiator_task_tag: u32 = 16;
        /// Target transfer tag or SNACK tag.
        target_transfer_tag: u32 = 20;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
        /// First number asked for.
        begin_run: u32 = 40;
        /// How many; 0 for all.
        run_length: u32 = 44;
    }
}
