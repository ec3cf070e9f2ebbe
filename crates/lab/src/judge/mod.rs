//! Whether a guest that moved kept all that it was promised: from what a third initiator saw and from the guest's own diary.
//!
//! Pure. It finds a moment without the guest's key or without its reservation, another type, APTPL that was lost, a
//! foreign registration that was touched or a stranger's that came, a write that was refused or that is not there, and a
//! watch that was blind for too long to be a proof.

mod guest;
#[cfg(test)]
mod tests;

use crate::guest::Entry;
use crate::watch::{Registration, Seen, Sight};
use scsi::pr::{Key, Reservation, ReservationType};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// Whether the guest is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All the time.
    Member,
    /// It was fenced: at no time.
    Fenced,
    /// It was fenced in the course of a move: not in the end. For the time of a proof the destination may have registered it.
    FencedInMove,
}

/// What must be true all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The guest's key.
    pub key: Key,
    /// The initiator names that may be registered with it.
    pub hosts: Vec<String>,
    /// The reservation of the logical unit.
    pub kind: Option<ReservationType>,
    /// Whether it outlives a loss of power.
    pub aptpl: bool,
    /// Everybody else who is registered.
    pub foreign: Vec<Registration>,
    /// Whether the guest is registered.
    pub guest: Standing,
    /// The longest time without an answer of the target after which the watch still proves something.
    pub blind: Duration,
}

/// A promise that was broken, and when, since the watch began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The guest's key was not registered.
    KeyGap(Duration),
    /// Nobody held the reservation, or somebody who must not.
    ReservationGap(Duration),
    /// The reservation was of another type.
    Type(Duration, ReservationType),
    /// The reservation would not have outlived a loss of power.
    Aptpl(Duration),
    /// A foreign registration was not there as it was.
    Foreign(Duration, Registration),
    /// Somebody was registered who was not before.
    Stranger(Duration, Registration),
    /// The guest was registered although it was fenced.
    Unfenced(Duration),
    /// In the end the guest was registered elsewhere too, or not there.
    End(Vec<Registration>),
    /// Until this time something was seen, with so long a time without an answer in between.
    Blind(Duration, Duration),
    /// A command of the guest's was not GOOD: sequence number and status.
    Refused(u64, u8),
    /// A guest that was fenced, and had found it out, could write again.
    Wrote(u64),
    /// A guest that was fenced has not found it out.
    NotRefused,
    /// A block was not what had been written last.
    Lost(u64, Option<u64>),
    /// The guest did not go on where it had stopped: from one sequence number to another.
    Jump(u64, u64),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |at: &Duration| format!("at {:.3} s", at.as_secs_f64());
        match self {
            Self::KeyGap(when) => write!(f, "{}: the guest's key was not registered", at(when)),
            Self::ReservationGap(when) => {
                write!(f, "{}: the reservation was not held as it must be", at(when))
            }
            Self::Type(when, kind) => write!(f, "{}: the reservation was {kind}", at(when)),
            Self::Aptpl(when) => write!(f, "{}: APTPL was lost", at(when)),
            Self::Foreign(when, who) => write!(f, "{}: {} with {} was touched", at(when), who.port, who.key),
            Self::Stranger(when, who) => write!(f, "{}: {} had {}", at(when), who.port, who.key),
            Self::Unfenced(when) => write!(f, "{}: the fenced guest was registered", at(when)),
            Self::End(found) => write!(f, "in the end: {found:?}"),
            Self::Blind(to, blind) => {
                write!(f, "before {:.3} s: nothing was seen for {blind:?}", to.as_secs_f64())
            }
            Self::Refused(sequence, status) => write!(f, "block {sequence}: status {status:#04x}"),
            Self::Wrote(sequence) => write!(f, "block {sequence}: a fenced guest could write it"),
            Self::NotRefused => f.write_str("a fenced guest could write to the end"),
            Self::Lost(sequence, found) => write!(f, "block {sequence}: found {found:?}"),
            Self::Jump(from, to) => write!(f, "from block {from} to {to}"),
        }
    }
}

/// All violations; `end` is the host where the guest must be registered in the end.
#[must_use]
pub fn judge(promise: &Promise, seen: &[Vec<Sight>], diaries: &[Vec<Entry>], end: &str) -> Vec<Violation> {
    let mut found: Vec<Violation> = seen.iter().flatten().flat_map(|sight| promise.judge(sight)).collect();
    found.extend(promise.whole(seen, diaries, end));
    found
}

/// The same where something happened from outside, after which another promise holds. While it happened none did.
#[must_use]
pub fn judge_turn(
    [before, after]: [&Promise; 2],
    happened: &Range<Duration>,
    seen: &[Vec<Sight>],
    diaries: &[Vec<Entry>],
    end: &str,
) -> Vec<Violation> {
    let early = seen.iter().flatten().filter(|sight| sight.first < happened.start);
    let late = seen.iter().flatten().filter(|sight| sight.last > happened.end);
    let mut found: Vec<Violation> = early.flat_map(|sight| before.judge(sight)).collect();
    found.extend(late.flat_map(|sight| after.judge(sight)));
    found.extend(after.whole(seen, diaries, end));
    found
}

