//! What an agent does with an unfinished handover in which its host is the destination: at its start, when the source told
//! something new, and by the operator's word.
//!
//! Only a guest that was given to this host is let run: by the source, or, where the source is gone for good, by an operator who
//! says so; then every registration is proved to be here first. A handover of which nothing is left here ends. Everything else
//! waits for the source.

use super::{Incoming, own_guest};
use crate::migrate::leg::{self, Agreed};
use crate::migrate::{End, Leg, Log, Site, Trouble, alone, release, remains, talk, units};
use crate::ownership::{Decision, Mark, Marks, OnDoubt, Question, Standing, View};
use handover::{Side, Verdict};
use peer::message::{Id, Options, Records, Refusal};
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The agent itself.
    None,
    /// The operator, who says that the guest's QEMU at the source is gone and nobody starts it again.
    Vouched,
}

/// Puts it in order as far as that can be done now. `source`: what the source's agent tells, where it answers.
///
/// # Errors
/// What does not work here.
pub fn resume(
    site: &Arc<dyn Site>,
    log: &Arc<dyn Log>,
    source: Option<&Records>,
    word: Word,
) -> Result<Decision, Refusal> {
    let own = View { marks: log.marks(), guest: own_guest(&**site, &**log) };
    let (peer, stays_paused) = (source.map(talk::view), !log.begun().was_running);
    let vouched = word == Word::Vouched;
    let standing = Standing { peer, stays_paused, vouched, ..Standing::alone(Side::Destination, own) };
    let decision = standing.decide(OnDoubt::Pause);
    let left = || Incoming::left(Arc::clone(site), Arc::clone(log));
    match decision {
        Decision::Run | Decision::Over(Side::Destination) => left()?.finish(decision)?,
        Decision::TakeAlone => {
            left()?.take_alone()?;
            return Ok(Decision::Over(Side::Destination));
        }
        Decision::Over(Side::Source) | Decision::RollBack | Decision::StayPaused
            if source.is_some_and(|source| nothing_is_left(own.marks, source)) =>
        {
            left()?.end_untouched(source.map(|source| talk::view(source).marks))?;
            return Ok(Decision::Over(Side::Source));
        }
        // What is registered here is nobody's, and no recovery comes any more.
        Decision::Over(Side::Source) | Decision::RollBack | Decision::StayPaused
            if source.is_some_and(is_the_sources) =>
        {
            standing.allows(Mark::Abort)?;
            log.mark(Mark::Abort)?;
            release(&**site, &**log, false)?;
            left()?.close("kept")?;
            return Ok(Decision::Over(Side::Source));
        }
        // Nothing was changed from here, and as long as this host has not said `taken` the source cannot let the guest go.
        Decision::Ask(Question::MayRunAtSource) if !own.marks.touched && !own.marks.has(Mark::Taken) => {
            left()?.end_untouched(None)?;
            return Ok(Decision::Over(Side::Source));
        }
        // The source has still to look after what this host may have registered.
        Decision::Over(Side::Source) => return Ok(Decision::RollBack),
        _ => {}
    }
    Ok(decision)
}

/// The operator gives an unfinished handover up at its destination: from here on the guest never runs here by it. Where nothing
/// was begun here it is over with that; the rest is the source's, which asks when it is there.
///
/// # Errors
/// The guest is this host's already, or may have run; or what does not work here.
pub fn give_up(site: &Arc<dyn Site>, log: &Arc<dyn Log>, source: Option<View>) -> Result<(), Refusal> {
    let untouched = !log.marks().touched;
    let mut incoming = Incoming::left(Arc::clone(site), Arc::clone(log))?;
    let own = View { marks: log.marks(), guest: own_guest(&**site, &**log) };
    let standing = Standing { peer: source, ..Standing::alone(Side::Destination, own) };
    standing.allows(Mark::Abort)?;
    if !log.marks().has(Mark::Abort) {
        log.mark(Mark::Abort)?;
    }
    if untouched { incoming.close("kept").map(drop) } else { Ok(()) }
}

