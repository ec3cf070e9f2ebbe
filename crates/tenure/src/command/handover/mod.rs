//! `tenure handover plan|run`: the engine of `handover` on real nexuses of this machine.

mod order;
mod recover;
mod report;

pub(crate) use order::nonce;
pub(crate) use report::{CommandDocument, commands, duration, verdict_name};

use crate::cli::{HandoverArgs, HandoverVerb, MoveArgs};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::journal::JournalFile;
use ::handover::{Engine, Event, Method, Path, Phase, Plan, Procedure, Verdict};
use agent::drive::{Driver, Journal, Link, NoJournal, Pause, Record};
pub use order::Order;
use report::{Report, Tone};
use std::collections::BTreeMap;

/// Plans or runs one handover.
///
/// # Errors
/// A usage error, or a refusal before the engine had anything to say.
pub fn run(args: &HandoverArgs, console: &mut Console) -> Result<Exit, Failure> {
    match &args.verb {
        HandoverVerb::Plan(args) => plan(args, console),
        HandoverVerb::Run(args) => carry_out(args, console),
        HandoverVerb::Status(args) => super::migrate::status(args, console),
        HandoverVerb::Resume(args) => super::migrate::resume(args, console),
        HandoverVerb::Abort(args) => super::migrate::abort(args, console),
        HandoverVerb::Freeze(args) => super::migrate::freeze(args, console),
        HandoverVerb::Take(args) => super::migrate::take(args, console),
        HandoverVerb::Release(args) => super::migrate::release(args, console),
    }
}

fn plan(args: &MoveArgs, console: &mut Console) -> Result<Exit, Failure> {
    let order = Order::new(args, console)?;
    let mut engine = Engine::new(order.settings.clone());
    let mut nowhere = NoJournal;
    let mut driver = Driver::new(order.links, &mut nowhere);
    let verdict = match driver.advance(&mut engine)? {
        Pause::Finished(verdict) => Some(verdict),
        Pause::Phase(_) => None,
    };
    let plan = engine.plan();
    report::narrate_attentions(&engine, console);
    let report = Report::planned(&order.names, plan.as_ref(), verdict, &driver.record);
    if args.json {
        console.json(&report.document())?;
    } else {
        console.data(&report.text())?;
    }
    Ok(report.exit())
}

fn carry_out(args: &MoveArgs, console: &mut Console) -> Result<Exit, Failure> {
    let Some(directory) = &args.state else {
        console.note("no --state DIR: if this process dies half-way, recovery will have no journal to go by");
        let ended = hand_over(Order::new(args, console)?, &mut NoJournal, console)?;
        return Ok(conclude(args, &ended, console));
    };
    let mut journal = JournalFile::open(directory)?;
    if let Some(unfinished) = journal.unfinished().cloned() {
        let ended = recover::recover(args, &unfinished, &mut journal, console)?;
        close(&mut journal, &ended.verdict, console);
        if !matches!(ended.verdict, Verdict::KeptAtSource { leftover: false, .. }) {
            return Ok(conclude(args, &ended, console));
        }
        console.note("the interrupted handover was undone; now the one that was asked for");
    }
    // An order that cannot be given leaves nothing to recover.
    let order = Order::new(args, console)?;
    journal.begin(order::texts(&args.from), order::texts(&args.to))?;
    let ended = hand_over(order, &mut journal, console)?;
    close(&mut journal, &ended.verdict, console);
    Ok(conclude(args, &ended, console))
}

/// The journal stays open where somebody still has to do something about the device. Where it cannot be closed the
/// verdict stands all the same, and the next run only looks again.
fn close(journal: &mut JournalFile, verdict: &Verdict, console: &mut Console) {
    let open = matches!(
        verdict,
        Verdict::InDoubt(_)
            | Verdict::KeptAtSource { leftover: true, .. }
            | Verdict::Fenced { nonce_left: true }
    );
    if !open && let Err(error) = journal.end(verdict) {
        console.warning(format!("the journal stays open, as its end cannot be written: {error:#}"));
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The verdict.
    pub verdict: Verdict,
    /// What was planned; `None` if it was refused before.
    pub plan: Option<Plan>,
    /// The method that was used in the end.
    pub method: Option<Method>,
    /// What happened.
    pub record: Record,
    /// The paths, as open as they were left.
    pub links: BTreeMap<Path, Link>,
}

/// Carries out an order from plan to verdict, and narrates. The guest is paused already, or its VMM stopped.
///
/// # Errors
/// If the engine has no verdict, which would be a defect.
pub fn hand_over(order: Order, journal: &mut dyn Journal, console: &mut Console) -> Result<Ended, Failure> {
    let mut engine = Engine::new(order.settings);
    let mut driver = Driver::new(order.links, journal);
    let mut tone = Tone::default();
    let mut plan = None;
    let verdict = loop {
        let pause = driver.advance(&mut engine)?;
        tone.commands(&driver.record, console);
        match pause {
            Pause::Phase(phase) => {
                if phase == Phase::Plan {
                    plan = engine.plan();
                    report::narrate_plan(plan.as_ref(), console);
                }
                engine.handle(Event::Proceed);
            }
            Pause::Finished(verdict) => break verdict,
        }
    };
    report::narrate_end(&engine, console);
    let method = plan.is_some().then(|| engine.method());
    let (links, record) = driver.into_parts();
    Ok(Ended { verdict, plan, method, record, links })
}

/// Tells how it ended. The exit status decides where the guest runs: it is the verdict's, whether that can be printed or
/// not.
fn conclude(args: &MoveArgs, ended: &Ended, console: &mut Console) -> Exit {
    let report = Report::ran(ended.plan.as_ref(), ended.method, ended.verdict, &ended.record);
    let told = if args.json { console.json(&report.document()) } else { console.data(&report.text()) };
    if let Err(failure) = told {
        console.error(format!("{failure}; the verdict: {}", report.text().trim_end()));
    }
    report.exit()
}

#[cfg(test)]
mod tests;
