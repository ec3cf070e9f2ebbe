//! The data phase: SCSI Data-Out, SCSI Data-In and Ready To Transfer (RFC 7143 11.7, 11.8).

use super::lun::Lun;
use super::wire::{flags, header};

flags! {
    /// Flags of Data-In; Data-Out has only `FINAL` (RFC 7143 11.7.3).
    DataFlags {
        /// F: last PDU of its sequence.
        FINAL = 0x80;
        /// A: the initiator is to acknowledge; not used at error recovery level 0.
        ACKNOWLEDGE = 0x40;
        /// O: see the residual count.
        OVERFLOW = 0x04;
        /// U: see the residual count.
        UNDERFLOW = 0x02;
        /// S: the PDU carries the command's final status.
        STATUS = 0x01;
    }
}

header! {
    /// SCSI Data-Out (RFC 7143 11.7).
    DataOut = DATA_OUT {
        /// `FINAL` or nothing.
        flags: DataFlags = 1;
        /// As in the R2T; reserved for unsolicited data.
        lun: Lun = 8;
        /// The task that the data belongs to.
        initiator_task_tag: u32 = 16;
        /// As in the R2T; [`super::NO_TAG`] for unsolicited data.
        target_transfer_tag: u32 = 20;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
        /// Number of this PDU within its sequence, from 0.
        data_sn: u32 = 36;
        /// Place of the data in the command's buffer.
        buffer_offset: u32 = 40;
    }
}

header! {
    /// SCSI Data-In (RFC 7143 11.7).
    DataIn = DATA_IN {
        /// Flags; `OVERFLOW` and `UNDERFLOW` only with `STATUS`.
        flags: DataFlags = 1;
        /// SCSI status; valid with [`DataFlags::STATUS`].
        status: u8 = 3;
        /// Only with `ACKNOWLEDGE`.
        lun: Lun = 8;
        /// The task that the data belongs to.
        initiator_task_tag: u32 = 16;
        /// [`super::NO_TAG`] unless `ACKNOWLEDGE` is set.
        target_transfer_tag: u32 = 20;
        /// Status sequence number; valid with [`DataFlags::STATUS`].
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Number of this PDU within the command, from 0.
        data_sn: u32 = 36;
        /// Place of the data in the command's buffer.
        buffer_offset: u32 = 40;
        /// Bytes of underflow or overflow; valid with `STATUS`.
        residual: u32 = 44;
    }
}

header! {
    /// Ready To Transfer (RFC 7143 11.8): the target asks for a burst of data.
    R2t = READY_TO_TRANSFER {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// The addressed logical unit.
        lun: Lun = 8;
        /// The task that the data belongs to.
        initiator_task_tag: u32 = 16;
        /// To be copied into each Data-Out.
        target_transfer_tag: u32 = 20;
        /// The next StatSN; an R2T takes none.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Number of this R2T within the command, from 0.
        r2t_sn: u32 = 36;
        /// Where the burst starts in the command's buffer.
        buffer_offset: u32 = 40;
        /// Bytes asked for; never zero, at most MaxBurstLength.
        desired_length: u32 = 44;
    }
}
