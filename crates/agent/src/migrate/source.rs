//! The source's part, which leads: the sequence of a migration in which nothing goes wrong, and the plan that it begins with.
//! [`memory`](super::memory) and [`give`](super::give) are its later steps, [`back`](super::back) is the rest.

use super::document::{LunReport, Order, Progress, Report, Verdict};
use super::fail::Fail;
use super::leg::{self, Agreed, Entries, SharedHands, Turned};
use super::machine::Left;
use super::site::{Begin, Ground, Leg, Link, Log, Site};
use super::talk::{self, Talk};
use super::times::Times;
use super::units;
use super::via::Via;
use crate::conduct::{Leader, Patience, Pause};
use crate::ownership::{Guest, Mark, Marks, Standing, View};
use handover::plan::PlannedCommand;
use handover::verdict::Cause;
use handover::{Ending, Group, Phase, Side, Verdict as UnitVerdict};
use peer::message::{Guest as Named, Id, Open, Options};
use scsi::pr::Key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long QEMU may take to switch over.
pub(super) const ARRIVAL: Duration = Duration::from_secs(60);
/// Between looks at QEMU while something short is waited for.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// Who follows a migration, and may end it.
pub trait Watch: Send + Sync {
    /// Something happened.
    fn tell(&self, progress: Progress);
    /// How often it was asked to end.
    fn cancels(&self) -> u32;

    /// Whether it was asked to end.
    fn cancelled(&self) -> bool {
        self.cancels() > 0
    }
}

/// Nobody does.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn tell(&self, _: Progress) {}

    fn cancels(&self) -> u32 {
        0
    }
}

pub(crate) type Lead<'a> = Leader<Via<'a>, Turned, Entries>;

/// One migration, or what is left of one.
pub(crate) struct Run<'a> {
    pub(crate) site: &'a dyn Site,
    pub(crate) link: &'a dyn Link,
    pub(crate) order: &'a Order,
    pub(crate) watch: &'a dyn Watch,
    pub(crate) guest: Named,
    pub(crate) handover: Id,
    pub(crate) was_running: bool,
    pub(crate) ground: Arc<dyn Ground>,
    pub(crate) hands: SharedHands,
    pub(crate) agreed: Agreed,
    pub(crate) log: Option<Arc<dyn Log>>,
    /// None where no logical unit has anything to move, or the link to the other replica is gone.
    pub(crate) leader: Option<Lead<'a>>,
    /// Which way the leader's group goes, and the place in the handover of each of its units.
    pub(crate) leg: Leg,
    pub(crate) places: Vec<u16>,
    /// What became of each unit so far, for the guest that it is moved for: `Moved` is at the destination.
    pub(crate) verdicts: Vec<Option<UnitVerdict>>,
    /// The handover is open on the link.
    pub(crate) open: bool,
    pub(crate) times: Times,
    pub(crate) luns: Vec<LunReport>,
    pub(crate) commands: Vec<String>,
    pub(crate) vouched: bool,
    /// The other host has closed its journal of it.
    pub(crate) peer_ended: bool,
    /// The other host's agent answers, and has no journal of it.
    pub(crate) forgotten: bool,
    /// Why it does not get on, where that is not that the other host is silent.
    pub(crate) hindrance: Option<String>,
    /// QEMU was told of this migration.
    pub(crate) transferring: bool,
}

/// What a migration is of, once both hosts know of it.
pub(super) struct Handover {
    pub(super) guest: Named,
    pub(super) handover: Id,
    pub(super) was_running: bool,
    pub(super) ground: Arc<dyn Ground>,
    pub(super) agreed: Agreed,
    pub(super) log: Option<Arc<dyn Log>>,
}

/// Moves a guest, or says why not. It ends with the guest running on one of the two hosts or with a word to the operator.
pub fn migrate(site: &dyn Site, link: &dyn Link, peer: &str, order: &Order, watch: &dyn Watch) -> Report {
    match Run::open(site, link, peer, order, watch) {
        Ok(run) if order.plan => run.only_plan(),
        Ok(run) => run.finish(),
        Err(Fail::Refused(reason)) => Report::new(Verdict::Refused, reason),
        Err(fail) => Report::new(Verdict::Failed, fail.to_string()),
    }
}

