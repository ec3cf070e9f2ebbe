//! A log line for each PERSISTENT RESERVE OUT that did not reach its device: in front of a guest that cannot get on, the
//! operator looks at the log first.

use crate::{Observer, PrOutEvent, failure};

/// Writes it; the log limits the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusals;

impl Observer for Refusals {
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        let Some(why) = event.refused else { return };
        // What the record is to blame for the service has said, and louder.
        if *event.completion == failure::not_recorded() {
            return;
        }
        let action = event.cdb.action;
        let device = event.node.unwrap_or("a descriptor");
        tracing::warn!(vm = event.vm, pid = event.caller.pid, "{action} on {device} refused: {why}");
    }
}
