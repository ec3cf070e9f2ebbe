//! SCSI Command and SCSI Response (RFC 7143 11.3, 11.4).

use super::lun::Lun;
use super::wire::{code, flags, header};

flags! {
    /// Flags and task attribute of a SCSI Command (RFC 7143 11.3.1).
    CommandFlags {
        /// F: no unsolicited Data-Out follows.
        FINAL = 0x80;
        /// R: the command expects data-in.
        READ = 0x40;
        /// W: the command expects data-out.
        WRITE = 0x20;
        /// ATTR SIMPLE.
        SIMPLE = 0x01;
        /// ATTR ORDERED.
        ORDERED = 0x02;
        /// ATTR HEAD OF QUEUE.
        HEAD_OF_QUEUE = 0x03;
    }
}

header! {
    /// SCSI Command (RFC 7143 11.3).
    ScsiCommand = SCSI_COMMAND {
        /// Delivered at once, outside the CmdSN order.
        immediate: bool = 0;
        /// Direction and task attribute.
        flags: CommandFlags = 1;
        /// The addressed logical unit.
        lun: Lun = 8;
        /// Names the task for its lifetime.
        initiator_task_tag: u32 = 16;
        /// Bytes the initiator is ready to move.
        expected_data_transfer_length: u32 = 20;
        /// Command sequence number.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
        /// The CDB, padded with zeros; more of it may stand in an additional header segment.
        cdb: [u8; 16] = 32;
    }
}

flags! {
    /// Residual flags of a SCSI Response (RFC 7143 11.4.1).
    ResponseFlags {
        /// Always set.
        FINAL = 0x80;
        /// U: fewer bytes moved than the initiator expected.
        UNDERFLOW = 0x02;
        /// O: the command had more bytes to move than the initiator expected.
        OVERFLOW = 0x04;
    }
}

code! {
    /// iSCSI service response (RFC 7143 11.4.3).
    ResponseCode {
        /// The device server finished the command; its status is valid.
        COMPLETED = 0x00;
        /// The target failed; there is no status.
        TARGET_FAILURE = 0x01;
    }
}

header! {
    /// SCSI Response (RFC 7143 11.4). Its data segment is a two-byte sense length and sense data.
    ScsiResponse = SCSI_RESPONSE {
        /// Residual flags.
        flags: ResponseFlags = 1;
        /// Service response.
        response: ResponseCode = 2;
        /// SCSI status (SAM-5 5.3); valid with [`ResponseCode::COMPLETED`].
        status: u8 = 3;
        /// The task that ended.
        initiator_task_tag: u32 = 16;
        /// SNACK tag; zero at error recovery level 0.
        snack_tag: u32 = 20;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Number of R2T and Data-In PDUs that were sent for the command.
        exp_data_sn: u32 = 36;
        /// Residual of the read half of a bidirectional command.
        bidirectional_residual: u32 = 40;
        /// Bytes of underflow or overflow.
        residual: u32 = 44;
    }
}
