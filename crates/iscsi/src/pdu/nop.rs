//! NOP-Out and NOP-In (RFC 7143 11.18, 11.19): pings both ways.

use super::lun::Lun;
use super::wire::header;

header! {
    /// NOP-Out (RFC 7143 11.18): a ping of the initiator, or its answer to one.
    NopOut = NOP_OUT {
        /// Delivered at once, outside the CmdSN order.
        immediate: bool = 0;
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// Copied from the NOP-In that this answers.
        lun: Lun = 8;
        /// Names a ping; [`super::NO_TAG`] wants no answer.
        initiator_task_tag: u32 = 16;
        /// Copied from the NOP-In that this answers, else [`super::NO_TAG`].
        target_transfer_tag: u32 = 20;
        /// Command sequence number.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
    }
}

header! {
    /// NOP-In (RFC 7143 11.19): the answer to a ping, or a ping of the target.
    NopIn = NOP_IN {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// Valid with a target transfer tag.
        lun: Lun = 8;
        /// Copied from the NOP-Out that this answers, else [`super::NO_TAG`].
        initiator_task_tag: u32 = 16;
        /// Names a ping; [`super::NO_TAG`] wants no answer.
        target_transfer_tag: u32 = 20;
        /// Status sequence number; taken only by an answer.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
    }
}
