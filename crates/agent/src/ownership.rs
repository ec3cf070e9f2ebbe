//! Who may run the guest: the rules that keep it on one host while a handover is under way and after anybody died in it.
//!
//! Each host has durable [`Marks`] in its journal and a QEMU that says how the guest stands ([`Guest`]). From these, and
//! from what the other host last told of its own, [`Standing`] answers three questions, which every program part asks
//! before it acts: may this mark be written, may `cont` be sent, and what is to be done next.
//!
//! The rules. The source journals `go` before it says so, and from then on never resumes the guest unless the destination
//! has journalled `abort`. The destination sends `cont` only after both have journalled `go`. Whoever journals `abort` first
//! makes the other's `go` impossible: the source alone decides before its `go`, the destination alone after it. What a
//! host once promised stays true, so an old message can only be too careful. *Absence* of a mark in what the
//! other told proves nothing and permits nothing.
//!
//! Pure: the tests walk every order of steps, crashes and lost messages.

mod decide;
#[cfg(test)]
mod tests;

pub use decide::{Decision, OnDoubt, Question};

use handover::Side;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A durable promise of one host in one handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Every logical unit is where the handover put it, and verified.
    Taken,
    /// Source: the guest is stopped here and is not resumed here any more. Destination: the guest is this host's, `cont` follows.
    Go,
    /// The guest runs, or may have run, at the destination.
    Ran,
    /// The handover is given up. Destination: the guest never ran here and never will by this handover.
    Abort,
    /// The registrations are proved to be the source's again; it may resume the guest.
    Back,
}

impl Mark {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Taken, Self::Go, Self::Ran, Self::Abort, Self::Back];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "taken",
            Self::Go => "go",
            Self::Ran => "ran",
            Self::Abort => "abort",
            Self::Back => "back",
        })
    }
}

/// What one host's journal says of a handover. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marks {
    /// Entries of phase Freeze or later are in the journal, so the device may have been changed. They are written on both
    /// hosts before anything is changed, and only while the guest is stopped.
    pub touched: bool,
    marks: u8,
}

impl Marks {
    const EVERY: u8 = 0b1_1111;

    /// Nothing but an opened handover.
    #[must_use]
    pub const fn new() -> Self {
        Self { touched: false, marks: 0 }
    }

    /// These and `mark`.
    #[must_use]
    pub const fn with(self, mark: Mark) -> Self {
        Self { marks: self.marks | mark.bit(), ..self }
    }

    /// These, with entries that say that the device may have been changed.
    #[must_use]
    pub const fn touched(self) -> Self {
        Self { touched: true, ..self }
    }

    /// Whether `mark` was written.
    #[must_use]
    pub const fn has(self, mark: Mark) -> bool {
        self.marks & mark.bit() != 0
    }

    /// Whether bits are set that no mark of this version has (a peer that is newer, or lies).
    #[must_use]
    pub const fn unknown(self) -> bool {
        self.marks & !Self::EVERY != 0
    }
}

impl FromIterator<Mark> for Marks {
    fn from_iter<I: IntoIterator<Item = Mark>>(marks: I) -> Self {
        marks.into_iter().fold(Self::new(), Self::with)
    }
}

/// How the guest stands in one host's QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guest {
    /// There is no QEMU, or none that has or will get the guest.
    Absent,
    /// QEMU waits for the guest or is receiving it.
    Loading,
    /// It is here, whole, and has not run since it was stopped or arrived.
    Paused,
    /// Destination: it is here, whole, and stands still, but was let run by hand before this host was given it.
    Ran,
    /// It runs, or stands in a state that only a guest that ran can reach (an I/O error, a panic, a shutdown).
    Running,
    /// QEMU is there and does not answer.
    Unknown,
}

/// One host at one moment, as it tells the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Its journal.
    pub marks: Marks,
    /// Its QEMU.
    pub guest: Guest,
}

/// What one host knows when it is about to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Which host.
    pub side: Side,
    /// Its own journal and QEMU.
    pub own: View,
    /// What the other host last told, if it can be reached.
    pub peer: Option<View>,
    /// The operator vouches that the guest did not run at the other host in this handover and will not.
    pub vouched: bool,
    /// Destination: `cont` was answered with an error, was sent only once, and the guest is still paused, so it never ran.
    pub cont_refused: bool,
    /// To have the guest is enough: it was paused before the handover began, or it was given back already, and is its
    /// operator's business since.
    pub stays_paused: bool,
    /// Source: the destination was seen to run the guest, or to have run it, without having been given it.
    pub ran_there: bool,
}

/// A mark that would break the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the {side}'s journal must not say {mark} now")]
pub struct Forbidden {
    /// Which host.
    pub side: Side,
    /// Which mark.
    pub mark: Mark,
}

impl Standing {
    /// What a host knows by itself.
    #[must_use]
    pub const fn alone(side: Side, own: View) -> Self {
        Self {
            side,
            own,
            peer: None,
            vouched: false,
            cont_refused: false,
            stays_paused: false,
            ran_there: false,
        }
    }

