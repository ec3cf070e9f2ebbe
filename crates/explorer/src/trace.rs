//! Narration: a trace as lines that a person can read, made by carrying out its moves once more.

use crate::cast::nexus_name;
use crate::conductor::Conductor;
use crate::device::Device;
use crate::moves::Move;
use crate::search::Space;
use crate::step::Play;
use scsi::pr::{BasicParameters, InAction, MoveParameters, OutAction, PrInCdb, PrOutCdb};
use scsi::{DataPhase, Request, opcode};

/// Takes notes, or does not: most moves are made without anybody looking.
pub(crate) struct Narrator(Option<Vec<String>>);

impl Narrator {
    pub(crate) const fn silent() -> Self {
        Self(None)
    }

    pub(crate) const fn writing() -> Self {
        Self(Some(Vec::new()))
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(line());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// The story of these moves, with the logical unit's state where it changed.
pub(crate) fn tell<C: Conductor>(play: &Play<'_, C>, moves: &[Move]) -> Vec<String> {
    let Some(mut world) = play.initial() else { return Vec::new() };
    let mut narrator = Narrator::writing();
    let mut lines = vec![format!("at first: {}", state(&world.device))];
    for step in moves {
        let before = world.device.clone();
        let result = play.step(&mut world, *step, &mut narrator);
        lines.extend(narrator.take());
        if state(&before) != state(&world.device) {
            lines.push(format!("    now {}", state(&world.device)));
        }
        if let Err(violation) = result {
            lines.push(format!("    expected {}", state(&world.shadow.device)));
            lines.push(format!("BROKEN {violation}"));
        }
    }
    lines
}

/// Registrations, reservation and APTPL in a line.
fn state(device: &Device) -> String {
    let registrations =
        device.registrations().map(|(nexus, key)| format!("{}={:#x}", nexus_name(nexus), key.0));
    let registrations = registrations.collect::<Vec<_>>().join(" ");
    let held = match device.reservation() {
        None => "no reservation".to_owned(),
        Some((kind, None)) => format!("type {} held by all", kind.0),
        Some((kind, Some(nexus))) => format!("type {} held by {}", kind.0, nexus_name(nexus)),
    };
    format!("[{registrations}] {held}{}", if device.aptpl() { ", APTPL" } else { "" })
}

/// A command in words.
pub(crate) fn words(request: &Request) -> String {
    let code = request.cdb.first().copied().unwrap_or(0);
    match (code, &request.data) {
        (opcode::PERSISTENT_RESERVE_IN, _) => PrInCdb::parse(&request.cdb)
            .map_or_else(|_| "PERSISTENT RESERVE IN".to_owned(), |cdb| read_words(cdb.action)),
        (opcode::PERSISTENT_RESERVE_OUT, DataPhase::Out(list)) => out_words(request, list),
        (opcode::TEST_UNIT_READY, _) => "TEST UNIT READY".to_owned(),
        _ => format!("command {code:#04x}"),
    }
}

fn read_words(action: InAction) -> String {
    action.to_string()
}

fn out_words(request: &Request, list: &[u8]) -> String {
    let Ok(cdb) = PrOutCdb::parse(&request.cdb) else { return "PERSISTENT RESERVE OUT".to_owned() };
    if cdb.action == OutAction::REGISTER_AND_MOVE {
        return match MoveParameters::parse(list) {
            Ok(list) => {
                format!("REGISTER AND MOVE to {}, unregister={}", list.initiator_port, list.unregister)
            }
            Err(_) => "REGISTER AND MOVE".to_owned(),
        };
    }
    let Ok(list) = BasicParameters::parse(list) else { return cdb.action.to_string() };
    let keys = format!("{:#x} -> {:#x}", list.reservation_key.0, list.service_action_key.0);
    let aptpl = if list.aptpl { ", APTPL" } else { "" };
    if cdb.action.uses_type() {
        format!("{} {keys}, type {}", cdb.action, cdb.kind.0)
    } else {
        format!("{} {keys}{aptpl}", cdb.action)
    }
}
