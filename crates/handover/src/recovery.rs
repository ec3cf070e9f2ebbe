//! Puts an interrupted handover in order: from the journal entries of both hosts and a fresh look at the device it
//! finishes, undoes, or says what happened. Decisions rest on probes alone, so a crash during it changes nothing.

use crate::action::{Event, Procedure, Step};
use crate::journal::Entry;
use crate::settings::{Port, Settings, Shared};
use crate::verdict::{Doubt, Verdict};
use scsi::pr::Key;

/// What a recovery is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remains {
    /// The last entry of the source's journal, if it can be read.
    pub source_entry: Option<Entry>,
    /// The last entry of the destination's journal, if it can be read.
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
}

/// One recovery of one logical unit. `Moved` says that the destination has the registration, `KeptAtSource` that the
/// source has it; if the guest cannot be resumed there, an ordinary handover with the sides exchanged follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    remains: Shared,
}

impl Recovery {
    /// A recovery that has not begun.
    #[must_use]
    pub fn new(remains: Remains) -> Self {
        let port = remains.source.first().cloned().unwrap_or_default();
        Self { remains: Shared::new(Settings::new(None, Key::NONE, port.clone(), port)) }
    }
}

impl Procedure for Recovery {
    fn poll(&mut self) -> Step {
        let doubt = if self.remains.source_alive { Doubt::Mismatch } else { Doubt::SourceUnreachable };
        Step::Finished(Verdict::InDoubt(doubt))
    }

    fn handle(&mut self, _event: Event) {}
}
