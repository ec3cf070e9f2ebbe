//! Trials of a helper in the VM, seen from outside: the steps of `cargo xtask lab`.

use crate::process::wait_for;
use crate::qemu::Front;
use crate::random::Random;
use crate::table::{Policy, Row, judge};
use crate::vm::{ALONE, Media, Vm};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Our helper, as seen in the VM.
pub const OURS: &str = "/lab/programs/tenure-pr-helper --config /dev/null";
/// A policy that masks nothing.
const OPEN: &str = "version = 1\nmigrate = \"off\"\n";
/// Debian's own helper.
pub const INCUMBENT: &str = "/usr/bin/qemu-pr-helper";
/// How long one recording may take; it takes ten seconds on two idle cores.
const RECORDING: Duration = Duration::from_secs(600);
/// The part of the lab that runs in the VM.
const PROGRAM: &str = "/lab/programs/tenure-lab";
/// The program, as seen in the VM.
const TENURE: &str = "/lab/programs/tenure";
/// What the logical unit is over iSCSI.
const TARGET: &str = "iqn.2026-11.example.tenure:kept";
/// Where a trial's helper keeps its state if it need not survive a reset.
const PASSING: &str = "/run/tenure-state";
/// And if it must.
const LASTING: &str = "/lab/keep/tenure-state";

/// A VM with a logical unit and two nexuses to it: the guest's and a peer's.
#[derive(Debug)]
pub struct Lab {
    vm: Vm,
    /// `/dev/sdX` and `/dev/sgN` of each nexus.
    disks: Vec<[String; 2]>,
}

impl Lab {
    /// Boots the VM and sets the target up in it.
    ///
    /// # Errors
    /// If either fails; the text says what is missing.
    pub fn start(cache: &Path, programs: &Path) -> Result<Self> {
        let mut vm = Vm::boot(&Media::fetch(cache)?, programs, &ALONE)?;
        std::fs::write(vm.keep().join("open.toml"), OPEN)?;
        let disks = serve(&mut vm, "/run/target")?;
        Ok(Self { vm, disks })
    }

    /// The VM.
    pub const fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// Sends the table through one helper and one kind of disk.
    ///
    /// # Errors
    /// If the recording fails.
    pub fn record(&mut self, helper: &str, front: Front) -> Result<Vec<Row>> {
        let [[block, generic], [peer, _]] =
            self.disks.first_chunk().context("the lab has fewer than two disks")?;
        let guest = if front == Front::Block { block } else { generic };
        let front = front.to_string();
        let argv = [PROGRAM, "record", "--helper", helper, "--front", &front, "--guest", guest];
        let told = self.vm.run(&[&argv[..], &["--peer", peer]].concat(), RECORDING)?.good()?;
        Ok(serde_json::from_str(&told)?)
    }

    /// Compares ours with a recording of the incumbent, and wants exactly the differences that the policy explains.
    ///
    /// # Errors
    /// If the recording fails, or the helpers do not differ as they should.
    pub fn compare(&mut self, incumbent: &[Row], front: Front, policy: Policy) -> Result<String> {
        let more = if policy == Policy::Open { " --policy /lab/keep/open.toml" } else { "" };
        let helper = format!("{OURS} --state {PASSING}-{front}-{policy:?}{more}");
        let differing = judge(incumbent, &self.record(&helper, front)?, policy)?;
        let rows = incumbent.len();
        Ok(format!("{front}, {policy}: {rows} rows, {differing} differ, those that should"))
    }

    /// Kills our helper, and QEMU, under a stream of commands; tells a summary.
    ///
    /// # Errors
    /// What did not hold.
    pub fn kills(&mut self, kills: u32, of_qemu: u32, seed: u64) -> Result<String> {
        let (kills_text, of_qemu_text) = (kills.to_string(), of_qemu.to_string());
        let argv = self.crash("kills", PASSING, seed)?;
        let more = ["--kills", &kills_text, "--of-qemu", &of_qemu_text].map(str::to_owned);
        // A kill costs QEMU a second where the helper is not back at once.
        let deadline = RECORDING + Duration::from_secs(20) * (kills + of_qemu);
        self.told(&[argv, more.into()].concat(), deadline)
    }

