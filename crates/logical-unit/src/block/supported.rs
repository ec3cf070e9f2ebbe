//! REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36).
//!
//! One table says which commands there are and which bits of their CDBs are evaluated. The service
//! actions of PERSISTENT RESERVE OUT are those of the profile.

use super::refusal::{Answer, cut};
use crate::Profile;
use scsi::FieldError;
use scsi::block::{ReportingOptions, SupportedFunctions, SupportedOperations};
use scsi::pr::OutAction;
use scsi::supported::{
    AllCommands, CommandTimeouts, OneCommand, Support, SupportedOperation, TaskManagementFunctions,
};

/// A command: its service action if it has one, and its CDB usage data.
type Entry = (Option<u16>, &'static [u8]);

/// Nobody has measured them.
const TIMEOUTS: CommandTimeouts = CommandTimeouts { nominal: 0, recommended: 0 };

/// Every bit of a field.
const X: u8 = 0xFF;
/// GROUP NUMBER.
const G: u8 = 0x3F;
/// CONTROL: NACA alone.
const C: u8 = 0x04;
/// RDPROTECT and its like, DPO, FUA.
const F: u8 = 0xF8;

#[rustfmt::skip]
const COMMANDS: &[Entry] = &[
    (None, &[0x00, 0, 0, 0, 0, C]),
    (None, &[0x03, 0x01, 0, 0, X, C]),
    (None, &[0x08, 0x1F, X, X, X, C]),
    (None, &[0x0A, 0x1F, X, X, X, C]),
    (None, &[0x12, 0x01, X, X, X, C]),
    (None, &[0x15, 0x11, 0, 0, X, C]),
    (None, &[0x16, 0x11, 0, 0, 0, C]),
    (None, &[0x17, 0x11, 0, 0, 0, C]),
    (None, &[0x1A, 0x08, X, X, X, C]),
    (None, &[0x1B, 0x01, 0, 0x0F, 0xF7, C]),
    (None, &[0x1D, 0xF7, 0, X, X, C]),
    (None, &[0x1E, 0, 0, 0, 0x03, C]),
    (None, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, C]),
    (None, &[0x28, F, X, X, X, X, G, X, X, C]),
    (None, &[0x2A, F, X, X, X, X, G, X, X, C]),
    (None, &[0x2E, 0xF6, X, X, X, X, G, X, X, C]),
    (None, &[0x2F, 0xF6, X, X, X, X, G, X, X, C]),
    (None, &[0x34, 0x02, X, X, X, X, G, X, X, C]),
    (None, &[0x35, 0x02, X, X, X, X, G, X, X, C]),
    (None, &[0x37, 0, 0x1F, 0, 0, 0, 0, X, X, C]),
    (None, &[0x41, F, X, X, X, X, G, X, X, C]),
    (None, &[0x42, 0x01, 0, 0, 0, 0, G, X, X, C]),
    (Some(1), &[0x48, 0xBF, 0, 0, 0, 0, 0, X, X, C]),
    (Some(2), &[0x48, 0xBF, 0, 0, 0, 0, 0, X, X, C]),
    (Some(0x1F), &[0x48, 0xBF, 0, 0, 0, 0, 0, X, X, C]),
    (None, &[0x55, 0x11, 0, 0, 0, 0, 0, X, X, C]),
    (None, &[0x56, 0x11, 0, 0, 0, 0, 0, 0, 0, C]),
    (None, &[0x57, 0x11, 0, 0, 0, 0, 0, 0, 0, C]),
    (None, &[0x5A, 0x18, X, X, 0, 0, 0, X, X, C]),
    (Some(0), &[0x5E, 0x1F, 0, 0, 0, 0, 0, X, X, C]),
    (Some(1), &[0x5E, 0x1F, 0, 0, 0, 0, 0, X, X, C]),
    (Some(2), &[0x5E, 0x1F, 0, 0, 0, 0, 0, X, X, C]),
    (Some(3), &[0x5E, 0x1F, 0, 0, 0, 0, 0, X, X, C]),
    (Some(0), &[0x5F, 0x1F, 0, 0, 0, X, X, X, X, C]),
    (Some(1), &[0x5F, 0x1F, X, 0, 0, X, X, X, X, C]),
    (Some(2), &[0x5F, 0x1F, X, 0, 0, X, X, X, X, C]),
    (Some(3), &[0x5F, 0x1F, 0, 0, 0, X, X, X, X, C]),
    (Some(4), &[0x5F, 0x1F, X, 0, 0, X, X, X, X, C]),
    (Some(5), &[0x5F, 0x1F, X, 0, 0, X, X, X, X, C]),
    (Some(6), &[0x5F, 0x1F, 0, 0, 0, X, X, X, X, C]),
    (Some(7), &[0x5F, 0x1F, 0, 0, 0, X, X, X, X, C]),
    (Some(8), &[0x5F, 0x1F, X, 0, 0, X, X, X, X, C]),
    (Some(0), &[0x83, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, C]),
    (Some(0), &[0x84, 0x1F, X, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, C]),
    (Some(3), &[0x84, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, C]),
    (None, &[0x88, F, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x89, F, X, X, X, X, X, X, X, X, 0, 0, 0, X, G, C]),
    (None, &[0x8A, F, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x8B, F, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x8E, 0xF6, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x8F, 0xF6, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x90, 0x02, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x91, 0x02, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x93, 0xF9, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0x9C, F, X, X, X, X, X, X, X, X, X, X, X, X, G, C]),
    (Some(0x10), &[0x9E, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0, X, X, X, X, 0, C]),
    (Some(0x12), &[0x9E, 0x1F, X, X, X, X, X, X, X, X, X, X, X, X, X, C]),
    (None, &[0xA0, 0, X, 0, 0, 0, X, X, X, X, 0, C]),
    (Some(0x0C), &[0xA3, 0x1F, 0x87, X, X, X, X, X, X, X, 0, C]),
    (Some(0x0D), &[0xA3, 0x1F, 0x80, 0, 0, 0, X, X, X, X, 0, C]),
    (None, &[0xA8, F, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0xAA, F, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0xAE, 0xF6, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0xAF, 0xF6, X, X, X, X, X, X, X, X, G, C]),
    (None, &[0xB7, 0x1F, X, X, X, X, X, X, X, X, 0, C]),
];

