//! What is recorded of one logical unit of one guest, and how each change changes it.

use crate::change::{Change, Intended};
use crate::names::{HandoverId, LunId, PathId};
use handover::Tracked;
use scsi::pr::ReservationType;
use std::collections::VecDeque;
use std::fmt;

/// Unit attentions kept for a nexus; like a device server's queue, a full one drops what comes last.
pub const MOST_OWED: usize = 32;

/// Changes kept as history.
pub const MOST_HISTORY: usize = 16;

/// Where the guest's registration stands (the words of `tenure status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// The guest runs here, and what is recorded is what it has.
    #[default]
    Active,
    /// A handover is under way; the guest's PERSISTENT RESERVE OUT waits.
    Handover,
    /// It was handed over to another host.
    Moved,
    /// Somebody else removed the registration.
    Fenced,
    /// The target forgot it.
    Lost,
    /// Nobody can be sure until the device has been asked.
    Unverified,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Active, Self::Handover, Self::Moved, Self::Fenced, Self::Lost, Self::Unverified];

    /// The word for it in files and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Handover => "handover",
            Self::Moved => "moved",
            Self::Fenced => "fenced",
            Self::Lost => "lost",
            Self::Unverified => "unverified",
        }
    }

    /// The guest is not, or not surely, here: only the handover that brought this state ends it, or another one.
    #[must_use]
    pub const fn is_away(self) -> bool {
        matches!(self, Self::Handover | Self::Moved)
    }

    /// The state of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What one I_T nexus has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRecord {
    /// The nexus.
    pub path: PathId,
    /// The device node through which it was last seen.
    pub node: String,
    /// What it has registered and holds.
    pub tracked: Tracked,
    /// Written before a command that can change `tracked`, and not yet followed by its result.
    pub intent: Option<Intended>,
    /// Sense data of unit attentions that own commands took, owed to the guest, oldest first; at most [`MOST_OWED`].
    pub owed: VecDeque<Vec<u8>>,
}

impl PathRecord {
    const fn new(path: PathId) -> Self {
        let tracked = Tracked { key: None, held: None, aptpl: false, all_target_ports: false };
        Self { path, node: String::new(), tracked, intent: None, owed: VecDeque::new() }
    }
}

/// A change and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Milliseconds since 1970 UTC, as this host's clock had it.
    pub at: u64,
    /// The change.
    pub change: Change,
}

/// What is recorded of one logical unit of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The logical unit.
    pub lun: LunId,
    /// Where it stands.
    pub state: State,
    /// Where it stands but for a handover: what was found last, also while [`State::is_away`] hides it.
    pub found: State,
    /// Every nexus that was ever used, in the order of their names.
    pub paths: Vec<PathRecord>,
    /// PRGENERATION last seen.
    pub generation: Option<u32>,
    /// The type of the reservation, whoever holds it, as last read of the device; `None`: none, or never read.
    pub reservation: Option<ReservationType>,
    /// The handover that is under way, or that ended in this state.
    pub handover: Option<HandoverId>,
    /// Why it is in this state, in words.
    pub doubt: Option<String>,
    /// The last intents, commits and states, oldest first; at most [`MOST_HISTORY`].
    pub history: VecDeque<Past>,
}

impl Record {
    /// A logical unit of which nothing is recorded.
    #[must_use]
    pub const fn new(lun: LunId) -> Self {
        Self {
            lun,
            state: State::Active,
            found: State::Active,
            paths: Vec::new(),
            generation: None,
            reservation: None,
            handover: None,
            doubt: None,
            history: VecDeque::new(),
        }
    }

    /// What is recorded of this nexus.
    #[must_use]
    pub fn path(&self, path: &PathId) -> Option<&PathRecord> {
        self.paths.iter().find(|known| known.path == *path)
    }

    /// The state as it can be vouched for: an open intent makes it unverified, also that of a guest that was fenced or lost
    /// its registration, whose command may have made it a registrant again. A handover has its own say.
    #[must_use]
    pub fn standing(&self) -> State {
        let open = self.paths.iter().any(|path| path.intent.is_some());
        let handed_over = matches!(self.state, State::Handover | State::Moved);
        if open && !handed_over { State::Unverified } else { self.state }
    }

    /// What a nexus with this is to the reservation: `holder`, `all-registrants`, `member` (another holds it),
    /// `registrant-only` (no reservation is known) or `unregistered`.
    #[must_use]
    pub const fn role(&self, tracked: &Tracked) -> &'static str {
        match (tracked.key, tracked.held, self.reservation) {
            (None, ..) => "unregistered",
            (_, Some(kind), _) if kind.is_all_registrants() => "all-registrants",
            (_, Some(_), _) => "holder",
            (_, None, Some(_)) => "member",
            (_, None, None) => "registrant-only",
        }
    }

    /// Takes the change in. Never fails.
    pub(crate) fn apply(&mut self, at: u64, change: &Change) {
        match change {
            Change::Seen { path, node } => self.entry(path).node.clone_from(node),
            Change::Intent { path, intended } => self.entry(path).intent = Some(*intended),
            Change::Commit { path, tracked, generation } => self.commit(path, *tracked, *generation),
            Change::Owed { path, sense } => self.owe(path, sense.as_deref()),
            Change::Reservation { kind } => self.reservation = *kind,
            Change::State { state, handover, why } => self.enter(*state, *handover, why.as_ref()),
        }
        if change.is_history() {
            self.history.push_back(Past { at, change: change.clone() });
            self.history.drain(..self.history.len().saturating_sub(MOST_HISTORY));
        }
    }

    /// What is found of a guest that is away, by a command that was under way when it went, does not bring it back.
    fn enter(&mut self, state: State, handover: Option<HandoverId>, why: Option<&String>) {
        let of_the_handover = handover.is_some() && handover == self.handover;
        let hidden = self.state.is_away() && !state.is_away() && !of_the_handover;
        if !state.is_away() {
            self.found = state;
        }
        if !hidden {
            self.state = state;
            self.handover = handover;
            self.doubt = why.cloned();
        }
    }

    fn commit(&mut self, path: &PathId, tracked: Tracked, generation: Option<u32>) {
        let entry = self.entry(path);
        entry.tracked = tracked;
        entry.intent = None;
        self.generation = generation.or(self.generation);
    }

    fn owe(&mut self, path: &PathId, sense: Option<&[u8]>) {
        let owed = &mut self.entry(path).owed;
        match sense {
            Some(sense) if owed.len() < MOST_OWED => owed.push_back(sense.to_vec()),
            Some(_) => {}
            None => drop(owed.pop_front()),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the index is where it was found, or just inserted")]
    fn entry(&mut self, path: &PathId) -> &mut PathRecord {
        let at = match self.paths.binary_search_by(|known| known.path.cmp(path)) {
            Ok(at) => at,
            Err(at) => {
                self.paths.insert(at, PathRecord::new(path.clone()));
                at
            }
        };
        &mut self.paths[at]
    }
}
