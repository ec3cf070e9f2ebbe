//! Commands and their outcomes in a few words, for narration and time-lines.

use handover::Outcome;
use scsi::pr::{BasicParameters, InAction, MoveParameters, OutAction, PrInCdb, PrOutCdb};
use scsi::{Completion, DataPhase, Request, opcode};

/// A command in words; persistent reservation commands with their keys.
#[must_use]
pub fn request(request: &Request) -> String {
    if let Ok(cdb) = PrInCdb::parse(&request.cdb) {
        return cdb.action.to_string();
    }
    if let (Ok(cdb), DataPhase::Out(list)) = (PrOutCdb::parse(&request.cdb), &request.data) {
        return pr_out(&cdb, list);
    }
    match request.cdb.as_slice() {
        [opcode::TEST_UNIT_READY, ..] => "TEST UNIT READY".into(),
        [opcode::INQUIRY, 0, ..] => "INQUIRY".into(),
        [opcode::INQUIRY, _, page, ..] => format!("INQUIRY, VPD page {page:02X}h"),
        [opcode::MAINTENANCE_IN, 0x0C, ..] => "REPORT SUPPORTED OPERATION CODES".into(),
        [opcode::READ_16 | opcode::READ_10, ..] => "READ".into(),
        [opcode::WRITE_16 | opcode::WRITE_10, ..] => "WRITE".into(),
        [code, ..] => format!("command {code:02X}h"),
        [] => "no command".into(),
    }
}

fn pr_out(cdb: &PrOutCdb, list: &[u8]) -> String {
    if cdb.action == OutAction::REGISTER_AND_MOVE {
        return MoveParameters::parse(list).map_or_else(
            |_| cdb.action.to_string(),
            |list| {
                format!("{} to {} with key {:#x}", cdb.action, list.initiator_port, list.service_action_key.0)
            },
        );
    }
    let Ok(list) = BasicParameters::parse(list) else { return cdb.action.to_string() };
    let (key, other) = (list.reservation_key.0, list.service_action_key.0);
    match cdb.action {
        OutAction::REGISTER => {
            format!("REGISTER {key:#x} -> {other:#x}{}", if list.aptpl { ", APTPL" } else { "" })
        }
        action if action.is_preempt() => format!("{action} of {other:#x} by {key:#x}, type {}", cdb.kind.0),
        action if action.uses_type() => format!("{action}, key {key:#x}, type {}", cdb.kind.0),
        action => format!("{action}, key {key:#x} -> {other:#x}"),
    }
}

/// What came of a command.
#[must_use]
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(completion) => status(completion),
        Outcome::NotSent => "not sent".into(),
        Outcome::Unknown => "no answer; outcome unknown".into(),
    }
}

/// Status and sense in one line.
#[must_use]
pub fn status(completion: &Completion) -> String {
    let Some(sense) = completion.decoded_sense() else { return completion.status.to_string() };
    let pointer = sense.field_pointer.map_or(String::new(), |at| {
        let place = if at.in_cdb { "CDB" } else { "parameter list" };
        let bit = at.bit.map_or(String::new(), |bit| format!(" bit {bit}"));
        format!(", {place} byte {}{bit}", at.byte)
    });
    format!("{}, {sense}{pointer}", completion.status)
}

/// Whether a command only reads.
#[must_use]
pub fn reads(request: &Request) -> bool {
    matches!(request.data, DataPhase::In(_))
        || PrInCdb::parse(&request.cdb).is_ok_and(|cdb| cdb.action.0 <= InAction::READ_FULL_STATUS.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::pr::{Key, ReservationType, request as build};

    #[test]
    fn the_commands_of_a_handover_are_told_with_their_keys() {
        let cases = [
            (build::register(Key(0), Key(0xA), true), "REGISTER 0x0 -> 0xa, APTPL"),
            (build::preempt(Key(0xA), Key(0xB), ReservationType(5)), "PREEMPT of 0xb by 0xa, type 5"),
            (build::read(InAction::READ_KEYS, 8), "READ KEYS"),
            (build::reserve(Key(1), ReservationType(3)), "RESERVE, key 0x1, type 3"),
        ];
        for (command, words) in cases {
            assert_eq!(request(&command), words);
        }
    }

    #[test]
    fn nothing_is_too_short_to_be_told() {
        for length in 0..16 {
            let told = request(&Request { cdb: vec![0x5F; length], data: DataPhase::Out(vec![0; length]) });
            assert!(!told.is_empty());
        }
    }
}
