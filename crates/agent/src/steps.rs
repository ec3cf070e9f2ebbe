//! The steps of a handover that outlive this process: lines of the journal, changes of the record, orders to QEMU, commands
//! to the devices. Whoever composes an agent may give it an [`Observer`], which is called on the thread that takes the step, before
//! it and after it, and may take its time. `tenure agent` gives none.
//!
//! It is how a test kills any process of a handover exactly before or after a step, each step once, none by luck.

use crate::conduct::{Hands, Report};
use crate::migrate::End;
use crate::ownership::Mark;
use handover::{Action, UnitIndex};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Something that outlives the process that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A handover begins in the journal.
    Begin,
    /// Entries of a round, of all its units together.
    Entries,
    /// Units go the other way from here on.
    Turn,
    /// A promise of this host's.
    Mark(Mark),
    /// A line of the journal: the guest was given back and runs again.
    Resumed,
    /// The handover ends in the journal.
    End,
    /// The record says `handover`, and is locked.
    Freeze,
    /// The record says what became of the guest here.
    Settle(End),
    /// Commands are sent to this host's nexuses, all those of a round.
    Commands,
    /// QEMU is told to do something.
    Qemu(Told),
}

/// What QEMU is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To wait for the guest.
    Listen,
    /// To send it.
    Send,
    /// To stop it.
    Stop,
    /// To switch over.
    SwitchOver,
    /// To give up sending it.
    Cancel,
    /// To run it.
    Cont,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin => f.write_str("begin"),
            Self::Entries => f.write_str("entries"),
            Self::Turn => f.write_str("turn"),
            Self::Mark(mark) => write!(f, "mark-{mark}"),
            Self::Resumed => f.write_str("resumed"),
            Self::End => f.write_str("end"),
            Self::Freeze => f.write_str("freeze"),
            Self::Settle(end) => f.write_str(match end {
                End::Arrived => "settle-arrived",
                End::Departed => "settle-departed",
                End::Kept => "settle-kept",
                End::Refused => "settle-refused",
            }),
            Self::Commands => f.write_str("commands"),
            Self::Qemu(told) => f.write_str(match told {
                Told::Listen => "qemu-listen",
                Told::Send => "qemu-send",
                Told::Stop => "qemu-stop",
                Told::SwitchOver => "qemu-switch-over",
                Told::Cancel => "qemu-cancel",
                Told::Cont => "qemu-cont",
            }),
        }
    }
}

/// Is told of each step of a guest's handovers. It decides nothing: what it returns from goes on.
pub trait Observer: Send + Sync {
    /// The step comes next; nothing of it was done.
    fn before(&self, vm: &str, step: &Step);
    /// It was taken, or failed. A line of the journal or of the record that was written is durable.
    fn after(&self, vm: &str, step: &Step);
}

/// The steps of one guest, observed by somebody or by nobody.
#[derive(Clone, Default)]
pub struct Steps(Option<(Arc<dyn Observer>, Arc<str>)>);

impl Steps {
    /// Those of the guest `vm`.
    #[must_use]
    pub fn observed(observer: Option<Arc<dyn Observer>>, vm: &str) -> Self {
        Self(observer.map(|observer| (observer, vm.into())))
    }

    /// Takes a step.
    pub fn take<T>(&self, step: Step, act: impl FnOnce() -> T) -> T {
        let Some((observer, vm)) = &self.0 else { return act() };
        observer.before(vm, &step);
        let done = act();
        observer.after(vm, &step);
        done
    }

    /// Hands whose rounds are steps.
    #[must_use]
    pub fn hands(&self, hands: Box<dyn Hands>) -> Box<dyn Hands> {
        if self.0.is_none() { hands } else { Box::new(Observed { hands, steps: self.clone() }) }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.0.as_ref().map(|(_, vm)| vm)).finish()
    }
}

struct Observed {
    hands: Box<dyn Hands>,
    steps: Steps,
}

impl Hands for Observed {
    fn carry_out(&mut self, actions: &[(UnitIndex, Action)], deadline: Instant) -> Vec<Report> {
        let hands = &mut self.hands;
        self.steps.take(Step::Commands, || hands.carry_out(actions, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, Journals};
    use handover::Side;
    use ledger::HandoverId;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use tempfile::TempDir;

    /// Writes down each step with the length that the journal has at that moment.
    struct Diary {
        journal: PathBuf,
        lines: Mutex<Vec<(String, usize)>>,
    }

    impl Diary {
        fn note(&self, when: &str, vm: &str, step: &Step) {
            let lines = std::fs::read_to_string(&self.journal).unwrap_or_default().lines().count();
            self.lines.lock().unwrap().push((format!("{when} {vm} {step}"), lines));
        }
    }

    impl Observer for Diary {
        fn before(&self, vm: &str, step: &Step) {
            self.note("before", vm, step);
        }

        fn after(&self, vm: &str, step: &Step) {
            self.note("after", vm, step);
        }
    }

    fn begun() -> Begun {
        Begun {
            handover: HandoverId(7),
            uuid: "u".into(),
            side: Side::Source,
            peer: "b".into(),
            luns: Vec::new(),
            method: None,
            allow_absence: false,
            stays_paused: false,
            orchestrated: false,
        }
    }

    #[test]
    fn each_line_of_a_journal_is_told_before_it_is_written_and_when_it_is_there() {
        let state = TempDir::new().unwrap();
        let journal = state.path().join("handovers/web.log");
        let diary = Arc::new(Diary { journal, lines: Mutex::default() });
        let journals = Journals::new(state.path(), "a").observed(Some(diary.clone()));
        let mut book = journals.open("web").unwrap();
        book.begin(begun()).unwrap();
        book.mark(Mark::Abort).unwrap();
        // It is there already, so nothing is written.
        book.mark(Mark::Abort).unwrap();
        book.end("kept").unwrap();
        let lines = diary.lines.lock().unwrap().clone();
        let expected = [
            ("before web begin", 1),
            ("after web begin", 2),
            ("before web mark-abort", 2),
            ("after web mark-abort", 3),
            ("before web end", 3),
            ("after web end", 4),
        ];
        assert_eq!(lines, expected.map(|(line, length)| (line.to_owned(), length)));
    }

    #[test]
    fn a_step_that_nobody_observes_is_taken() {
        assert_eq!(Steps::default().take(Step::Begin, || 7), 7);
    }
}