const PR_IN: u8 = scsi::opcode::PERSISTENT_RESERVE_IN;
const PR_OUT: u8 = scsi::opcode::PERSISTENT_RESERVE_OUT;

/// REPORT SUPPORTED OPERATION CODES.
pub(super) fn operations(profile: &Profile, command: &SupportedOperations) -> Answer {
    let timeouts = command.timeouts.then_some(TIMEOUTS);
    if command.options == ReportingOptions::ALL {
        let commands = commands(profile).map(|entry| (operation(entry), timeouts)).collect();
        return cut(AllCommands { commands }.to_bytes(), command.allocation_length);
    }
    let found = find(profile, command)?;
    let one = match found {
        Some((_, usage)) => OneCommand { support: Support::STANDARD, usage: usage.to_vec(), timeouts },
        None => OneCommand { support: Support::NONE, usage: Vec::new(), timeouts: None },
    };
    cut(one.to_bytes(), command.allocation_length)
}

/// The entry that a request for one command means. Asking for an operation code without its service
/// action, or the reverse, is an error of the request (SPC-4 table 280).
fn find(profile: &Profile, command: &SupportedOperations) -> Result<Option<Entry>, FieldError> {
    let same_code = || commands(profile).filter(|entry| opcode(*entry) == command.opcode);
    let has_actions = same_code().any(|(action, _)| action.is_some());
    let by_action = || same_code().find(|(action, _)| *action == Some(command.action));
    let options = command.options;
    match options {
        ReportingOptions::OPCODE if has_actions => Err(FieldError::cdb_bit(2, 2)),
        ReportingOptions::SERVICE_ACTION if !has_actions && same_code().next().is_some() => {
            Err(FieldError::cdb_bit(2, 2))
        }
        ReportingOptions::OPCODE => Ok(same_code().next()),
        ReportingOptions::SERVICE_ACTION => Ok(by_action()),
        ReportingOptions::EITHER if has_actions => Ok(by_action()),
        ReportingOptions::EITHER => Ok(same_code().next().filter(|_| command.action == 0)),
        _ => Err(FieldError::cdb_bit(2, 2)),
    }
}

