//! This host's guests: what stands behind the agent's doors. Peers' handovers come here as [`Guests`], the operator's commands as
//! [`Hosted::migrate`] and its like, and from the agent's start on [`Hosted::keep_order`] finishes or undoes what the journals say.

mod abort;
mod command;
mod dial;
mod home;
mod log;
mod machine;
mod monitors;
mod orchestrate;
mod orchestrated;
mod order;

pub use crate::migrate::CallError;
pub use command::PROGRESS;
pub use log::from_begun;

use crate::config::Vm;
use crate::daemon::{Claim, Guests, Host, Part};
use crate::incoming::{self, Incoming, Word};
use crate::journal::{Begun, Handover, Journals};
use crate::migrate::{
    Link, Log, Order, Report, Site, Unwatched, Verdict, Watch, migrate, remains, resume, talk,
};
use crate::ownership::{Decision, Mark};
use crate::steps::{Observer, Steps};
use crate::vmm::Role;
use command::Cancels;
use dial::Dial;
use handover::Side;
use home::Home;
use ledger::Ledger;
use log::BookLog;
use machine::Ordered;
use monitors::Monitors;
use orchestrate::Taking;
use order::Turns;
use peer::HostName;
use peer::message::{Guest as Named, Id, Open, Record, Records, Recover, Refusal, Reply, Request, Taken};
use pr_helper::opening::{LinuxDevices, OpenLun};
use qmp::server::Session;
use qmp::{CommandError, Object};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Between looks at what is unfinished.
const BETWEEN: Duration = Duration::from_secs(5);
/// How long QEMU may take to say how the guest stands, to somebody who only looks.
const LOOK: Duration = Duration::from_secs(2);

/// The guests of a host.
pub struct Hosted {
    host: Arc<Host>,
    ledger: Arc<Ledger>,
    journals: Journals,
    cancels: Cancels,
    taking: Taking,
    monitors: Monitors,
    surroundings: Surroundings,
}

/// What a test may put in the place of something: who is told of each step of the handovers, and what is behind a device node.
#[derive(Clone)]
pub struct Surroundings {
    /// Nobody, outside of tests.
    pub observer: Option<Arc<dyn Observer>>,
    /// Those of Linux, outside of tests.
    pub devices: Arc<dyn OpenLun>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { observer: None, devices: Arc::new(LinuxDevices::default()) }
    }
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("observed", &self.observer.is_some()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("host", &self.host).finish_non_exhaustive()
    }
}

/// A part in a handover that a peer leads.
struct Guest(Incoming);

impl Part for Guest {
    fn handle(&mut self, request: &Request) -> Result<Reply, Refusal> {
        self.0.handle(request)
    }
}

fn refuse(error: impl std::fmt::Display) -> Refusal {
    Refusal::new("Refused", error.to_string())
}

impl Hosted {
    /// Those of this host's configuration, with its ledger.
    #[must_use]
    pub fn new(host: &Arc<Host>, ledger: Ledger) -> Self {
        Self::amid(host, ledger, Surroundings::default())
    }

    /// The same, in these surroundings.
    #[must_use]
    pub fn amid(host: &Arc<Host>, ledger: Ledger, surroundings: Surroundings) -> Self {
        let config = host.config();
        let journals = Journals::new(&config.agent.state, &config.agent.name.to_string());
        let journals = journals.observed(surroundings.observer.clone());
        let (host, ledger) = (Arc::clone(host), Arc::new(ledger));
        let (cancels, taking, monitors) = (Cancels::default(), Taking::default(), Monitors::default());
        Self { host, ledger, journals, cancels, taking, monitors, surroundings }
    }

    fn home(&self, vm: &Vm, role: Role) -> Home {
        let Surroundings { observer, devices } = self.surroundings.clone();
        let steps = Steps::observed(observer, &vm.name);
        let books = (Arc::clone(&self.ledger), self.journals.clone());
        Home::new(vm.clone(), books, devices, role, steps, &self.monitors)
    }

    fn orchestrated(&self, vm: &Vm, role: Role, here: bool) -> Home {
        self.home(vm, role).orchestrated(role, here)
    }