impl<'a> Run<'a> {
    /// Looks at the guest, and opens the handover on both hosts.
    fn open(
        site: &'a dyn Site,
        link: &'a dyn Link,
        peer: &str,
        order: &'a Order,
        watch: &'a dyn Watch,
    ) -> Result<Self, Fail> {
        let identity = site.machine().identity()?;
        if let Some(obstacle) = identity.obstacles.first() {
            return Err(Fail::Refused(obstacle.clone()));
        }
        let was_running = was_running(site.machine().guest())?;
        let handover = Id(site.frozen_for().map_or_else(units::id, Ok)?);
        let ground = site.ground(handover.0, Side::Source)?;
        let luns = ground.luns();
        let options = Options {
            method: order.method.clone(),
            allow_absence: order.allow_gap,
            stay_paused: !was_running,
            plan_only: order.plan,
            orchestrated: site.orchestrated(),
        };
        let begin = Begin {
            handover: handover.0,
            uuid: identity.uuid,
            side: Side::Source,
            peer: peer.to_owned(),
            luns,
            theirs: Vec::new(),
            options,
            nonces: Vec::new(),
            was_running,
        };
        let guest = Named { vm: site.vm().to_owned(), uuid: begin.uuid.clone() };
        let talk = Talk { link, handover };
        let agreed = agree(talk, &guest, &begin)?;
        // The other host has begun, and this one's journal will not speak of it.
        let refused = |_: &Fail| drop(talk.close("refused"));
        let settings = agreed.there().map_err(Fail::from).inspect_err(refused)?;
        let log = journalled(site, begin, &agreed).inspect_err(refused)?;
        let open = Handover { guest, handover, was_running, ground, agreed, log };
        let mut run = Self { open: true, ..Self::new(site, link, order, watch, open) };
        let places = leg::all(run.agreed.luns.len());
        run.lead(Group::new(settings), Leg::There, places);
        Ok(run)
    }

    /// One whose link has nothing open, and that has done nothing yet.
    pub(super) fn new(
        site: &'a dyn Site,
        link: &'a dyn Link,
        order: &'a Order,
        watch: &'a dyn Watch,
        of: Handover,
    ) -> Self {
        let Handover { guest, handover, was_running, ground, agreed, log } = of;
        Self {
            site,
            link,
            order,
            watch,
            guest,
            handover,
            was_running,
            hands: Arc::new(Mutex::new(ground.hands())),
            ground,
            agreed,
            log,
            leader: None,
            leg: Leg::There,
            places: Vec::new(),
            verdicts: Vec::new(),
            open: false,
            times: Times::default(),
            luns: Vec::new(),
            commands: Vec::new(),
            vouched: false,
            peer_ended: false,
            forgotten: false,
            hindrance: None,
            transferring: false,
        }
    }

    pub(crate) fn lead(&mut self, group: Option<Group>, leg: Leg, places: Vec<u16>) {
        let side = match leg {
            Leg::There => Side::Source,
            Leg::Back => Side::Destination,
        };
        self.note_verdicts();
        (self.leg, self.places) = (leg, places.clone());
        let via = Via { link: self.link, handover: self.handover };
        let hands = Turned::new(Arc::clone(&self.hands), leg, places.clone());
        let entries = Entries::new(self.log.clone(), Arc::clone(&self.ground), leg, places);
        self.leader = group.map(|group| Leader::new(group, side, via, hands, entries, Patience::default()));
    }

