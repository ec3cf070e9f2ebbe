//! After a course that failed: what the VM that serves the logical unit says, and whether it is the kernel's target that hangs.

use super::{Hosts, Target};
use crate::vm::Vm;
use anyhow::Error;
use iscsi::initiator::SessionError;
use nexus::TransportError;
use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

/// How long anybody may take to say something now.
const MOMENT: Duration = Duration::from_secs(20);
/// What every CPU does, what is blocked, what the target's own threads wait for, and the end of the kernel's log.
const QUESTION: &str = "for what in l w; do echo $what >/proc/sysrq-trigger; done; \
                        for task in $(grep -l '^iscsi' /proc/[0-9]*/comm); do \
                        cat $task; head -n 4 ${task%comm}stack; done; dmesg | tail -n 100";
/// What a kernel says of itself when something in it hangs or has broken.
const ALARMS: [&str; 6] =
    ["blocked for more than", "soft lockup", "detected stalls", "BUG:", "Oops:", "general protection fault"];
/// The initiator port that nobody else is.
const INQUIRER: u8 = 9;

/// The kernel's target hangs: nobody of ours had a part in that. It has what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHangs(String);

impl TargetHangs {
    /// With what shows it.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for TargetHangs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's target hangs ({})", self.0)
    }
}

impl Hosts {
    /// The error of a course with what the storage's VM says. [`TargetHangs`] is found in it if a session of this machine's own lost
    /// the kernel's target and that kernel says that it hangs, or answers while none of the initiators reaches the target.
    #[must_use]
    pub fn inquire(&mut self, error: &Error) -> Error {
        let answered = ask(&mut self.storage);
        let (answers, told) = match answered {
            Ok(told) => (true, told),
            Err(error) => (false, format!("{error:#}\n{}", self.storage.last_words(100))),
        };
        let whole = anyhow::anyhow!("{error:#}\nthe storage's VM says:\n{told}");
        if self.target != Target::Lio || !is_lost(error) {
            return whole;
        }
        let shown = alarm(&told).map(str::to_owned);
        let shown =
            shown.or_else(|| (answers && self.nobody_reaches_it()).then(|| "nobody reaches it".into()));
        match shown {
            Some(why) => whole.context(TargetHangs(why)),
            None => whole,
        }
    }

    fn nobody_reaches_it(&mut self) -> bool {
        let reached = self.log_in("bystander", INQUIRER).is_ok();
        !reached
            && self.hosts.iter_mut().all(|host| {
                let disk = host.disk.display().to_string();
                let argv = ["/lab/programs/tenure", "-q", "pr", "read-keys", &disk];
                host.vm.run(&argv, MOMENT).map_or(true, |ended| ended.code != 0)
            })
    }
}

fn ask(storage: &mut Vm) -> anyhow::Result<String> {
    Ok(storage.run(&["sh", "-c", QUESTION], MOMENT)?.out)
}

/// Whether a session of this machine's own lost the target. What the guest is asked has its own way, and may fail by our own fault.
fn is_lost(error: &Error) -> bool {
    let lost = |cause: &(dyn StdError + 'static)| match cause.downcast_ref() {
        Some(TransportError::NotSent(why) | TransportError::OutcomeUnknown(why)) => {
            why.kind() != ErrorKind::Other
        }
        None => matches!(cause.downcast_ref(), Some(SessionError::Transport(_))),
    };
    error.chain().any(lost)
}

/// The first line in which the kernel says that something is wrong with it.
fn alarm(log: &str) -> Option<&str> {
    log.lines().find(|line| ALARMS.iter().any(|alarm| line.contains(alarm))).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn only_a_session_of_our_own_that_is_lost_counts() {
        let timed_out = || io::Error::from(ErrorKind::TimedOut);
        let watcher = Error::new(TransportError::OutcomeUnknown(timed_out())).context("the watcher");
        assert!(is_lost(&watcher));
        assert!(is_lost(&Error::new(SessionError::Transport(timed_out())).context("member")));
        // As the guest's orders end that nobody answers.
        assert!(!is_lost(&Error::new(TransportError::OutcomeUnknown(io::Error::other("no answer")))));
        assert!(!is_lost(&anyhow::anyhow!("the guest does not write")));
    }

    #[test]
    fn a_kernel_that_hangs_says_so_and_one_at_work_does_not() {
        let blocked = "[  90.1] INFO: task iscsi_trx:412 blocked for more than 30 seconds.";
        assert_eq!(alarm(&format!("[ 1.0] hello\n{blocked}\n")), Some(blocked));
        assert_eq!(alarm("sysrq: Show Blocked State\nExpected Transfer Length does not match\n"), None);
    }

    #[test]
    fn whoever_asks_finds_the_target_in_the_error() {
        let error = anyhow::anyhow!("lost").context(TargetHangs::new("soft lockup"));
        assert!(error.downcast_ref::<TargetHangs>().is_some());
        assert_eq!(format!("{error:#}"), "the kernel's target hangs (soft lockup): lost");
    }
}
