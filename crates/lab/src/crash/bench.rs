//! A guest behind QEMU and a helper, sending command after command, each answer held against the device and the ledger.

use super::ground::{Fact, Ground, OWNER};
use super::{Setting, moves};
use crate::process::{DEADLINE, wait_for};
use crate::qemu::qtest::hex;
use crate::qemu::{Machine, Qemu};
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use ledger::State;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::request::{clear, read, register_and_ignore, release};
use scsi::pr::{InAction, Key, ReadKeys, ReservationType};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use tempfile::TempDir;

/// Initiator port of the guest.
pub(super) const GUEST: u8 = 1;
/// Initiator port of its peer.
pub(super) const PEER: u8 = 2;
const ATTENTIONS: usize = 8;
/// Commands that are told if something did not hold.
const RECENT: usize = 12;

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Commands of the guest.
    pub(super) commands: u64,
    /// Those whose reply never came, because the helper was gone.
    pub(super) lost: u64,
    /// Those after which the ledger said that it could not be sure.
    pub(super) doubtful: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, lost, doubtful } = self;
        write!(f, "{commands} commands, {lost} replies lost, {doubtful} of them left in doubt")
    }
}

/// What the guest made of a command.
enum Answer {
    /// It came from the helper.
    Given,
    /// QEMU says that the helper is gone.
    Lost,
    /// QEMU itself is gone.
    NoGuest,
}

/// The guest and everything around it but the helper.
pub(super) struct Bench {
    pub(super) directory: TempDir,
    pub(super) qemu: Qemu,
    pub(super) ground: Ground,
    pub(super) told: Told,
    setting: Setting,
    random: Random,
    /// The last commands and answers, for whoever has to find out what went wrong.
    recent: VecDeque<String>,
    /// The peer changed something, and the guest had no answer since from which the helper could learn it.
    unknown_to_helper: bool,
}

/// Where the helper listens.
pub(super) fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("helper")
}

fn machine(directory: &TempDir, setting: &Setting) -> Machine {
    Machine::new(directory.path(), setting.front, &setting.guest, &socket(directory))
}

/// The helper with its record.
pub(super) fn helper(setting: &Setting) -> String {
    format!("{} --vm {OWNER} --state {}", setting.helper, setting.state.display())
}

impl Bench {
    /// Starts QEMU; the helper listens already.
    pub(super) fn new(setting: &Setting, directory: TempDir) -> Result<Self> {
        let ground = Ground::new(&setting.state, &setting.peer)?;
        let qemu = Qemu::start(&machine(&directory, setting))?;
        let setting = setting.clone();
        let random = Random::new(setting.seed);
        let (told, recent) = (Told::default(), VecDeque::new());
        Ok(Self { directory, qemu, ground, told, setting, random, recent, unknown_to_helper: false })
    }

    /// Leaves nobody registered, whatever was before.
    pub(super) fn clean(&mut self) -> Result<()> {
        for request in [register_and_ignore(moves::PEER, false), clear(moves::PEER)] {
            let status = self.ground.peer(&request)?;
            ensure!(status == Status::GOOD, "{}: {status}", describe(&request));
        }
        Ok(())
    }

    /// The guest's next command, perhaps after one of the peer. Whether QEMU is still there.
    pub(super) fn step(&mut self, peer: bool, aptpl: bool) -> Result<bool> {
        let registrants = self.ground.device()?;
        let now = registrants.of(GUEST);
        let registered = registrants.of(PEER).key.is_some();
        let of_peer = if peer { moves::peer(&mut self.random, now, registered) } else { None };
        if let Some(request) = of_peer {
            let status = self.ground.peer(&request)?;
            self.note(format!("peer: {}: {status}", describe(&request)));
            self.unknown_to_helper = true;
        }
        let request = moves::guest(&mut self.random, now, aptpl);
        let (answer, text) = self.send(&request);
        self.note(format!("guest, {now}: {}: {text}", describe(&request)));
        let judged = self.judge(&request, &answer);
        judged.with_context(|| format!("{} of which the last are\n{}", self.told, self.recent()))?;
        Ok(!matches!(answer, Answer::NoGuest))
    }

