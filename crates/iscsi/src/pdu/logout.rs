//! Logout Request and Logout Response (RFC 7143 11.14, 11.15).

use super::wire::{code, header};

code! {
    /// Why the initiator logs out (RFC 7143 11.14.1), without the F bit.
    LogoutReason {
        /// Close the session.
        CLOSE_SESSION = 0;
        /// Close one connection.
        CLOSE_CONNECTION = 1;
        /// Remove a connection for recovery.
        RECOVERY = 2;
    }
}

impl LogoutReason {
    /// The reason as it stands in byte 1: with the F bit.
    #[must_use]
    pub const fn on_wire(self) -> Self {
        Self(self.0 | 0x80)
    }

    /// The reason without the F bit.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & 0x7F)
    }
}

header! {
    /// Logout Request (RFC 7143 11.14).
    LogoutRequest = LOGOUT_REQUEST {
        /// Delivered at once, outside the CmdSN order.
        immediate: bool = 0;
        /// The reason, with the F bit.
        reason: LogoutReason = 1;
        /// Names this request.
        initiator_task_tag: u32 = 16;
        /// The connection to close; ignored when the session is closed.
        cid: u16 = 20;
        /// Command sequence number.
        cmd_sn: u32 = 24;
        /// Acknowledges every status before it.
        exp_stat_sn: u32 = 28;
    }
}

code! {
    /// How the logout ended (RFC 7143 11.15.1).
    LogoutResult {
        /// The connection or session is closed.
        CLOSED = 0;
        /// No such connection.
        CID_NOT_FOUND = 1;
        /// Connection recovery is not supported.
        RECOVERY_NOT_SUPPORTED = 2;
        /// Cleaning up failed.
        CLEANUP_FAILED = 3;
    }
}

header! {
    /// Logout Response (RFC 7143 11.15).
    LogoutResponse = LOGOUT_RESPONSE {
        /// The F bit and nothing else.
        flags: u8 = 1;
        /// The outcome.
        result: LogoutResult = 2;
        /// The request that this answers.
        initiator_task_tag: u32 = 16;
        /// Status sequence number.
        stat_sn: u32 = 24;
        /// The next CmdSN that the target expects.
        exp_cmd_sn: u32 = 28;
        /// The highest CmdSN that the target accepts.
        max_cmd_sn: u32 = 32;
        /// Seconds to wait before reinstating.
        time2wait: u16 = 40;
        /// Seconds that tasks are kept; 0 for a closed session.
        time2retain: u16 = 42;
    }
}
