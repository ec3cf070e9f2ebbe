//! Puts an interrupted handover in order: from the journal entries of both hosts and a fresh look at the device it
//! finishes, undoes, or says what happened. It concludes from probes and from the journal alone, and journals before it
//! brings about what these could not tell, so that a crash during recovery is like any other crash.

use crate::action::{Event, Procedure, Side, Step};
use crate::engine::course::{At, Course};
use crate::journal::{Entry, Stage};
use crate::known_targets::{KnownTargets, Traits};
use crate::settings::{Port, Settings};
use crate::verdict::{Cause, Doubt, Verdict};
use scsi::AdditionalSense;

/// What a recovery is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remains {
    /// The last entry of this handover in the source's journal, if it can be read.
    pub source_entry: Option<Entry>,
    /// The last entry of this handover in the destination's journal, if it can be read.
    pub destination_entry: Option<Entry>,
    /// The source's paths.
    pub source: Vec<Port>,
    /// The destination's paths.
    pub destination: Vec<Port>,
    /// The source can send commands.
    pub source_alive: bool,
    /// The destination can send commands.
    pub destination_alive: bool,
    /// The guest cannot be resumed at the source any more (its process is gone): rather finish than undo.
    pub prefer_destination: bool,
    /// The guest was given back to the source since the last entry and may run there: it is never moved then, and nothing is
    /// asked of its nexus, which is the guest's alone. What it has there by now is not for this recovery to say.
    pub kept_at_source: bool,
    /// What is known of the target.
    pub traits: Traits,
}

/// One recovery of one logical unit.
///
/// `Moved` says that the destination has the registration, `KeptAtSource` that the source has it. If the guest cannot be
/// resumed there, an ordinary handover with the sides exchanged follows. Phases are not reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    course: Course,
}

impl Recovery {
    /// A recovery that has not begun. Entries are on both hosts before anything is changed, so a living host without one
    /// means that nothing was, and it ends at once.
    #[must_use]
    pub fn new(remains: Remains) -> Self {
        let entry = remains.source_entry.into_iter().chain(remains.destination_entry).max_by_key(|e| e.stage);
        let Some(mut entry) = entry else {
            let asked = remains.source_alive || remains.destination_alive;
            return Self { course: Course::without_entry(asked) };
        };
        if remains.kept_at_source && entry.stage < Stage::UndoProved {
            entry.stage = Stage::UndoProved;
        }
        let Remains { traits, prefer_destination, destination_alive, kept_at_source, .. } = remains;
        let mut course = Course::recover(remains.settings(&entry), &entry);
        course.terms.traits = traits;
        course.terms.prefer_destination = prefer_destination;
        course.terms.destination_alive = destination_alive;
        course.terms.given_back = kept_at_source;
        course.begin_recovery(entry.stage);
        Self { course }
    }

    /// See [`Engine::aptpl_may_have_changed`](crate::Engine::aptpl_may_have_changed).
    #[must_use]
    pub const fn aptpl_may_have_changed(&self) -> bool {
        self.course.terms.aptpl_doubt
    }

    /// See [`Engine::attentions_at`](crate::Engine::attentions_at).
    #[must_use]
    pub fn attentions_at(&self, owner: Side) -> Vec<AdditionalSense> {
        self.course.attentions.owed(owner)
    }

    /// Subtracts `by` from every PRGENERATION in the state, for searches that keep it relative.
    pub fn shift_generation(&mut self, by: u32) {
        self.course.shift_generation(by);
    }
}

impl Remains {
    /// What a destination knows whose source is gone: rather finish than undo.
    #[must_use]
    pub fn of_destination_alone(entry: Option<Entry>, source: Vec<Port>, destination: Vec<Port>) -> Self {
        Self {
            source_entry: None,
            destination_entry: entry,
            source,
            destination,
            source_alive: false,
            destination_alive: true,
            prefer_destination: true,
            kept_at_source: false,
            traits: Traits::default(),
        }
    }

    fn settings(self, entry: &Entry) -> Settings {
        Settings {
            key: Some(entry.key),
            nonce: entry.nonce,
            source: self.source,
            destination: self.destination,
            source_alive: self.source_alive,
            identity_is_ours: false,
            allow_absence: true,
            method: None,
            targets: KnownTargets::none(),
            survey: None,
        }
    }
}

impl Course {
    fn without_entry(asked: bool) -> Self {
        let nobody = Port::default();
        let mut course = Self::new(Settings::new(None, scsi::pr::Key::NONE, nobody.clone(), nobody));
        course.at = At::End(if asked {
            Verdict::KeptAtSource { cause: Cause::Recovered, leftover: false }
        } else {
            Verdict::InDoubt(Doubt::SourceUnreachable)
        });
        course
    }
}

impl Procedure for Recovery {
    fn poll(&mut self) -> Step {
        loop {
            match self.course.poll() {
                Step::PhaseDone(_) => self.course.handle(Event::Proceed),
                step => return step,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        if matches!(event, Event::Completed { .. } | Event::JournalFailed) {
            self.course.handle(event);
        }
    }
}