    /// The guest of an unfinished handover.
    fn home_of(&self, vm: &Vm, begun: &Begun) -> Home {
        let role = match begun.side {
            Side::Source => Role::Source,
            Side::Destination => Role::Destination,
        };
        let home = if begun.orchestrated { self.orchestrated(vm, role, true) } else { self.home(vm, role) };
        home.remembering(begun)
    }

    /// The sole right to move a guest of which nothing is unfinished.
    fn sole(&self, vm: &Vm) -> Result<Claim, Refusal> {
        let busy = || refuse(format!("a handover of vm {} is under way", vm.name));
        let claim = self.host.busy().claim(&vm.name).ok_or_else(busy)?;
        if let Some(open) = self.last(vm)?.filter(Handover::is_open) {
            let why = format!("handover {} of vm {} is unfinished", open.begun.handover, vm.name);
            return Err(refuse(format!("{why}: tenure handover status {}", vm.name)));
        }
        Ok(claim)
    }

    fn dial(&self, peer: HostName) -> Dial {
        Dial::new(Arc::clone(self.host.terms()), peer)
    }

    /// Moves a guest to a peer: the command `migrate`. Its QEMU sends into `stream`, where there is one.
    #[must_use]
    pub fn migrate(&self, order: &Order, stream: Option<OwnedFd>, watch: &dyn Watch) -> Report {
        match self.try_migrate(order, stream, watch) {
            Ok(report) => report,
            Err(refusal) => Report::new(Verdict::Refused, refusal.desc),
        }
    }

    fn try_migrate(
        &self,
        order: &Order,
        stream: Option<OwnedFd>,
        watch: &dyn Watch,
    ) -> Result<Report, Refusal> {
        let config = self.host.config();
        let vm = config.vm(&order.vm).ok_or_else(|| refuse(format!("there is no vm {} here", order.vm)))?;
        let peer: HostName = order.to.parse().map_err(refuse)?;
        vm.may_move(&peer).map_err(refuse)?;
        let _claim = self.sole(vm)?;
        if self.held(vm)?.is_some() {
            return Err(refuse(format!("vm {0} is frozen: tenure handover abort {0} ends that", vm.name)));
        }
        let link = self.dial(peer.clone());
        link.reconnect().map_err(refuse)?;
        let ordered = Ordered::new(order.uri.clone(), stream);
        let home = self.home(vm, Role::Source).ordered(ordered);
        Ok(migrate(&home, &link, &peer.to_string(), order, watch))
    }

