//! Commands as structured input: half of them well-formed reservation commands over few keys, half
//! arbitrary bytes, so that sequences reach deep states and parsers still see everything.

use crate::names::port;
use arbitrary::Arbitrary;
use scsi::pr::request::{self, out};
use scsi::pr::{BasicParameters, InAction, Key, MoveParameters, OutAction, ReservationType};
use scsi::{DataPhase, Request};

/// Something that happens to a logical unit.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// A nexus sends a command.
    Command(u8, Command),
    /// A nexus is lost.
    Lost(u8),
    /// A nexus logs in.
    Attach(u8),
    /// LOGICAL UNIT RESET.
    Reset,
    /// A target reset.
    TargetReset,
    /// Power off and on.
    PowerCycle,
    /// Non-volatile memory fails.
    LoseReservations,
}

/// A command.
#[derive(Arbitrary, Debug)]
pub enum Command {
    /// PERSISTENT RESERVE OUT with a basic list.
    Out { action: u8, kind: u8, key: u8, action_key: u8, flags: u8, ports: Vec<u8> },
    /// REGISTER AND MOVE.
    Move { key: u8, action_key: u8, flags: u8, target_port: u8, port: u8 },
    /// PERSISTENT RESERVE IN.
    In { action: u8, allocation_length: u16 },
    /// Any CDB and data.
    Raw { cdb: [u8; 16], data: Vec<u8> },
    /// A CDB of six bytes and no data: TEST UNIT READY, RESERVE, RELEASE, REQUEST SENSE, INQUIRY …
    Short { code: u8, rest: [u8; 5] },
}

/// One of four keys; zero among them.
fn key(number: u8) -> Key {
    Key(u64::from(number % 4))
}

impl Command {
    /// The command as an initiator sends it.
    pub fn request(&self) -> Request {
        match self {
            Self::Out { action, kind, key: own, action_key, flags, ports } => {
                let named = ports.iter().take(8).map(|number| port(*number)).collect();
                let parameters = BasicParameters {
                    reservation_key: key(*own),
                    service_action_key: key(*action_key),
                    initiator_ports: (flags & 0x08 != 0).then_some(named),
                    all_target_ports: flags & 0x04 != 0,
                    aptpl: flags & 0x01 != 0,
                };
                out(OutAction(action % 10), ReservationType(kind % 10), &parameters)
            }
            Self::Move { key: own, action_key, flags, target_port, port: number } => {
                request::register_and_move(&MoveParameters {
                    reservation_key: key(*own),
                    service_action_key: key(*action_key),
                    unregister: flags & 0x02 != 0,
                    aptpl: flags & 0x01 != 0,
                    relative_target_port: u16::from(target_port % 4),
                    initiator_port: port(*number),
                })
            }
            Self::In { action, allocation_length } => request::read(InAction(action % 5), *allocation_length),
            Self::Raw { cdb, data } => Request { cdb: cdb.to_vec(), data: DataPhase::Out(data.clone()) },
            Self::Short { code, rest } => {
                let code = [0x00, 0x16, 0x17, 0x03, 0x12, 0x56, 0x57][usize::from(code % 7)];
                Request { cdb: [&[code], rest.as_slice()].concat(), data: DataPhase::None }
            }
        }
    }
}
