//! Task Management Function Request and Response (RFC 7143 11.5, 11.6).

use super::lun::Lun;
use super::wire::{code, header};

code! {
    /// What to do (RFC 7143 11.5.1), without the F bit.
    TaskFunction {
        /// Abort one task.
        ABORT_TASK = 1;
        /// Abort every task of this I_T nexus on the logical unit.
        ABORT_TASK_SET = 2;
        /// Clear an auto contingent allegiance.
        CLEAR_ACA = 3;
        /// Abort every task of every I_T nexus on the logical unit.
        CLEAR_TASK_SET = 4;
        /// Reset the logical unit.
        LOGICAL_UNIT_RESET = 5;
        /// Reset every logical unit.
        TARGET_WARM_RESET = 6;
        /// Reset every logical unit and drop every session.
        TARGET_COLD_RESET = 7;
        /// Move a task to this connection.
        TASK_REASSIGN = 8;
    }
}

impl TaskFunction {
    /// The function as it stands in byte 1: with the F bit.
    #[must_use]
    pub const fn on_wire(self) -> Self {
        Self(self.0 | 0x80)
    }

    /// The function without the F bit.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & 0x7F)
    }
}

header! {
    /// Task Management Function Request (RFC 7143 11.5).
    TaskManagementRequest = TASK_MANAGEMENT_REQUEST {
        /// Delivered at once, outside the CmdSN order.
        immediate: bool = 0;
        /// The function, with the F bit.
        function: TaskFunction = 1;
        /// The addressed logical unit; reserved for target resets.
        lun: Lun = 8;
        /// Names this request.
        initiator_task_tag: u32 = 16;
        /// The task to abort; [`super::NO_TAG`] for other functions.
        referenced_task_tag: u32 = 20;
        /// Command sequence number.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
        /// CmdSN of the task to abort.
        ref_cmd_sn: u32 = 32;
        /// Only for task reassignment.
        exp_data_sn: u32 = 36;
    }
}

code! {
    /// How a task management function ended (RFC 7143 11.6.1).
    TaskResponse {
        /// Done.
        FUNCTION_COMPLETE = 0;
        /// No task has the referenced tag.
        TASK_DOES_NOT_EXIST = 1;
        /// No such logical unit.
        LUN_DOES_NOT_EXIST = 2;
        /// The task is bound to another connection.
        TASK_STILL_ALLEGIANT = 3;
        /// Reassignment needs a higher error recovery level.
        REASSIGNMENT_NOT_SUPPORTED = 4;
        /// The target does not know the function.
        FUNCTION_NOT_SUPPORTED = 5;
        /// Not permitted for this initiator.
        AUTHORIZATION_FAILED = 6;
        /// Refused.
        FUNCTION_REJECTED = 255;
    }
}

header! {
    /// Task Management Function Response (RFC 7143 11.6).
    TaskManagementResponse = TASK_MANAGEMENT_RESPONSE {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// The outcome.
        response: TaskResponse = 2;
        /// The request that this answers.
        initiator_task_tag: u32 = 16;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
    }
}
