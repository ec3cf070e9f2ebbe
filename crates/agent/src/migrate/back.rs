//! A migration that does not go as planned, and one that an agent finds unfinished when it starts: [`ownership`](crate::ownership)
//! says what is next, and this does it, until the guest runs at one host or the operator is needed.

use super::document::{LunReport, Order, Report, Verdict};
use super::fail::Fail;
use super::leg::{self, Agreed};
use super::machine::{Left, MachineError, Pace, Stage};
use super::site::{CallError, End, Leg, Link, Log, Site, Trouble, UnitEnd};
use super::source::{Handover, Run, Watch};
use super::{remains, talk, units};
use crate::conduct::{NotDurable, Pause};
use crate::ownership::{Decision, Guest, Mark, Marks, OnDoubt, Question, View};
use handover::journal::Stage as Entered;
use handover::{Ending, Group, Side, Verdict as UnitVerdict};
use peer::message::{BackUnit, Guest as Named, Id, Paths, Records, Recover, Word};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long QEMU may take to let a guest run, or to end a migration.
const PROMPT: Duration = Duration::from_secs(30);
/// Between two looks at the other host.
const LOOK: Duration = Duration::from_millis(200);

/// Turns of one settlement; each takes a step or waits.
const MOST_TURNS: usize = 1_000;

/// How one step ended.
enum Turn {
    Again,
    Wait(Option<Question>),
    Over(Box<Report>),
}

/// Puts an unfinished migration of this host in order, from its journal: at the agent's start, and when the operator asks.
/// `vouched`: the operator's word that the guest never ran at the destination and will not.
///
/// # Errors
/// [`Trouble`]: the guest's logical units cannot be reached; nothing was changed.
pub fn resume(
    site: &dyn Site,
    link: &dyn Link,
    log: Arc<dyn Log>,
    order: &Order,
    watch: &dyn Watch,
    vouched: bool,
) -> Result<Report, Trouble> {
    let run = Run::left(site, link, log, order, watch, vouched)?;
    Ok(run.settle(Verdict::Kept, "the agent found an unfinished migration"))
}

/// The guest was given back: what its QEMU does by now is no business of this migration. One that runs was let run by an agent
/// that died before it could write so.
fn is_given_back(site: &dyn Site, log: &dyn Log) -> bool {
    let runs = || log.marks().has(Mark::Back) && site.machine().guest() == Guest::Running;
    // If it cannot be written it is tried again with the next look.
    log.was_resumed()
        || runs() && {
            let _ = log.resumed();
            true
        }
}

impl<'a> Run<'a> {
    /// What is left of one: nothing is open, and QEMU's migration of it has ended.
    pub(super) fn left(
        site: &'a dyn Site,
        link: &'a dyn Link,
        log: Arc<dyn Log>,
        order: &'a Order,
        watch: &'a dyn Watch,
        vouched: bool,
    ) -> Result<Self, Trouble> {
        let begun = log.begun().clone();
        let ground = site.ground(begun.handover, Side::Source)?;
        let names: Vec<_> = begun.luns.iter().map(|lun| lun.name.clone()).collect();
        let luns = ground.arrange(&names)?;
        // Under a guest that was given back nothing is frozen, and no migration of it is ours: it has all it had, and only the
        // destination is to forget.
        let given_back = is_given_back(site, &*log);
        if log.marks().touched && !given_back {
            ground.freeze()?;
        }
        let offers = units::offer(&luns)?;
        let theirs = |(lun, ports): (&super::Lun, &Vec<handover::Port>)| Paths {
            lun: lun.name.clone(),
            ports: ports.iter().map(units::told).collect(),
        };
        let paths = luns.iter().zip(&begun.theirs).map(theirs).collect();
        let agreed = Agreed { offers, paths, options: begun.options.clone(), luns };
        let luns = begun.luns.iter().map(LunReport::of).collect();
        let of = Handover {
            guest: Named { vm: site.vm().to_owned(), uuid: begun.uuid },
            handover: Id(begun.handover),
            was_running: begun.was_running,
            ground,
            agreed,
            log: Some(log),
        };
        let run = Self { luns, vouched, ..Self::new(site, link, order, watch, of) };
        if !given_back {
            run.end_transfer();
        }
        Ok(run)
    }
}

