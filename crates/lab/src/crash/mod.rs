//! Crashes under a stream of PERSISTENT RESERVE commands: of the helper, of QEMU, and of the whole host. Runs in the VM.
//!
//! What must hold: no reply was sent that the ledger does not know; QEMU finds the new helper; and when the helper has asked the
//! device, ledger and READ FULL STATUS say the same. Everything that is chosen, a seed decides; when a process dies in
//! the course of a command, it does not.

mod bench;
mod ground;
mod moves;

use crate::helper;
use crate::process::{Background, wait_for};
use crate::qemu::Front;
use crate::random::Random;
use anyhow::{Context, Result, ensure};
use bench::Bench;
use ground::Fact;
use scsi::Status;
use scsi::pr::request::{clear, register_and_ignore, reserve};
use scsi::pr::{Key, ReservationType};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// How long one command may keep the killer waiting, QEMU's attempts to reach a helper included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Within this time from an answer on, a helper is killed: several commands long.
const SOON: Duration = Duration::from_millis(150);
/// Commands before and after a crash of QEMU take at most this long.
const A_WHILE: Duration = Duration::from_millis(300);
/// What a guest holds that a crash of its host must not take away.
const KEY: Key = Key(0xA1);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const HELD: Fact = Fact { key: Some(KEY), held: Some(KIND) };

/// What a trial is about.
#[derive(Clone, Debug, clap::Args)]
pub struct Setting {
    /// The helper and its arguments; `-k`, `--vm` and `--state` are added
    #[arg(long)]
    helper: String,
    /// scsi-block or scsi-generic
    #[arg(long, default_value = "scsi-block")]
    front: Front,
    /// The guest's disk, of the first initiator port: /dev/sdX, or /dev/sgN for scsi-generic
    #[arg(long)]
    guest: PathBuf,
    /// The disk of the second initiator port
    #[arg(long)]
    peer: PathBuf,
    /// The helper's state directory
    #[arg(long)]
    state: PathBuf,
    /// Decides what is chosen
    #[arg(long)]
    seed: u64,
}

/// Kills the helper so many times, then QEMU so many times; tells what happened.
///
/// # Errors
/// What did not hold.
pub fn kills(setting: &Setting, kills: u32, of_qemu: u32) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let mut process = helper::start(&bench::helper(setting), &bench::socket(&directory))?;
    let mut bench = Bench::new(setting, directory)?;
    bench.clean()?;
    kill_helper(&mut bench, &mut process, setting, kills)?;
    let told = bench.told;
    ensure!(told.lost > 0 || kills < 10, "no kill met a command under way: {told}");
    let mut random = Random::new(!setting.seed);
    for _ in 0..of_qemu {
        kill_guest(&mut bench, random.moment(A_WHILE))?;
    }
    ensure!(process.is_running(), "the helper ended by itself");
    Ok(format!("{kills} kills of the helper: {told}; {of_qemu} kills of QEMU; all agree"))
}

fn kill_helper(bench: &mut Bench, process: &mut Background, setting: &Setting, kills: u32) -> Result<()> {
    let (going, answers) = (AtomicBool::new(true), AtomicU64::new(0));
    let killer = Killer {
        line: bench::helper(setting),
        socket: bench::socket(&bench.directory),
        going: &going,
        answers: &answers,
    };
    thread::scope(|scope| {
        let killing = scope.spawn(|| killer.run(process, Random::new(setting.seed.rotate_left(32)), kills));
        let streamed = stream_while(bench, &going, &answers);
        going.store(false, SeqCst);
        let killed = killing.join();
        streamed?;
        killed.map_err(|_| anyhow::anyhow!("the killer itself died"))?
    })?;
    bench.settle().context("after the last restart").map(drop)
}

fn stream_while(bench: &mut Bench, going: &AtomicBool, answers: &AtomicU64) -> Result<()> {
    while going.load(SeqCst) {
        ensure!(bench.step(true, false)?, "QEMU is gone");
        answers.fetch_add(1, SeqCst);
    }
    Ok(())
}

