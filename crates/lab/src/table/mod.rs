//! The table of commands that a helper is judged by: sent through real QEMU to the kernel's target, once for each
//! reservation type, by a guest whose PERSISTENT RESERVE commands the helper carries, and by a peer beside it.
//!
//! What is recorded is what the guest's driver and the peer saw: status, sense and data. Two helpers are alike if their
//! [`Row`]s are.

mod compare;
mod script;

pub use compare::{Policy, judge};

use crate::helper;
use crate::qemu::qtest::hex;
use crate::qemu::{Front, Machine, Qemu};
use anyhow::{Context, Result, ensure};
use nexus::linux::SgDevice;
use nexus::{Nexus, TransportError};
use script::{Step, Who};
use scsi::pr::{BasicParameters, InAction, Key, OutAction, ReservationType};
use scsi::{Completion, DataPhase, Request, Status};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One command and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Reservation type of this pass through the script.
    pub kind: u8,
    /// Who sent it and what it is meant to show.
    pub name: String,
    /// The CDB, in hexadecimal digits.
    pub cdb: String,
    /// The first 24 bytes of the parameter list, in hexadecimal digits.
    pub list: String,
    /// SCSI status.
    pub status: u8,
    /// Sense data, in hexadecimal digits.
    pub sense: String,
    /// Data-in, in hexadecimal digits; PRgeneration counts from the beginning of the pass.
    pub data: String,
}

/// Sends the whole table, once for each type.
///
/// # Errors
/// If QEMU or the helper does not start, or a transport is lost.
pub fn record(helper: &str, front: Front, guest: &Path, peer: &Path) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("helper");
    let mut helper = helper::start(helper, &socket)?;
    let qemu = Qemu::start(&Machine::new(directory.path(), front, guest, &socket))?;
    let mut pair = Pair { guest: qemu.disk, peer: SgDevice::open(peer)? };
    let mut rows = Vec::new();
    for kind in ReservationType::ALL {
        let mut base = pair.clean().context("before the first command")?;
        for step in script::steps(kind) {
            match step {
                Step::Clean => base = pair.clean().with_context(|| format!("after {}", last(&rows)))?,
                Step::Send { who, about, request } => {
                    let name = format!("{who:?}: {}: {about}", command_name(&request.cdb));
                    let answer = pair.send(who, &request).with_context(|| name.clone())?;
                    rows.push(row(kind, name, &request, answer, base));
                }
            }
        }
    }
    ensure!(helper.is_running(), "the helper ended");
    Ok(rows)
}

fn last(rows: &[Row]) -> String {
    rows.last().map(|row| format!("{} with type {}", row.name, row.kind)).unwrap_or_default()
}

/// The guest and its peer.
struct Pair<G> {
    guest: G,
    peer: SgDevice,
}

impl<G: Nexus> Pair<G> {
    fn send(&mut self, who: Who, request: &Request) -> Result<Completion, TransportError> {
        match who {
            Who::Guest => self.guest.execute(request),
            Who::Peer => self.peer.execute(request),
        }
    }

    /// Leaves nobody registered and nothing owed to either; gives the PRgeneration.
    fn clean(&mut self) -> Result<u32> {
        let key = Key(0xC1EA);
        let register = |all_target_ports| {
            let list = BasicParameters { service_action_key: key, all_target_ports, ..Default::default() };
            scsi::pr::request::out(OutAction::REGISTER_AND_IGNORE, ReservationType(0), &list)
        };
        // Who once registered with ALL_TG_PT must go on with it, says LIO.
        if settle(&mut self.guest, &register(false)).is_err() {
            settle(&mut self.guest, &register(true))?;
        }
        settle(&mut self.guest, &scsi::pr::request::clear(key))?;
        let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
        settle(&mut self.peer, &ready)?;
        settle(&mut self.guest, &ready)?;
        let keys = settle(&mut self.guest, &scsi::pr::request::read(InAction::READ_KEYS, 8))?;
        generation(&keys.data).context("READ KEYS gave no PRgeneration")
    }
}

fn row(kind: ReservationType, name: String, request: &Request, answer: Completion, base: u32) -> Row {
    let list = match &request.data {
        DataPhase::Out(list) => list.get(..24).unwrap_or(list),
        _ => &[],
    };
    Row {
        kind: kind.0,
        name,
        cdb: hex(&request.cdb),
        list: hex(list),
        status: answer.status.0,
        sense: hex(&answer.sense),
        data: hex(&relative(&request.cdb, answer.data, base)),
    }
}

fn command_name(cdb: &[u8]) -> String {
    match cdb {
        [0x5E, action, ..] => InAction(*action).to_string(),
        [0x5F, action, ..] => OutAction(*action).to_string(),
        [0x00, ..] => "TEST UNIT READY".to_owned(),
        [0x28, ..] => "READ(10)".to_owned(),
        [0x2A, ..] => "WRITE(10)".to_owned(),
        other => hex(other),
    }
}

/// Sends until no unit attention stands before it, and wants GOOD.
fn settle(nexus: &mut dyn Nexus, request: &Request) -> Result<Completion> {
    let ended = nexus::retry_unit_attention(nexus, request, 8)?.completion;
    let sense = ended.decoded_sense();
    ensure!(ended.status == Status::GOOD, "{}: {} {sense:?}", command_name(&request.cdb), ended.status);
    Ok(ended)
}

fn generation(data: &[u8]) -> Option<u32> {
    data.first_chunk().copied().map(u32::from_be_bytes)
}

/// PRgeneration grows over the passes; every other byte has to be the same each time.
fn relative(cdb: &[u8], mut data: Vec<u8>, base: u32) -> Vec<u8> {
    let counted = matches!(cdb, [0x5E, 0 | 1 | 3, ..]);
    if counted && let (Some(now), Some(start)) = (generation(&data), data.first_chunk_mut()) {
        *start = now.wrapping_sub(base).to_be_bytes();
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_counts_from_the_base_where_there_is_one() {
        assert_eq!(relative(&[0x5E, 0], vec![0, 0, 0, 9, 0], 7), [0, 0, 0, 2, 0]);
        assert_eq!(relative(&[0x5E, 3], vec![0, 0, 0, 1], 2), [0xFF; 4]);
        assert_eq!(relative(&[0x5E, 1], vec![0, 0, 9], 7), [0, 0, 9]);
        assert_eq!(relative(&[0x5E, 2], vec![0, 8, 0x1D, 0x90], 7), [0, 8, 0x1D, 0x90]);
    }
}