    /// A guest of `tenure device` with a disk of the kernel's target, by its block and by its generic node; then the disk goes and
    /// comes back; then the guest moves from QEMU to QEMU, at one device and between two.
    ///
    /// # Errors
    /// What did not hold.
    pub fn keeps(&mut self, moves: u32) -> Result<String> {
        let [[block, generic], [peer, _]] =
            self.disks.first_chunk().cloned().context("the lab has fewer than two disks")?;
        let mut told = Vec::new();
        let moves = moves.to_string();
        let url = format!("iscsi://127.0.0.1/{TARGET}/0");
        let stories: [(&str, &[&str]); 5] = [
            (&block, &[]),
            (&generic, &[]),
            (&block, &["--gone"]),
            (&block, &["--moves", &moves]),
            (&url, &["--moves", &moves, "--there", &url]),
        ];
        for (lun, more) in stories {
            let words = [PROGRAM, "kept", "--tenure", TENURE, "--lun", lun, "--other", &peer];
            let argv: Vec<String> = words.iter().chain(more).map(ToString::to_string).collect();
            told.push(self.told(&argv, RECORDING)?);
        }
        Ok(told.join("; "))
    }

    /// What the kernel's target keeps of an initiator port that has no session.
    ///
    /// # Errors
    /// If it is not what is known of it.
    pub fn logins(&mut self) -> Result<String> {
        let [_, [peer, _]] = self.disks.first_chunk().cloned().context("the lab has fewer than two disks")?;
        self.told(&[PROGRAM, "logins", "--other", &peer].map(str::to_owned), RECORDING)
    }

    /// Resets the VM in the course of commands, and again while the guest holds a reservation with APTPL.
    ///
    /// # Errors
    /// What did not hold.
    pub fn resets(&mut self, seed: u64) -> Result<String> {
        let begun = self.vm.keep().join("begun");
        // From now on the target keeps its own state where it outlives a reset.
        self.reset()?;
        let mut argv = self.crash("stream", LASTING, seed)?;
        argv.extend(["--marker", "/lab/keep/begun"].map(str::to_owned));
        self.vm.begin(&argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        wait_for(RECORDING, || begun.exists().then_some(())).context("no command was answered")?;
        thread::sleep(Random::new(seed).moment(Duration::from_secs(1)));
        self.reset()?;
        let failed = std::fs::read_to_string(&begun)?;
        ensure!(failed.is_empty(), "before the reset: {failed}");
        let recovered = self.told(&self.crash("recover", LASTING, seed)?, RECORDING);
        let recovered = recovered.context("after a reset in the course of commands")?;
        self.reset()?;
        let held = self.told(&self.crash("still-ours", LASTING, seed)?, RECORDING);
        Ok(format!("reset in the course of commands: {}; reset of a holder: {}", recovered, held?))
    }

    fn reset(&mut self) -> Result<()> {
        self.vm.reset()?;
        self.disks = serve(&mut self.vm, "/lab/keep/target")?;
        Ok(())
    }

    fn crash(&self, task: &str, state: &str, seed: u64) -> Result<Vec<String>> {
        let [[guest, _], [peer, _]] = self.disks.first_chunk().context("the lab has fewer than two disks")?;
        let seed = seed.to_string();
        let words = [PROGRAM, task, "--helper", OURS, "--guest", guest, "--peer", peer, "--state", state];
        Ok(words.into_iter().chain(["--seed", &seed]).map(str::to_owned).collect())
    }

    fn told(&mut self, argv: &[String], deadline: Duration) -> Result<String> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(self.vm.run(&argv, deadline)?.good()?.trim().to_owned())
    }
}

fn serve(vm: &mut Vm, keep: &str) -> Result<Vec<[String; 2]>> {
    let argv = [PROGRAM, "lio", "--backing", "/run/lun0.img", "--keep", keep, "--target", TARGET];
    let told = vm.run(&argv, Duration::from_secs(60))?.good().context("setting up LIO")?;
    let pair =
        |line: &str| line.split_once(' ').map(|(block, generic)| [block.to_owned(), generic.to_owned()]);
    Ok(told.lines().filter_map(pair).collect())
}
