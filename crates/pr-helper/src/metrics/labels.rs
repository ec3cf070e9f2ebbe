//! The labels' values: closed sets, whatever a guest sends.

use crate::observer::RequestEvent;
use prometheus_client::encoding::EncodeLabelSet;
use scsi::{Status, opcode};

/// Which counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    pub(super) command: &'static str,
    pub(super) outcome: &'static str,
}

/// The command by its standard name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Command {
    pub(super) command: &'static str,
}

/// What came of it.
pub(super) struct Outcome(pub(super) &'static str);

const IN: [&str; 4] = ["READ KEYS", "READ RESERVATION", "REPORT CAPABILITIES", "READ FULL STATUS"];
const OUT: [&str; 9] = [
    "REGISTER",
    "RESERVE",
    "RELEASE",
    "CLEAR",
    "PREEMPT",
    "PREEMPT AND ABORT",
    "REGISTER AND IGNORE EXISTING KEY",
    "REGISTER AND MOVE",
    "REPLACE LOST RESERVATION",
];

impl Command {
    pub(super) fn of(cdb: &[u8; 16]) -> Self {
        let [operation, action, ..] = *cdb;
        let names: &[&'static str] = match operation {
            opcode::PERSISTENT_RESERVE_IN => &IN,
            opcode::PERSISTENT_RESERVE_OUT => &OUT,
            0xFF => return Self { command: "cleanup" },
            _ => &[],
        };
        Self { command: names.get(usize::from(action & 0x1F)).copied().unwrap_or("other") }
    }
}

impl Outcome {
    pub(super) const fn of(event: &RequestEvent<'_>) -> Self {
        if event.refused {
            return Self("refused");
        }
        Self(match event.completion.status {
            Status::GOOD => "GOOD",
            Status::CHECK_CONDITION => "CHECK CONDITION",
            Status::BUSY => "BUSY",
            Status::RESERVATION_CONFLICT => "RESERVATION CONFLICT",
            Status::TASK_SET_FULL => "TASK SET FULL",
            _ => "other",
        })
    }
}