    /// Finishes or undoes what this host's journals have open, as far as that can be done, now and again and again until this
    /// value is dropped.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn keep_order(hosted: &Arc<Self>) -> std::io::Result<()> {
        let (hosted, turns, told) = (Arc::downgrade(hosted), Arc::<Turns>::default(), Arc::<Told>::default());
        let keep = move || {
            while let Some(open) = hosted.upgrade().map(|hosted| hosted.unfinished(&told)) {
                let (hosted, told) = (hosted.clone(), Arc::clone(&told));
                let look = move |vm: &str| {
                    let report = hosted.upgrade().and_then(|hosted| hosted.look_at(vm));
                    told.tell(vm, report);
                };
                if let Err(error) = turns.begin(open, &look) {
                    tracing::warn!(%error, "unfinished handovers wait for a thread");
                }
                thread::sleep(BETWEEN);
            }
        };
        thread::Builder::new().name("order".into()).spawn(keep).map(drop)
    }

    /// Guests with a handover that is not over. An import's has no other host; the import itself finishes or undoes it.
    /// Of one whose journal cannot be read nobody knows, and nothing of it is carried on: that is told.
    fn unfinished(&self, told: &Told) -> Vec<String> {
        let config = self.host.config();
        let open = |vm: &&Vm| match self.last(vm) {
            Ok(last) => last.is_some_and(|last| is_open_with_a_peer(&last)),
            Err(unread) => {
                told.tell(&vm.name, Some(Report::new(Verdict::InDoubt, unread.desc)));
                false
            }
        };
        config.vms.iter().filter(open).map(|vm| vm.name.clone()).collect()
    }

    fn look_at(&self, name: &str) -> Option<Report> {
        let config = self.host.config();
        self.settle(config.vm(name)?, false)
    }

    /// The operator's word that the guest did not run at the other host, and will not: the command `handover resume`.
    ///
    /// # Errors
    /// There is no such guest, or nothing to resume.
    pub fn resume(&self, name: &str, vouched: bool) -> Result<Report, Refusal> {
        let config = self.host.config();
        let vm = config.vm(name).ok_or_else(|| refuse(format!("there is no vm {name} here")))?;
        if self.last(vm)?.is_some_and(|last| last.is_open() && last.begun.peer.is_empty()) {
            return Err(abort::import_open(vm));
        }
        self.settle(vm, vouched)
            .ok_or_else(|| refuse(format!("vm {name} has no unfinished handover, or one is under way")))
    }

    /// `None` if nothing is open, or somebody is at it.
    fn settle(&self, vm: &Vm, vouched: bool) -> Option<Report> {
        let open = self.last(vm).ok().flatten().filter(is_open_with_a_peer)?;
        let _claim = self.host.busy().claim(&vm.name)?;
        let settled = self.try_settle(vm, &open, vouched);
        Some(settled.unwrap_or_else(|refusal| Report::new(Verdict::InDoubt, refusal.desc)))
    }

    fn try_settle(&self, vm: &Vm, open: &Handover, vouched: bool) -> Result<Report, Refusal> {
        let peer: HostName = open.begun.peer.parse().map_err(refuse)?;
        let link = self.dial(peer);
        // Where it cannot be reached the rules know what to do without.
        let _ = link.reconnect();
        let book = self.journals.open(&vm.name).map_err(refuse)?;
        let log: Arc<dyn Log> = Arc::new(BookLog::open(book).ok_or_else(|| refuse("it is over"))?);
        let order = Order { wait: 5, ..Order::new(&vm.name, &open.begun.peer) };
        match open.begun.side {
            Side::Source => {
                let home = self.home_of(vm, &open.begun);
                resume(&home, &link, log, &order, &Unwatched, vouched).map_err(refuse)
            }
            Side::Destination => {
                let site: Arc<dyn Site> = Arc::new(self.home_of(vm, &open.begun));
                let word = if vouched { Word::Vouched } else { Word::None };
                Self::settle_arrival(vm, &site, &link, (&log, word))
            }
        }
    }

    fn settle_arrival(
        vm: &Vm,
        site: &Arc<dyn Site>,
        link: &Dial,
        (log, word): (&Arc<dyn Log>, Word),
    ) -> Result<Report, Refusal> {
        let told = Self::ask_source(vm, link, &**log);
        let (verdict, why) = match incoming::resume(site, log, told.as_ref(), word)? {
            Decision::Run | Decision::Over(Side::Destination) => {
                (Verdict::Moved, "the guest is here".to_owned())
            }
            Decision::Over(Side::Source) => (Verdict::Kept, "the guest stayed at the source".to_owned()),
            Decision::Ask(question) => (Verdict::InDoubt, question.to_string()),
            _ => (Verdict::InDoubt, "the source's agent leads: it puts the handover in order".to_owned()),
        };
        Ok(Report::new(verdict, why))
    }

    /// What the source tells of a handover in which this host is the destination.
    fn ask_source(vm: &Vm, link: &dyn Link, log: &dyn Log) -> Option<Records> {
        let guest = Named { vm: vm.name.clone(), uuid: log.begun().uuid.clone() };
        let handover = Id(log.begun().handover);
        talk::Talk { link, handover }.state(guest).ok()
    }

    fn last(&self, vm: &Vm) -> Result<Option<Handover>, Refusal> {
        let log = self.journals.read(&vm.name).map_err(refuse)?;
        Ok(log.handovers().last().cloned())
    }

    fn found(&self, vm: &Vm, wanted: impl Fn(&Handover) -> bool) -> Result<Records, Refusal> {
        let log = self.journals.read(&vm.name).map_err(refuse)?;
        let found = log.handovers().iter().rev().find(|handover| wanted(handover));
        let guest = talk::word_there(self.monitors.guest(&vm.qmp, LOOK), found.is_some_and(ran_by_hand));
        Ok(Records { record: found.map(record), guest: guest.map(str::to_owned) })
    }
}

