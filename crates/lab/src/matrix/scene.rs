//! One case on its stage: everything is new for it, and gone after it.

use super::alone;
use super::case::{Case, Victim};
use super::ending::Moment;
use super::judge;
use super::sight::Sight;
use super::situation::{Situation, Unit};
use crate::helped::HelpedHost;
use crate::leash::{Cut, Held, Reins, Said, Ways};
use crate::process::{DEADLINE, wait_for};
use crate::served::Served;
use crate::stage::{Disk, Guest, Host, Life, Qemus, Stage};
use crate::states::{GUEST, Nodes, Standing};
use crate::tenure::Tenure;
use agent::migrate::{Order, Report};
use anyhow::{Context, Result, bail};
use iscsi::initiator::IscsiNexus;
use qmp::{Client, Object, Opening};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The guest.
pub(super) const VM: &str = "web";
/// How long a migration with everything that goes wrong in it may take.
const LONG: Duration = Duration::from_secs(60);
/// How long the recovery may take once everybody is there again.
pub(super) const RECOVERY: Duration = Duration::from_secs(25);

/// The programs of a scene.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tenure`.
    pub tenure: Tenure,
    /// `agent-on-a-leash`.
    pub agent: PathBuf,
    /// `scripted-qemu`.
    pub qemu: PathBuf,
    /// `helper-of-files`.
    pub helper: PathBuf,
}

impl Programs {
    /// Those that were built there.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            tenure: Tenure::at(&directory.join("tenure")).bound(),
            agent: directory.join("agent-on-a-leash"),
            qemu: directory.join("scripted-qemu"),
            helper: directory.join("helper-of-files"),
        }
    }
}

/// How it went.
#[derive(Clone, Debug)]
pub(super) struct Played {
    /// What both agents told, in the order in which it came.
    pub(super) steps: Vec<(Host, Said)>,
    /// What the operator was asked.
    pub(super) asked: Option<String>,
}

/// Two hosts, their target, and everybody who looks.
pub(super) struct Scene {
    pub(super) stage: Stage,
    nodes: Mutex<Vec<Nodes>>,
    pub(super) situation: Situation,
    pub(super) victim: Option<Victim>,
    pub(super) sight: Arc<Sight>,
    /// How it stood when somebody died.
    moment: Mutex<Option<Moment>>,
    reins: [Reins; 2],
    ways: Ways,
    agent: PathBuf,
    helper_program: PathBuf,
    pub(super) helped: Option<[HelpedHost; 2]>,
    _cuts: Vec<Cut>,
    _served: Vec<(Served, Standing)>,
    /// Last: where the nodes and sockets of the helpers are.
    _place: TempDir,
}

fn helped(served: &[(Served, Standing)], place: &Path) -> Result<[HelpedHost; 2]> {
    let host = |host: Host| {
        let devices: Vec<_> = served.iter().map(|(served, _)| served.device(0, host.name())).collect();
        HelpedHost::new(&place.join(host.name()), VM, &devices)
    };
    Ok([host(Host::Alpha)?, host(Host::Beta)?])
}

/// The guest's disks, as both hosts' configuration names them.
fn disks(served: &[(Served, Standing)], helped: Option<&[HelpedHost; 2]>) -> Vec<Disk> {
    let text = |path: &Path| path.display().to_string();
    let Some(helped) = helped else {
        return served.iter().map(|(served, _)| Disk::of(served, 0).with_key(GUEST)).collect();
    };
    let [alpha, beta] = helped;
    let nodes = alpha.nodes().iter().zip(beta.nodes());
    let sockets = || helped.each_ref().map(|host| text(&host.agent_socket()));
    nodes.map(|(alpha, beta)| Disk::new([text(alpha), text(beta)]).behind(sockets())).collect()
}