/// The one that kills helpers and starts new ones.
struct Killer<'a> {
    line: String,
    socket: PathBuf,
    going: &'a AtomicBool,
    answers: &'a AtomicU64,
}

impl Killer<'_> {
    fn run(&self, process: &mut Background, mut random: Random, kills: u32) -> Result<()> {
        let done = (0..kills).try_for_each(|_| self.kill(process, &mut random));
        let done = done.and_then(|()| helper::ready(process, &self.socket));
        self.going.store(false, SeqCst);
        done
    }

    /// Most die at work, some while they start.
    fn kill(&self, process: &mut Background, random: &mut Random) -> Result<()> {
        if !random.once_in(8) {
            helper::ready(process, &self.socket)?;
            let before = self.answers.load(SeqCst);
            let went_on = || (self.answers.load(SeqCst) != before || !self.going.load(SeqCst)).then_some(());
            wait_for(PATIENCE, went_on).context("no command is answered any more")?;
        }
        thread::sleep(random.moment(SOON));
        process.kill();
        *process = helper::spawn(&self.line, &self.socket)?;
        Ok(())
    }
}

/// Kills QEMU in the course of commands, and wants the ledger right before any other client asks.
fn kill_guest(bench: &mut Bench, after: Duration) -> Result<()> {
    let killer = bench.qemu.killer();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(after);
            killer.kill();
        });
        while bench.step(false, false)? {}
        anyhow::Ok(())
    })?;
    bench.agree_without_guest().context("after QEMU was killed")?;
    bench.restart_guest()?;
    bench.settle().context("with a new QEMU").map(drop)
}

/// Sends commands with APTPL until the host is reset; makes `marker` once it has begun, and puts there what did not hold.
///
/// # Errors
/// What did not hold.
pub fn stream(setting: &Setting, marker: &Path) -> Result<String> {
    let failed = stream_on(setting, marker);
    std::fs::write(marker, failed.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default())?;
    failed
}

fn stream_on(setting: &Setting, marker: &Path) -> Result<String> {
    let (mut bench, _process) = begin(setting)?;
    bench.clean()?;
    loop {
        ensure!(bench.step(false, true)?, "QEMU is gone");
        if bench.told.commands == 20 {
            std::fs::write(marker, "")?;
        }
    }
}

/// After a reset in the course of commands: the helper finds out what is true. Then the guest reserves with APTPL.
///
/// # Errors
/// What did not hold.
pub fn recover(setting: &Setting) -> Result<String> {
    let (mut bench, _process) = begin(setting)?;
    let (recorded, standing) = bench.ground.recorded()?;
    let found = bench.settle().context("after the reset")?;
    let register = register_and_ignore(KEY, true);
    for request in [register.clone(), clear(KEY), register, reserve(KEY, KIND)] {
        let ended = bench.insist(&request)?;
        ensure!(ended.status == Status::GOOD, "{:02x?}: {}", request.cdb, ended.status);
    }
    ensure!(bench.agree()? == HELD, "the guest did not get its reservation");
    Ok(format!("recorded: {recorded} ({standing}); found: {found}"))
}

/// After a reset that found the guest holding a reservation with APTPL: it is still the guest's, and known before anybody asks.
///
/// # Errors
/// What did not hold.
pub fn still_ours(setting: &Setting) -> Result<String> {
    let (mut bench, _process) = begin(setting)?;
    let (recorded, standing) = bench.ground.recorded()?;
    ensure!(recorded == HELD, "recorded: {recorded} ({standing})");
    let device = bench.ground.device()?.of(bench::GUEST);
    ensure!(device == HELD, "the target restored: {device}");
    let repeated = bench.insist(&reserve(KEY, KIND))?;
    ensure!(repeated.status == Status::GOOD, "RESERVE of what is held: {}", repeated.status);
    ensure!(bench.settle()? == HELD, "it was lost when it was used");
    Ok(format!("{HELD}, recorded and restored"))
}

fn begin(setting: &Setting) -> Result<(Bench, Background)> {
    let directory = tempfile::tempdir()?;
    let process = helper::start(&bench::helper(setting), &bench::socket(&directory))?;
    Ok((Bench::new(setting, directory)?, process))
}
