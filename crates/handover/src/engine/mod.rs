//! The handover itself: [`Engine`], phase by phase. `course` is the state, `batch` one round trip, and every other file
//! one part of the way: `prepare`, `freeze`, `take` (with `identity` and `blind`), `verify`, `locate` and `undo`.

mod attention;
mod batch;
mod blind;
pub(crate) mod course;
mod freeze;
mod identity;
mod locate;
pub(crate) mod order;
mod prepare;
mod recover;
mod take;
mod undo;
mod verify;

use crate::action::{Event, Procedure, Side, Step};
use crate::facts::Facts;
use crate::known_targets::Traits;
use crate::method::Method;
use crate::plan::{self, Plan};
use crate::settings::Settings;
use course::Course;
use scsi::AdditionalSense;

/// One handover of one logical unit.
///
/// Poll it, carry out what it says, report. It stands still at [`Step::PhaseDone`]: pause the guest after `Prepare`,
/// let it run at the destination after `Verify`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    course: Course,
}

impl Engine {
    /// A handover that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { course: Course::new(settings) }
    }

    /// What was read; from the end of phase Plan to the beginning of Freeze.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        self.course.facts.as_deref()
    }

    /// What will be done; from the end of phase Plan to the beginning of Freeze.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        plan::plan(self.facts()?, &self.course.settings).ok()
    }

    /// The method in use: planned, and from the end of Freeze the one chosen in the pause.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.course.terms.method
    }

    /// The source's last right has been taken away; there is no way back.
    #[must_use]
    pub const fn committed(&self) -> bool {
        self.course.terms.committed
    }

    /// Unit attentions that own commands took from the guest's nexus and that the guest must be given once, at its owner.
    #[must_use]
    pub fn attentions(&self) -> Vec<AdditionalSense> {
        self.attentions_at(if self.committed() { Side::Destination } else { Side::Source })
    }

    /// [`Engine::attentions`] if the guest goes on at `owner`, wherever its registration is.
    #[must_use]
    pub fn attentions_at(&self, owner: Side) -> Vec<AdditionalSense> {
        self.course.attentions.owed(owner)
    }

    /// Another node may have changed APTPL between our reading and our REGISTER, which then set it back.
    #[must_use]
    pub const fn aptpl_may_have_changed(&self) -> bool {
        self.course.terms.aptpl_doubt
    }

    /// How often the guest's key is still listed beyond its own registrations and those of known sharers: a node that
    /// began to share it, or a session of the source's name that nobody has any more.
    #[must_use]
    pub const fn keys_unaccounted_for(&self) -> u16 {
        self.course.terms.surplus
    }

    /// The destination's paths, as a bit mask, that could not be registered because another guest occupies them.
    #[must_use]
    pub const fn paths_left_out(&self) -> u8 {
        self.course.terms.others_open
    }

    /// What is known of the target, once it has told what it is.
    pub(crate) const fn traits(&self) -> &Traits {
        &self.course.terms.traits
    }

    /// Subtracts `by` from every PRGENERATION in the state, for searches that keep it relative.
    pub fn shift_generation(&mut self, by: u32) {
        self.course.shift_generation(by);
    }
}

impl Procedure for Engine {
    fn poll(&mut self) -> Step {
        self.course.poll()
    }

    fn handle(&mut self, event: Event) {
        self.course.handle(event);
    }
}
