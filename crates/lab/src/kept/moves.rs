//! A guest of `tenure device` on a real logical unit that moves from one QEMU to another and back, at two sockets of the device, while it holds a
//! reservation and while another node fences it.
//!
//! The guest is QEMU's driver over qtest: its rings and requests are QEMU's to move.

use super::{BLOCK, GUEST, KIND, OTHER, OWN, expect, read, told, write};
use crate::process::DEADLINE;
use crate::qemu::Seated;
use crate::served::Device;
use crate::tenure::Tenure;
use agent::drive::{Device as Way, Opened};
use anyhow::{Context, Result, anyhow, ensure};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadReservation, request};
use scsi::{Completion, Request, Status};
use std::path::PathBuf;
use tempfile::TempDir;

/// Unit attentions before a command passes.
const ATTENTIONS: usize = 8;
const DOORS: [&str; 2] = ["one", "two"];

/// The guest that has `lun` (a LUN of `tenure device`), and another node that reaches the same logical unit by `other` (a DEVICE); what was
/// seen, in a line.
///
/// # Errors
/// Something was not as it must be.
pub fn run(tenure: &Tenure, lun: &str, other: &str, moves: u32) -> Result<String> {
    let mut story = Story::begin(tenure, lun, other)?;
    story.holds()?;
    for number in 1..=moves {
        story.moves(|_| Ok(())).with_context(|| format!("move {number}"))?;
        story.still_holds().with_context(|| format!("after move {number}"))?;
    }
    story.is_fenced_in_a_move().context("fenced while it moves")?;
    story.comes_back().context("back in the cluster")?;
    Ok(format!("{lun}: held in {moves} moves between QEMUs, fenced in another, and back"))
}

struct Story {
    // Before the device: a QEMU that is still there would see its disk vanish.
    guest: Seated,
    at: usize,
    device: Device,
    other: Opened,
    tenure: Tenure,
    directory: TempDir,
}

impl Story {
    fn begin(tenure: &Tenure, lun: &str, other: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        let state = directory.path().join("state").display().to_string();
        // A name given twice is one guest at two sockets.
        let more = ["--name", GUEST, "--name", GUEST, "--state", &state];
        let device = tenure.device(directory.path(), &DOORS, &[lun], &more)?;
        let way: Way = other.parse().map_err(|what: String| anyhow!(what))?;
        let other = way.open(DEADLINE)?;
        let door = device.sockets.first().context("no socket")?;
        Ok(Self { guest: Seated::start(door)?, at: 0, device, other, tenure: tenure.clone(), directory })
    }

    fn moves(&mut self, meanwhile: impl FnOnce(&mut Opened) -> Result<()>) -> Result<()> {
        self.at = (self.at + 1) % DOORS.len();
        let door: &PathBuf = self.device.sockets.get(self.at).context("no such socket")?;
        self.guest.move_to(door, || meanwhile(&mut self.other))
    }

    fn holds(&mut self) -> Result<()> {
        self.good(&request::register(Key::NONE, OWN, false))?;
        self.good(&request::reserve(OWN, KIND))?;
        self.expect("holder", "active", Some(OWN))?;
        self.still_holds()
    }

    /// Its first command finds no unit attention; it writes and reads, and nobody else writes.
    fn still_holds(&mut self) -> Result<()> {
        let held = self.guest.driver().disk(0).execute(&request::read(InAction::READ_RESERVATION, 64))?;
        ensure!(held.status.is_good(), "the guest is told {}", told(&held));
        let held = ReadReservation::parse(&held.data).and_then(|read| read.reservation);
        ensure!(held.is_some_and(|held| held.key == OWN && held.kind == KIND), "the reservation is {held:?}");
        self.good(&request::reserve(OWN, KIND))?;
        let byte = u8::try_from(self.at + 1)?;
        self.good(&write(byte))?;
        ensure!(self.good(&read())?.data == [byte; BLOCK], "a block is not what was written");
        let refused = elsewhere(&mut self.other, &write(9))?;
        ensure!(refused.status == Status::RESERVATION_CONFLICT, "the other node wrote: {}", told(&refused));
        self.expect("holder", "active", Some(OWN))
    }

    /// The other node preempts it when it runs nowhere: it is fenced where it arrives.
    fn is_fenced_in_a_move(&mut self) -> Result<()> {
        self.moves(|other| {
            for command in [request::register(Key::NONE, OTHER, false), request::preempt(OTHER, OWN, KIND)] {
                let ended = elsewhere(other, &command)?;
                ensure!(
                    ended.status.is_good(),
                    "the other node's {:02x?} ended {}",
                    command.cdb,
                    told(&ended)
                );
            }
            Ok(())
        })?;
        self.stays_fenced()?;
        self.moves(|_| Ok(()))?;
        self.stays_fenced()
    }

    fn stays_fenced(&mut self) -> Result<()> {
        for command in [write(8), request::reserve(OWN, KIND)] {
            let refused = self.attended(&command)?;
            ensure!(refused.status == Status::RESERVATION_CONFLICT, "a fenced guest: {}", told(&refused));
        }
        self.expect("unregistered", "fenced", None)
    }

    fn comes_back(&mut self) -> Result<()> {
        self.good(&request::register(Key::NONE, OWN, false))?;
        self.expect("member", "active", Some(OWN))?;
        self.good(&write(6))?;
        self.good(&request::clear(OWN))?;
        Ok(())
    }

    fn expect(&self, role: &str, state: &str, key: Option<Key>) -> Result<()> {
        expect(&self.tenure, &self.directory.path().join("state"), state, role, key)
    }

    fn attended(&mut self, request: &Request) -> Result<Completion> {
        Ok(nexus::retry_unit_attention(self.guest.driver(), request, ATTENTIONS)?.completion)
    }

    fn good(&mut self, request: &Request) -> Result<Completion> {
        let ended = self.attended(request)?;
        ensure!(ended.status.is_good(), "the guest's {:02x?} ended {}", request.cdb, told(&ended));
        Ok(ended)
    }
}

fn elsewhere(other: &mut Opened, request: &Request) -> Result<Completion> {
    Ok(nexus::retry_unit_attention(other, request, ATTENTIONS)?.completion)
}