    pub(crate) const fn talk(&self) -> Talk<'a> {
        Talk { link: self.link, handover: self.handover }
    }

    pub(crate) fn step(&self, what: &str) {
        self.watch.tell(Progress::Step { what: what.to_owned() });
    }

    pub(crate) fn marks(&self) -> Marks {
        self.log.as_ref().map(|log| log.marks()).unwrap_or_default()
    }

    pub(crate) fn standing(&self, peer: Option<View>) -> Standing {
        let own = View { marks: self.marks(), guest: self.own_guest() };
        let alone = Standing::alone(Side::Source, own);
        let resumed = self.log.as_ref().is_some_and(|log| log.was_resumed());
        let ran_there = self.log.as_ref().is_some_and(|log| log.ran_there());
        Standing {
            peer,
            vouched: self.vouched,
            stays_paused: !self.was_running || resumed,
            ran_there,
            ..alone
        }
    }

    /// How the guest stands here. Until it is given away or back, one that somebody let run since it was stopped is one that
    /// runs, whoever has stopped it again: what the destination has of it may be old, and QEMU may let it run by itself.
    pub(super) fn own_guest(&self) -> Guest {
        let (machine, marks) = (self.site.machine(), self.marks());
        let settled = marks.has(Mark::Go) || marks.has(Mark::Back);
        match machine.guest() {
            Guest::Paused if settled => Guest::Paused,
            Guest::Paused if machine.ran() => Guest::Running,
            // An agent that was started since has heard of nothing, and only QEMU knows.
            Guest::Paused => match machine.left() {
                Ok(Some(Left::Ran)) => Guest::Running,
                Ok(Some(Left::Still) | None) => Guest::Paused,
                // It answered a moment ago.
                Err(_) => Guest::Unknown,
            },
            guest => guest,
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark, peer: Option<View>) -> Result<(), Fail> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        self.standing(peer).allows(mark)?;
        if !log.marks().has(mark) {
            let begun = Instant::now();
            log.mark(mark)?;
            self.times.journal += begun.elapsed();
        }
        Ok(())
    }

    fn only_plan(mut self) -> Report {
        let planned = self.plan();
        let closed = self.talk().close("planned");
        let mut report = match (planned, closed) {
            (Ok(()), Ok(())) => self.possible(),
            (Ok(()), Err(error)) => Report::new(Verdict::Failed, error.to_string()),
            (Err(Fail::Refused(reason)), _) => Report::new(Verdict::Refused, reason),
            (Err(fail), _) => Report::new(Verdict::Failed, fail.to_string()),
        };
        self.fill(&mut report);
        report
    }

    fn possible(&self) -> Report {
        if self.any(|verdict| matches!(verdict, UnitVerdict::Fenced { .. })) {
            let reason =
                "another node has fenced the guest: it can move, and arrives without what was removed";
            return Report::new(Verdict::Fenced, reason);
        }
        if self.any(|verdict| *verdict == UnitVerdict::Lost) {
            return Report::new(
                Verdict::Lost,
                "a target forgot the guest's registrations: it can move without them",
            );
        }
        Report::new(Verdict::Possible, "the guest can move")
    }

    fn finish(mut self) -> Report {
        match self.steps() {
            Ok(report) => report,
            Err(fail) => self.turn_back(&fail),
        }
    }

    /// Everything, as long as nothing goes wrong.
    fn steps(&mut self) -> Result<Report, Fail> {
        self.plan()?;
        self.prepare()?;
        let mut stop_first = false;
        while let Err(fail) = self.memory(stop_first) {
            let again = matches!(fail, Fail::TooFast) && !stop_first && self.again()?;
            if !again {
                return Err(fail);
            }
            stop_first = true;
        }
        self.take()?;
        self.switch_over()?;
        self.go()
    }

    /// Reads both hosts' devices and chooses; nothing is changed.
    fn plan(&mut self) -> Result<(), Fail> {
        self.step("plan");
        self.luns = self.agreed.luns.iter().map(LunReport::of).collect();
        let Some(leader) = self.leader.as_mut() else { return Ok(()) };
        let pause = leader.advance()?;
        for (unit, engine) in leader.group().engines() {
            let Some(lun) = self.luns.get_mut(usize::from(unit.0)) else { continue };
            // The device may have told what no record knew.
            lun.key = engine.facts().map(|facts| facts.key.to_string()).or(lun.key.take());
            if let Some(plan) = engine.plan() {
                lun.method = Some(plan.method.to_string());
                lun.result = format!("can move by {}", plan.method);
                let words =
                    |command: &PlannedCommand| format!("{}: {}: {}", lun.lun, command.path, command.words);
                let sent = plan.commands.iter().filter(|command| command.phase > Phase::Prepare);
                self.commands.extend(sent.map(words));
            }
        }
        self.note_verdicts();
        match pause {
            // What is fenced on all its logical units arrives so, as where that happens later.
            Pause::Phase(_) | Pause::Finished(Ending::Nobody) => Ok(()),
            Pause::Finished(_) => Err(Fail::Refused(self.reasons())),
        }
    }

    /// Takes in what the leader's group has come to.
    pub(crate) fn note_verdicts(&mut self) {
        let Some(leader) = &self.leader else { return };
        self.verdicts.resize(self.agreed.luns.len(), None);
        for (unit, verdict) in leader.group().verdicts() {
            let Some(place) = self.places.get(usize::from(unit.0)).copied().map(usize::from) else {
                continue;
            };
            let Some(verdict) = verdict.map(|verdict| seen_from_source(self.leg, verdict)) else { continue };
            if let Some(lun) = self.luns.get_mut(place) {
                lun.result = verdict.to_string();
            }
            if let Some(noted) = self.verdicts.get_mut(place) {
                *noted = Some(verdict);
            }
        }
    }

    pub(super) fn reasons(&self) -> String {
        let of = |lun: &LunReport| format!("{}: {}", lun.lun, lun.result);
        self.luns
            .iter()
            .filter(|lun| !lun.result.starts_with("can move"))
            .map(of)
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// The rest of what needs no pause.
    fn prepare(&mut self) -> Result<(), Fail> {
        self.step("prepare");
        let Some(leader) = self.leader.as_mut() else { return Ok(()) };
        leader.proceed();
        match leader.advance()? {
            Pause::Phase(_) | Pause::Finished(Ending::Nobody) => Ok(()),
            Pause::Finished(_) => {
                self.note_verdicts();
                Err(Fail::Refused(self.reasons()))
            }
        }
    }

    pub(crate) fn fill(&self, report: &mut Report) {
        let mut methods: Vec<_> = self.luns.iter().filter_map(|lun| lun.method.clone()).collect();
        methods.sort_unstable();
        methods.dedup();
        report.method = (!methods.is_empty()).then(|| methods.join(", "));
        report.commands.clone_from(&self.commands);
        report.luns.clone_from(&self.luns);
        report.handover = Some(self.handover.to_string());
        report.downtime = self.times.downtime();
    }
}

