//! The source's part, which leads: the sequence of a migration in which nothing goes wrong. [`back`](super::back) is the rest.

use super::document::{LunReport, Order, Progress, Report, Verdict};
use super::leg::{self, Agreed, Entries, SharedHands, Turned};
use super::machine::{Pace, Settings, Stage, Stopped, Transfer};
use super::pace::{Next, Pacer};
use super::site::{Begin, CallError, Ground, Leg, Link, Log, Site, Trouble};
use super::talk::{self, Talk};
use super::times::Times;
use super::via::Via;
use super::{MachineError, units};
use crate::conduct::{Leader, NotDurable, Patience, Pause, Stop};
use crate::incoming::GIVEN_UP;
use crate::ownership::{Forbidden, Guest, Mark, Marks, Standing, View};
use crate::vmm::HELD;
use handover::plan::PlannedCommand;
use handover::verdict::Cause;
use handover::{Ending, Group, Phase, Side, Verdict as UnitVerdict};
use peer::message::{Bytes, Guest as Named, Id, Incoming, Open, Options, Owed};
use scsi::pr::Key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the destination may take from `go` to the guest running.
const ARRIVAL: Duration = Duration::from_secs(60);
/// Bytes of memory that are not worth waiting for.
const SMALL: u64 = 16 << 20;
/// How long QEMU may take to begin.
const BEGINNING: Duration = Duration::from_secs(30);
/// Between looks at QEMU while something short is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Who follows a migration, and may end it.
pub trait Watch: Send + Sync {
    /// Something happened.
    fn tell(&self, progress: Progress);
    /// Whether it was asked to end.
    fn cancelled(&self) -> bool;
}

/// Nobody does.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn tell(&self, _: Progress) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Why a migration does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fail {
    /// It would be unsafe, and nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// Something on the way; what was begun is undone.
    #[error("{0}")]
    Failed(String),
    /// It was asked to end.
    #[error("it was cancelled")]
    Cancelled,
    /// QEMU stopped the guest before this program did, so that it may let it run again by itself.
    #[error("QEMU switched over before the guest was stopped")]
    TooFast,
}

impl From<Trouble> for Fail {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.to_string())
    }
}

impl From<MachineError> for Fail {
    fn from(error: MachineError) -> Self {
        Self::Failed(format!("at the source: {error}"))
    }
}

