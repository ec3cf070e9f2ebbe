//! What the operator is told of single commands: that one was refused, and that the records lie open to who sent one.
//!
//! A log line for each PERSISTENT RESERVE OUT that did not reach its device: in front of a guest that cannot get on, the
//! operator looks at the log first.

use crate::{Observer, PrOutEvent, failure};
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Says once that clients run as the user that the records were given to: they could rewrite them, and be there again after
/// they moved away or were fenced.
#[derive(Debug)]
pub(super) struct OwnUser {
    user: u32,
    said: AtomicBool,
}

impl OwnUser {
    /// For a helper that runs as `user`; root's clients can do as they like anyway.
    pub(super) const fn new(user: u32) -> Self {
        Self { user, said: AtomicBool::new(user == 0) }
    }
}

impl Observer for OwnUser {
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        if event.caller.uid == self.user && !self.said.swap(true, Ordering::Relaxed) {
            let user = self.user;
            tracing::error!(
                "clients run as user {user}, as this helper does, and can change its records; give it with -u a user of its own"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;
    use scsi::Completion;
    use scsi::pr::{OutAction, PrOutCdb, ReservationType, Scope};
    use std::time::Duration;

    /// Whether a helper that runs as the one has something to say of a client that runs as the other.
    fn says(helper: u32, client: u32) -> bool {
        let (action, kind, scope) = (OutAction::CLEAR, ReservationType(0), Scope::LOGICAL_UNIT);
        let observer = OwnUser::new(helper);
        let before = observer.said.load(Ordering::Relaxed);
        observer.pr_out(&PrOutEvent {
            vm: "db",
            caller: &Caller { uid: client, ..Caller::default() },
            handover: None,
            lun: None,
            node: None,
            cdb: PrOutCdb { action, scope, kind, parameter_list_length: 0, control: 0 },
            parameters: &[],
            completion: &Completion::good(Vec::new()),
            refused: None,
            took: Duration::ZERO,
        });
        observer.said.load(Ordering::Relaxed) != before
    }

    #[test]
    fn the_helpers_own_user_must_not_be_its_clients() {
        assert!(says(107, 107));
        assert!(!says(107, 64055) && !says(107, 0) && !says(0, 0));
    }
}