impl Promise {
    /// What is not about a single sight.
    fn whole(&self, seen: &[Vec<Sight>], diaries: &[Vec<Entry>], end: &str) -> Vec<Violation> {
        let mut found: Vec<Violation> = seen.iter().flat_map(|sights| self.blind(sights)).collect();
        found.extend(self.end(seen, end));
        found.extend(match self.guest {
            Standing::Member => guest::judge(diaries),
            Standing::Fenced | Standing::FencedInMove => guest::judge_fenced(diaries),
        });
        found
    }

    fn judge(&self, sight: &Sight) -> Vec<Violation> {
        match &sight.seen {
            Seen::Keys(keys) => self.keys(sight.from, keys),
            Seen::Reservation(reservation) => {
                self.reservation(sight.from, *reservation).into_iter().collect()
            }
            Seen::Registrations(registrations) => self.registrations(sight.from, registrations),
            Seen::Aptpl(aptpl) => {
                (self.aptpl && !aptpl).then_some(Violation::Aptpl(sight.from)).into_iter().collect()
            }
        }
    }

    /// Keys may be shared, so they are counted.
    fn keys(&self, at: Duration, keys: &[Key]) -> Vec<Violation> {
        let listed = |key: Key| keys.iter().filter(|one| **one == key).count();
        let foreign = |key: Key| self.foreign.iter().filter(|one| one.key == key).count();
        let gap = self.registered(at, listed(self.key) > foreign(self.key));
        let missing = self.foreign.iter().filter(|one| listed(one.key) < foreign(one.key));
        gap.into_iter().chain(missing.map(|one| Violation::Foreign(at, one.clone()))).collect()
    }

    /// The guest is registered, or must not be.
    const fn registered(&self, at: Duration, there: bool) -> Option<Violation> {
        match (there, self.guest) {
            (false, Standing::Member) => Some(Violation::KeyGap(at)),
            (true, Standing::Fenced) => Some(Violation::Unfenced(at)),
            _ => None,
        }
    }

    /// While it changes hands the guest's registration may have a key of the handover's own; the holder of all
    /// registrants' types has none.
    fn reservation(&self, at: Duration, found: Option<Reservation>) -> Option<Violation> {
        let (wanted, found) = match (self.kind, found) {
            (None, None) => return None,
            (Some(wanted), Some(found)) => (wanted, found),
            _ => return Some(Violation::ReservationGap(at)),
        };
        if found.kind != wanted {
            return Some(Violation::Type(at, found.kind));
        }
        let holder = self.foreign.iter().find(|one| one.holds.is_some()).map(|one| one.key);
        let right = wanted.is_all_registrants() || holder.is_none_or(|holder| holder == found.key);
        (!right).then_some(Violation::ReservationGap(at))
    }

    fn registrations(&self, at: Duration, found: &[Registration]) -> Vec<Violation> {
        let ours = |one: &&Registration| self.hosts.contains(&one.port);
        let mut violations = Vec::new();
        let touched = self.foreign.iter().filter(|one| !found.contains(one));
        violations.extend(touched.map(|one| Violation::Foreign(at, one.clone())));
        let ports: Vec<&str> = self.foreign.iter().map(|one| one.port.as_str()).collect();
        let strangers = found.iter().filter(|one| !ours(one) && !ports.contains(&one.port.as_str()));
        violations.extend(strangers.map(|one| Violation::Stranger(at, one.clone())));
        let there = found.iter().filter(ours).any(|one| one.key == self.key && !self.foreign.contains(one));
        violations.extend(self.registered(at, there));
        violations.extend(self.holders(at, found));
        violations
    }

    /// One holder; or everybody, of the all registrants' types.
    fn holders(&self, at: Duration, found: &[Registration]) -> Option<Violation> {
        let holders: Vec<ReservationType> = found.iter().filter_map(|one| one.holds).collect();
        let wanted = match self.kind {
            None => 0,
            Some(kind) if kind.is_all_registrants() => found.len(),
            Some(_) => 1,
        };
        match holders.iter().find(|kind| Some(**kind) != self.kind) {
            Some(kind) => Some(Violation::Type(at, *kind)),
            None => (holders.len() != wanted).then_some(Violation::ReservationGap(at)),
        }
    }

    fn blind(&self, sights: &[Sight]) -> Vec<Violation> {
        let long = sights.iter().filter(|sight| sight.blind > self.blind);
        let mut violations: Vec<_> = long.map(|sight| Violation::Blind(sight.to, sight.blind)).collect();
        if sights.is_empty() {
            violations.push(Violation::Blind(Duration::ZERO, Duration::MAX));
        }
        violations
    }

    fn end(&self, seen: &[Vec<Sight>], end: &str) -> Option<Violation> {
        let last = seen.iter().flatten().filter_map(|sight| match &sight.seen {
            Seen::Registrations(registrations) => Some(registrations),
            _ => None,
        });
        let last = last.into_iter().next_back()?;
        let ours: Vec<_> = last
            .iter()
            .filter(|one| self.hosts.contains(&one.port) && !self.foreign.contains(one))
            .cloned()
            .collect();
        let member = self.guest == Standing::Member;
        let right = match ours.as_slice() {
            [] => !member,
            [one] => member && one.port == end && one.key == self.key,
            _ => false,
        };
        (!right).then_some(Violation::End(ours))
    }
}
