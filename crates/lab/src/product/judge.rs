//! The judge: one function for every case.

use super::case::Case;
use super::cast::write;
use super::rows::{Act, Before, Must};
use super::script::State;
use crate::process::wait_for;
use crate::stage::{Disk, Host, Life, Migrated, Stage, has_key, insist};
use crate::states::GUEST;
use agent::journal::Journals;
use agent::migrate::Verdict;
use anyhow::{Context, Result, ensure};
use handover::Tracked;
use ledger::{Ledger, Owner, Record};
use logical_unit::profile::{Audience, Identity};
use qmp::qemu::RunState;
use scsi::Status;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long the hosts may take to end what a crash has left open.
const SETTLED: Duration = Duration::from_secs(40);

/// A migration that has ended.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) stage: &'a Stage,
    pub(super) name: &'a str,
    /// As the lab reaches it, past the gates.
    pub(super) disk: &'a Disk,
    pub(super) case: &'a Case,
    pub(super) from: Host,
    pub(super) life: Life,
    pub(super) migrated: &'a Migrated,
}

/// Everything that is not as it must be.
pub(super) fn judge(end: &End<'_>, state: &mut State) -> Vec<String> {
    let verdict = match end.verdict() {
        Ok(verdict) => verdict,
        Err(error) => return vec![format!("{error:#}")],
    };
    let checks = [
        end.point(state),
        end.guest(verdict),
        end.stage.ran_once(end.name),
        end.journals(),
        end.registrations(verdict),
        end.access(verdict),
        end.others(state),
        end.ledgers(verdict),
    ];
    checks.into_iter().filter_map(|check| check.err().map(|error| format!("{error:#}"))).collect()
}

