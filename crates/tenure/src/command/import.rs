//! `tenure import`: claims what a guest had where it was last, before it is started here.

use super::export::id;
use super::handover::nonce;
use crate::cli::ImportArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use agent::claim::{self, Claim, Interrupted, Owed, Policy};
use agent::config::{Config, Vm};
use agent::export::{Document, Exported, LONGEST};
use agent::ground::{self, Ground};
use agent::journal::{Begun, Book, Entries, Journals, Lun};
use anyhow::Context;
use handover::known_targets::KnownTargets;
use handover::{Side, UnitIndex, Verdict};
use ledger::{HandoverId, Ledger, LunId, Owner, Record, State};
use pr_helper::opening::LinuxDevices;
use scsi::TransportId;
use serde::Serialize;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the guest's last command may take.
const WAIT: Duration = Duration::from_secs(10);
/// How long a login, and a round of commands, may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    vm: String,
    claims: Vec<Row>,
    exit: u8,
}

/// One logical unit of it.
#[derive(Debug, Serialize)]
struct Row {
    lun: String,
    claim: &'static str,
}

/// Imports a guest.
///
/// # Errors
/// [`Exit::Refused`] and [`Exit::RolledBack`]: the guest must not be started here; [`Exit::InDoubt`]: nowhere.
pub fn run(args: &ImportArgs, console: &mut Console) -> Result<Exit, Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let document = args.file.as_deref().map(read).transpose()?;
    let name = args.vm.as_deref().or(document.as_ref().map(|document| document.vm.as_str()));
    let vm = name.and_then(|name| config.vms.iter().find(|vm| vm.name == name || vm.record() == name));
    let vm = vm.ok_or_else(|| {
        Failure::usage(format!("{} has no vm {}", args.config.display(), name.unwrap_or_default()))
    })?;
    let import = Import::new(&config, vm)?;
    let left = import.put_in_order()?;
    let policy = if args.take_over { Policy::TakeOver } else { vm.reclaim };
    let (mut known, policy) = match document {
        Some(document) => (document.luns, policy),
        None => {
            let known = import.remembered(policy)?;
            // Whoever has the key now need not be who had it then: that is the operator's to say, not a policy's.
            let unknown = known.iter().any(|unit| unit.tracked.key.is_some() && unit.ports.is_empty());
            let stays = unknown && !args.take_over && policy == Policy::TakeOver;
            (known, if stays { Policy::Own } else { policy })
        }
    };
    owe(&mut known, left);
    let claims = import.claim(&known, policy)?;
    report(args, vm, &claims, console)
}

/// What an interrupted import took from the guest.
fn owe(known: &mut [Exported], left: Owed) {
    for (lun, senses) in left {
        let Some(unit) = known.iter_mut().find(|unit| unit.lun == lun) else { continue };
        let new: Vec<_> = senses.into_iter().filter(|sense| !unit.owed.contains(sense)).collect();
        unit.owed.extend(new);
    }
}

fn read(path: &Path) -> Result<Document, Failure> {
    let name = || path.display().to_string();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(limit).read_to_string(&mut text).with_context(name)?;
    Document::parse(&text).map_err(|flaw| Failure::refused(format!("{}: {flaw}", name())))
}

/// This host's part of it.
struct Import<'a> {
    vm: &'a Vm,
    ledger: Ledger,
    book: Arc<Mutex<Book>>,
}

impl<'a> Import<'a> {
    fn new(config: &Config, vm: &'a Vm) -> Result<Self, Failure> {
        let ledger = Ledger::open(&config.agent.state).map_err(anyhow::Error::from)?;
        let journals = Journals::new(&config.agent.state, &config.agent.name.to_string());
        let book = journals.open(&vm.name).map_err(Failure::refused)?;
        Ok(Self { vm, ledger, book: Arc::new(Mutex::new(book)) })
    }

    fn owner(&self) -> Owner {
        Owner(self.vm.record().to_owned())
    }

