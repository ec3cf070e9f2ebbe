//! Handovers for orchestrators that move the guest themselves: `handover-freeze` at the source while the guest stands still,
//! `handover-take` at the destination, `handover-release` at the source when the guest runs there.
//!
//! Frozen is a word in the ledger alone: the record says `handover`, and for whom. Taking is the whole handover, with the same
//! journals and the same rules of ownership as `migrate`; only that nobody here drives QEMU ([`super::orchestrated`]). The
//! source's agent leads; the destination's asks it to, which is granted to nobody but the peer for which the guest was frozen.

use super::abort::is_here;
use super::log::BookLog;
use super::{Hosted, refuse};
use crate::config::Vm;
use crate::ground;
use crate::journal::Handover;
use crate::migrate::{
    self, CallError, End, Link, Order, Report, Site, Unwatched, Verdict, migrate as hand_over,
};
use crate::ownership::Guest;
use crate::vmm::Role;
use handover::Side;
use ledger::{HandoverId, Owner, State};
use peer::HostName;
use peer::message::{Guest as Named, Refusal, Reply, Request, Take, Taken};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the record says beside `handover`, before the peer's name.
const HELD: &str = "frozen by the operator for ";
/// A handover, and what it may wait for a host that is lost meanwhile.
const LONGEST: Duration = Duration::from_secs(300);

/// Which guests are being taken from which peer, by the operator's command.
#[derive(Debug, Default)]
pub(super) struct Taking(Mutex<BTreeMap<String, HostName>>);

/// It ends with this.
struct Entered<'a>(&'a Taking, String);

