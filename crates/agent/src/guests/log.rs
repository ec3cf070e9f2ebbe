//! A guest's journal as a migration writes to it.

use crate::conduct::NotDurable;
use crate::journal::{Begun, Book, Error, Handover, Lun as BegunLun, OwnPath};
use crate::migrate::{Begin, Last, Leg, Log, Lun};
use crate::ownership::{Mark, Marks};
use handover::{Entry, UnitIndex};
use ledger::HandoverId;
use peer::message::Options;
use scsi::pr::Key;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The open handover of a journal, or its last one.
#[derive(Debug)]
pub(super) struct BookLog {
    book: Mutex<Book>,
    begin: Begin,
}

impl BookLog {
    /// A handover begins.
    pub(super) fn begin(mut book: Book, begin: &Begin) -> Result<Self, Error> {
        book.begin(begun(begin))?;
        Ok(Self { book: Mutex::new(book), begin: begin.clone() })
    }

    /// What the journal has open; `None` if nothing is.
    pub(super) fn open(book: Book) -> Option<Self> {
        let begin = book.open_handover().map(|handover| from_begun(&handover.begun))?;
        Some(Self { book: Mutex::new(book), begin })
    }

    /// The last handover of a journal, also one that has ended.
    pub(super) fn last(book: Book) -> Option<Self> {
        let begin = book.handovers().last().map(|handover| from_begun(&handover.begun))?;
        Some(Self { book: Mutex::new(book), begin })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, look: impl FnOnce(&Handover) -> T) -> Option<T> {
        self.book().handovers().last().map(look)
    }
}

/// A journal that cannot be written, in the words of a handover.
fn not_durable(error: &Error) -> NotDurable {
    NotDurable(error.to_string())
}

impl Log for BookLog {
    fn entries(&self, round: u64, leg: Leg, entries: &[(UnitIndex, Entry)]) -> Result<(), NotDurable> {
        let mut book = self.book();
        let there = |unit: &UnitIndex| {
            book.open_handover().is_some_and(|handover| handover.turn(*unit).is_multiple_of(2))
        };
        let wrong = |unit: &UnitIndex| there(unit) == (leg == Leg::Back);
        let turned: Vec<_> = entries.iter().map(|(unit, _)| *unit).filter(wrong).collect();
        if !turned.is_empty() {
            book.turn(turned).map_err(|error| not_durable(&error))?;
        }
        book.entries(round, entries.to_vec()).map_err(|error| not_durable(&error))
    }

    fn mark(&self, mark: Mark) -> Result<(), NotDurable> {
        self.book().mark(mark).map_err(|error| not_durable(&error))
    }

    fn begun(&self) -> &Begin {
        &self.begin
    }

    fn marks(&self) -> Marks {
        self.with(Handover::promises).unwrap_or_default()
    }

    fn resumed(&self) -> Result<(), NotDurable> {
        self.book().resumed().map_err(|error| not_durable(&error))
    }

    fn was_resumed(&self) -> bool {
        self.with(|handover| handover.resumed).unwrap_or_default()
    }

    fn saw_ran_there(&self) -> Result<(), NotDurable> {
        self.book().ran_there().map_err(|error| not_durable(&error))
    }

    fn ran_there(&self) -> bool {
        self.with(|handover| handover.ran_there).unwrap_or_default()
    }

    fn last(&self) -> Vec<Option<Last>> {
        self.with(last).unwrap_or_default()
    }

    fn end(&self, verdict: &str) -> Result<(), NotDurable> {
        self.book().end(verdict).map_err(|error| not_durable(&error))
    }
}

/// The last entry of each unit of a handover.
pub(super) fn last(handover: &Handover) -> Vec<Option<Last>> {
    let of = |unit: usize| {
        let last = handover.last.get(&UnitIndex(u16::try_from(unit).ok()?))?;
        let leg = if last.turn.is_multiple_of(2) { Leg::There } else { Leg::Back };
        Some(Last { leg, entry: last.entry })
    };
    (0..handover.begun.luns.len()).map(of).collect()
}

fn begun(begin: &Begin) -> Begun {
    let lun = |(place, lun): (usize, &Lun)| BegunLun {
        lun: lun.name.clone(),
        own: lun
            .nodes
            .iter()
            .zip(&lun.ports)
            .map(|(node, port)| OwnPath { device: node.clone(), port: port.clone() })
            .collect(),
        peer: begin.theirs.get(place).cloned().unwrap_or_default(),
        key: lun.key,
        nonce: begin.nonces.get(place).copied().unwrap_or(Key::NONE),
        target: lun.target,
    };
    Begun {
        handover: HandoverId(begin.handover),
        uuid: begin.uuid.clone(),
        side: begin.side,
        peer: begin.peer.clone(),
        luns: begin.luns.iter().enumerate().map(lun).collect(),
        method: begin.options.method.as_deref().and_then(|method| method.parse().ok()),
        allow_absence: begin.options.allow_absence,
        stays_paused: !begin.was_running,
        orchestrated: begin.options.orchestrated,
    }
}

/// How a handover began, from its journal.
#[must_use]
pub fn from_begun(begun: &Begun) -> Begin {
    let lun = |lun: &BegunLun| Lun {
        name: lun.lun.clone(),
        key: lun.key,
        nodes: lun.own.iter().map(|path| path.device.clone()).collect(),
        ports: lun.own.iter().map(|path| path.port.clone()).collect(),
        identity_is_ours: false,
        target: lun.target,
    };
    Begin {
        handover: begun.handover.0,
        uuid: begun.uuid.clone(),
        side: begun.side,
        peer: begun.peer.clone(),
        luns: begun.luns.iter().map(lun).collect(),
        theirs: begun.luns.iter().map(|lun| lun.peer.clone()).collect(),
        options: Options {
            method: begun.method.map(|method| method.to_string()),
            allow_absence: begun.allow_absence,
            stay_paused: begun.stays_paused,
            plan_only: false,
            orchestrated: begun.orchestrated,
        },
        nonces: begun.luns.iter().map(|lun| lun.nonce).collect(),
        was_running: !begun.stays_paused,
    }
}