impl Scene {
    pub(super) fn set(programs: &Programs, situation: &Situation, victim: Option<Victim>) -> Result<Self> {
        let serve = |unit: &Unit| {
            let served = programs.tenure.target(&[&format!("memory=1M,profile={}", unit.profile)])?;
            Ok((served, unit.guest.standing))
        };
        let served = situation.units.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let mut nodes = served.iter().map(|(served, _)| Nodes::new(served, 0)).collect::<Result<Vec<_>>>()?;
        let place = TempDir::new()?;
        let helped = if situation.helped { Some(helped(&served, place.path())?) } else { None };
        let disks = disks(&served, helped.as_ref());
        let qemus = Qemus::Processes(programs.qemu.clone());
        let stage = Stage::set(&programs.tenure, qemus, vec![Guest::new(VM, disks)])?;
        for host in Host::BOTH {
            let Some(helped) = &helped else { break };
            host.of(helped).start(stage.beside(&programs.helper), &stage.state(host))?;
        }
        for (place, (nodes, unit)) in nodes.iter_mut().zip(&situation.units).enumerate() {
            match &helped {
                Some([alpha, _]) => nodes.set_up_as(unit.guest, &mut alpha.guest(place)?)?,
                None => nodes.set_up(unit.guest)?,
            }
        }
        let sight = Arc::new(Sight::new(&served)?);
        let hold = |host: Host| {
            let sight = Arc::clone(&sight);
            Reins::hold(&stage.path(host.name()), move |said| sight.look(said))
        };
        let reins = [hold(Host::Alpha)?, hold(Host::Beta)?];
        let ways = Ways::default();
        let cut = |host| Cut::between(&stage.between(host), &stage.door(host), &ways);
        let cuts = Host::BOTH.into_iter().map(cut).collect::<Result<_>>()?;
        let (situation, agent) = (situation.clone(), programs.agent.clone());
        let helper_program = programs.helper.clone();
        let (_cuts, _served, _place) = (cuts, served, place);
        let nodes = Mutex::new(nodes);
        let scene = Self {
            stage,
            nodes,
            situation,
            victim,
            sight,
            moment: Mutex::default(),
            reins,
            ways,
            agent,
            helper_program,
            helped,
            _cuts,
            _served,
            _place,
        };
        scene.begin()?;
        Ok(scene)
    }

    fn begin(&self) -> Result<()> {
        self.stage.start_qemu(VM, Host::Alpha, Life::Runs, &[])?;
        if self.situation.paused {
            self.stage.stop_guest(VM, Host::Alpha)?;
        }
        let fault: Vec<_> = self.situation.fault.iter().flat_map(|fault| ["--fault", *fault]).collect();
        self.stage.start_qemu(VM, Host::Beta, Life::Waits, &fault)?;
        Host::BOTH.into_iter().try_for_each(|host| self.start_agent(host))
    }

    fn start_agent(&self, host: Host) -> Result<()> {
        let mut command = self.stage.beside(&self.agent);
        self.stage
            .start_agent_as(host, command.args(["--file-disks", "--leash"]).arg(self.stage.path(host.name())))
    }

    fn reins(&self, host: Host) -> &Reins {
        host.of(&self.reins)
    }

