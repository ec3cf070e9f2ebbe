//! A guest of `tenure device` on a real logical unit that moves from one QEMU to another and back, at two sockets of a device or at two devices, while it
//! holds a reservation and while another node fences it.
//!
//! The guest is QEMU's driver over qtest: its rings and requests are QEMU's to move.

use super::{BLOCK, GUEST, KIND, OTHER, OWN, expect, read, told, write};
use crate::process::DEADLINE;
use crate::qemu::Seated;
use crate::served::Device;
use crate::tenure::{HOSTS, Tenure};
use agent::drive::{Device as Way, Opened};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadReservation, request};
use scsi::{Completion, Request, Status};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Unit attentions before a command passes.
const ATTENTIONS: usize = 8;
/// Between two looks of the other node.
const BETWEEN: Duration = Duration::from_millis(2);
const DOORS: [&str; 2] = ["one", "two"];

/// The guest that has `lun` (a LUN of `tenure device`), and another node that reaches the same logical unit by `other` (a DEVICE); what was
/// seen, in a line.
///
/// # Errors
/// Something was not as it must be.
pub fn run(tenure: &Tenure, lun: &str, other: &str, moves: u32) -> Result<String> {
    let directory = TempDir::new()?;
    let state = directory.path().join("state");
    // A name given twice is one guest at two sockets.
    let more = ["--name", GUEST, "--name", GUEST, "--state", state.to_str().context("path")?];
    let device = tenure.device(directory.path(), &DOORS, &[lun], &more)?;
    let doors = device.sockets.iter().map(|socket| Door { socket: socket.clone(), state: state.clone() });
    let doors = doors.collect();
    let looks = Story::begin(tenure, vec![device], doors, directory, other)?.play(moves)?;
    Ok(format!(
        "{lun}: held in {moves} moves between QEMUs and in {looks} looks, fenced in another, and back"
    ))
}

/// The same between two devices, as of two hosts: the logical unit is the first's by one of `luns`, and the second's by the other.
///
/// # Errors
/// Something was not as it must be.
pub fn between(tenure: &Tenure, luns: [&str; 2], other: &str, moves: u32) -> Result<String> {
    let directory = TempDir::new()?;
    let devices = tenure.two_devices(directory.path(), GUEST, [&luns[..1], &luns[1..]])?;
    let door = |(device, host): (&Device, &str)| {
        let state = directory.path().join(host).join("state");
        Some(Door { socket: device.sockets.first()?.clone(), state })
    };
    let doors = devices.iter().zip(HOSTS).map(door).collect::<Option<_>>().context("no socket")?;
    let looks = Story::begin(tenure, devices.into(), doors, directory, other)?.play(moves)?;
    let [one, two] = luns;
    Ok(format!(
        "{one} and {two}: held in {moves} moves between devices and in {looks} looks, fenced in another, and back"
    ))
}

/// Where the guest can be, and who keeps its records there.
struct Door {
    socket: PathBuf,
    state: PathBuf,
}

struct Story {
    // Before the devices: a QEMU that is still there would see its disk vanish.
    guest: Seated,
    at: usize,
    devices: Vec<Device>,
    doors: Vec<Door>,
    other: Mutex<Opened>,
    tenure: Tenure,
    begun: Instant,
    _directory: TempDir,
}

impl Story {
    fn begin(
        tenure: &Tenure,
        devices: Vec<Device>,
        doors: Vec<Door>,
        directory: TempDir,
        other: &str,
    ) -> Result<Self> {
        let way: Way = other.parse().map_err(|what: String| anyhow!(what))?;
        let other = Mutex::new(way.open(DEADLINE)?);
        let guest = Seated::start(&doors.first().context("no door")?.socket)?;
        let (tenure, begun) = (tenure.clone(), Instant::now());
        Ok(Self { guest, at: 0, devices, doors, other, tenure, begun, _directory: directory })
    }

    /// How often the other node tried to write meanwhile, and was refused.
    fn play(mut self, moves: u32) -> Result<u64> {
        self.holds()?;
        self.say("the guest holds a reservation");
        let mut looks = 0;
        for number in 1..=moves {
            looks += self.moves_and_holds_throughout().with_context(|| format!("move {number}"))?;
            self.still_holds().with_context(|| format!("after move {number}"))?;
            self.say(&format!("{number} of {moves} moves, {looks} writes of the other node refused in them"));
        }
        self.is_fenced_in_a_move().context("fenced while it moves")?;
        self.say("fenced in one more move, and fenced still after another");
        self.comes_back().context("back in the cluster")?;
        for device in &mut self.devices {
            ensure!(device.process.is_running(), "a device is gone");
        }
        Ok(looks)
    }

    /// For people who wait.
    fn say(&self, what: &str) {
        eprintln!("{:6.1} s: {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Never in the move can the other node write.
    fn moves_and_holds_throughout(&mut self) -> Result<u64> {
        let Self { guest, doors, at, other, .. } = self;
        let is_over = AtomicBool::new(false);
        let (moved, looks) = thread::scope(|scope| {
            let look = scope.spawn(|| refused_until(&is_over, other));
            let moved = next(guest, doors, at, || Ok(()));
            is_over.store(true, Ordering::Relaxed);
            (moved, look.join().unwrap_or_else(|_| bail!("the other node died")))
        });
        moved?;
        looks
    }

    fn moves(&mut self, meanwhile: impl FnOnce(&mut Opened) -> Result<()>) -> Result<()> {
        let Self { guest, doors, at, other, .. } = self;
        next(guest, doors, at, || meanwhile(&mut locked(other)))
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
        let refused = elsewhere(&mut locked(&self.other), &write(9))?;
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
        let door = self.doors.get(self.at).context("no such door")?;
        expect(&self.tenure, &door.state, state, role, key)
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

/// To the next door.
fn next(
    guest: &mut Seated,
    doors: &[Door],
    at: &mut usize,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let there = (*at + 1) % doors.len();
    guest.move_to(&doors.get(there).context("no such door")?.socket, meanwhile)?;
    *at = there;
    Ok(())
}

/// The other node tries to write until `is_over`, and must be refused each time; how often it tried.
fn refused_until(is_over: &AtomicBool, other: &Mutex<Opened>) -> Result<u64> {
    let mut looks = 0;
    while !is_over.load(Ordering::Relaxed) {
        let refused = elsewhere(&mut locked(other), &write(9))?;
        ensure!(refused.status == Status::RESERVATION_CONFLICT, "the other node wrote: {}", told(&refused));
        looks += 1;
        // The guest is to get on as well.
        thread::sleep(BETWEEN);
    }
    Ok(looks)
}

fn locked(other: &Mutex<Opened>) -> MutexGuard<'_, Opened> {
    other.lock().unwrap_or_else(PoisonError::into_inner)
}

fn elsewhere(other: &mut Opened, request: &Request) -> Result<Completion> {
    Ok(nexus::retry_unit_attention(other, request, ATTENTIONS)?.completion)
}
