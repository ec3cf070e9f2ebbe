//! `kill -9` of `tenure device` under load, again and again: what was acknowledged stays, whole, and so does the reservation. The guest is a
//! [`Keeper`] whose front end connects to each device that follows, as QEMU 11.1 does with `reconnect-ms`.
//!
//! Used by the tests of `tenure device` (a few kills) and by `cargo xtask lab device-kills` (a hundred).

use crate::front_end::keeper::Keeper;
use crate::front_end::scsi::{REQUESTS, Scsi, VirtioScsi, setting};
use crate::front_end::{Gone, Shape};
use crate::process::Background;
use crate::random::Random;
use crate::served::Device;
use crate::tenure::Tenure;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use scsi::pr::{InAction, Key, ReadReservation, ReservationType, request};
use std::path::Path;
use std::thread;
use std::time::Duration;

const BLOCK: u32 = 4096;
const BLOCKS: usize = 1024;
const DEPTH: usize = 32;
const KEY: Key = Key(1);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
/// A device lives so long at most, under load.
const LONGEST: Duration = Duration::from_millis(60);
/// How many unit attentions may be owed.
const ATTENTIONS: usize = 8;

/// What is killed, how often.
#[derive(Clone, Copy, Debug)]
pub struct Kills<'a> {
    /// The program.
    pub tenure: &'a Tenure,
    /// Where disk and socket are.
    pub directory: &'a Path,
    /// How often.
    pub kills: u32,
    /// Decides when.
    pub seed: u64,
    /// `--aio` of the device.
    pub aio: &'a str,
}

impl Kills<'_> {
    /// Kills, starts again, looks; a line on what was done.
    ///
    /// # Errors
    /// If a write that was acknowledged is lost or torn, if the reservation is not what it was, or anything else goes wrong.
    pub fn play(&self) -> Result<String> {
        let mut random = Random::new(self.seed);
        let mut device = self.serve()?;
        let shape =
            Shape { size: 128, requests: 64, room: BLOCK, segment: 1536, indirect: true, event_idx: true };
        let mut driver = VirtioScsi::connect(socket(&device)?, &setting(2, shape))?;
        let dialect = driver.dialect(0)?;
        reserve(&mut driver)?;
        let mut keeper = Keeper::new(BLOCKS, BLOCK, self.seed)?;
        for number in 1..=self.kills {
            let queue = REQUESTS + usize::from(random.once_in(2));
            killed(&mut device.process, random.moment(LONGEST), || {
                keeper.run(driver.front.ring(queue)?, &dialect, DEPTH, |_| true)
            })
            .with_context(|| format!("kill {number}"))?;
            device = self.serve()?;
            driver.front.reconnect(socket(&device)?)?;
            keeper.settle(driver.front.ring(queue)?, &dialect).with_context(|| format!("kill {number}"))?;
            holds(&mut driver).with_context(|| format!("after kill {number}"))?;
        }
        check(&mut driver, &mut keeper, &dialect)?;
        let Keeper { written, checked, .. } = keeper;
        Ok(format!(
            "{} kills, {written} writes acknowledged, {checked} reads found what they had to",
            self.kills
        ))
    }

    fn serve(&self) -> Result<Device> {
        // APTPL: what survives the process is in the file beside the disk.
        let lun = format!("file={},size=8M", self.directory.join("disk").display());
        self.tenure.device(self.directory, &["kills"], &[&lun], &["--num-queues", "2", "--aio", self.aio])
    }
}

fn socket(device: &Device) -> Result<&Path> {
    device.sockets.first().map(AsRef::as_ref).context("no socket")
}

/// Runs `load` until the device is killed under it, after a while; it has to notice.
fn killed(process: &mut Background, after: Duration, load: impl FnOnce() -> Result<()>) -> Result<()> {
    let pid = process.pid().context("no process")?;
    let ended = thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(after);
            kill_process(pid, Signal::KILL)
        });
        load()
    });
    process.kill();
    match ended {
        Err(error) if error.is::<Gone>() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => bail!("the load ended by itself"),
    }
}

fn reserve(driver: &mut VirtioScsi) -> Result<()> {
    for command in [request::register(Key::NONE, KEY, true), request::reserve(KEY, KIND)] {
        let ended = nexus::retry_unit_attention(&mut driver.disk(0), &command, ATTENTIONS)?.completion;
        ensure!(ended.status.is_good(), "{command:?}: {ended:?}");
    }
    Ok(())
}

fn holds(driver: &mut VirtioScsi) -> Result<()> {
    let command = request::read(InAction::READ_RESERVATION, 64);
    let told = nexus::retry_unit_attention(&mut driver.disk(0), &command, ATTENTIONS)?.completion;
    let held = ReadReservation::parse(&told.data).and_then(|told| told.reservation);
    let held = held.context("the reservation is gone")?;
    ensure!((held.key, held.kind) == (KEY, KIND), "the reservation is another: {held:?}");
    Ok(())
}

fn check(driver: &mut VirtioScsi, keeper: &mut Keeper, dialect: &Scsi) -> Result<()> {
    for queue in 0..2 {
        keeper.check_all(driver.front.ring(REQUESTS + queue)?, dialect)?;
    }
    Ok(())
}
