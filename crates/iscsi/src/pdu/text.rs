//! Text Request and Text Response (RFC 7143 11.10, 11.11).

use super::lun::Lun;
use super::wire::{flags, header};

flags! {
    /// Flags of both text PDUs.
    TextFlags {
        /// F: the negotiation is over, or may be.
        FINAL = 0x80;
        /// C: the text goes on in the next PDU.
        CONTINUE = 0x40;
    }
}

header! {
    /// Text Request (RFC 7143 11.10).
    TextRequest = TEXT_REQUEST {
        /// Delivered at once, outside the CmdSN order.
        immediate: bool = 0;
        /// Flags.
        flags: TextFlags = 1;
        /// Copied from the response that this goes on from.
        lun: Lun = 8;
        /// Names the negotiation.
        initiator_task_tag: u32 = 16;
        /// Copied from the response that this goes on from, else [`super::NO_TAG`].
        target_transfer_tag: u32 = 20;
        /// Command sequence number.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
    }
}

header! {
    /// Text Response (RFC 7143 11.11).
    TextResponse = TEXT_RESPONSE {
        /// Flags.
        flags: TextFlags = 1;
        /// Valid with a target transfer tag.
        lun: Lun = 8;
        /// The request that this answers.
        initiator_task_tag: u32 = 16;
        /// Names the rest of the text; [`super::NO_TAG`] if there is none.
        target_transfer_tag: u32 = 20;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
    }
}