    /// What this host's own record tells of a guest that was here before.
    fn remembered(&self, policy: Policy) -> Result<Vec<Exported>, Failure> {
        let guest = self.ledger.guest(&self.owner()).map_err(anyhow::Error::from)?;
        let records = guest.records();
        if let Some(record) = records.iter().find(|record| record.state == State::Handover) {
            return Err(Failure::refused(format!(
                "a handover of {} was interrupted: tenure handover status {}",
                record.lun.0, self.vm.name
            )));
        }
        if records.is_empty() {
            return Err(Failure::refused(format!(
                "this host has no record of {}: import the file that tenure export wrote where it was",
                self.vm.name
            )));
        }
        let known: Vec<_> = records.iter().map(|record| self.recalled(record, policy)).collect();
        let away = records.iter().all(|record| record.state.is_away());
        // No device could tell that it is not where it went.
        let unknown = away && known.iter().all(|unit| unit.tracked.key.is_none());
        if unknown && policy != Policy::TakeOver {
            return Err(Failure::refused(format!(
                "{} went to another host and nothing is known to be registered: nothing tells that it does not run there. If \
                 it does not and never will again, --take-over says so",
                self.vm.name
            )));
        }
        Ok(known)
    }

    /// A guest that went by a handover was last at the other host's ports. Its key is the configuration's where no record has it
    /// and the operator has it taken over.
    fn recalled(&self, record: &Record, policy: Policy) -> Exported {
        let mut unit = Exported::remembered(record);
        if record.state == State::Moved && unit.ports.is_empty() {
            unit.ports = self.ports_there(&unit.lun);
        }
        let mut keys = self.vm.devices.iter().filter_map(|device| device.key);
        let key = keys.next().filter(|key| keys.all(|other| other == *key));
        let take_over = policy == Policy::TakeOver && record.state == State::Moved;
        unit.tracked.key = unit.tracked.key.or(key.filter(|_| take_over && unit.state == State::Active));
        unit
    }

    /// The other host's, in the last handover with one.
    fn ports_there(&self, lun: &LunId) -> Vec<TransportId> {
        let book = self.book();
        let last = book.handovers().iter().rev().find(|handover| !handover.begun.peer.is_empty());
        let units = last.iter().flat_map(|handover| &handover.begun.luns).filter(|unit| unit.lun == lun.0);
        units.flat_map(|unit| unit.peer.iter().filter_map(|port| port.initiator.clone())).collect()
    }

    fn claim(&self, known: &[Exported], policy: Policy) -> Result<Vec<(LunId, Claim)>, Failure> {
        let (handover, nonces) = (id()?, known.iter().map(|_| nonce()).collect::<Result<Vec<_>, _>>()?);
        let mut ground = self.ground(handover)?;
        let luns = known.iter().zip(&nonces).map(|(known, nonce)| Lun {
            lun: known.lun.0.clone(),
            own: Vec::new(),
            peer: known
                .ports
                .iter()
                .map(|port| handover::Port { initiator: Some(port.clone()), target_port: None })
                .collect(),
            key: known.tracked.key,
            nonce: *nonce,
            target: None,
        });
        let luns = luns.collect();
        self.begin(handover, luns)?;
        let mut entries =
            Entries::new(Arc::clone(&self.book), (0..).map(UnitIndex).take(known.len()).collect());
        let mut drawn = nonces.into_iter();
        let mut order = claim::Order {
            policy,
            known,
            targets: KnownTargets::default(),
            nonce: &mut || drawn.next().unwrap_or_default(),
            wait: WAIT,
            patience: TIMEOUT,
        };
        let claimed = claim::claim(&mut ground, &mut order, &mut entries);
        if !matches!(claimed, Err(claim::Error::InDoubt { .. } | claim::Error::Stuck)) {
            self.end(if claimed.is_ok() { "claimed" } else { "not claimed" })?;
        }
        claimed.map_err(failure)
    }

