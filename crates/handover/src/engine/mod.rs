//! The handover itself.

use crate::action::{Event, Procedure, Step};
use crate::facts::Facts;
use crate::method::Method;
use crate::plan::Plan;
use crate::settings::{Settings, Shared};
use crate::verdict::{Reason, Verdict};
use scsi::AdditionalSense;

/// One handover of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    settings: Shared,
    facts: Option<Box<Facts>>,
}

impl Engine {
    /// A handover that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Shared::new(settings), facts: None }
    }

    /// What was read; from the end of phase Plan to the beginning of Freeze.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    /// What will be done; from the end of phase Plan to the beginning of Freeze.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        None
    }

    /// The method in use: planned, and after Freeze the one chosen in the pause.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        self.settings.method
    }

    /// The destination has the registration.
    #[must_use]
    pub const fn committed(&self) -> bool {
        false
    }

    /// Unit attentions that own commands took from the guest's nexus and that the guest must be given once, at its owner.
    #[must_use]
    pub const fn attentions(&self) -> &[AdditionalSense] {
        &[]
    }

    /// Another node may have changed APTPL between our reading and our REGISTER, which then set it back.
    #[must_use]
    pub const fn aptpl_may_have_changed(&self) -> bool {
        false
    }

    /// Subtracts `by` from every PRGENERATION in the state, for searches that keep it relative.
    pub const fn shift_generation(&mut self, _by: u32) {}
}

impl Procedure for Engine {
    fn poll(&mut self) -> Step {
        Step::Finished(Verdict::Refused(Reason::NotSupported))
    }

    fn handle(&mut self, _event: Event) {}
}