impl Taking {
    fn enter(&self, vm: &str, peer: HostName) -> Result<Entered<'_>, Refusal> {
        let mut taking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taking.contains_key(vm) {
            return Err(refuse(format!("vm {vm} is being taken already")));
        }
        taking.insert(vm.to_owned(), peer);
        Ok(Entered(self, vm.to_owned()))
    }

    /// Whether the operator takes this guest from there just now.
    pub(super) fn from(&self, vm: &str, peer: &HostName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(vm) == Some(peer)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Hosted {
    /// The guest stands still here, and its reservation commands do from now on, until `to` takes it or the operator aborts.
    /// `stopped`: the operator's word for it, where QEMU cannot be asked.
    ///
    /// # Errors
    /// Why not; nothing was changed.
    pub fn freeze(&self, name: &str, to: &str, stopped: bool) -> Result<Report, Refusal> {
        let (vm, peer) = self.movable(name, to)?;
        let _claim = self.sole(&vm)?;
        let home = self.home(&vm, Role::Source);
        match home.machine().guest() {
            Guest::Running => return Err(refuse(format!("vm {name} runs: stop it first"))),
            Guest::Paused => {}
            _ if stopped => {}
            guest => {
                let guest = migrate::talk::word(guest).unwrap_or("gone");
                return Err(refuse(format!(
                    "QEMU cannot tell that {name} is stopped (it is {guest}): --stopped says so"
                )));
            }
        }
        let handover = HandoverId(migrate::units::id().map_err(refuse)?);
        home.hold(handover, &format!("{HELD}{peer}")).map_err(refuse)?;
        let why = format!("{name} is frozen for {peer}: tenure handover take {name} --from HERE, there");
        Ok(Report { handover: Some(handover.to_string()), ..Report::new(Verdict::Frozen, why) })
    }

    /// Takes a guest that was frozen for this host.
    ///
    /// # Errors
    /// Why not; the guest is the other host's.
    pub fn take(&self, name: &str, from: &str) -> Result<Report, Refusal> {
        let (vm, peer) = self.movable(name, from)?;
        drop(self.sole(&vm)?);
        if self.home(&vm, Role::Destination).machine().guest() == Guest::Running {
            return Err(refuse(format!("vm {name} runs here already")));
        }
        let _taking = self.taking.enter(name, peer.clone())?;
        let before = self.last(&vm)?.map(|last| last.begun.handover);
        let link = self.dial(peer);
        link.reconnect().map_err(refuse)?;
        let guest = Named { vm: vm.name.clone(), uuid: vm.uuid.as_str().to_owned() };
        match link.call(&Request::Take(Take { guest }), LONGEST) {
            Ok(Reply::Taken(taken)) => Ok(self.judged(&vm, before, taken)),
            Err(CallError::Refused(refusal)) => Err(refusal),
            Ok(_) | Err(_) => {
                let why = format!(
                    "the source's agent did not answer to its end; the two put it in order: tenure handover status {name} on \
                     both hosts"
                );
                Ok(Report::new(Verdict::InDoubt, why))
            }
        }
    }

    /// What the source tells of a `take`; `before`: the last handover before it.
    fn judged(&self, vm: &Vm, before: Option<HandoverId>, taken: Taken) -> Report {
        let new =
            |last: &Handover| Some(last.begun.handover) != before && last.begun.side == Side::Destination;
        let report = serde_json::from_value(taken.report.into());
        let report = report.unwrap_or_else(|error| Report::new(Verdict::InDoubt, error.to_string()));
        match self.last(vm) {
            Ok(last) => believed(report, last.filter(new).as_ref(), &vm.name),
            Err(unread) => Report::new(Verdict::InDoubt, unread.desc),
        }
    }

    /// The source's part: a peer asks for a guest that was frozen for it.
    pub(super) fn taken_by(&self, vm: &Vm, peer: &HostName) -> Result<Taken, Refusal> {
        // From the look at the freeze to its end: another `take` finds it there, or gone.
        let _claim = self.sole(vm)?;
        let held = self.held(vm)?.filter(|(_, to)| *to == peer.to_string());
        let name = &vm.name;
        let (handover, _) = held.ok_or_else(|| {
            refuse(format!("{name} is not frozen for {peer}: tenure handover freeze {name} --to {peer}"))
        })?;
        let report = {
            let link = self.dial(peer.clone());
            link.reconnect().map_err(refuse)?;
            let home = self.orchestrated(vm, Role::Source, true).frozen_for(handover);
            let order = Order::new(&vm.name, &peer.to_string());
            hand_over(&home, &link, &peer.to_string(), &order, &Unwatched)
        };
        // What failed before anything was changed leaves the guest to whoever stopped it.
        if report.verdict != Verdict::InDoubt {
            self.let_go(vm)?;
        }
        let Ok(serde_json::Value::Object(report)) = serde_json::to_value(&report) else {
            return Err(refuse("the report has no form"));
        };
        Ok(Taken { report })
    }

    /// The guest runs at its new host: what may be left of it here goes.
    ///
    /// # Errors
    /// It is not there, or runs here.
    pub fn release(&self, name: &str) -> Result<Report, Refusal> {
        let config = self.host.config();
        let vm = config.vm(name).ok_or_else(|| refuse(format!("there is no vm {name} here")))?;
        if self.held(vm)?.is_some() {
            return Err(refuse(format!(
                "{name} is frozen and was not taken: tenure handover abort {name} gives it back"
            )));
        }
        let open = self.last(vm)?.is_some_and(|last| last.is_open());
        let settled = if open { self.settle(vm, false) } else { None };
        if let Some(report) = settled.filter(|report| report.verdict != Verdict::Moved) {
            return Ok(report);
        }
        let _claim = self.sole(vm)?;
        let gone =
            |last: &Handover| last.begun.side == Side::Source && last.verdict.as_deref() == Some("moved");
        let last = self.last(vm)?.filter(gone);
        last.ok_or_else(|| refuse(format!("{name} did not leave this host by its last handover")))?;
        let home = self.home(vm, Role::Source);
        self.is_not_here(vm, home.machine().guest())?;
        let log = BookLog::last(self.journals.open(&vm.name).map_err(refuse)?);
        let log = log.ok_or_else(|| refuse("there is no journal"))?;
        let count = migrate::release(&home, &log, false).map_err(refuse)?;
        let left = if count == 0 { "nothing was left here" } else { "what was left here is removed" };
        Ok(Report::new(Verdict::Moved, format!("{name} is at {}; {left}", migrate::Log::begun(&log).peer)))
    }

    fn movable(&self, name: &str, peer: &str) -> Result<(Vm, HostName), Refusal> {
        let config = self.host.config();
        let vm = config.vm(name).ok_or_else(|| refuse(format!("there is no vm {name} here")))?;
        let peer: HostName = peer.parse().map_err(refuse)?;
        vm.may_move(&peer).map_err(refuse)?;
        Ok((vm.clone(), peer))
    }

    /// For whom the guest was frozen, if it was.
    pub(super) fn held(&self, vm: &Vm) -> Result<Option<(HandoverId, String)>, Refusal> {
        let guest = self.ledger.guest(&Owner(vm.record().to_owned())).map_err(refuse)?;
        guest.refresh().map_err(refuse)?;
        let held = |record: &ledger::Record| {
            let to = record.doubt.as_deref()?.strip_prefix(HELD)?.to_owned();
            (record.state == State::Handover).then_some((record.handover?, to))
        };
        Ok(guest.records().iter().find_map(held))
    }

    /// A handover that the record says is under way and no journal carries on. An export that was interrupted says so, and is
    /// done again by the same export.
    fn left_frozen(&self, vm: &Vm) -> Result<Option<HandoverId>, Refusal> {
        if self.last(vm)?.is_some_and(|last| last.is_open()) {
            return Ok(None);
        }
        let guest = self.ledger.guest(&Owner(vm.record().to_owned())).map_err(refuse)?;
        guest.refresh().map_err(refuse)?;
        let left = |record: &ledger::Record| {
            record.handover.filter(|_| record.state == State::Handover && record.doubt.is_none())
        };
        Ok(guest.records().iter().find_map(left))
    }

    /// Ends a freeze; nothing where there is none.
    pub(super) fn let_go(&self, vm: &Vm) -> Result<bool, Refusal> {
        let held = self.held(vm)?.map(|(handover, _)| handover);
        let Some(handover) = held.map_or_else(|| self.left_frozen(vm), |held| Ok(Some(held)))? else {
            return Ok(false);
        };
        let ground = self.home(vm, Role::Source).ground(handover.0, Side::Source)?;
        ground.freeze()?;
        ground.settle(End::Kept, &[])?;
        Ok(true)
    }
}

/// What the source tells of a `take`, as far as this host's own journal of it (`own`; none: nothing began here) bears it out:
/// whoever let the guest run on another host's word alone might run it twice.
fn believed(report: Report, own: Option<&Handover>, vm: &str) -> Report {
    let (here, over) = (own.is_some_and(is_here), own.is_none_or(|own| !own.is_open()));
    let told = report.verdict;
    let verdict = match told {
        Verdict::Moved | Verdict::Fenced | Verdict::Lost if here => told,
        Verdict::Kept | Verdict::Refused | Verdict::Failed if !here => told,
        // It stayed there, and is so.
        Verdict::Fenced | Verdict::Lost if over => Verdict::Kept,
        _ => Verdict::InDoubt,
    };
    let reason = if verdict == Verdict::InDoubt && told != verdict {
        let says = if here { "here" } else { "not here" };
        format!(
            "the source says: {}; by this host's own journal the guest is {says}. Let it run nowhere: tenure handover status {vm} on \
             both hosts",
            report.reason
        )
    } else {
        report.reason
    };
    Report { verdict, exit: verdict.exit(), reason, ..report }
}

/// Writes the freeze, or nothing.
pub(super) fn hold(ground: &mut ground::Ground, why: &str) -> Result<(), ground::Error> {
    let held = ground.hold(why, Instant::now() + ground::FREEZE).map(drop);
    if held.is_err() {
        ground.restore(&[])?;
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Begun, Journals};
    use crate::ownership::Mark;

    /// This host's journal of it, with these marks, and ended so.
    fn own(marks: &[Mark], end: Option<&str>) -> Handover {
        let state = tempfile::tempdir().unwrap();
        let mut book = Journals::new(state.path(), "b").open("db").unwrap();
        let begun = Begun {
            handover: HandoverId(7),
            uuid: String::new(),
            side: Side::Destination,
            peer: "a".into(),
            luns: Vec::new(),
            method: None,
            allow_absence: true,
            stays_paused: false,
            orchestrated: true,
        };
        book.begin(begun).unwrap();
        marks.iter().for_each(|mark| book.mark(*mark).unwrap());
        end.into_iter().for_each(|end| book.end(end).unwrap());
        book.handovers().last().unwrap().clone()
    }

    #[test]
    fn a_source_is_believed_only_as_far_as_the_own_journal_goes() {
        use Verdict::{Failed, Fenced, Frozen, InDoubt, Kept, Lost, Moved, Possible, Refused};
        let ran = own(&[Mark::Taken, Mark::Go, Mark::Ran], None);
        let (moved, kept) = (own(&[Mark::Taken, Mark::Go, Mark::Ran], Some("moved")), own(&[], Some("kept")));
        let (taken, go) = (own(&[Mark::Taken], None), own(&[Mark::Taken, Mark::Go], None));
        let cases = [
            (vec![Some(&ran), Some(&moved)], vec![Moved, Fenced, Lost], None),
            (vec![Some(&ran), Some(&moved)], vec![Kept, Refused, Failed, Possible, Frozen], Some(InDoubt)),
            (vec![None, Some(&kept), Some(&taken), Some(&go)], vec![Kept, Refused, Failed, InDoubt], None),
            (vec![None, Some(&kept), Some(&taken), Some(&go)], vec![Moved, Possible, Frozen], Some(InDoubt)),
            (vec![None, Some(&kept)], vec![Fenced, Lost], Some(Kept)),
            (vec![Some(&taken), Some(&go)], vec![Fenced, Lost], Some(InDoubt)),
        ];
        for (journals, told, expected) in cases {
            for (own, told) in journals.iter().flat_map(|own| told.iter().map(move |told| (own, *told))) {
                // Whatever exit status the source claims beside it.
                let report = Report { exit: 0, ..Report::new(told, "so it says") };
                let believed = believed(report, *own, "db");
                let expected = expected.unwrap_or(told);
                assert_eq!(
                    (believed.verdict, believed.exit),
                    (expected, expected.exit()),
                    "{told:?} {own:?}"
                );
            }
        }
    }
}