    /// How it stood when somebody died.
    pub(super) fn moment(&self) -> Option<Moment> {
        *self.moment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who look on.
    pub(super) fn nodes(&self) -> MutexGuard<'_, Vec<Nodes>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// alpha's and beta's ways to each disk: as their kernels have them, or after a login in their names.
    pub(super) fn ways_to_disks(&self) -> Result<Vec<(IscsiNexus, IscsiNexus)>> {
        match &self.helped {
            Some([alpha, beta]) => Ok(alpha.nexuses().into_iter().zip(beta.nexuses()).collect()),
            None => self.nodes().iter().map(Nodes::log_in_again).collect(),
        }
    }

    fn helper(&self, of: Option<Host>) -> Option<(Host, &HelpedHost)> {
        Some((of?, of?.of(self.helped.as_ref()?)))
    }

    /// Orders the migration, has the victim die where the case says, brings it back, and judges what came of it.
    pub(super) fn play(self, case: Option<&Case>) -> Result<Played> {
        let report = self.perform(case)?;
        if let Some((gone, word)) = self.victim.and_then(Victim::gone) {
            let asked = alone::decide(&self, gone.other(), word)?;
            alone::judge(&self, gone.other(), word, asked.as_deref())?;
            return Ok(Played { steps: Vec::new(), asked });
        }
        let ends = self.settle(report.as_ref())?;
        judge::judge(&self, report.as_ref(), &ends)?;
        let asked = report.filter(|report| report.exit == 7).map(|report| report.reason);
        let told = |host: Host| self.reins(host).told().into_iter().map(move |(at, said)| (at, (host, said)));
        let all: BTreeMap<_, _> = Host::BOTH.into_iter().flat_map(told).collect();
        Ok(Played { steps: all.into_values().collect(), asked })
    }

    /// What the migration told, if its agent lived to tell it.
    fn perform(&self, case: Option<&Case>) -> Result<Option<Report>> {
        if let Some(case) = case {
            self.reins(case.host).stop_at(case.when, &case.step, case.nth);
        }
        let ended = Mutex::new(None);
        thread::scope(|scope| {
            let order = scope.spawn(|| self.migrate());
            let held = case.map(|case| {
                let held = self.reins(case.host).wait(LONG, || order.is_finished());
                held.context("that step was not reached")
            });
            let struck = held.transpose().and_then(|held| match (held, case) {
                (Some(held), Some(case)) => {
                    let moment = Moment::of(self, case)?;
                    *self.moment.lock().unwrap_or_else(PoisonError::into_inner) = Some(moment);
                    self.strike(case.victim, held, &|| order.is_finished())
                }
                _ => Ok(()),
            });
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = order.join().ok().flatten();
            struck
        })?;
        Ok(ended.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn migrate(&self) -> Option<Report> {
        let deadline = Instant::now() + LONG;
        let wait = if self.situation.alone { 1 } else { 8 };
        let order = Order { wait, ..Order::new(VM, Host::Beta.name()) };
        let Ok(Value::Object(order)) = serde_json::to_value(order) else { return None };
        let client = Client::connect(&self.stage.control(Host::Alpha), &Opening::default(), deadline).ok()?;
        serde_json::from_value(client.execute("migrate", order, deadline).ok()?).ok()
    }

    /// Kills while somebody stands, lets that one go on, and starts again what an operator, or the service manager, would.
    fn strike(&self, victim: Victim, held: Held, over: &dyn Fn() -> bool) -> Result<()> {
        if let Some(host) = victim.qemu() {
            // The one of the situation's own fault may be gone already.
            let _ = self.stage.kill_qemu(VM, host);
        }
        if let Some(host) = victim.agent() {
            self.stage.kill_agent(host)?;
        }
        if victim.gone().is_some() {
            self.sight.close();
        }
        let helper = self.helper(victim.helper());
        helper.map_or(Ok(()), |(_, helper)| helper.kill())?;
        if victim == Victim::Link {
            self.ways.cut();
        }
        if self.situation.fenced {
            let fence = |(nodes, unit): (&mut Nodes, &Unit)| nodes.fence(unit.guest);
            self.nodes().iter_mut().zip(&self.situation.units).try_for_each(fence)?;
        }
        drop(held);
        if victim.gone().is_some() {
            return Ok(());
        }
        if let Some((host, helper)) = helper {
            if matches!(victim, Victim::Host(_)) {
                helper.power_cycle()?;
            }
            helper.start(self.stage.beside(&self.helper_program), &self.stage.state(host))?;
        }
        if let Some(host) = victim.agent() {
            self.start_agent(host)?;
        }
        if victim == Victim::Link {
            // It stays cut until somebody has found it so.
            let _ = wait_for(DEADLINE, || (self.ways.refused() > 0 || over()).then_some(()));
            self.ways.mend();
        }
        Ok(())
    }

    /// Everybody is there again. Waits until neither journal has anything open, and gives how each says that it ended.
    fn settle(&self, report: Option<&Report>) -> Result<[Option<String>; 2]> {
        let end = Instant::now() + RECOVERY;
        let mut said = report.map(|report| report.reason.clone()).unwrap_or_default();
        loop {
            let records = Host::BOTH.map(|host| self.record(host));
            let [alpha, beta] = records;
            let (alpha, beta) = (alpha?, beta?);
            if !open(&alpha) && !open(&beta) {
                let verdict =
                    |record: &Value| record.get("verdict").and_then(Value::as_str).map(str::to_owned);
                return Ok([verdict(&alpha), verdict(&beta)]);
            }
            if Instant::now() >= end {
                bail!(
                    "unfinished at {}: {said}",
                    if open(&alpha) { "the source" } else { "the destination" }
                );
            }
            for (host, record) in Host::BOTH.into_iter().zip([&alpha, &beta]) {
                if open(record) {
                    said = self.resume(host).unwrap_or(said);
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn record(&self, host: Host) -> Result<Value> {
        Ok(self.stage.status(VM, host)?.get("record").cloned().unwrap_or_default())
    }

    /// Whether a host's journal has anything open.
    pub(super) fn is_open(&self, host: Host) -> Result<bool> {
        Ok(open(&self.record(host)?))
    }

    /// How a host's journal says that it ended.
    pub(super) fn verdict(&self, host: Host) -> Result<Option<String>> {
        Ok(self.record(host)?.get("verdict").and_then(Value::as_str).map(str::to_owned))
    }

    /// A command for a host's agent, as the operator gives it.
    pub(super) fn tell(&self, host: Host, command: &str, order: Object) -> Result<Value> {
        let deadline = Instant::now() + LONG;
        let client = Client::connect(&self.stage.control(host), &Opening::default(), deadline)?;
        Ok(client.execute(command, order, deadline)?)
    }

    /// `tenure handover resume`, without any word of the operator's.
    fn resume(&self, host: Host) -> Option<String> {
        let order: Object = json!({ "vm": VM, "vouched": false }).as_object().cloned()?;
        let report = self.tell(host, "handover-resume", order).ok()?;
        report.get("reason").and_then(Value::as_str).map(str::to_owned)
    }
}

/// It is a handover's that has not ended.
fn open(record: &Value) -> bool {
    record.is_object() && record.get("verdict").is_none()
}