impl From<CallError> for Fail {
    fn from(error: CallError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<NotDurable> for Fail {
    fn from(error: NotDurable) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Forbidden> for Fail {
    fn from(error: Forbidden) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Stop> for Fail {
    fn from(stop: Stop) -> Self {
        Self::Failed(stop.to_string())
    }
}

impl Fail {
    /// What the other host refuses before anything was begun is a refusal.
    fn of_opening(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(refusal.desc),
            other => other.into(),
        }
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
        let handover = Id(units::id()?);
        let ground = site.ground(handover.0, Side::Source)?;
        let luns = ground.luns();
        let options = Options {
            method: order.method.clone(),
            allow_absence: order.allow_gap,
            stay_paused: !was_running,
            plan_only: order.plan,
            orchestrated: site.orchestrated(),
        };
        let guest = Named { vm: site.vm().to_owned(), uuid: identity.uuid.clone() };
        let offers = units::offer(&luns)?;
        let open = Open { handover, guest: guest.clone(), luns: offers.clone(), options: options.clone() };
        let talk = Talk { link, handover };
        let opened = talk.open(open).map_err(Fail::of_opening)?;
        let agreed = Agreed { offers, paths: opened.luns, options, luns: luns.clone() };
        let begin = |agreed: &Agreed| {
            let theirs = agreed.paths.iter().map(|paths| units::ports(&paths.ports));
            Ok::<_, Fail>(site.begin(&Begin {
                handover: handover.0,
                uuid: identity.uuid,
                side: Side::Source,
                peer: peer.to_owned(),
                luns,
                theirs: theirs.collect::<Result<_, _>>()?,
                options: agreed.options.clone(),
                nonces: agreed.offers.iter().map(|offer| Key(offer.nonce.0)).collect(),
                was_running,
            })?)
        };
        let begin = || {
            let settings = agreed.there()?;
            Ok::<_, Fail>((settings, if order.plan { None } else { Some(begin(&agreed)?) }))
        };
        // The other host has begun, and this one's journal will not speak of it.
        let (settings, log) = begin().inspect_err(|_| drop(talk.close("refused")))?;
        let hands = Arc::new(Mutex::new(ground.hands()));
        let mut run = Self {
            site,
            link,
            order,
            watch,
            guest,
            handover,
            was_running,
            ground,
            hands,
            agreed,
            log,
            leader: None,
            leg: Leg::There,
            places: Vec::new(),
            verdicts: Vec::new(),
            open: true,
            times: Times::default(),
            luns: Vec::new(),
            commands: Vec::new(),
            vouched: false,
            peer_ended: false,
        };
        let places = leg::all(run.agreed.luns.len());
        run.lead(Group::new(settings), Leg::There, places);
        Ok(run)
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
        let own = View { marks: self.marks(), guest: self.site.machine().guest() };
        let alone = Standing::alone(Side::Source, own);
        Standing { peer, vouched: self.vouched, stays_paused: !self.was_running, ..alone }
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
            (Ok(()), Ok(())) => Report::new(Verdict::Possible, "the guest can move"),
            (Ok(()), Err(error)) => Report::new(Verdict::Failed, error.to_string()),
            (Err(Fail::Refused(reason)), _) => Report::new(Verdict::Refused, reason),
            (Err(fail), _) => Report::new(Verdict::Failed, fail.to_string()),
        };
        self.fill(&mut report);
        report
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
            Pause::Phase(_) => Ok(()),
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

    fn reasons(&self) -> String {
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
            Pause::Phase(_) => Ok(()),
            Pause::Finished(_) => {
                self.note_verdicts();
                Err(Fail::Refused(self.reasons()))
            }
        }
    }

    /// The guest's memory, until QEMU stands before the switchover with the guest stopped by us.
    fn memory(&mut self, stop_first: bool) -> Result<(), Fail> {
        self.step("memory");
        let machine = self.site.machine();
        if stop_first {
            self.stop()?;
        }
        let (capabilities, parameters) = (self.order.capabilities.clone(), self.order.parameters.clone());
        let listen = Incoming {
            handover: self.handover,
            uri: self.order.uri.clone(),
            capabilities: capabilities.clone(),
            parameters: parameters.clone(),
        };
        let uri = self
            .talk()
            .incoming(listen)
            .map_err(|error| Fail::Failed(format!("at the destination: {error}")))?;
        machine.configure(&Settings { capabilities, parameters })?;
        machine.adjust(Pace::Held)?;
        machine.send(&uri)?;
        let begun = self.begun()?;
        if self.times.stopped.is_none() {
            // So little is through before it could be looked at again, and within any limit.
            if begun.remaining > SMALL {
                self.until_it_fits()?;
            }
            self.stop()?;
        }
        machine.adjust(Pace::Switch(self.was_running.then(|| self.order.downtime_limit())))?;
        self.freeze()?;
        self.wait_stage(Stage::PreSwitchover, ARRIVAL)?;
        self.times.switchover = Some(Instant::now());
        Ok(())
    }

    /// QEMU has looked at the memory.
    fn begun(&self) -> Result<Transfer, Fail> {
        let end = Instant::now() + BEGINNING;
        loop {
            let transfer = self.look()?;
            if transfer.stage == Stage::PreSwitchover && self.times.stopped.is_none() {
                return Err(Fail::TooFast);
            }
            if transfer.total > 0 || transfer.stage == Stage::PreSwitchover {
                return Ok(transfer);
            }
            if Instant::now() >= end {
                return Err(Fail::Failed("QEMU's migration does not begin".into()));
            }
            self.site.machine().wait(Instant::now() + LOOK);
        }
    }

    fn look(&self) -> Result<Transfer, Fail> {
        if self.watch.cancelled() {
            return Err(Fail::Cancelled);
        }
        let transfer = self.site.machine().transfer()?;
        let why = || transfer.reason.clone().unwrap_or_else(|| "QEMU gives no reason".into());
        match transfer.stage {
            Stage::Failed => Err(Fail::Failed(format!("QEMU's migration failed: {}", why()))),
            Stage::Cancelled => Err(Fail::Failed("QEMU's migration was cancelled by somebody else".into())),
            Stage::None => Err(Fail::Failed("QEMU has no migration any more".into())),
            _ => Ok(transfer),
        }
    }

    fn until_it_fits(&self) -> Result<(), Fail> {
        let (begun, limit) = (Instant::now(), self.order.timeout.map(Duration::from_secs));
        let mut pacer = Pacer::new(self.order.downtime_limit(), HELD);
        let mut told = begun;
        loop {
            let transfer = self.look()?;
            if transfer.stage == Stage::PreSwitchover {
                return Err(Fail::TooFast);
            }
            if told.elapsed() >= Duration::from_millis(200) {
                told = Instant::now();
                let (total, remaining, rate) = (transfer.total, transfer.remaining, transfer.rate);
                self.watch.tell(Progress::Memory { total, remaining, rate });
            }
            let wait = match pacer.look(begun.elapsed(), &transfer) {
                Next::Stop => return Ok(()),
                Next::Faster(rate, time) => {
                    self.site.machine().adjust(rate.map_or(Pace::Full, Pace::Limited))?;
                    time
                }
                Next::Look(time) => time,
            };
            if limit.is_some_and(|limit| begun.elapsed() >= limit) {
                let why = "the memory did not get through in time; raise --downtime-limit";
                return Err(Fail::Failed(why.into()));
            }
            self.site.machine().wait(Instant::now() + wait);
        }
    }

    /// Stops the guest, so that nothing but our `cont` lets it run.
    fn stop(&mut self) -> Result<(), Fail> {
        self.times.stopped = Some(Instant::now());
        match self.site.machine().stop()? {
            Stopped::ByUs => Ok(()),
            Stopped::ByMigration => Err(Fail::TooFast),
        }
    }

    /// QEMU was too fast: whether it can be done again with the guest stopped from the beginning.
    fn again(&mut self) -> Result<bool, Fail> {
        let machine = self.site.machine();
        machine.cancel()?;
        let end = Instant::now() + BEGINNING;
        while !machine.transfer()?.stage.is_over() {
            if Instant::now() >= end {
                return Ok(false);
            }
            machine.wait(Instant::now() + LOOK);
        }
        self.times = Times::default();
        let there = self.talk().state(self.guest.clone())?;
        Ok(talk::view(&there).guest == Guest::Loading)
    }

    /// Both records say `handover` and are locked; what the guest changed since it was looked at is read again.
    fn freeze(&mut self) -> Result<(), Fail> {
        let begun = Instant::now();
        let changed = self.ground.freeze()?;
        self.talk().freeze()?;
        self.times.frozen = begun.elapsed();
        let Some(leader) = self.leader.as_mut().filter(|_| changed) else { return Ok(()) };
        leader.refresh();
        match leader.advance()? {
            Pause::Phase(_) => Ok(()),
            Pause::Finished(ending) => {
                Err(Fail::Failed(format!("the guest changed its registrations: {ending:?}")))
            }
        }
    }

    pub(crate) fn wait_stage(&self, wanted: Stage, patience: Duration) -> Result<(), Fail> {
        let end = Instant::now() + patience;
        loop {
            let transfer = self.look()?;
            if transfer.stage == wanted {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Fail::Failed(format!("QEMU's migration stands still ({:?})", transfer.stage)));
            }
            self.site.machine().wait(Instant::now() + LOOK);
        }
    }

    /// The handover on the devices: phases Freeze, Take and Verify.
    fn take(&mut self) -> Result<(), Fail> {
        self.step("take");
        if self.site.machine().guest() != Guest::Paused {
            return Err(Fail::Failed("the guest does not stand still at the source".into()));
        }
        let ending = self.take_all();
        self.note_verdicts();
        match ending? {
            None | Some(Ending::Moved | Ending::Nobody) => {}
            Some(_) => return Err(Fail::Failed(self.reasons())),
        }
        // Those that stand at the end of Verify are there.
        if let Some(leader) = &mut self.leader {
            // The other host's mark is on disk when this is answered.
            leader.sync()?;
            self.times.handover(leader.record());
        }
        self.mark(Mark::Taken, None)?;
        self.times.taken = Some(Instant::now());
        Ok(())
    }

    /// `None` as long as some unit stands at the end of Verify.
    fn take_all(&mut self) -> Result<Option<Ending>, Fail> {
        let Some(leader) = self.leader.as_mut() else { return Ok(None) };
        loop {
            if self.watch.cancelled() && !leader.group().committed() {
                return Err(Fail::Cancelled);
            }
            leader.proceed();
            match leader.advance()? {
                Pause::Phase(Phase::Verify) => return Ok(None),
                Pause::Phase(_) => {}
                Pause::Finished(ending) => return Ok(Some(ending)),
            }
        }
    }

    /// Sense data of unit attentions that the guest is owed if it goes on at the handover's `owner`, beside what the record
    /// here says; for each unit.
    pub(crate) fn owed(&self, owner: Side) -> Vec<Vec<Vec<u8>>> {
        let owner = if self.leg == Leg::There { owner } else { owner.other() };
        let taken: Vec<_> = self.leader.iter().flat_map(|leader| leader.owed(owner)).collect();
        let mut owed = vec![Vec::new(); self.agreed.luns.len()];
        for (place, sense) in leg::placed(&self.places, &taken) {
            if let Some(of) = owed.get_mut(usize::from(place)) {
                *of = sense;
            }
        }
        owed
    }

    /// What the guest is owed goes with it: what was owed here before, and what the handover took.
    pub(crate) fn hand_over_attentions(&self) -> Result<(), Fail> {
        let (before, taken) = (self.ground.owed(), self.owed(Side::Destination));
        let of = |all: &[Vec<Vec<u8>>], unit: u16| all.get(usize::from(unit)).cloned().unwrap_or_default();
        let one = |unit| {
            let mut sense = of(&before, unit);
            // Another nexus may have been told of the same.
            let new: Vec<_> = of(&taken, unit).into_iter().filter(|taken| !sense.contains(taken)).collect();
            sense.extend(new);
            let sense: Vec<_> = sense.into_iter().map(Bytes).collect();
            (!sense.is_empty()).then_some(Owed { unit, sense })
        };
        let units = leg::all(self.agreed.luns.len());
        Ok(self.talk().attentions(units.into_iter().filter_map(one).collect())?)
    }

    fn switch_over(&mut self) -> Result<(), Fail> {
        self.step("switch over");
        self.hand_over_attentions()?;
        self.site.machine().switch_over()?;
        let end = Instant::now() + ARRIVAL;
        loop {
            let transfer = self.site.machine().transfer()?;
            match transfer.stage {
                Stage::Completed => break,
                stage if stage.is_over() => {
                    let why = transfer.reason.unwrap_or_default();
                    return Err(Fail::Failed(format!("QEMU's migration failed at the switchover: {why}")));
                }
                _ if Instant::now() >= end => {
                    return Err(Fail::Failed("QEMU's switchover does not end".into()));
                }
                _ => self.site.machine().wait(Instant::now() + LOOK),
            }
        }
        self.times.completed = Some(Instant::now());
        Ok(())
    }

    /// Gives the guest away.
    pub(crate) fn go(&mut self) -> Result<Report, Fail> {
        self.step("go");
        let taken = View { marks: Marks::new().with(Mark::Taken), guest: Guest::Paused };
        self.mark(Mark::Go, Some(taken))?;
        match self.talk().go(ARRIVAL) {
            Ok(_) => {
                self.times.running = Some(Instant::now());
                Ok(self.gone())
            }
            Err(CallError::Refused(refusal)) if refusal.class == GIVEN_UP => {
                Err(Fail::Failed(format!("the destination could not run the guest: {}", refusal.desc)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The guest is at the destination for good.
    pub(crate) fn gone(&mut self) -> Report {
        let mut notes = Vec::new();
        let ran = View { marks: Marks::new().with(Mark::Ran), guest: Guest::Running };
        if let Err(fail) = self.mark(Mark::Ran, Some(ran)) {
            notes.push(fail.to_string());
        }
        if let Err(trouble) = self.ground.settle(super::End::Departed, &self.ends()) {
            notes.push(format!("the record here still says handover: {trouble}"));
        }
        if let Some(leader) =
            self.leader.as_mut().filter(|leader| leader.group().phase() == Some(Phase::Verify))
        {
            leader.proceed();
            notes.extend(leader.advance().err().map(|stop| stop.to_string()));
        }
        self.note_verdicts();
        // Where it is not open any more the destination ends it by itself: the guest runs there.
        if self.open {
            notes.extend(self.talk().close("moved").err().map(|error| error.to_string()));
        }
        if let Some(log) = self.log.as_ref().filter(|_| notes.is_empty()) {
            notes.extend(log.end("moved").err().map(|error| error.to_string()));
        }
        let (verdict, reason) = self.arrived();
        notes.insert(0, reason);
        let mut report = Report::new(verdict, notes.join("; "));
        self.fill(&mut report);
        report
    }

    fn arrived(&self) -> (Verdict, String) {
        if self.any(|verdict| matches!(verdict, UnitVerdict::Fenced { .. })) {
            let reason =
                "the guest is at the destination, and fenced: another node has removed its registration";
            return (Verdict::Fenced, reason.into());
        }
        if self.any(|verdict| *verdict == UnitVerdict::Lost) {
            let reason = "the guest is at the destination, and a target forgot its registrations";
            return (Verdict::Lost, reason.into());
        }
        (Verdict::Moved, "the guest is at the destination with all its registrations".into())
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
