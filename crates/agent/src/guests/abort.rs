//! The operator ends an unfinished handover: `handover-abort`, and with `release` what is left registered on this host's nexuses
//! goes too. Nothing of it makes a registration that another node removed.

use super::log::BookLog;
use super::{Hosted, refuse};
use crate::config::Vm;
use crate::daemon::Claim;
use crate::incoming;
use crate::journal::Handover;
use crate::migrate::{self, Link, Log, Report, Site, Unwatched, Verdict, talk};
use crate::ownership::{Guest, Mark};
use crate::vmm::Role;
use handover::Side;
use ledger::{Owner, Record};
use peer::HostName;
use peer::message::Refusal;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a migration that is asked to end may take, or whoever puts the journal in order: it may wait for the other host's
/// answer to its opening.
const UNDER_WAY: Duration = Duration::from_secs(90);
/// Then it is asked once more, which also ends what waits for a host that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the source's agent may take to put in order what this host has given up.
const SOURCE: Duration = Duration::from_secs(20);
/// Between looks at this host's journal.
const LOOK: Duration = Duration::from_millis(200);

impl Hosted {
    /// Ends what is unfinished of a guest's handover; `release`: gives up what is left on this host as well.
    ///
    /// # Errors
    /// There is no such guest, or nothing to end.
    pub fn abort(&self, name: &str, release: bool) -> Result<Report, Refusal> {
        let config = self.host.config();
        let vm = config.vm(name).ok_or_else(|| refuse(format!("there is no vm {name} here")))?;
        let under_way = self.host.busy().has(name);
        let claim = self.interrupt(vm)?;
        let last = self.last(vm)?;
        if last.as_ref().is_none_or(|last| !last.is_open()) && self.let_go(vm)? {
            let why = format!("{name} is not frozen any more; whoever stopped it may let it run here");
            return Ok(undone(Report::new(Verdict::Kept, why)));
        }
        let Some(last) = last else { return Err(refuse(nothing(vm))) };
        let report = match last.is_open() {
            true if last.begun.peer.is_empty() => {
                drop(claim);
                if release { import_given_up(vm) } else { return Err(import_open(vm)) }
            }
            true => self.end(vm, &last, claim)?,
            false if release => {
                drop(claim);
                ended(&last)
            }
            false if under_way => {
                drop(claim);
                in_time(ended(&last))
            }
            false => return Err(refuse(nothing(vm))),
        };
        if release && report.verdict != Verdict::Refused { self.give_away(vm, report) } else { Ok(report) }
    }

    /// Asks a migration of this host's to end, and waits until it has.
    fn interrupt(&self, vm: &Vm) -> Result<Claim, Refusal> {
        let asked = |patience: Duration| {
            self.cancels.request(&vm.name);
            self.host.busy().claim_within(&vm.name, patience)
        };
        let claim = asked(PATIENCE).or_else(|| asked(UNDER_WAY.saturating_sub(PATIENCE)));
        claim.ok_or_else(|| {
            refuse(format!(
                "a handover of vm {} is under way and does not end: abort it where it was begun",
                vm.name
            ))
        })
    }

    fn end(&self, vm: &Vm, open: &Handover, claim: Claim) -> Result<Report, Refusal> {
        let peer: HostName = open.begun.peer.parse().map_err(refuse)?;
        let link = self.dial(peer);
        // Where it cannot be reached this host goes on alone.
        let _ = link.reconnect();
        let report = match open.begun.side {
            Side::Source => {
                let home = self.home_of(vm, &open.begun);
                migrate::abort(&home, &link, &self.open_log(vm)?, &Unwatched).map_err(refuse)?
            }
            Side::Destination => self.give_up(vm, open, &link, claim)?,
        };
        Ok(in_time(undone(report)))
    }

    /// This host promises never to run the guest. The source's agent, which leads, then takes back what came here.
    fn give_up(&self, vm: &Vm, open: &Handover, link: &dyn Link, claim: Claim) -> Result<Report, Refusal> {
        let site: Arc<dyn Site> = Arc::new(self.home_of(vm, &open.begun));
        let log = self.open_log(vm)?;
        let told = Self::ask_source(vm, link, &*log).map(|records| talk::view(&records));
        if let Err(forbidden) = incoming::give_up(&site, &log, told) {
            let why = format!("{forbidden}: the guest is this host's, or runs here");
            return Ok(Report::new(Verdict::Refused, why));
        }
        drop((site, log, claim));
        let end = Instant::now() + if told.is_some() { SOURCE } else { Duration::ZERO };
        loop {
            let last = self.last(vm)?;
            match last.filter(|last| !last.is_open()) {
                Some(last) => return Ok(ended(&last)),
                None if Instant::now() >= end => return Ok(waiting(vm)),
                None => thread::sleep(LOOK),
            }
        }
    }

    /// What is left here of the last handover, which has ended or was given up.
    fn give_away(&self, vm: &Vm, report: Report) -> Result<Report, Refusal> {
        let _claim = self.interrupt(vm)?;
        let Some(last) = self.last(vm)? else { return Ok(report) };
        let here = is_here(&last);
        let home = self.home(vm, if here { Role::Source } else { Role::Destination });
        if !here {
            self.is_not_here(vm, home.machine().guest())?;
        }
        let book = self.journals.open(&vm.name).map_err(refuse)?;
        let Some(log) = BookLog::last(book) else { return Ok(report) };
        let count = migrate::release(&home, &log, here).map_err(refuse)?;
        if last.is_open() {
            log.end("released").map_err(refuse)?;
        }
        let verdict = if report.verdict == Verdict::InDoubt { Verdict::Kept } else { report.verdict };
        let reason = format!("{}; {count} registration(s) of the handover given up here", report.reason);
        Ok(undone(Report { verdict, exit: verdict.exit(), reason, ..report }))
    }

