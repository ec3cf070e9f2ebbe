//! A target of one kind, two hosts and the gates between, for a number of cases: each has a logical unit and a guest of its own.

use super::case::Case;
use super::cast::Cast;
use super::judge::{End, judge};
use super::rows::{Before, Must};
use super::script::{Script, Scripts, Trace};
use crate::served::Served;
use crate::stage::gate::{Gate, Keeper};
use crate::stage::{Disk, Guest, Host, Life, Migrated, Qemus, Stage};
use crate::states::GUEST;
use crate::tenure::Tenure;
use anyhow::{Context, Result};
use logical_unit::profile::Profile;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a case left.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// What was wrong; nothing if all was as it must be.
    pub(super) wrong: Vec<String>,
    /// What the agents sent.
    pub(super) trace: Trace,
    /// How long it took.
    pub(super) took: Duration,
}

/// The house.
pub(super) struct House {
    served: Served,
    stage: Arc<Stage>,
    scripts: Arc<Scripts>,
    /// They are open as long as the house is.
    _gates: [Gate; 2],
}

fn name(index: u16) -> String {
    format!("g{index}")
}

fn guest(index: u16, case: &Case, served: &Served, portals: &[String; 2]) -> Guest {
    let direct = Disk::of(served, index);
    let [alpha, beta] = &direct.device;
    let through = |device: &String, portal: &String| device.replacen(&served.portal, portal, 1);
    let device = [through(alpha, &portals[0]), through(beta, &portals[1])];
    let key = (case.row.before != Before::Forgotten).then_some(GUEST);
    Guest::new(&name(index), vec![Disk { key, ..Disk::new(device) }])
}

impl House {
    /// Opens it for these cases, all of one profile.
    pub(super) fn open(tenure: &Tenure, qemus: &Qemus, profile: &Profile, cases: &[Case]) -> Result<Self> {
        let spec = format!("memory=64K,profile={}", profile.name);
        let served = tenure.target(&vec![spec.as_str(); cases.len()])?;
        let scripts = Arc::<Scripts>::default();
        let keeper = || Arc::clone(&scripts) as Arc<dyn Keeper>;
        let gates = [
            Gate::open(Host::Alpha, &served.portal, keeper())?,
            Gate::open(Host::Beta, &served.portal, keeper())?,
        ];
        let portals = [gates[0].portal(), gates[1].portal()];
        let guests = (0u16..).zip(cases).map(|(index, case)| guest(index, case, &served, &portals));
        let stage = Arc::new(Stage::open(tenure, qemus.clone(), guests.collect())?);
        Ok(Self { served, stage, scripts, _gates: gates })
    }

    /// Plays the case with this index.
    pub(super) fn play(&self, index: u16, case: &Case) -> Tried {
        let begun = Instant::now();
        let tried = self.try_play(index, case);
        self.scripts.set(u64::from(index), None);
        let name = name(index);
        let gone = Host::BOTH.into_iter().try_for_each(|host| self.stage.quit_qemu(&name, host));
        let mut tried =
            tried.unwrap_or_else(|error| Tried { wrong: vec![format!("{error:#}")], ..Tried::default() });
        tried.wrong.extend(gone.err().map(|error| format!("{error:#}")));
        tried.took = begun.elapsed();
        tried
    }

    fn try_play(&self, index: u16, case: &Case) -> Result<Tried> {
        let (name, row) = (name(index), case.row);
        let cast = Cast::new(&self.served, index, case.standing, row.before).context("setting up")?;
        let script = Arc::new(Script::new(*case, &name, &self.stage, cast)?);
        self.scripts.set(u64::from(index), Some(Arc::clone(&script)));
        if row.before == Before::Forgotten {
            Host::BOTH.into_iter().try_for_each(|host| {
                self.stage.stop_agent(host)?;
                self.stage.start_agent(host)
            })?;
        }
        let life = if row.before == Before::Paused { Life::Paused } else { Life::Runs };
        let mut wrong = self.leg(index, case, &script, Host::Alpha, life)?;
        if row.back && wrong.is_empty() && row.must(case.profile) == Must::Move {
            self.stage.quit_qemu(&name, Host::Alpha)?;
            wrong = self.leg(index, case, &script, Host::Beta, life)?;
        }
        let state = script.state();
        wrong.extend(state.wrong.iter().cloned());
        Ok(Tried { wrong, trace: state.trace.clone(), ..Tried::default() })
    }

    /// One migration, and what must come of it.
    fn leg(&self, index: u16, case: &Case, script: &Script, from: Host, life: Life) -> Result<Vec<String>> {
        let (name, to) = (name(index), from.other());
        let faults = |host| case.row.fault.filter(|(at, _)| *at == host).map(|(_, fault)| ["--fault", fault]);
        let words = |host| faults(host).map(Vec::from).unwrap_or_default();
        if from == Host::Alpha {
            self.stage.start_qemu(&name, from, Life::Runs, &words(from))?;
            if life == Life::Paused {
                self.stage.stop_guest(&name, from)?;
            }
        }
        self.stage.start_qemu(&name, to, Life::Waits, &words(to))?;
        let migrated = self.stage.migrate(&name, from, &[])?;
        let end = End {
            stage: &self.stage,
            name: &name,
            disk: &Disk::of(&self.served, index),
            case,
            from,
            life,
            migrated: &migrated,
        };
        let wrong = judge(&end, &mut script.state());
        Ok(with_words(wrong, &migrated))
    }
}

/// What the program said helps whoever reads that something was wrong.
fn with_words(mut wrong: Vec<String>, migrated: &Migrated) -> Vec<String> {
    if !wrong.is_empty() {
        wrong.push(format!("({})", migrated.words()));
    }
    wrong
}
