//! A guest that is started here without a handover: restored from a file, started cold on another host, or restarted by
//! whoever watches over it. Claims what it had where it was last, as far as the device bears that out.
//!
//! Of each logical unit the device is asked first. Is the key registered on this host's own nexus (REGISTER K to K is GOOD), the
//! guest goes on. Is it registered nowhere, somebody removed it, or the target forgot it, and the guest goes on without:
//! nothing is ever registered for it. Is it registered on another nexus, that is taken over only under
//! [`Policy::TakeOver`], only from the nexus where the guest was last, if the device tells which has it, and by
//! *destination nonce*, whose PREEMPT is the proof that the guest was not fenced. All or nothing: if one logical unit cannot
//! be claimed, nothing is taken over.
//!
//! The guest does not run yet, and nobody but the caller may start it anywhere.

mod ask;

use crate::conduct::{self, Journal, NotDurable, Patience, Placed};
use crate::drive::Lines;
use crate::export::Exported;
use crate::ground::{self, End, Fate, Ground, Standing, sense};
use crate::migrate::{Last, Leg};
use crate::recover;
use ask::Found;
use handover::group::Ending;
use handover::known_targets::KnownTargets;
use handover::{Entry, Group, Port, Remains, Settings, Side, UnitIndex, Verdict};
use ledger::{LunId, State};
use scsi::pr::Key;
use scsi::{AdditionalSense, Completion, TransportId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How far a claim may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Nothing is claimed.
    Off,
    /// What is registered on this host's own nexus is the guest's again.
    #[default]
    Own,
    /// And what is registered on the nexus where the guest was last is taken over from it.
    TakeOver,
}

/// What became of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is registered on this host's nexus.
    Proved,
    /// It was taken over from the nexus where it was.
    TakenOver,
    /// Another nexus removed its registration; it goes on without.
    Fenced,
    /// The target forgot it; it goes on without.
    Lost,
    /// It had nothing.
    Nothing,
}

/// Why nothing was claimed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest's logical units or records.
    #[error(transparent)]
    Ground(#[from] ground::Error),
    /// The policy says so.
    #[error("`reclaim` is off for this guest: what it had is not looked for")]
    Off,
    /// Nothing can be written ahead; nothing was changed.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
    /// A device does not say what it has.
    #[error("{} does not say what is registered: {}", lun.0, crate::drive::words::status(answer))]
    Silent {
        /// Which.
        lun: LunId,
        /// What it said instead.
        answer: Box<Completion>,
    },
    /// The registration is another nexus's.
    #[error("the guest's key on {} is registered on {by}: {advice}", lun.0)]
    Elsewhere {
        /// The logical unit.
        lun: LunId,
        /// Who has it.
        by: String,
        /// What to do.
        advice: &'static str,
    },
    /// It cannot be taken over.
    #[error("{} cannot be taken over: {why}; nothing was changed that was not undone", lun.0)]
    Refused {
        /// The logical unit.
        lun: LunId,
        /// Why.
        why: Verdict,
    },
    /// Nobody can tell what the guest has; the records say `handover`.
    #[error("it cannot be told what the guest has on {}: {why}; it must not run until that is put in order", lun.0)]
    InDoubt {
        /// The logical unit.
        lun: LunId,
        /// Why.
        why: Verdict,
    },
    /// A defect.
    #[error("the handover waits for reports that nobody gives")]
    Stuck,
}

const RUN_THERE: &str = "if the guest runs there, leave it there; if it does not and never will again, claim it with \
                         take-over allowed";
const NOT_FROM_THERE: &str = "that is not where the guest was last, so somebody else uses its key, or it was \
                              claimed elsewhere already";

/// The journal of a claim.
pub trait Book: Journal {
    /// Makes durable from which nexus each of these units is taken over, before anything is changed: a claim that is interrupted
    /// is put in order by that.
    ///
    /// # Errors
    /// [`NotDurable`].
    fn claimed_from(&mut self, sources: &[(UnitIndex, Port)]) -> Result<(), NotDurable>;
}

/// Where a claim writes its entries, and what its commands take from the guest.
struct Notes<'a> {
    journal: &'a mut dyn Journal,
    ground: &'a mut Ground,
    /// The last entry of each logical unit.
    last: BTreeMap<UnitIndex, Entry>,
}

impl Journal for Notes<'_> {
    fn append(&mut self, round: u64, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        self.journal.append(round, entries)?;
        self.last.extend(entries.iter().copied());
        Ok(())
    }

    fn owe(&mut self, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> bool {
        let senses = |codes: &[AdditionalSense]| codes.iter().map(|code| sense(*code)).collect();
        let owed: Vec<_> = owed.iter().map(|(unit, codes)| (*unit, senses(codes))).collect();
        self.ground.owe(&owed).is_ok()
    }
}

