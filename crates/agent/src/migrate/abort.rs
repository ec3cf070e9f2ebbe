//! The operator ends an unfinished migration at its source. What can be undone is undone: together with the destination where
//! it answers, else from here alone, for which the key is unlisted for one command. A guest that was given away is not taken
//! back: it may run there.

use super::document::{Order, Report, Verdict};
use super::site::{Link, Log, Site, Trouble};
use super::source::{Run, Watch};
use crate::ownership::{Decision, Mark, OnDoubt, Question};
use std::sync::Arc;

/// Seconds that the destination is waited for before this host goes on without it.
const WAIT: u64 = 10;

/// Ends it. [`Verdict::Kept`]: the guest is this host's, with all that it had. [`Verdict::Refused`]: the destination may run it.
///
/// # Errors
/// [`Trouble`]: the guest's logical units cannot be reached; nothing was changed.
pub fn abort(
    site: &dyn Site,
    link: &dyn Link,
    log: &Arc<dyn Log>,
    watch: &dyn Watch,
) -> Result<Report, Trouble> {
    let begun = log.begun();
    let patient = Order { wait: WAIT, ..Order::new(site.vm(), &begun.peer) };
    let alone = Order { on_doubt: OnDoubt::Resume, wait: 0, ..patient.clone() };
    let report = once(site, link, Arc::clone(log), &patient, watch)?;
    let doubt = report.verdict == Verdict::InDoubt && !log.marks().has(Mark::Back);
    if doubt { once(site, link, Arc::clone(log), &alone, watch) } else { Ok(report) }
}

fn once(
    site: &dyn Site,
    link: &dyn Link,
    log: Arc<dyn Log>,
    order: &Order,
    watch: &dyn Watch,
) -> Result<Report, Trouble> {
    let mut run = Run::left(site, link, log, order, watch, false)?;
    let peer = run.ask_peer();
    match run.mark(Mark::Abort, peer) {
        Ok(()) => Ok(run.settle(Verdict::Kept, "the operator ended it")),
        Err(_)
            if let Decision::Ask(
                question @ (Question::RunsThere | Question::RanThere | Question::RunsTwice),
            ) = run.standing(peer).decide(order.on_doubt) =>
        {
            Ok(run.report(Verdict::Refused, &question.to_string()))
        }
        Err(fail) => {
            let why = format!(
                "{fail}: the guest was given to the destination and may run there. tenure handover status {} on both \
                 hosts says how it stands; tenure handover resume has them finish it",
                site.vm()
            );
            Ok(run.report(Verdict::Refused, &why))
        }
    }
}