impl End<'_> {
    fn must(&self) -> Must {
        self.case.row.must(self.case.profile)
    }

    fn verdict(&self) -> Result<Verdict> {
        let report = self.migrated.report.as_ref();
        let verdict = report.with_context(|| format!("no report: {}", self.migrated.words()))?.verdict;
        let wanted = self.must().verdicts();
        ensure!(
            wanted.contains(&verdict),
            "it ended {verdict:?} and not {wanted:?}: {}",
            self.migrated.words()
        );
        Ok(verdict)
    }

    fn point(&self, state: &State) -> Result<()> {
        ensure!(state.acted || self.case.point.is_none(), "there was no such point in its course");
        Ok(())
    }

    /// Where the guest is.
    fn at(&self, verdict: Verdict) -> Host {
        match (verdict, self.must()) {
            // What looks like a fencing takes nothing back, nor does it move where its new QEMU fails.
            (Verdict::Fenced, Must::ChangeNothing) if self.case.row.fault.is_some() => self.from,
            (Verdict::Moved | Verdict::Fenced, _) | (_, Must::MoveDead) => self.from.other(),
            _ => self.from,
        }
    }

    /// It is on that host alone, and runs if it ran.
    fn guest(&self, verdict: Verdict) -> Result<()> {
        let at = self.at(verdict);
        let state = |host| self.stage.run_state(self.name, host);
        let (here, there) = (state(at)?, state(at.other())?);
        let runs = here == Some(RunState::RUNNING);
        if self.must() == Must::MoveDead {
            ensure!(here.is_none() && there != Some(RunState::RUNNING), "it is {here:?}, and was {there:?}");
            return Ok(());
        }
        ensure!(
            runs == (self.life == Life::Runs) && here.is_some(),
            "the guest is {here:?} on {}",
            at.name()
        );
        ensure!(there != Some(RunState::RUNNING), "the guest runs on {}", at.other().name());
        Ok(())
    }

    /// Nothing is left open on either host.
    fn journals(&self) -> Result<()> {
        Host::BOTH.into_iter().try_for_each(|host| {
            let journals = Journals::new(&self.stage.state(host), host.name());
            let over = || {
                let log = journals.read(self.name).ok()?;
                log.handovers().last().is_none_or(|last| !last.is_open()).then_some(())
            };
            wait_for(SETTLED, over).with_context(|| format!("the journal of {} is open", host.name()))
        })
    }

    /// No other session can say what the guest's has; the others see whether anything has changed.
    fn is_in_session(&self) -> bool {
        self.case.profile.identity == Identity::SessionInstance
    }

    /// Nobody but the owner has the guest's key.
    fn registrations(&self, verdict: Verdict) -> Result<()> {
        if self.is_in_session() {
            return Ok(());
        }
        let at = self.at(verdict);
        let aptpl = self.case.row.before == Before::Aptpl;
        for host in Host::BOTH {
            let has = has_key(self.disk.at(host), GUEST, aptpl)?;
            let wanted = host == at && !self.is_fenced(verdict);
            ensure!(has == wanted, "{} {} the guest's key", host.name(), if has { "has" } else { "has not" });
        }
        Ok(())
    }

    fn is_fenced(&self, verdict: Verdict) -> bool {
        verdict == Verdict::Fenced || self.must() == Must::BeFenced
    }

    /// The owner may write as its role says, and the other host may not.
    fn access(&self, verdict: Verdict) -> Result<()> {
        let standing = self.case.standing;
        if self.is_in_session()
            || !matches!(verdict, Verdict::Moved | Verdict::Kept)
            || self.is_fenced(verdict)
        {
            return Ok(());
        }
        let at = self.at(verdict);
        let may = standing.held().is_some() || standing.kind().is_none_or(|kind| kind.0 >= 5);
        for (host, may) in [(at, may), (at.other(), standing.kind().is_none())] {
            let status = insist(self.disk.at(host), &write())?.status;
            let wanted = if may { Status::GOOD } else { Status::RESERVATION_CONFLICT };
            ensure!(status == wanted, "{}'s WRITE ended {status}", host.name());
        }
        Ok(())
    }

    /// Everybody else sees what was there before, or what the fencer made of it, and was told nothing.
    fn others(&self, state: &mut State) -> Result<()> {
        let view = state.cast.view()?;
        let mut wanted = state.reference.clone();
        if self.case.row.before == Before::AlreadyThere && self.must() == Must::Move {
            // Two nexuses had the key, and one of them is to keep it.
            let first = wanted.keys.iter().position(|key| *key == GUEST);
            first.map(|first| wanted.keys.remove(first));
        }
        ensure!(view == wanted, "the others see {view:?} and not {wanted:?}");
        // There are targets that tell everybody of every PREEMPT: of a fencer's, and of one that is all that is left to do.
        let row = self.case.row;
        let preempted = row.at.is_some() || row.before == Before::AlreadyThere;
        let loud = self.case.profile.attentions.audience == Audience::EveryNexus && preempted;
        ensure!(loud || state.cast.heard.is_empty(), "the others were told {:?}", state.cast.heard);
        Ok(())
    }

    fn record(&self, host: Host) -> Result<Record> {
        let guest = Ledger::read_only(&self.stage.state(host))?.guest(&Owner(self.name.to_owned()))?;
        guest.records().into_iter().next().with_context(|| format!("{} has no record", host.name()))
    }

    /// The record goes with the guest, with what it is owed.
    fn ledgers(&self, verdict: Verdict) -> Result<()> {
        if verdict != Verdict::Moved || self.is_fenced(verdict) {
            return Ok(());
        }
        let (there, here) = (self.record(self.from.other())?, self.record(self.from)?);
        let (key, held) = (Some(GUEST), self.case.standing.held());
        let aptpl = self.case.row.before == Before::Aptpl;
        let wanted = Tracked { key, held, aptpl, all_target_ports: false };
        let has = there.paths.iter().any(|path| path.tracked == wanted);
        ensure!(has && there.state == ledger::State::Active, "the record at the owner is {there:?}");
        ensure!(here.state == ledger::State::Moved, "the record where it was is {}", here.state);
        let owed = |record: &Record| record.paths.iter().map(|path| path.owed.len()).sum::<usize>();
        let due = self.due();
        let (at_owner, left) = (owed(&there), owed(&here));
        ensure!(
            due.contains(&at_owner) && left == 0,
            "owed at the owner {at_owner} and not {due:?}, here {left}"
        );
        Ok(())
    }

    /// How many unit attentions of before the guest is to hear of at its new place.
    fn due(&self) -> RangeInclusive<usize> {
        let attentions = self.case.profile.attentions;
        let kept = attentions.reported && attentions.kept_without_session;
        match (self.case.row.before, self.case.row.at) {
            (Before::Released, _) => {
                // Where one report clears all, that of a login takes the others along.
                let told = kept && !attentions.report_clears_all;
                usize::from(told)..=usize::from(told)
            }
            // A nexus that was lost on the way hears of that.
            (_, Some((Act::Lose, _))) => 0..=1,
            // There are targets that tell everybody of every PREEMPT.
            (Before::Preempted, _) if kept && attentions.audience == Audience::EveryNexus => 1..=1,
            _ => 0..=0,
        }
    }
}