    /// Nobody uses what is registered here: a guest that somebody started here without an import has its record here.
    pub(super) fn is_not_here(&self, vm: &Vm, guest: Guest) -> Result<(), Refusal> {
        let records = self.ledger.guest(&Owner(vm.record().to_owned())).map_err(refuse)?;
        records.refresh().map_err(refuse)?;
        let nobodys = |record: &Record| {
            record.state.is_away() || record.paths.iter().all(|path| path.tracked.key.is_none())
        };
        may_be_given_up(guest, records.records().iter().all(nobodys)).map_err(refuse)
    }

    fn open_log(&self, vm: &Vm) -> Result<Arc<dyn Log>, Refusal> {
        let book = self.journals.open(&vm.name).map_err(refuse)?;
        Ok(Arc::new(BookLog::open(book).ok_or_else(|| refuse("it is over"))?))
    }
}

/// The guest is this host's after a handover that ended so, or that this host gave up.
pub(super) fn is_here(last: &Handover) -> bool {
    let (marks, verdict) = (last.promises(), last.verdict.as_deref());
    match last.begun.side {
        // Given back, and only the destination is missing. Else, where it is open or was released, the operator gives up what is
        // here.
        Side::Source => {
            let back = marks.has(Mark::Back) && !marks.has(Mark::Ran);
            verdict == Some("kept") || (back && verdict.is_none_or(|verdict| verdict == "released"))
        }
        Side::Destination => matches!(verdict, Some("moved" | "claimed")) || marks.has(Mark::Ran),
    }
}

/// `away`: the records have no registration of a guest that is this host's.
const fn may_be_given_up(guest: Guest, away: bool) -> Result<(), &'static str> {
    match guest {
        Guest::Running => Err("the guest runs here: stop it first"),
        Guest::Paused | Guest::Ran | Guest::Unknown if !away => Err(
            "QEMU here has the guest, and its record says that what is registered is this host's: quit that QEMU first",
        ),
        Guest::Absent | Guest::Loading | Guest::Paused | Guest::Ran | Guest::Unknown => Ok(()),
    }
}

/// What ended with the guest at the destination came too late to be aborted.
fn in_time(report: Report) -> Report {
    if report.verdict != Verdict::Moved {
        return report;
    }
    let reason = format!("too late, the guest has moved; {}", report.reason);
    Report { verdict: Verdict::Refused, exit: Verdict::Refused.exit(), reason, ..report }
}

fn nothing(vm: &Vm) -> String {
    format!("vm {} has no unfinished handover on this host", vm.name)
}

fn ended(last: &Handover) -> Report {
    let verdict = last.verdict.as_deref().unwrap_or_default();
    let here = match (is_here(last), last.begun.side) {
        (true, _) => "the guest is this host's",
        (false, Side::Source) => "the guest is at the destination",
        (false, Side::Destination) => "the guest is not this host's",
    };
    let report = Report::new(if verdict == "moved" { Verdict::Moved } else { Verdict::Kept }, here);
    Report { handover: Some(last.begun.handover.to_string()), ..undone(report) }
}

/// Only an import itself finishes or undoes what it began.
pub(super) fn import_open(vm: &Vm) -> Refusal {
    let name = &vm.name;
    refuse(format!(
        "an import of {name} was interrupted: the same `tenure import` again finishes or undoes it; if that ends in doubt for good, \
         tenure handover abort {name} --release gives up what it may have registered here"
    ))
}

/// No journal says any more what it may have done, so nothing of it may stay: a key that it registered here would pass for the
/// guest's own at the next import, also if the guest was fenced meanwhile.
fn import_given_up(vm: &Vm) -> Report {
    let name = &vm.name;
    let why = format!(
        "the import is given up, and {name} is not here: before it is started here, `tenure import` again"
    );
    undone(Report::new(Verdict::Kept, why))
}

fn waiting(vm: &Vm) -> Report {
    let name = &vm.name;
    let why = format!(
        "this host has promised never to run the guest by this handover, and what came here is still registered. The source's \
         agent takes it back when it is there; if it never will be: tenure handover abort {name} --release"
    );
    Report::new(Verdict::InDoubt, why)
}

/// What was to be undone is.
fn undone(report: Report) -> Report {
    let exit = if report.verdict == Verdict::Kept { 0 } else { report.exit };
    Report { exit, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_for_a_guest_that_stands_here_is_given_up_only_where_its_record_is_not_here() {
        for guest in [Guest::Absent, Guest::Loading] {
            assert!(may_be_given_up(guest, false).is_ok() && may_be_given_up(guest, true).is_ok());
        }
        for guest in [Guest::Paused, Guest::Unknown] {
            assert!(may_be_given_up(guest, false).is_err() && may_be_given_up(guest, true).is_ok());
        }
        assert!(may_be_given_up(Guest::Running, true).is_err());
    }

    #[test]
    fn an_abort_that_comes_when_the_guest_has_moved_is_refused() {
        let late = in_time(Report::new(Verdict::Moved, "the guest is at the destination"));
        assert_eq!((late.verdict, late.exit), (Verdict::Refused, 4), "{late:?}");
        let kept = undone(Report::new(Verdict::Kept, "the guest is this host's"));
        assert_eq!(in_time(kept.clone()), kept);
    }
}
