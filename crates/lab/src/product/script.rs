//! Who stands at the gates in a case: counts the commands of either host, acts at the case's point, and looks after every change
//! whether the logical unit still has what it must have.

use super::case::{Case, Point};
use super::cast::{Cast, View};
use super::rows::Act;
use crate::stage::gate::{Keeper, Passing, Way};
use crate::stage::{Host, Stage};
use crate::states::GUEST;
use anyhow::{Context, Result};
use scsi::opcode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everything that the agents send to a logical unit, in order.
pub(super) type Trace = Vec<(Point, [u8; 16])>;

/// One case at the gates.
#[derive(Debug)]
pub(super) struct Script {
    case: Case,
    name: String,
    stage: Arc<Stage>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) cast: Cast,
    /// What everybody is to see at the end.
    pub(super) reference: View,
    pub(super) trace: Trace,
    counts: BTreeMap<Host, usize>,
    /// What was to happen has happened.
    pub(super) acted: bool,
    /// What was wrong on the way.
    pub(super) wrong: Vec<String>,
}

fn changes(cdb: &[u8; 16]) -> bool {
    cdb[0] == opcode::PERSISTENT_RESERVE_OUT
}

impl Script {
    pub(super) fn new(case: Case, name: &str, stage: &Arc<Stage>, mut cast: Cast) -> Result<Self> {
        let reference = cast.view()?;
        let (trace, counts, wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        let state = Mutex::new(State { cast, reference, trace, counts, acted: false, wrong });
        Ok(Self { case, name: name.to_owned(), stage: Arc::clone(stage), state })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, state: &mut State, act: Act) -> Result<Way> {
        match act {
            Act::Fence => {
                state.cast.fence(self.case.standing)?;
                state.reference = state.cast.view()?;
            }
            Act::Cancel => self.stage.cancel(&self.name, Host::Alpha)?,
            Act::KillDestination => self.stage.kill_qemu(&self.name, Host::Beta)?,
            Act::Refuse => return Ok(Way::Spoil),
            Act::Lose => return Ok(Way::Lose),
        }
        Ok(Way::Pass)
    }

    fn before(&self, passing: &Passing) -> Way {
        let state = &mut *self.state();
        let count = state.counts.entry(passing.host).or_default();
        *count += 1;
        let point = Point { host: passing.host, number: *count };
        state.trace.push((point, passing.cdb));
        let act = self.case.row.at.map(|(act, _)| act).filter(|_| self.case.point == Some(point));
        let Some(act) = act.filter(|_| !state.acted) else { return Way::Pass };
        state.acted = true;
        self.act(state, act).unwrap_or_else(|error| {
            state.wrong.push(format!("{act:?}: {error:#}"));
            Way::Pass
        })
    }

    /// No instant without the guest's key, or with another reservation, as long as nobody else took them.
    fn after(&self, passing: &Passing) {
        let state = &mut *self.state();
        let expected = state.reference.keys.contains(&GUEST);
        if !changes(&passing.cdb) || !expected {
            return;
        }
        if let Err(error) = state.look(passing) {
            state.wrong.push(format!("{error:#}"));
        }
    }
}

impl State {
    fn look(&mut self, passing: &Passing) -> Result<()> {
        let (keys, reservation) = self.cast.registered().context("a look between two commands")?;
        let after = || format!("after {}'s {:02x?}", passing.host.name(), &passing.cdb[..2]);
        anyhow::ensure!(keys.contains(&GUEST), "{}: the key is not listed: {keys:?}", after());
        let kind = |held: Option<(_, _)>| held.map(|(_, kind)| kind);
        let same = kind(reservation) == kind(self.reference.reservation);
        anyhow::ensure!(same, "{}: the reservation is {reservation:?}", after());
        Ok(())
    }
}

/// The gates of a house: every logical unit has a case of its own.
#[derive(Debug, Default)]
pub(super) struct Scripts(Mutex<BTreeMap<u64, Arc<Script>>>);

impl Scripts {
    pub(super) fn set(&self, lun: u64, script: Option<Arc<Script>>) {
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match script {
            Some(script) => drop(scripts.insert(lun, script)),
            None => drop(scripts.remove(&lun)),
        }
    }

    fn at(&self, lun: u64) -> Option<Arc<Script>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&lun).map(Arc::clone)
    }
}

impl Keeper for Scripts {
    fn before(&self, passing: &Passing) -> Way {
        self.at(passing.lun).map_or(Way::Pass, |script| script.before(passing))
    }

    fn after(&self, passing: &Passing) {
        if let Some(script) = self.at(passing.lun) {
            script.after(passing);
        }
    }
}