/// Runs a group of these units to its end: the other host is not there, and nothing is sent on its nexuses.
fn run(
    group: &mut Group,
    lines: &mut Lines,
    notes: &mut Notes<'_>,
    units: &[UnitIndex],
    commands: Duration,
) -> Result<Ending, Error> {
    let (mut hands, mut journal) = (Placed { of: lines, units }, Placed { of: notes, units });
    let patience = Patience { commands, ..Patience::default() };
    conduct::alone(group, Side::Destination, &mut hands, &mut journal, patience).ok_or(Error::Stuck)
}

/// What a claim is given.
pub struct Order<'a> {
    /// How far it may go.
    pub policy: Policy,
    /// What the guest had, where it was last.
    pub known: &'a [Exported],
    /// What is known of targets.
    pub targets: KnownTargets,
    /// Random keys that nobody uses, one for each logical unit.
    pub nonce: &'a mut dyn FnMut() -> Key,
    /// How long the guest's last command may take to be over.
    pub wait: Duration,
    /// How long a round of commands may take.
    pub patience: Duration,
}

/// Claims what the guest had. `ground`: opened for the destination, and not arranged; `journal`: its units are those of
/// `order.known`.
///
/// # Errors
/// [`Error`]: the guest must not run here. But for [`Error::InDoubt`] the records say that it is not here, or, where it was here
/// last, what they said before.
pub fn claim(
    ground: &mut Ground,
    order: &mut Order<'_>,
    journal: &mut dyn Book,
) -> Result<Vec<(LunId, Claim)>, Error> {
    if order.policy == Policy::Off {
        return Err(Error::Off);
    }
    ground.arrange(&order.known.iter().map(|known| known.lun.clone()).collect::<Vec<_>>())?;
    let here = ground.units().iter().any(|unit| unit.standing() == Standing::Registered);
    let frozen = ground.freeze(Instant::now() + order.wait).map_err(Error::from);
    let claimed = frozen.and_then(|_| {
        ground.owe(&owed(order.known))?;
        let mut lines = ground.lines();
        decide(ground, &mut lines, order, journal)
    });
    match &claimed {
        Ok(ends) => {
            ground.arrive(&ends.iter().map(|(_, end): &(Claim, End)| end.clone()).collect::<Vec<_>>())?
        }
        Err(Error::InDoubt { .. } | Error::Stuck) => {}
        // A guest that was here last has what it had here, and is owed what it was.
        Err(_) if here => ground.restore(&as_before(order.known))?,
        Err(_) => ground.depart()?,
    }
    let named = |(unit, (claim, _)): (&Exported, (Claim, End))| (unit.lun.clone(), claim);
    Ok(order.known.iter().zip(claimed?).map(named).collect())
}

fn owed(known: &[Exported]) -> Vec<(UnitIndex, Vec<Vec<u8>>)> {
    (0..).map(UnitIndex).zip(known.iter().map(|known| known.owed.clone())).collect()
}

fn as_before(known: &[Exported]) -> Vec<End> {
    let end =
        |(unit, known): (UnitIndex, &Exported)| End { unit, fate: Fate::AsBefore, owed: known.owed.clone() };
    (0..).map(UnitIndex).zip(known).map(end).collect()
}

/// A logical unit of a claim that was interrupted.
#[derive(Clone, Debug)]
pub struct Interrupted {
    /// Which.
    pub lun: LunId,
    /// Where it was claimed from.
    pub source: Vec<Port>,
    /// The last entry; `None`: nothing was changed.
    pub entry: Option<Entry>,
}

/// Sense data of unit attentions that a guest is owed on its logical units.
pub type Owed = Vec<(LunId, Vec<Vec<u8>>)>;

/// Puts an interrupted claim in order: finishes it or undoes it, as far as that can be told without the host where the guest
/// was. The guest is not here yet even if it was finished: it is
/// to be claimed again, and what was taken over is then found on this host's own nexus. `ground`: opened for the
/// destination with the handover of that claim. Gives the sense data of unit attentions that the guest is owed by then, which
/// the record forgets: they are to be known to whoever claims it again.
///
/// # Errors
/// [`Error`]: the guest must not run, and the records say `handover`.
pub fn resume(
    ground: &mut Ground,
    interrupted: &[Interrupted],
    journal: &mut dyn Journal,
    wait: Duration,
    patience: Duration,
) -> Result<Owed, Error> {
    ground.arrange(&interrupted.iter().map(|unit| unit.lun.clone()).collect::<Vec<_>>())?;
    ground.freeze(Instant::now() + wait)?;
    let mut lines = ground.lines();
    let begun = (0..).map(UnitIndex).zip(interrupted).filter(|(_, unit)| unit.entry.is_some());
    let (units, begun): (Vec<_>, Vec<_>) = begun.unzip();
    let remains = units.iter().zip(&begun).map(|(unit, begun)| remains(ground, *unit, begun));
    if let Some(mut group) = Group::recover(remains.collect()) {
        let mut notes = Notes { journal, ground: &mut *ground, last: BTreeMap::new() };
        let ending = run(&mut group, &mut lines, &mut notes, &units, patience)?;
        let doubt = group.verdicts().find_map(|(unit, verdict)| {
            let why = verdict.filter(|verdict| matches!(verdict, Verdict::InDoubt(_)))?;
            Some((begun.get(usize::from(unit.0))?.lun.clone(), why))
        });
        if let (Ending::InDoubt, Some((lun, why))) = (ending, doubt) {
            return Err(Error::InDoubt { lun, why });
        }
    }
    let named = |(unit, owed)| Some((ground.unit(unit)?.lun.clone(), owed));
    let owed = ground.owed().into_iter().filter_map(named).collect();
    ground.depart()?;
    Ok(owed)
}