    fn send(&mut self, request: &Request) -> (Answer, String) {
        self.told.commands += 1;
        match self.qemu.disk.execute(request) {
            Ok(ended) if is_lost(&ended) => (Answer::Lost, "no reply".to_owned()),
            Ok(ended) => {
                let code = ended.decoded_sense().map(|sense| format!(" {} {}", sense.key, sense.code));
                (Answer::Given, format!("{}{}", ended.status, code.unwrap_or_default()))
            }
            Err(error) => (Answer::NoGuest, error.to_string()),
        }
    }

    fn note(&mut self, line: String) {
        self.recent.push_back(line);
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
    }

    fn recent(&self) -> String {
        self.recent.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// No reply that the ledger does not know; and where there was none, it is right or knows that it may not be.
    fn judge(&mut self, request: &Request, answer: &Answer) -> Result<()> {
        match answer {
            Answer::Given if request.cdb.first() == Some(&opcode::PERSISTENT_RESERVE_OUT) => {
                self.unknown_to_helper = false;
                self.agree().map(drop)
            }
            Answer::Lost => {
                self.told.lost += 1;
                let (recorded, standing) = self.ground.recorded()?;
                let device = self.ground.device()?.of(GUEST);
                let doubtful = standing == State::Unverified;
                self.told.doubtful += u64::from(doubtful);
                let right = doubtful || recorded == device || self.unknown_to_helper;
                ensure!(right, "the ledger is sure of {recorded}, the device says {device}");
                Ok(())
            }
            Answer::Given | Answer::NoGuest => Ok(()),
        }
    }

    /// Ledger and device say the same of the guest, and the ledger is sure.
    pub(super) fn agree(&mut self) -> Result<Fact> {
        let (recorded, standing) = self.ground.recorded()?;
        let device = self.ground.device()?.of(GUEST);
        ensure!(recorded == device, "the ledger says {recorded}, the device {device}");
        ensure!(standing != State::Unverified, "the ledger is not sure of {recorded}");
        Ok(device)
    }

    /// What the helper was carrying out when its client went away reaches the ledger as well.
    pub(super) fn agree_without_guest(&mut self) -> Result<Fact> {
        match wait_for(DEADLINE, || self.agree().ok()) {
            Some(fact) => Ok(fact),
            None => self.agree(),
        }
    }

    /// A new QEMU on the same helper.
    pub(super) fn restart_guest(&mut self) -> Result<()> {
        self.qemu = Qemu::start(&machine(&self.directory, &self.setting))?;
        Ok(())
    }

    /// Sends until neither a unit attention nor a helper that is gone stands before the answer.
    pub(super) fn insist(&mut self, request: &Request) -> Result<Completion> {
        for _ in 0..ATTENTIONS {
            let ended = retry_unit_attention(&mut self.qemu.disk, request, ATTENTIONS)?.completion;
            if !is_lost(&ended) {
                return Ok(ended);
            }
        }
        bail!("QEMU does not reach the helper any more")
    }

    /// A command that changes nothing, before which the helper has to make record and device agree; then everybody is
    /// asked.
    pub(super) fn settle(&mut self) -> Result<Fact> {
        self.insist(&release(Key(0xBAD), ReservationType::WRITE_EXCLUSIVE))?;
        let fact = self.agree()?;
        let ended = self.insist(&read(InAction::READ_KEYS, 512))?;
        ensure!(ended.status == Status::GOOD, "READ KEYS: {}", ended.status);
        let mut seen = ReadKeys::parse(&ended.data).context("READ KEYS")?.keys;
        seen.sort_unstable();
        let listed = self.ground.device()?.keys();
        ensure!(seen == listed, "the guest sees the keys {seen:?}, its peer {listed:?}");
        Ok(fact)
    }
}

fn describe(request: &Request) -> String {
    let list = if let DataPhase::Out(list) = &request.data { hex(list) } else { String::new() };
    format!("{} {list}", hex(&request.cdb))
}

/// What a guest of QEMU 7.2 gets when the helper went away during its command: INVALID FIELD IN CDB, to which QEMU turns the
/// EINVAL of its client. The kernel's target gives no other command of the stream this answer.
fn is_lost(ended: &Completion) -> bool {
    ended.decoded_sense().is_some_and(|sense| sense.code == AdditionalSense::INVALID_FIELD_IN_CDB)
}
