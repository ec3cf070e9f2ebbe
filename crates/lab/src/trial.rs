//! Trials of a helper in the VM, seen from outside: the steps of `cargo xtask lab`.

use crate::process::wait_for;
use crate::qemu::Front;
use crate::random::Random;
use crate::table::{Policy, Row, judge};
use crate::vm::{ALONE, Media, Vm};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Our helper, as seen in the VM.
pub const OURS: &str = "/lab/programs/tenure-pr-helper --config /dev/null";
/// A policy that masks nothing.
const OPEN: &str = "version = 1\nmigrate = \"off\"\n";
/// Debian's own helper.
pub const INCUMBENT: &str = "/usr/bin/qemu-pr-helper";
/// How long one recording may take; it takes ten seconds on two idle cores.
const RECORDING: Duration = Duration::from_secs(600);
/// Between two looks at what a program says on its way.
const LOOK: Duration = Duration::from_secs(1);
/// Lines of that which are told when it fails.
const LAST: usize = 20;
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

/// A VM with a logical unit and three nexuses to it: the guest's, a peer's, and the guest's on another host.
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
    /// comes back; then the guest moves from QEMU to QEMU, at one device and between two, each with a nexus of its own or both with
    /// one. `only`: stories in whose names this is.
    ///
    /// # Errors
    /// What did not hold.
    pub fn keeps(&mut self, moves: u32, only: &str) -> Result<String> {
        let [[block, generic], [peer, _], [there, _]] =
            self.disks.first_chunk().cloned().context("the lab has fewer than three disks")?;
        let mut told = Vec::new();
        let moves = moves.to_string();
        let url = format!("iscsi://127.0.0.1/{TARGET}/0");
        let stories: [(&str, &str, &[&str]); 7] = [
            ("block node", &block, &[]),
            ("generic node", &generic, &[]),
            ("gone and back", &block, &["--gone"]),
            ("one device", &block, &["--moves", &moves]),
            ("two devices, iSCSI", &url, &["--moves", &moves, "--there", &url]),
            ("two devices, disks", &block, &["--moves", &moves, "--there", &there]),
            // On one host: the guest's nexus stays the same.
            ("two devices, one disk", &block, &["--moves", "2", "--there", &block]),
        ];
        for (name, lun, more) in stories.into_iter().filter(|(name, ..)| name.contains(only)) {
            let words = [PROGRAM, "kept", "--tenure", TENURE, "--lun", lun, "--other", &peer];
            told.push(self.story(&[&words[..], more].concat()).with_context(|| name.to_owned())?);
        }
        ensure!(!told.is_empty(), "no story's name has {only:?} in it");
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

    /// A program that says on its way how far it is, which is said here at once; its last line.
    fn story(&mut self, argv: &[&str]) -> Result<String> {
        let id = self.vm.start(argv, Path::new("/lab/keep/story"))?;
        let mut log = Log { at: self.vm.keep().join("story"), ..Log::default() };
        let end = Instant::now() + RECORDING;
        let status = loop {
            let ended = self.vm.ended(id, LOOK)?;
            log.show()?;
            if let Some(status) = ended {
                break status;
            }
            ensure!(Instant::now() < end, "it does not come to an end: {}", log.last(LAST));
        };
        ensure!(status == 0, "exit status {status}: {}", log.last(LAST));
        Ok(log.last(1))
    }

    fn told(&mut self, argv: &[String], deadline: Duration) -> Result<String> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(self.vm.run(&argv, deadline)?.good()?.trim().to_owned())
    }
}

/// What a program in the VM says.
#[derive(Default)]
struct Log {
    at: PathBuf,
    text: String,
    shown: usize,
}

impl Log {
    /// Says what is new.
    fn show(&mut self) -> Result<()> {
        self.text = String::from_utf8_lossy(&std::fs::read(&self.at)?).into_owned();
        let whole = self.text.rfind('\n').map_or(0, |at| at + 1);
        eprint!("{}", self.text.get(self.shown..whole).unwrap_or_default());
        self.shown = whole;
        Ok(())
    }

    /// The end of it.
    fn last(&self, most: usize) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines.get(lines.len().saturating_sub(most)..).unwrap_or_default().join("\n")
    }
}

fn serve(vm: &mut Vm, keep: &str) -> Result<Vec<[String; 2]>> {
    let argv =
        [PROGRAM, "lio", "--backing", "/run/lun0.img", "--keep", keep, "--nexuses", "3", "--target", TARGET];
    let told = vm.run(&argv, Duration::from_secs(60))?.good().context("setting up LIO")?;
    let pair =
        |line: &str| line.split_once(' ').map(|(block, generic)| [block.to_owned(), generic.to_owned()]);
    Ok(told.lines().filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_shown_once_and_by_whole_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log { at: file.path().into(), ..Log::default() };
        for (text, shown) in [("", 0), ("on", 0), ("one\ntw", 4), ("one\ntwo\n", 8)] {
            std::fs::write(file.path(), text).unwrap();
            log.show().unwrap();
            assert_eq!(log.shown, shown, "{text:?}");
        }
        assert_eq!((log.last(1), log.last(9)), ("two".to_owned(), "one\ntwo".to_owned()));
    }
}