fn remains(ground: &Ground, unit: UnitIndex, begun: &Interrupted) -> Remains {
    let here = ground.unit(unit);
    let ports = [begun.source.clone(), here.map(ground::Unit::ports).unwrap_or_default()];
    let last = begun.entry.map(|entry| Last { leg: Leg::There, entry });
    recover::alone(Side::Destination, last, ports, here.and_then(|unit| unit.target))
}

fn decide(
    ground: &mut Ground,
    lines: &mut Lines,
    order: &mut Order<'_>,
    journal: &mut dyn Book,
) -> Result<Vec<(Claim, End)>, Error> {
    let mut ends = Vec::new();
    let mut elsewhere = Vec::new();
    for (index, known) in (0..).map(UnitIndex).zip(order.known) {
        let found = match known.tracked.key.filter(|_| known.state == State::Active) {
            Some(key) => ask::ask(ground, lines, index, known, key)?,
            None => Found::without(known.state),
        };
        if let Found::Elsewhere(ports) = &found {
            elsewhere.push((index, source(known, ports, order.policy)?));
        }
        ends.push(found.end(index, known));
    }
    if !elsewhere.is_empty() {
        journal.claimed_from(&elsewhere)?;
        take_over(ground, lines, order, journal, &elsewhere, &mut ends)?;
    }
    Ok(ends)
}

/// The nexus that the registration is taken from. Where the device tells who has it, that must be where the guest was last.
fn source(known: &Exported, ports: &Option<Vec<TransportId>>, policy: Policy) -> Result<Port, Error> {
    let by = || match ports {
        Some(ports) => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        None => "another nexus".to_owned(),
    };
    let refuse = |advice| Err(Error::Elsewhere { lun: known.lun.clone(), by: by(), advice });
    if policy != Policy::TakeOver {
        return refuse(RUN_THERE);
    }
    let named = |initiator: &TransportId| Port { initiator: Some(initiator.clone()), target_port: None };
    match (ports.as_deref(), known.ports.as_slice()) {
        (Some(there), last @ [_, ..]) => match last.iter().find(|port| there.contains(port)) {
            Some(port) => Ok(named(port)),
            None => refuse(NOT_FROM_THERE),
        },
        (Some([only]), []) => Ok(named(only)),
        (_, [last, ..]) => Ok(named(last)),
        (_, []) => Ok(Port::default()),
    }
}

fn take_over(
    ground: &mut Ground,
    lines: &mut Lines,
    order: &mut Order<'_>,
    journal: &mut dyn Journal,
    elsewhere: &[(UnitIndex, Port)],
    ends: &mut [(Claim, End)],
) -> Result<(), Error> {
    let units: Vec<UnitIndex> = elsewhere.iter().map(|(unit, _)| *unit).collect();
    let mut settings = Vec::new();
    for (unit, source) in elsewhere {
        let (Some(here), Some(known)) = (ground.unit(*unit), order.known.get(usize::from(unit.0))) else {
            continue;
        };
        settings.push(Settings {
            destination: here.ports(),
            source_alive: false,
            allow_absence: true,
            targets: order.targets.clone(),
            ..Settings::new(known.tracked.key, (order.nonce)(), source.clone(), Port::default())
        });
    }
    let mut group = Group::new(settings).ok_or(Error::Stuck)?;
    let mut notes = Notes { journal, ground, last: BTreeMap::new() };
    let ending = run(&mut group, lines, &mut notes, &units, order.patience)?;
    let verdicts: Vec<_> = group.verdicts().map(|(_, verdict)| verdict).collect();
    for (place, unit) in units.iter().enumerate() {
        let Some((claim, end)) = ends.get_mut(usize::from(unit.0)) else { continue };
        let Some(Some(verdict)) = verdicts.get(place).copied() else { return Err(Error::Stuck) };
        let lun = || {
            order
                .known
                .get(usize::from(unit.0))
                .map_or_else(|| LunId(String::new()), |known| known.lun.clone())
        };
        match (ending, Fate::of(&verdict, notes.last.get(unit))) {
            (Ending::InDoubt | Ending::Split, _) | (_, None) => {
                return Err(Error::InDoubt { lun: lun(), why: verdict });
            }
            (_, Some(Fate::AsBefore)) => return Err(Error::Refused { lun: lun(), why: verdict }),
            (_, Some(fate)) => {
                end.fate = fate;
                *claim = match fate {
                    Fate::Fenced => Claim::Fenced,
                    Fate::Lost => Claim::Lost,
                    Fate::Has(_) | Fate::AsBefore => Claim::TakenOver,
                };
            }
        }
    }
    Ok(())
}