fn commands(profile: &Profile) -> impl Iterator<Item = Entry> {
    let support = profile.support;
    COMMANDS.iter().copied().filter(move |entry| match (opcode(*entry), entry.0) {
        (PR_IN, Some(3)) => support.read_full_status,
        (PR_OUT, Some(action)) => match OutAction(action as u8) {
            OutAction::PREEMPT_AND_ABORT => support.preempt_and_abort,
            OutAction::REGISTER_AND_MOVE => support.register_and_move,
            OutAction::REPLACE_LOST => support.replace_lost,
            _ => true,
        },
        _ => true,
    })
}

fn opcode((_, usage): Entry) -> u8 {
    usage.first().copied().unwrap_or(0)
}

fn operation(entry: Entry) -> SupportedOperation {
    let (action, usage) = entry;
    SupportedOperation { opcode: opcode(entry), action, cdb_length: u16::try_from(usage.len()).unwrap_or(0) }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub(super) fn functions(command: &SupportedFunctions) -> Answer {
    if command.allocation_length < 4 {
        return Err(FieldError::cdb(6).into());
    }
    let functions = TaskManagementFunctions::ABORT_TASK
        .and(TaskManagementFunctions::ABORT_TASK_SET)
        .and(TaskManagementFunctions::CLEAR_TASK_SET)
        .and(TaskManagementFunctions::LOGICAL_UNIT_RESET)
        .and(TaskManagementFunctions::TARGET_RESET);
    cut(functions.to_bytes(command.extended), command.allocation_length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::block::{Command, Form};

    #[test]
    fn usage_data_is_as_long_as_its_cdb_and_carries_code_and_action() {
        for (action, usage) in COMMANDS {
            assert_eq!(usage.len(), Form::of(usage[0]).length(), "{:#x}", usage[0]);
            assert!(action.is_none() || usage[1] & 0x1F == 0x1F, "{:#x}", usage[0]);
        }
    }

    #[test]
    fn every_reported_block_command_is_known_and_the_table_is_in_order() {
        for (action, usage) in COMMANDS {
            let mut cdb = vec![0; usage.len()];
            (cdb[0], cdb[1]) = (usage[0], action.unwrap_or(0) as u8);
            let reserve = matches!(usage[0], 0x16 | 0x17 | 0x56 | 0x57 | PR_IN | PR_OUT);
            assert!(reserve || Command::parse(&cdb).is_ok(), "{:#x}/{action:?}", usage[0]);
        }
        assert!(COMMANDS.is_sorted_by_key(|(action, usage)| (usage[0], *action)));
    }

    #[test]
    fn a_profile_without_register_and_move_does_not_report_it() {
        let ask = |profile: &Profile, action| {
            let (options, opcode) = (ReportingOptions::SERVICE_ACTION, PR_OUT);
            let command =
                SupportedOperations { timeouts: false, options, opcode, action, allocation_length: 64 };
            OneCommand::parse(&operations(profile, &command).unwrap()).unwrap().is_supported()
        };
        assert!(ask(&crate::profile::SPC, 7));
        assert!(!ask(&crate::profile::SPDK, 7));
        assert!(ask(&crate::profile::SPDK, 4));
        assert!(!ask(&crate::profile::SPC, 9));
    }
}