    /// The same, and what the other host told.
    #[must_use]
    pub const fn with_peer(self, peer: View) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// Whether `mark` may be written. Ask before every write; a mark that is there already is allowed again.
    ///
    /// [`Mark::Taken`], [`Mark::Back`] and the `go` of a destination that acts on the operator's word also need the proof that each registration is there, which only the caller has;
    /// where [`Standing::untouched`] holds `back` needs none.
    ///
    /// # Errors
    /// [`Forbidden`] where the rules do not permit it.
    pub const fn allows(&self, mark: Mark) -> Result<(), Forbidden> {
        let allowed = self.own.marks.has(mark)
            || match self.side {
                Side::Source => self.source_allows(mark),
                Side::Destination => self.destination_allows(mark),
            };
        if allowed { Ok(()) } else { Err(Forbidden { side: self.side, mark }) }
    }

    const fn source_allows(&self, mark: Mark) -> bool {
        match mark {
            Mark::Taken => !self.has(Mark::Abort),
            Mark::Go => {
                let stopped = matches!(self.own.guest, Guest::Paused | Guest::Absent);
                let taken = self.has(Mark::Taken) && self.told(Mark::Taken);
                taken && !self.has(Mark::Abort) && stopped
            }
            Mark::Ran => self.told(Mark::Ran) && (!self.has(Mark::Abort) || self.overruled()),
            Mark::Abort => {
                let undone = !self.ran_at_peer() && !self.is_old();
                let own = !self.has(Mark::Go) && !self.told(Mark::Go) && undone;
                let word = self.vouched && !self.told(Mark::Ran) && undone;
                !self.has(Mark::Ran) && (own || self.told(Mark::Abort) || word)
            }
            Mark::Back => self.has(Mark::Abort),
        }
    }

    const fn destination_allows(&self, mark: Mark) -> bool {
        match mark {
            Mark::Taken => !self.has(Mark::Abort),
            Mark::Go => {
                let here = matches!(self.own.guest, Guest::Paused | Guest::Ran) && self.has(Mark::Taken);
                let released = self.told(Mark::Go) || (self.vouched && !self.told(Mark::Abort));
                here && released && !self.has(Mark::Abort)
            }
            Mark::Ran => {
                let ran = self.stays_paused || matches!(self.own.guest, Guest::Running | Guest::Absent);
                ran && self.has(Mark::Go) && !self.has(Mark::Abort)
            }
            Mark::Abort => {
                let still = !matches!(self.own.guest, Guest::Running | Guest::Ran);
                let never_ran = !self.has(Mark::Ran) && (!self.has(Mark::Go) || self.cont_refused);
                never_ran && still || self.overruled()
            }
            Mark::Back => self.told(Mark::Back),
        }
    }

    /// Whether `cont` may be sent here: never where the other host told that the guest runs there, whoever did that.
    #[must_use]
    pub const fn may_run(&self) -> bool {
        let given = match self.side {
            Side::Source => self.has(Mark::Back) && !self.is_old(),
            Side::Destination => self.has(Mark::Go) && !self.has(Mark::Abort),
        };
        given && !self.runs_at_peer()
    }

    const fn runs_at_peer(&self) -> bool {
        matches!(self.peer, Some(View { guest: Guest::Running, .. }))
    }

    /// Source: no registration can have left it. Entries are on both hosts before a device is changed; only an operator's word
    /// lets the destination do without the source, and that word says that the guest is gone here.
    #[must_use]
    pub const fn untouched(&self) -> bool {
        let here = matches!(self.own.guest, Guest::Paused | Guest::Running);
        here && !self.own.marks.touched
    }

    /// Source: the guest ran at the destination, so what QEMU has here is older than the disks.
    const fn is_old(&self) -> bool {
        let here = matches!(self.own.guest, Guest::Paused | Guest::Loading | Guest::Unknown);
        let ran = self.ran_there || self.ran_at_peer() && !self.told(Mark::Go);
        matches!(self.side, Side::Source) && here && ran
    }

    const fn ran_at_peer(&self) -> bool {
        matches!(self.peer, Some(View { guest: Guest::Running | Guest::Ran, .. }))
    }

    /// The operator gave the guest to the other host, which this one had promised not to allow: the source gave up although
    /// it had said `go`, or the destination went although the source had given up.
    const fn overruled(&self) -> bool {
        let by_word = match self.side {
            Side::Source => {
                let went = self.told(Mark::Go) && !self.told(Mark::Abort);
                self.has(Mark::Abort) && !self.has(Mark::Go) && went
            }
            Side::Destination => self.has(Mark::Go) && self.told(Mark::Go) && self.told(Mark::Abort),
        };
        by_word && !matches!(self.own.guest, Guest::Running)
    }

    const fn has(&self, mark: Mark) -> bool {
        self.own.marks.has(mark)
    }

    const fn told(&self, mark: Mark) -> bool {
        match self.peer {
            Some(peer) => peer.marks.has(mark),
            None => false,
        }
    }
}