/// Whether somebody let the guest run here before this host was given it.
fn ran_by_hand(handover: &Handover) -> bool {
    let there = handover.begun.side == Side::Destination && handover.ran_there;
    there && handover.is_open() && !handover.promises().has(Mark::Go)
}

fn is_open_with_a_peer(handover: &Handover) -> bool {
    handover.is_open() && !handover.begun.peer.is_empty()
}

/// What was told last of each guest that is not in order.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, Report>>);

impl Told {
    /// `None`: it is in order, or somebody else is at it. Whether it was news.
    fn tell(&self, vm: &str, report: Option<Report>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(report) = report else { return told.remove(vm).is_some() };
        let new = told.get(vm) != Some(&report);
        if new {
            tracing::warn!(vm, verdict = ?report.verdict, reason = report.reason, "unfinished handover");
            told.insert(vm.to_owned(), report);
        }
        new
    }
}

/// A handover of a journal in the words of the messages.
fn record(handover: &Handover) -> Record {
    let begin = log::from_begun(&handover.begun);
    let marks = handover.promises();
    remains::tell(&begin, marks, &log::last(handover), handover.verdict.clone())
}

impl Guests for Hosted {
    fn command(
        &self,
        session: &Session,
        command: &str,
        arguments: Object,
    ) -> Option<Result<Value, CommandError>> {
        self.obey(session, command, arguments)
    }

    fn own(&self, vm: &Vm) -> Result<Records, Refusal> {
        self.found(vm, |_| true)
    }

    fn records(&self, vm: &Vm, peer: &HostName, handover: Option<Id>) -> Result<Records, Refusal> {
        let peer = peer.to_string();
        self.found(vm, |found| {
            found.begun.peer == peer && handover.is_none_or(|id| id.0 == found.begun.handover.0)
        })
    }

    fn take(&self, vm: &Vm, peer: &HostName) -> Result<Taken, Refusal> {
        self.taken_by(vm, peer)
    }

    fn open(&self, vm: &Vm, peer: &HostName, open: &Open) -> Result<(Box<dyn Part>, Reply), Refusal> {
        let site = match open.options.orchestrated {
            false => self.home(vm, Role::Destination),
            // Nobody drives a QEMU here, and nobody says that the guest stands still, but on the operator's word.
            true if self.taking.from(&vm.name, peer) => self.orchestrated(vm, Role::Destination, false),
            true => return Err(refuse(format!("nobody takes vm {} here: tenure handover take", vm.name))),
        };
        let site = Arc::new(site);
        let (incoming, reply) = Incoming::open(site, &peer.to_string(), open)?;
        Ok((Box::new(Guest(incoming)), reply))
    }

    fn recover(
        &self,
        vm: &Vm,
        peer: &HostName,
        recover: &Recover,
    ) -> Result<(Box<dyn Part>, Reply), Refusal> {
        let book = self.journals.open(&vm.name).map_err(refuse)?;
        let unknown = || refuse("this host has no such handover open");
        let log = BookLog::open(book).ok_or_else(unknown)?;
        let begun = log.begun();
        let ours = begun.handover == recover.record.handover.0 && begun.peer == peer.to_string();
        if !ours || begun.side != Side::Destination {
            return Err(unknown());
        }
        let begun = self.last(vm)?.ok_or_else(unknown)?.begun;
        let site = Arc::new(self.home_of(vm, &begun));
        let (incoming, reply) = Incoming::recover(site, Arc::new(log), recover)?;
        Ok((Box::new(Guest(incoming)), reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_order_is_told_once_as_long_as_it_is_the_same() {
        let (told, damaged) = (Told::default(), Report::new(Verdict::InDoubt, "the journal is damaged"));
        let tell = |vm: &str| told.tell(vm, Some(damaged.clone()));
        assert!(tell("web") && tell("db") && !tell("web"));
        assert!(told.tell("web", Some(Report::new(Verdict::InDoubt, "the source does not answer"))));
        assert!(told.tell("web", None) && !told.tell("web", None) && tell("web"));
    }
}