/// The guest stays at the source, and nothing of the handover is left at this host: the source has not even begun it, or changed
/// nothing, or says that the guest was kept, which it does only after this host was looked after: one that was given up by its
/// operator (`released`) was not.
fn nothing_is_left(own: Marks, source: &Records) -> bool {
    let Some(record) = &source.record else { return !own.touched };
    let marks = talk::marks(record);
    marks.has(Mark::Back) && (record.verdict.as_deref() == Some("kept") || !marks.touched)
}

/// The guest is the source's again, with its registrations proved to be there, and its operator has ended the handover without
/// this host: no recovery comes for what is left here.
fn is_the_sources(source: &Records) -> bool {
    let Some(record) = &source.record else { return false };
    let marks = talk::marks(record);
    let back = marks.has(Mark::Abort) && marks.has(Mark::Back) && !marks.has(Mark::Ran);
    back && record.verdict.as_deref() == Some("released")
}

impl Incoming {
    /// What is left of one after the agent was started again.
    fn left(site: Arc<dyn Site>, log: Arc<dyn Log>) -> Result<Self, Refusal> {
        let handover = Id(log.begun().handover);
        let ground = site.ground(handover.0, Side::Destination)?;
        let names: Vec<_> = log.begun().luns.iter().map(|lun| lun.name.clone()).collect();
        let luns = ground.arrange(&names)?;
        let (offers, paths) = (units::offer(&luns)?, units::paths(&luns));
        let agreed = Agreed { offers, paths, options: Options::default(), luns };
        let stay_paused = !log.begun().was_running;
        let mut left = Self::new(site, ground, handover, agreed, Some(log));
        left.stay_paused = stay_paused;
        Ok(left)
    }

    /// The guest is this host's.
    fn finish(&mut self, decision: Decision) -> Result<(), Refusal> {
        match decision {
            Decision::Run => drop(self.run(false).map_err(Trouble)?),
            // Its QEMU went before the record was written: whoever starts the guest again here needs it.
            _ if !self.marks().has(Mark::Ran) => self.settle(End::Arrived)?,
            _ => {}
        }
        let released = [Mark::Taken, Mark::Go].into_iter().collect();
        self.mark(Mark::Ran, Some(released))?;
        // The source learns it from the journal when it asks.
        Ok(self.log.iter().try_for_each(|log| log.end("moved"))?)
    }

    /// The source is gone for good, by the operator's word, and the guest stands here whole.
    fn take_alone(&mut self) -> Result<(), Refusal> {
        if !self.proves_all_here()? {
            let why = "the guest's registrations are not proved to be here without the source: start its agent, or give \
                       the handover up: tenure handover abort";
            return Err(Refusal::new("InDoubt", why));
        }
        self.vouched = true;
        self.mark(Mark::Taken, None)?;
        self.mark(Mark::Go, None)?;
        self.finish(Decision::Run)
    }

    /// Whether every registration is here, or nobody's: by the journal, or by what the device answers to this host alone.
    fn proves_all_here(&mut self) -> Result<bool, Refusal> {
        self.freeze_ground()?;
        let Some(log) = self.log.clone() else { return Ok(false) };
        let Some(group) = remains::without_source(&self.agreed, &*log)? else { return Ok(true) };
        let host = alone::Host { log: &log, ground: &self.ground, hands: &self.hands };
        let places = leg::all(self.agreed.luns.len());
        let verdicts = alone::run(group, &host, (Side::Destination, Leg::There), places);
        let here = |verdict: &Option<Verdict>| {
            matches!(verdict, Some(Verdict::Moved | Verdict::Fenced { .. } | Verdict::Lost))
        };
        Ok(verdicts.iter().all(here))
    }

    fn end_untouched(&mut self, source: Option<Marks>) -> Result<(), Refusal> {
        self.mark(Mark::Abort, source)?;
        self.close("kept").map(drop)
    }
}
