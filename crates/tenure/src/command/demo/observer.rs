//! The third node: writes and reads keys and reservation all the while, and remembers whatever it should not see.

use super::cluster::{self, GUEST};
use crate::command::pr::unit_attention;
use agent::drive::words;
use anyhow::{Context, Result, bail};
use nexus::Nexus;
use scsi::pr::{InAction, ReadKeys, ReadReservation, ReservationType, request};
use scsi::{Completion, Request, Status};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// Longest list of things that should not be: the first ones tell enough.
const MAX_TROUBLES: usize = 16;

/// What the third node saw.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Seen {
    /// How often it looked.
    pub(super) looks: u64,
    /// Looks at which the guest's key was not listed.
    pub(super) key_missing: u64,
    /// Looks at which there was no reservation.
    pub(super) reservation_missing: u64,
    /// Looks at which the reservation had another type.
    pub(super) type_changed: u64,
    /// Own writes that ended otherwise than the reservation demands.
    pub(super) wrong_writes: u64,
    /// Own writes that ended GOOD.
    pub(super) writes_passed: u64,
    /// Own writes that the reservation kept out, as it should.
    pub(super) writes_excluded: u64,
    /// Unit attentions it was given.
    pub(super) unit_attentions: u64,
    /// The first of these, in words.
    pub(super) troubles: Vec<String>,
}

impl Seen {
    /// Nothing that should not be. Method *destination nonce* alone may leave the key out for a moment.
    pub(super) const fn is_clean(&self, key_may_be_absent: bool, attentions_allowed: bool) -> bool {
        self.looks > 0
            && (key_may_be_absent || self.key_missing == 0)
            && (attentions_allowed || self.unit_attentions == 0)
            && self.reservation_missing == 0
            && self.type_changed == 0
            && self.wrong_writes == 0
    }

    fn trouble(&mut self, text: String) {
        if self.troubles.len() < MAX_TROUBLES {
            self.troubles.push(text);
        }
    }
}

/// Shared with the thread that looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    end: AtomicBool,
    looks: AtomicU64,
}

impl Watch {
    /// Starts looking.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut nexus: impl Nexus + 'scope,
        kind: ReservationType,
    ) -> ScopedJoinHandle<'scope, Result<Seen>> {
        scope.spawn(move || {
            let mut seen = Seen::default();
            while !self.end.load(Ordering::Acquire) {
                look(&mut nexus, kind, &mut seen)?;
                self.looks.store(seen.looks, Ordering::Release);
            }
            Ok(seen)
        })
    }

    /// Waits until it has looked that often again.
    pub(super) fn wait_for_looks(
        &self,
        more: u64,
        watcher: &ScopedJoinHandle<'_, Result<Seen>>,
    ) -> Result<()> {
        let until = self.looks.load(Ordering::Acquire) + more;
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.looks.load(Ordering::Acquire) < until {
            if watcher.is_finished() || Instant::now() > deadline {
                bail!("the watching node stopped looking");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Ends the looking, also if nobody waits for the result.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Release);
    }
}

/// One look: keys, reservation, and a write of its own.
fn look(nexus: &mut dyn Nexus, kind: ReservationType, seen: &mut Seen) -> Result<()> {
    let keys = ask(nexus, &request::read(InAction::READ_KEYS, 1024), seen)?;
    let keys = ReadKeys::parse(&keys.data).with_context(|| words::status(&keys))?.keys;
    if !keys.contains(&GUEST) {
        seen.key_missing += 1;
        seen.trouble(format!("the guest's key is not listed: {keys:?}"));
    }
    let held = ask(nexus, &request::read(InAction::READ_RESERVATION, 24), seen)?;
    match ReadReservation::parse(&held.data).with_context(|| words::status(&held))?.reservation {
        None => {
            seen.reservation_missing += 1;
            seen.trouble("there is no reservation".into());
        }
        Some(held) if held.kind != kind => {
            seen.type_changed += 1;
            seen.trouble(format!("the reservation is {} now", held.kind));
        }
        Some(_) => {}
    }
    let number = seen.looks;
    let wrote = ask(nexus, &cluster::write(9, &format!("gamma {number}")), seen)?;
    judge_write(&wrote, kind, seen);
    seen.looks += 1;
    Ok(())
}

/// Types 1 and 3 keep every other node out: there a write that passes is the gap. Elsewhere a registrant may write.
fn judge_write(wrote: &Completion, kind: ReservationType, seen: &mut Seen) {
    let excluded = !kind.is_registrants_only() && !kind.is_all_registrants();
    match (wrote.status, excluded) {
        (Status::GOOD, false) => seen.writes_passed += 1,
        (Status::RESERVATION_CONFLICT, true) => seen.writes_excluded += 1,
        _ => {
            seen.wrong_writes += 1;
            seen.trouble(format!("a write of this node ended {}", words::status(wrote)));
        }
    }
}

/// Sends a command; unit attentions are counted and the command sent again.
fn ask(nexus: &mut dyn Nexus, request: &Request, seen: &mut Seen) -> Result<Completion> {
    for _ in 0..5 {
        let completion = nexus.execute(request)?;
        let Some(sense) = unit_attention(&completion) else { return Ok(completion) };
        seen.unit_attentions += 1;
        seen.trouble(format!("unit attention: {}", sense.code));
    }
    bail!("unit attentions without end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_passes_under_an_exclusive_type_is_a_gap() {
        let mut seen = Seen { looks: 1, ..Seen::default() };
        judge_write(&Completion::good(Vec::new()), ReservationType(1), &mut seen);
        assert!(!seen.is_clean(false, false));
    }

    #[test]
    fn a_registrant_that_is_kept_out_is_a_conflict() {
        for kind in [5, 6, 7, 8] {
            let mut seen = Seen { looks: 1, ..Seen::default() };
            judge_write(&Completion::status(Status::RESERVATION_CONFLICT), ReservationType(kind), &mut seen);
            assert!(!seen.is_clean(false, false), "type {kind}");
        }
    }

    #[test]
    fn who_never_looked_saw_nothing() {
        assert!(!Seen::default().is_clean(false, false));
    }

    #[test]
    fn only_a_method_without_the_source_may_leave_the_key_out() {
        let seen = Seen { looks: 9, key_missing: 1, ..Seen::default() };
        assert!(seen.is_clean(true, false) && !seen.is_clean(false, false));
    }
}