impl Run<'_> {
    /// Puts everything in order after `fail`.
    pub(crate) fn turn_back(self, fail: &Fail) -> Report {
        self.step("turn back");
        if self.transferring {
            self.end_transfer();
        }
        if self.log.is_none() {
            let _ = self.talk().close("refused");
            return self.report(Verdict::Failed, &fail.to_string());
        }
        let verdict = if matches!(fail, Fail::Refused(_)) { Verdict::Refused } else { Verdict::Kept };
        self.settle(verdict, &fail.to_string())
    }

    /// Follows the rules of ownership to an end; `verdict` and `why` are for a guest that stays. Where it waits for what only the
    /// operator may do without, he need not wait with it: asked to end once more, it ends as if it had waited.
    pub(crate) fn settle(mut self, verdict: Verdict, why: &str) -> Report {
        let end = Instant::now() + Duration::from_secs(self.order.wait);
        let cancels = self.watch.cancels();
        for _ in 0..MOST_TURNS {
            self.hindrance = None;
            let peer = self.ask_peer();
            let decision = match self.went_elsewhere() {
                true => Decision::Ask(Question::WentElsewhere),
                false => self.standing(peer).decide(self.order.on_doubt),
            };
            let turn = match decision {
                Decision::RollBack => self.roll_back(peer, why),
                Decision::TakeAlone => self.take_alone(),
                Decision::Finish => self.go_forward(why),
                Decision::Run => self.resume(verdict, why),
                Decision::Over(Side::Source) => self.stays(verdict, why),
                Decision::Over(Side::Destination) => Turn::Over(Box::new(self.gone_there(peer, why))),
                Decision::StayPaused => Turn::Wait(None),
                Decision::Ask(question) => Turn::Wait(Some(question)),
            };
            match turn {
                Turn::Over(report) => return *report,
                Turn::Again => {}
                Turn::Wait(question @ Some(_)) if self.watch.cancels() > cancels => {
                    return self.doubt(why, question);
                }
                Turn::Wait(_) if Instant::now() < end => self.site.machine().wait(Instant::now() + LOOK),
                Turn::Wait(question) => return self.doubt(why, question),
            }
        }
        self.doubt(why, None)
    }

    /// QEMU has sent the guest away whole, which it does for us only once all was taken: somebody moved it by other means while no
    /// agent was here.
    fn went_elsewhere(&self) -> bool {
        let given_back = self.log.as_ref().is_some_and(|log| log.was_resumed());
        let ours = self.transferring || self.marks().has(Mark::Taken);
        let machine = self.site.machine();
        !ours
            && !given_back
            && machine.guest() == Guest::Paused
            && matches!(machine.left(), Ok(Some(Left::Still)))
    }

    /// The guest is the destination's; if its QEMU there went with it, that is what the operator must hear.
    fn gone_there(&mut self, peer: Option<View>, why: &str) -> Report {
        let report = self.gone();
        if peer.is_none_or(|peer| peer.guest != Guest::Absent) {
            return report;
        }
        let reason =
            format!("{why}; {}, but its QEMU there is gone: start the guest there again", report.reason);
        Report { reason, exit: report.exit.max(1), ..report }
    }

    /// What the other host says of itself, over a new link if it must be. A new link forgets the replica.
    pub(super) fn ask_peer(&mut self) -> Option<View> {
        let mut told = self.talk().state(self.guest.clone());
        if matches!(told, Err(CallError::Lost(_))) {
            if let Err(error) = self.redial() {
                self.hindered(&error.into());
                return None;
            }
            told = self.talk().state(self.guest.clone());
        }
        match told {
            Ok(records) => {
                let view = self.heard(&records);
                // Nothing can be done together with it, and by the operator's word it is done without.
                let word = self.vouched || self.order.on_doubt == OnDoubt::Resume;
                (!self.forgotten || !word).then_some(view)
            }
            Err(error) => {
                self.hindered(&error.into());
                None
            }
        }
    }

    /// A silent peer is a [`Question`] of its own; everything else the operator must be told.
    fn hindered(&mut self, fail: &Fail) {
        if !matches!(fail, Fail::Lost(_)) {
            self.hindrance = Some(fail.to_string());
        }
    }

    fn heard(&mut self, records: &Records) -> View {
        self.peer_ended = records.record.as_ref().is_some_and(|record| record.verdict.is_some());
        let view = talk::view(records);
        let gone = records.record.is_none() && view.guest == Guest::Absent;
        self.forgotten = gone && self.marks().touched;
        self.remember_ran_there(view.marks, talk::ran_there(records));
        view
    }

    /// It may be stopped there, or ended, before it is looked at again. The guest can be there only once all was taken.
    fn remember_ran_there(&self, peer: Marks, told: bool) {
        let ran = told && self.marks().has(Mark::Taken);
        let given = peer.has(Mark::Go) || self.marks().has(Mark::Ran);
        let open = |log: &Arc<dyn Log>| !log.ran_there() && !log.was_resumed();
        let log = self.log.as_ref().filter(|log| ran && !given && open(log));
        // Where it cannot be written the peer tells it again at the next look.
        let _ = log.map(|log| log.saw_ran_there());
    }

    /// A new link, on which nothing is open.
    fn redial(&mut self) -> Result<(), CallError> {
        (self.leader, self.open) = (None, false);
        self.link.reconnect()
    }

    /// QEMU's migration is ended where it can be. The guest was stopped by us before anything was changed, so it stays so.
    pub(super) fn end_transfer(&self) {
        let machine = self.site.machine();
        let end = Instant::now() + PROMPT;
        let over = || machine.transfer().map_or(true, |transfer| transfer.stage.is_over());
        if !over() && machine.cancel().is_ok() {
            while !over() && Instant::now() < end {
                machine.wait(Instant::now() + Duration::from_millis(5));
            }
        }
        // What held it back is not to stay in QEMU.
        let _ = machine.adjust(Pace::Switch(Some(self.order.downtime_limit())));
    }

    fn roll_back(&mut self, peer: Option<View>, why: &str) -> Turn {
        match self.try_roll_back(peer, why) {
            Ok(turn) => turn,
            Err(fail) => {
                // Whatever it was, recovery goes on over a new link.
                self.hindered(&fail);
                let _ = self.redial();
                Turn::Wait(Some(Question::RegistrationsAway))
            }
        }
    }

    fn try_roll_back(&mut self, peer: Option<View>, why: &str) -> Result<Turn, Fail> {
        self.mark(Mark::Abort, peer)?;
        if self.standing(peer).untouched() {
            self.mark(Mark::Back, peer)?;
            let _ = self.talk().abort(why);
            return Ok(Turn::Again);
        }
        let undone = match self.open {
            true => self.undo(why)?,
            false if self.given_up_there(peer) => {
                let allowed = self.vouched || self.order.on_doubt == OnDoubt::Resume;
                if !self.alone(allowed)? {
                    return Ok(Turn::Wait(Some(Question::GivenUpThere)));
                }
                true
            }
            false => self.recover(why)?,
        };
        if !undone {
            return Ok(Turn::Wait(Some(Question::RegistrationsAway)));
        }
        self.mark(Mark::Back, peer)?;
        Ok(Turn::Again)
    }

    /// It has promised never to run the guest, and closed its journal: it does nothing any more. That is a peer's word alone.
    fn given_up_there(&self, peer: Option<View>) -> bool {
        self.peer_ended && peer.is_some_and(|peer| peer.marks.has(Mark::Abort))
    }

    /// Through the replicas as they stand.
    fn undo(&mut self, why: &str) -> Result<bool, Fail> {
        let Some(leader) = self.leader.as_mut() else { return Ok(self.talk().abort(why)?) };
        leader.abort();
        let pause = leader.advance()?;
        self.note_verdicts();
        if !self.talk().abort(why)? {
            return Ok(false);
        }
        match pause {
            Pause::Finished(Ending::Kept | Ending::Nobody) => Ok(true),
            Pause::Finished(Ending::InDoubt) => Ok(false),
            Pause::Finished(Ending::Moved | Ending::Split) | Pause::Phase(_) => {
                let moved = self.moved();
                self.bring_back(moved)
            }
        }
    }

    /// The units that are at the destination now, after a group that has ended or stands at the end of Verify.
    fn moved(&self) -> Vec<u16> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let at_destination =
            |verdict: &Option<UnitVerdict>| verdict.is_none_or(|verdict| verdict == UnitVerdict::Moved);
        let units = leader.group().verdicts().filter(|(_, verdict)| at_destination(verdict));
        units.map(|(unit, _)| unit.0).collect()
    }

    /// A handover with the sides exchanged.
    fn bring_back(&mut self, places: Vec<u16>) -> Result<bool, Fail> {
        if places.is_empty() {
            return Ok(true);
        }
        let Some(log) = self.log.clone() else { return Ok(false) };
        let one = |unit: &u16| Ok(BackUnit { unit: *unit, nonce: Word(units::nonce()?) });
        let which = places.iter().map(one).collect::<Result<Vec<_>, Trouble>>()?;
        let group = Group::new(self.agreed.back(&*log, &which)?);
        self.talk().back(which)?;
        self.lead(group, Leg::Back, places);
        let ending = self.run_through()?;
        Ok(matches!(ending, Some(Ending::Moved | Ending::Nobody)))
    }

    fn run_through(&mut self) -> Result<Option<Ending>, Fail> {
        let Some(leader) = self.leader.as_mut() else { return Ok(None) };
        let ending = loop {
            match leader.advance()? {
                Pause::Phase(_) => leader.proceed(),
                Pause::Finished(ending) => break ending,
            }
        };
        self.note_verdicts();
        Ok(Some(ending))
    }

    /// From the journals of both hosts, over a link on which nothing is open.
    fn recover(&mut self, why: &str) -> Result<bool, Fail> {
        let (leg, places) = self.reopen(false)?;
        if !self.talk().abort(why)? {
            return Ok(false);
        }
        match self.run_through()? {
            None => Ok(true),
            Some(Ending::InDoubt) => Ok(false),
            Some(_) => {
                let away = self.away(leg, &places);
                self.bring_back(away)
            }
        }
    }

    /// Both hosts make a recovery of what their journals say.
    fn reopen(&mut self, prefer_destination: bool) -> Result<(Leg, Vec<u16>), Fail> {
        let Some(log) = self.log.clone() else { return Err(Fail::Failed("there is no journal".into())) };
        let record = remains::record(&*log, &self.agreed.luns);
        let kept_at_source = log.marks().has(Mark::Back);
        let recover = Recover { guest: self.guest.clone(), record, prefer_destination, kept_at_source };
        let opened = self.talk().recover(recover.clone())?;
        self.open = true;
        let Some(theirs) = opened.record else {
            return Err(Fail::Failed("the other host has no journal of this handover".into()));
        };
        let found = remains::interrupted(&recover, &theirs, &self.agreed.luns)?;
        self.agreed = found.agreed;
        self.lead(found.group, found.leg, found.places.clone());
        Ok((found.leg, found.places))
    }

    /// The units that are at the destination after a recovery of `places` in `leg`.
    fn away(&self, leg: Leg, places: &[u16]) -> Vec<u16> {
        let Some(leader) = &self.leader else { return Vec::new() };
        let verdicts: Vec<_> = leader.group().verdicts().map(|(_, verdict)| verdict).collect();
        let there = |place: &u16| {
            let unit = places.iter().position(|other| other == place);
            let verdict = unit.and_then(|unit| verdicts.get(unit).copied().flatten());
            match (leg, verdict) {
                (Leg::There, Some(verdict)) => verdict == UnitVerdict::Moved,
                (Leg::Back, Some(verdict)) => matches!(verdict, UnitVerdict::KeptAtSource { .. }),
                (_, None) => self.had_moved(*place),
            }
        };
        leg::all(self.agreed.luns.len()).into_iter().filter(there).collect()
    }

    fn had_moved(&self, place: u16) -> bool {
        let last = self.log.as_ref().map(|log| log.last()).unwrap_or_default();
        last.get(usize::from(place)).copied().flatten().is_some_and(|last| last.entry.stage == Entered::Moved)
    }

    /// The other host does not answer, and the operator said, or vouched, that the guest is to go on here.
    fn take_alone(&mut self) -> Turn {
        match self.try_take_alone() {
            Ok(true) => return Turn::Again,
            Ok(false) => {}
            Err(fail) => self.hindered(&fail),
        }
        Turn::Wait(Some(Question::RegistrationsAway))
    }

    fn try_take_alone(&mut self) -> Result<bool, Fail> {
        self.mark(Mark::Abort, None)?;
        let back = self.alone(true)?;
        if back {
            self.mark(Mark::Back, None)?;
        }
        Ok(back)
    }

    /// `absence`: what is at the destination may be taken, for which the key is unlisted for one command.
    fn alone(&self, absence: bool) -> Result<bool, Fail> {
        let Some(log) = self.log.clone() else { return Ok(false) };
        let host = super::alone::Host { log: &log, ground: &self.ground, hands: &self.hands };
        super::alone::take_back(&self.agreed, &host, absence)
    }

    /// Both hosts hold still and the destination has everything: forward is the shorter way.
    fn go_forward(&mut self, why: &str) -> Turn {
        let taken = View { marks: Marks::new().with(Mark::Taken), guest: Guest::Paused };
        if self.site.machine().transfer().is_ok_and(|transfer| transfer.stage == Stage::PreSwitchover) {
            return self.roll_back(Some(taken), why);
        }
        match self.try_finish() {
            Ok(report) => Turn::Over(Box::new(report)),
            Err(fail) => {
                self.hindered(&fail);
                let _ = self.redial();
                Turn::Wait(Some(Question::MayRunThere))
            }
        }
    }

    fn try_finish(&mut self) -> Result<Report, Fail> {
        if !self.open {
            self.reopen(true)?;
            if !matches!(self.run_through()?, None | Some(Ending::Moved | Ending::Nobody)) {
                return Err(Fail::Failed("the registrations are not at the destination".into()));
            }
        }
        // What it was told before may have died with its agent.
        self.hand_over_attentions()?;
        self.go()
    }

    /// The registrations are here again: record, then `cont`.
    fn resume(&mut self, verdict: Verdict, why: &str) -> Turn {
        if self.site.machine().guest() == Guest::Running {
            return self.stays(verdict, why);
        }
        if let Err(trouble) = self.ground.settle(End::Kept, &self.ends()) {
            return self.broken(why, &format!("the record cannot be written: {trouble}"));
        }
        let machine = self.site.machine();
        match machine.cont() {
            Err(MachineError::Silent(_)) => return Turn::Wait(Some(Question::QemuSilent)),
            Err(error) => return self.broken(why, &error.to_string()),
            Ok(()) => {}
        }
        // At once: from here on whoever stops or migrates the guest means it, and the destination may be long in coming.
        let _ = self.remember_given_back();
        let end = Instant::now() + PROMPT;
        while machine.guest() != Guest::Running && Instant::now() < end {
            machine.wait(Instant::now() + Duration::from_millis(5));
        }
        match machine.guest() {
            Guest::Running => self.stays(verdict, why),
            guest => self.broken(why, &format!("cont was accepted, and the guest is {guest:?}")),
        }
    }

    /// The guest is here, and here alone.
    fn stays(&mut self, verdict: Verdict, why: &str) -> Turn {
        let mut notes = vec![why.to_owned()];
        if let Err(trouble) = self.ground.settle(End::Kept, &self.ends()) {
            notes.push(format!("the record here still says handover: {trouble}"));
        } else {
            notes.extend(self.remember_given_back().err().map(|error| error.to_string()));
        }
        if let Err(fail) = self.clean_up() {
            let silent = matches!(fail, Fail::Lost(_));
            let why = if silent { "its agent does not answer".to_owned() } else { fail.to_string() };
            notes.push(format!(
                "the destination may still hold the guest's key ({why}); it is removed when the two agents meet again"
            ));
        }
        if let Some(log) = self.log.as_ref().filter(|_| notes.len() == 1) {
            notes.extend(log.end("kept").err().map(|error| error.to_string()));
        }
        let verdict = if self.any(|verdict| matches!(verdict, UnitVerdict::Fenced { .. })) {
            notes.push("another node has removed the guest's registration; it is not restored".into());
            Verdict::Fenced
        } else if self.any(|verdict| *verdict == UnitVerdict::Lost) {
            notes.push("a target forgot the guest's registrations".into());
            Verdict::Lost
        } else {
            verdict
        };
        notes.push(match self.site.machine().guest() {
            Guest::Running if matches!(verdict, Verdict::Fenced | Verdict::Lost) => {
                "the guest runs at the source".into()
            }
            Guest::Running => "the guest runs at the source with all it had".into(),
            Guest::Paused if self.was_running => "the guest is at the source, and was stopped since".into(),
            Guest::Paused => "the guest is at the source, paused as it was".into(),
            _ => {
                "the registrations are the source's, but its QEMU is gone: start the guest there again".into()
            }
        });
        Turn::Over(Box::new(self.report(verdict, &notes.join("; "))))
    }

    /// The journal may stay open for long, and nobody but the guest's operator stops it, or lets it run, meanwhile.
    fn remember_given_back(&self) -> Result<(), NotDurable> {
        match self.log.as_ref().filter(|log| !log.was_resumed()) {
            Some(log) => log.resumed(),
            None => Ok(()),
        }
    }

    /// The destination forgets the handover, and what it still has of it.
    fn clean_up(&mut self) -> Result<(), Fail> {
        // Whoever has nothing of it has nothing to clean up.
        if !self.open && self.marks().touched && !self.peer_ended && !self.forgotten {
            self.reopen(false)?;
            self.talk().abort("the guest stays at the source")?;
            self.run_through()?;
        }
        match self.talk().close("kept") {
            Err(error @ CallError::Lost(_)) if self.marks().touched => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn any(&self, wanted: impl Fn(&UnitVerdict) -> bool) -> bool {
        self.verdicts.iter().flatten().any(wanted)
    }

    fn broken(&mut self, why: &str, trouble: &str) -> Turn {
        let text = format!(
            "{why}; the registrations are the source's again, but the guest does not run: {trouble}. When that is mended: \
             tenure handover resume {}",
            self.site.vm()
        );
        Turn::Over(Box::new(self.report(Verdict::InDoubt, &text)))
    }

    fn doubt(&mut self, why: &str, question: Option<Question>) -> Report {
        let vm = self.site.vm();
        let asked = match (&self.hindrance, question) {
            (_, Some(Question::RegistrationsAway | Question::MayRunThere)) if self.forgotten => {
                Question::ForgottenThere.to_string()
            }
            (Some(hindrance), Some(Question::RegistrationsAway | Question::MayRunThere)) => {
                format!("{hindrance}. When that is mended: tenure handover resume {vm}")
            }
            (_, Some(question)) => question.to_string(),
            (_, None) => {
                format!(
                    "the two hosts did not come to an end in time; look again, and on both hosts: tenure handover status {vm}; when \
                     what it names is mended: tenure handover resume {vm}"
                )
            }
        };
        let stays =
            if self.site.machine().guest() == Guest::Paused { "the guest stays paused: " } else { "" };
        self.report(Verdict::InDoubt, &format!("{why}; {stays}{asked}"))
    }

    pub(super) fn ends(&self) -> Vec<UnitEnd> {
        let last = self.log.as_ref().map(|log| log.last()).unwrap_or_default();
        let owed = self.owed(Side::Source);
        let one = |(place, lun): (usize, &super::Lun)| UnitEnd {
            lun: lun.name.clone(),
            verdict: self.verdicts.get(place).copied().flatten(),
            last: last.get(place).copied().flatten(),
            owed: owed.get(place).cloned().unwrap_or_default(),
        };
        self.agreed.luns.iter().enumerate().map(one).collect()
    }

    pub(super) fn report(&self, verdict: Verdict, reason: &str) -> Report {
        let mut report = Report::new(verdict, reason);
        self.fill(&mut report);
        report
    }
}