    fn ground(&self, handover: HandoverId) -> Result<Ground, Failure> {
        let devices = LinuxDevices::default();
        let order = ground::Order {
            ledger: &self.ledger,
            owner: self.owner(),
            handover,
            side: Side::Destination,
            timeout: TIMEOUT,
            devices: &devices,
        };
        Ground::open(&order, &self.vm.places()).map_err(|error| Failure::from(anyhow::Error::from(error)))
    }

    /// An import that was interrupted is finished or undone first; gives what the guest is owed since.
    fn put_in_order(&self) -> Result<Owed, Failure> {
        let Some(open) = self.book().open_handover().cloned() else { return Ok(Vec::new()) };
        if !open.begun.peer.is_empty() {
            return Err(Failure::refused(format!(
                "handover {} with {} is not over: tenure handover status {}",
                open.begun.handover, open.begun.peer, self.vm.name
            )));
        }
        let units = (0..).map(UnitIndex).zip(&open.begun.luns);
        let interrupted: Vec<_> = units
            .map(|(unit, lun)| Interrupted {
                lun: LunId(lun.lun.clone()),
                source: lun.peer.clone(),
                entry: open.last.get(&unit).map(|last| last.entry),
            })
            .collect();
        let mut ground = self.ground(open.begun.handover)?;
        let all = (0..).map(UnitIndex).take(interrupted.len()).collect();
        let mut entries = Entries::new(Arc::clone(&self.book), all);
        let owed = claim::resume(&mut ground, &interrupted, &mut entries, WAIT, TIMEOUT).map_err(failure)?;
        self.end("put in order")?;
        Ok(owed)
    }

    fn begin(&self, handover: HandoverId, luns: Vec<Lun>) -> Result<(), Failure> {
        let begun = Begun {
            handover,
            uuid: self.vm.uuid.as_str().to_owned(),
            side: Side::Destination,
            // Nobody else takes part.
            peer: String::new(),
            luns,
            method: None,
            allow_absence: true,
            stays_paused: false,
            orchestrated: false,
        };
        self.book().begin(begun).map_err(|error| Failure::from(anyhow::Error::from(error)))
    }

    fn end(&self, verdict: &str) -> Result<(), Failure> {
        self.book().end(verdict).map_err(|error| Failure::from(anyhow::Error::from(error)))
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn failure(error: claim::Error) -> Failure {
    use claim::Error;
    let exit = match &error {
        Error::Off | Error::Elsewhere { .. } | Error::Refused { why: Verdict::Refused(_), .. } => {
            Exit::Refused
        }
        Error::Refused { .. } => Exit::RolledBack,
        Error::InDoubt { .. } | Error::Stuck => Exit::InDoubt,
        Error::Ground(ground::Error::NotHere(_)) => Exit::Refused,
        Error::Ground(_) | Error::Silent { .. } | Error::NotDurable(_) => Exit::Failed,
    };
    Failure { exit, reason: error.into() }
}

fn report(
    args: &ImportArgs,
    vm: &Vm,
    claims: &[(LunId, Claim)],
    console: &mut Console,
) -> Result<Exit, Failure> {
    let is = |wanted: &Claim| claims.iter().any(|(_, claim)| claim == wanted);
    let exit = if is(&Claim::Fenced) { Exit::Fenced } else { Exit::Done };
    if args.json {
        let row = |(lun, claim): &(LunId, Claim)| Row { lun: lun.0.clone(), claim: word(claim) };
        let claims = claims.iter().map(row).collect();
        console.json(&Report { schema: 1, vm: vm.name.clone(), claims, exit: exit as u8 })?;
        return Ok(exit);
    }
    let line = |(lun, claim): &(LunId, Claim)| format!("{}  {}\n", lun.0, word(claim));
    console.data(&claims.iter().map(line).collect::<String>())?;
    Ok(exit)
}

const fn word(claim: &Claim) -> &'static str {
    match claim {
        Claim::Proved => "its own",
        Claim::TakenOver => "taken over",
        Claim::Fenced => "fenced",
        Claim::Lost => "lost",
        Claim::Nothing => "nothing registered",
    }
}

#[cfg(test)]
mod tests;
