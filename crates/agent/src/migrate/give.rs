//! The guest is given away: the handover on the devices, QEMU's switchover, `go`, and what is said in the end.

use super::document::{Report, Verdict};
use super::fail::Fail;
use super::leg;
use super::machine::Stage;
use super::site::{CallError, Leg};
use super::source::{ARRIVAL, LOOK, Run};
use crate::conduct::Pause;
use crate::incoming::GIVEN_UP;
use crate::ownership::{Guest, Mark, Marks, View};
use handover::{Ending, Phase, Side, Verdict as UnitVerdict};
use peer::message::{Bytes, Owed};
use std::time::Instant;

impl Run<'_> {
    /// The handover on the devices: phases Freeze, Take and Verify.
    pub(super) fn take(&mut self) -> Result<(), Fail> {
        self.step("take");
        if self.own_guest() != Guest::Paused {
            return Err(Fail::Failed(
                "the guest does not stand still at the source: somebody resumed it after it was stopped"
                    .into(),
            ));
        }
        let ending = self.take_all();
        self.note_verdicts();
        match ending? {
            None | Some(Ending::Moved | Ending::Nobody) => {}
            Some(_) => return Err(Fail::Failed(self.reasons())),
        }
        // Those that stand at the end of Verify are there.
        if let Some(leader) = &mut self.leader {
            // The other host's mark is on disk when this is answered.
            leader.sync()?;
            self.times.handover(leader.record());
        }
        self.mark(Mark::Taken, None)?;
        self.times.taken = Some(Instant::now());
        Ok(())
    }

    /// `None` as long as some unit stands at the end of Verify.
    fn take_all(&mut self) -> Result<Option<Ending>, Fail> {
        let Some(leader) = self.leader.as_mut() else { return Ok(None) };
        loop {
            if self.watch.cancelled() && !leader.group().committed() {
                return Err(Fail::Cancelled);
            }
            leader.proceed();
            match leader.advance()? {
                Pause::Phase(Phase::Verify) => return Ok(None),
                Pause::Phase(_) => {}
                Pause::Finished(ending) => return Ok(Some(ending)),
            }
        }
    }

    /// Sense data of unit attentions that the guest is owed if it goes on at the handover's `owner`, beside what the record
    /// here says; for each unit.
    pub(crate) fn owed(&self, owner: Side) -> Vec<Vec<Vec<u8>>> {
        let owner = if self.leg == Leg::There { owner } else { owner.other() };
        let taken: Vec<_> = self.leader.iter().flat_map(|leader| leader.owed(owner)).collect();
        let mut owed = vec![Vec::new(); self.agreed.luns.len()];
        for (place, sense) in leg::placed(&self.places, &taken) {
            if let Some(of) = owed.get_mut(usize::from(place)) {
                *of = sense;
            }
        }
        owed
    }

    /// What the guest is owed goes with it: what was owed here before, and what the handover took.
    pub(crate) fn hand_over_attentions(&self) -> Result<(), Fail> {
        let (before, taken) = (self.ground.owed(), self.owed(Side::Destination));
        let of = |all: &[Vec<Vec<u8>>], unit: u16| all.get(usize::from(unit)).cloned().unwrap_or_default();
        let one = |unit| {
            let mut sense = of(&before, unit);
            // Another nexus may have been told of the same.
            let new: Vec<_> = of(&taken, unit).into_iter().filter(|taken| !sense.contains(taken)).collect();
            sense.extend(new);
            let sense: Vec<_> = sense.into_iter().map(Bytes).collect();
            (!sense.is_empty()).then_some(Owed { unit, sense })
        };
        let units = leg::all(self.agreed.luns.len());
        Ok(self.talk().attentions(units.into_iter().filter_map(one).collect())?)
    }

    pub(super) fn switch_over(&mut self) -> Result<(), Fail> {
        self.step("switch over");
        self.hand_over_attentions()?;
        self.site.machine().switch_over()?;
        let end = Instant::now() + ARRIVAL;
        loop {
            let transfer = self.site.machine().transfer()?;
            match transfer.stage {
                Stage::Completed => break,
                stage if stage.is_over() => {
                    let why = transfer.reason.unwrap_or_default();
                    return Err(Fail::Failed(format!("QEMU's migration failed at the switchover: {why}")));
                }
                _ if Instant::now() >= end => {
                    return Err(Fail::Failed("QEMU's switchover does not end".into()));
                }
                _ => self.site.machine().wait(Instant::now() + LOOK),
            }
        }
        self.times.completed = Some(Instant::now());
        Ok(())
    }

    /// Gives the guest away.
    pub(crate) fn go(&mut self) -> Result<Report, Fail> {
        self.step("go");
        let taken = View { marks: Marks::new().with(Mark::Taken), guest: Guest::Paused };
        self.mark(Mark::Go, Some(taken))?;
        match self.talk().go() {
            Ok(_) => {
                self.times.running = Some(Instant::now());
                Ok(self.gone())
            }
            Err(CallError::Refused(refusal)) if refusal.class == GIVEN_UP => {
                Err(Fail::Failed(format!("the destination could not run the guest: {}", refusal.desc)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The guest is at the destination for good.
    pub(crate) fn gone(&mut self) -> Report {
        let mut notes = Vec::new();
        let ran = View { marks: Marks::new().with(Mark::Ran), guest: Guest::Running };
        if let Err(fail) = self.mark(Mark::Ran, Some(ran)) {
            notes.push(fail.to_string());
        }
        if let Err(trouble) = self.ground.settle(super::End::Departed, &self.ends()) {
            notes.push(format!("the record here still says handover: {trouble}"));
        }
        if let Some(leader) =
            self.leader.as_mut().filter(|leader| leader.group().phase() == Some(Phase::Verify))
        {
            leader.proceed();
            notes.extend(leader.advance().err().map(|stop| stop.to_string()));
        }
        self.note_verdicts();
        // Where it is not open any more the destination ends it by itself: the guest runs there.
        if self.open {
            notes.extend(self.talk().close("moved").err().map(|error| error.to_string()));
        }
        if let Some(log) = self.log.as_ref().filter(|_| notes.is_empty()) {
            notes.extend(log.end("moved").err().map(|error| error.to_string()));
        }
        let (verdict, reason) = self.arrived();
        notes.insert(0, reason);
        let mut report = Report::new(verdict, notes.join("; "));
        self.fill(&mut report);
        report
    }

    fn arrived(&self) -> (Verdict, String) {
        if self.any(|verdict| matches!(verdict, UnitVerdict::Fenced { .. })) {
            let reason =
                "the guest is at the destination, and fenced: another node has removed its registration";
            return (Verdict::Fenced, reason.into());
        }
        if self.any(|verdict| *verdict == UnitVerdict::Lost) {
            let reason = "the guest is at the destination, and a target forgot its registrations";
            return (Verdict::Lost, reason.into());
        }
        (Verdict::Moved, "the guest is at the destination with all its registrations".into())
    }
}
