//! Parameter data of REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
//! (SPC-4 6.35, 6.36). Sent by the device server; `handover` reads it to learn which service actions of
//! PERSISTENT RESERVE OUT a target has.

use crate::bytes::{array, be16, be32, u8_at};

/// A supported command in the list of all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SupportedOperation {
    /// OPERATION CODE.
    pub opcode: u8,
    /// SERVICE ACTION, if SERVACTV.
    pub action: Option<u16>,
    /// CDB LENGTH in bytes.
    pub cdb_length: u16,
}

/// How long a command takes, in seconds (SPC-4 6.35.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommandTimeouts {
    /// NOMINAL COMMAND PROCESSING TIMEOUT; zero is unknown.
    pub nominal: u32,
    /// RECOMMENDED COMMAND TIMEOUT; zero is unknown.
    pub recommended: u32,
}

impl CommandTimeouts {
    fn to_bytes(self) -> impl Iterator<Item = u8> {
        let head = [0, 0x0A, 0, 0];
        head.into_iter().chain(self.nominal.to_be_bytes()).chain(self.recommended.to_be_bytes())
    }

    fn parse(data: &[u8]) -> Option<Self> {
        Some(Self { nominal: be32(data, 4)?, recommended: be32(data, 8)? })
    }
}

/// All commands, each with its timeouts if they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AllCommands {
    /// In the order of the data.
    pub commands: Vec<(SupportedOperation, Option<CommandTimeouts>)>,
}

impl AllCommands {
    /// Reads the data; a cut descriptor is dropped. `None` below the 4-byte header.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let announced = usize::try_from(be32(data, 0)?).ok()?;
        let body = data.get(4..)?;
        let (mut rest, mut commands) = (body.get(..announced).unwrap_or(body), Vec::new());
        while let Some([opcode, _, a0, a1, _, flags, l0, l1]) = array::<8>(rest, 0) {
            let action = (flags & 0x01 != 0).then_some(u16::from_be_bytes([a0, a1]));
            let command = SupportedOperation { opcode, action, cdb_length: u16::from_be_bytes([l0, l1]) };
            let timed = flags & 0x02 != 0;
            let timeouts = if timed { rest.get(8..20).and_then(CommandTimeouts::parse) } else { None };
            if timed && timeouts.is_none() {
                break;
            }
            commands.push((command, timeouts));
            rest = rest.get(if timed { 20 } else { 8 }..).unwrap_or_default();
        }
        Some(Self { commands })
    }

    /// The full data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (command, timeouts) in &self.commands {
            let flags = u8::from(timeouts.is_some()) << 1 | u8::from(command.action.is_some());
            body.extend([command.opcode, 0]);
            body.extend(command.action.unwrap_or(0).to_be_bytes());
            body.extend([0, flags]);
            body.extend(command.cdb_length.to_be_bytes());
            body.extend(timeouts.iter().flat_map(|timeouts| timeouts.to_bytes()));
        }
        let mut out = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        out.extend(body);
        out
    }
}

/// SUPPORT, 3 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Support(pub u8);

impl Support {
    /// Not known right now.
    pub const UNKNOWN: Self = Self(0);
    /// Not supported.
    pub const NONE: Self = Self(1);
    /// Supported as the standard has it.
    pub const STANDARD: Self = Self(3);
    /// Supported in the vendor's own way.
    pub const VENDOR: Self = Self(5);
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OneCommand {
    /// Whether it is supported.
    pub support: Support,
    /// CDB USAGE DATA: the bits the device evaluates; empty if it is not supported.
    pub usage: Vec<u8>,
    /// Timeouts, if they were asked for.
    pub timeouts: Option<CommandTimeouts>,
}

impl OneCommand {
    /// Reads the data; usage data that the allocation length cut is kept as far as it goes. `None` below 2 bytes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let flags = u8_at(data, 1)?;
        let size = be16(data, 2).map_or(0, usize::from);
        let usage = data.get(4..).unwrap_or_default();
        let (usage, rest) = usage.split_at_checked(size).unwrap_or((usage, &[]));
        let timeouts = if flags & 0x80 != 0 { CommandTimeouts::parse(rest) } else { None };
        Some(Self { support: Support(flags & 0x07), usage: usage.to_vec(), timeouts })
    }

    /// The full data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = u16::try_from(self.usage.len()).unwrap_or(u16::MAX);
        let mut out = vec![0, u8::from(self.timeouts.is_some()) << 7 | self.support.0 & 0x07];
        out.extend(size.to_be_bytes());
        out.extend(&self.usage);
        out.extend(self.timeouts.iter().flat_map(|timeouts| timeouts.to_bytes()));
        out
    }

    /// Whether the device says that it has this command.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        matches!(self.support, Support::STANDARD | Support::VENDOR)
    }
}

/// Task management functions, as the bits of the first two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskManagementFunctions(pub u16);

impl TaskManagementFunctions {
    /// ABORT TASK.
    pub const ABORT_TASK: Self = Self(0x8000);
    /// ABORT TASK SET.
    pub const ABORT_TASK_SET: Self = Self(0x4000);
    /// CLEAR ACA.
    pub const CLEAR_ACA: Self = Self(0x2000);
    /// CLEAR TASK SET.
    pub const CLEAR_TASK_SET: Self = Self(0x1000);
    /// LOGICAL UNIT RESET.
    pub const LOGICAL_UNIT_RESET: Self = Self(0x0800);
    /// QUERY TASK.
    pub const QUERY_TASK: Self = Self(0x0400);
    /// TARGET RESET.
    pub const TARGET_RESET: Self = Self(0x0200);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The parameter data: 4 bytes, or 16 with the extended data (timeouts unknown).
    #[must_use]
    pub fn to_bytes(self, extended: bool) -> Vec<u8> {
        let mut out = self.0.to_be_bytes().to_vec();
        out.resize(4, 0);
        if extended {
            out.splice(3..4, [0x0C]);
            out.resize(16, 0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn timeouts()(nominal: u32, recommended: u32) -> CommandTimeouts {
            CommandTimeouts { nominal, recommended }
        }
    }
    prop_compose! {
        fn operation()(opcode: u8, action: Option<u16>, cdb_length: u16) -> SupportedOperation {
            SupportedOperation { opcode, action, cdb_length }
        }
    }

    proptest! {
        #[test]
        fn all_commands_survive(commands in prop::collection::vec((operation(), prop::option::of(timeouts())), 0..8)) {
            let all = AllCommands { commands };
            prop_assert_eq!(AllCommands::parse(&all.to_bytes()), Some(all));
        }

        #[test]
        fn one_command_survives(support in 0_u8..8, usage in prop::collection::vec(any::<u8>(), 0..17), timeouts in prop::option::of(timeouts())) {
            let one = OneCommand { support: Support(support), usage, timeouts };
            prop_assert_eq!(OneCommand::parse(&one.to_bytes()), Some(one));
        }

        #[test]
        fn any_bytes_are_read(data in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(AllCommands::parse(&data).is_some(), data.len() >= 4);
            prop_assert_eq!(OneCommand::parse(&data).is_some(), data.len() >= 2);
        }
    }
}