/// On the way back `Moved` is where it was.
const fn seen_from_source(leg: Leg, verdict: UnitVerdict) -> UnitVerdict {
    match (leg, verdict) {
        (Leg::Back, UnitVerdict::Moved) => {
            UnitVerdict::KeptAtSource { cause: Cause::Aborted, leftover: false }
        }
        (Leg::Back, UnitVerdict::KeptAtSource { .. }) => UnitVerdict::Moved,
        (_, verdict) => verdict,
    }
}

/// Opens the handover at the other host.
fn agree(talk: Talk<'_>, guest: &Named, begin: &Begin) -> Result<Agreed, Fail> {
    let (luns, options) = (begin.luns.clone(), begin.options.clone());
    let offers = units::offer(&luns)?;
    let (handover, guest) = (talk.handover, guest.clone());
    let open = Open { handover, guest, luns: offers.clone(), options: options.clone() };
    let opened = talk.open(open).map_err(Fail::of_opening)?;
    Ok(Agreed { offers, paths: opened.luns, options, luns })
}

/// The journal of what was agreed; a plan has none.
fn journalled(site: &dyn Site, begin: Begin, agreed: &Agreed) -> Result<Option<Arc<dyn Log>>, Fail> {
    if begin.options.plan_only {
        return Ok(None);
    }
    let theirs = agreed.paths.iter().map(|paths| units::ports(&paths.ports)).collect::<Result<_, _>>()?;
    let nonces = agreed.offers.iter().map(|offer| Key(offer.nonce.0)).collect();
    Ok(Some(site.begin(&Begin { theirs, nonces, ..begin })?))
}

fn was_running(guest: Guest) -> Result<bool, Fail> {
    match guest {
        Guest::Running => Ok(true),
        Guest::Paused => Ok(false),
        guest => Err(Fail::Refused(format!(
            "the guest does not run here (it is {}): migrate it from the host where it runs",
            talk::word(guest).unwrap_or("gone")
        ))),
    }
}
