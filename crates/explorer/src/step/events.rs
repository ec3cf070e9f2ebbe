//! The other half of a step: phases and verdicts, faults, foreign commands, recovery.

use super::{Loss, Stage, answer};
use crate::cast::{GUEST_KEY, Host, NONCE, PerHost, nexus_name, node};
use crate::conductor::{Conductor, ports, traits};
use crate::foreign::ForeignCommand;
use crate::moves::InFlight;
use crate::oracle::{self, Promise, Tolerance, Violation};
use crate::shadow::Standing;
use crate::world::{Driver, Running, Session, World, host_of};
use handover::{Action, Cause, CommandId, Entry, Event, Outcome, Path, Phase, Procedure, Remains, Verdict};
use scsi::Completion;

impl<C: Conductor> Stage<'_, '_, C> {
    /// The driver goes on after a phase: it pauses the guest after Prepare, resumes it after Verify.
    pub(super) fn proceed(&mut self) -> Result<(), Violation> {
        let Driver::Running(Running { phase_done: Some(phase), .. }) = self.world.driver else {
            return Ok(());
        };
        match phase {
            Phase::Prepare if !self.world.hosts.source.up => return self.tell_at_phase_end(Event::Abort),
            Phase::Prepare => self.pause(),
            Phase::Verify => self.resume(Host::Destination)?,
            _ => {}
        }
        self.tell_at_phase_end(Event::Proceed)
    }

    pub(super) fn tell_at_phase_end(&mut self, event: Event) -> Result<(), Violation> {
        if let Driver::Running(running) = &mut self.world.driver
            && let Some(phase) = running.phase_done.take()
        {
            self.narrator.say(|| format!("phase {phase} is over: {event:?}"));
        }
        self.tell(event)
    }

    fn pause(&mut self) {
        if self.world.guest.running == Some(Host::Source) {
            self.narrator.say(|| "the guest is paused, its memory is on both hosts".to_owned());
            self.world.guest.running = None;
            self.world.guest.resumable.destination = self.world.hosts.destination.up;
        }
    }

    /// Lets the guest run on a host, if its state is there.
    fn resume(&mut self, host: Host) -> Result<(), Violation> {
        let guest = &mut self.world.guest;
        match guest.running {
            Some(running) if running != host => {
                let what = format!("resumed at the {} while it runs at the {}", host.name(), running.name());
                return Err(Violation::new(Promise::OneOwner, what));
            }
            None if *guest.resumable.at(host) && self.world.hosts.at(host).up => {
                self.narrator.say(|| format!("the guest runs at the {}", host.name()));
                guest.running = Some(host);
                guest.resumable = PerHost::default();
                *guest.resumable.at_mut(host) = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, verdict: Verdict) -> Result<(), Violation> {
        self.narrator.say(|| format!("verdict: {verdict}"));
        self.play.note(verdict);
        if let Driver::Running(running) = &self.world.driver {
            let unsaid = !self.play.conductor.reports_aptpl(&running.procedure);
            if self.world.excuses.aptpl_overridden && unsaid {
                return Err(Violation::new(Promise::NoBystander, "an overridden APTPL is not reported"));
            }
        }
        // What waits at a host that is out of reach now was not heard, even if the host is back later.
        self.world.excuses.word_lost |= Host::BOTH.iter().any(|host| !self.world.reaches(*host));
        self.world.driver = Driver::Ended(verdict);
        match verdict {
            Verdict::Moved => self.resume(Host::Destination),
            Verdict::KeptAtSource { .. } | Verdict::Refused(_) => self.resume(Host::Source),
            Verdict::Fenced { .. } | Verdict::Lost | Verdict::InDoubt(_) => Ok(()),
        }
    }

    pub(super) fn crash(&mut self, host: Host, in_flight: InFlight) -> Result<(), Violation> {
        self.execute_unseen(in_flight)?;
        self.narrator.say(|| format!("the {} crashes", host.name()));
        self.world.hosts.at_mut(host).up = false;
        *self.world.guest.resumable.at_mut(host) = false;
        if self.world.guest.running == Some(host) {
            self.world.guest.running = None;
        }
        let state = self.world.hosts.at_mut(host);
        if state.session == Session::Guests {
            state.session = Session::Closed;
        }
        self.lose_in_flight(Some(host))
    }

    pub(super) fn cut(&mut self, host: Host, in_flight: InFlight) -> Result<(), Violation> {
        self.execute_unseen(in_flight)?;
        self.narrator.say(|| format!("the {} loses its link to the target", host.name()));
        self.world.hosts.at_mut(host).linked = false;
        self.lose_in_flight(Some(host))
    }

    pub(super) fn crash_target(&mut self, in_flight: InFlight) -> Result<(), Violation> {
        self.execute_unseen(in_flight)?;
        self.power_cycle()?;
        self.lose_in_flight(None)
    }

    pub(super) fn power_cycle(&mut self) -> Result<(), Violation> {
        self.narrator.say(|| "the target loses power and comes back".to_owned());
        if self.world.excuses.aptpl_overridden {
            self.world.shadow.accept_aptpl(self.world.device.aptpl());
        }
        self.world.excuses.power_lost();
        self.world.shadow.forgotten |= !self.world.device.aptpl();
        self.world.device.power_cycle();
        self.world.shadow.power_cycle();
        // The worst counter to come back with is the one that the guest was last seen registered with.
        let entry = self.world.journal.source.or(self.world.journal.destination);
        let seen = entry.map_or(0, |entry| entry.generation);
        self.world.device.shift_generation(0u32.wrapping_sub(seen));
        oracle::compare(self.play, self.world)
    }

    /// A command that the device executes while its answer cannot come any more.
    fn execute_unseen(&mut self, in_flight: InFlight) -> Result<(), Violation> {
        let InFlight::Executed(place) = in_flight else { return Ok(()) };
        if let Some(Action::Execute { id, path, request }) = self.take(place) {
            let outcome = self.execute(path, &request, Loss::Reply)?;
            if let Driver::Running(running) = &mut self.world.driver {
                running.procedure.handle(Event::Completed { id, outcome });
            }
        }
        Ok(())
    }

    /// Commands in flight on `host`, or on both, end with an unknown outcome.
    fn lose_in_flight(&mut self, host: Option<Host>) -> Result<(), Violation> {
        let Driver::Running(running) = &mut self.world.driver else { return Ok(()) };
        if !matches!(running.batch.first(), Some(Action::Journal(_))) {
            for action in std::mem::take(&mut running.batch) {
                match whose(&action) {
                    Some((id, side)) if host.is_none_or(|host| host == side) => {
                        running.procedure.handle(Event::Completed { id, outcome: Outcome::Unknown });
                    }
                    _ => running.batch.push(action),
                }
            }
        }
        self.go_on()
    }

    pub(super) fn crash_coordinator(&mut self) -> Result<(), Violation> {
        self.narrator.say(|| "the coordinator dies".to_owned());
        self.world.driver = Driver::Down;
        Ok(())
    }

    pub(super) fn heal(&mut self, host: Host) -> Result<(), Violation> {
        self.narrator.say(|| format!("the {} is back", host.name()));
        let state = self.world.hosts.at_mut(host);
        (state.up, state.linked) = (true, true);
        Ok(())
    }

    pub(super) fn recover(&mut self) -> Result<(), Violation> {
        if matches!(self.world.driver, Driver::Ended(_)) {
            self.world.repairs = self.world.repairs.saturating_sub(1);
        }
        let remains = self.remains();
        let Some(remains) = remains else {
            // Nothing is done before an entry is on both hosts.
            return self.finish(Verdict::KeptAtSource { cause: Cause::Recovered, leftover: false });
        };
        self.narrator.say(|| "a recovery begins".to_owned());
        self.world.excuses.new_procedure();
        let procedure = self.play.conductor.recovery(self.play.scenario, remains);
        let (batch, phase_done) = (Vec::new(), None);
        self.world.driver = Driver::Running(Running { procedure, batch, phase_done, recovery: true });
        self.go_on()
    }

    /// What is left after a crash; `None` if the journals that can be read are empty.
    fn remains(&self) -> Option<Remains> {
        let read = |host: Host| self.world.journal.at(host).filter(|_| self.world.hosts.at(host).up);
        let alive = |host: Host| self.world.hosts.at(host).is_healthy();
        let (source_entry, destination_entry) = (read(Host::Source), read(Host::Destination));
        let scenario = self.play.scenario;
        source_entry.or(destination_entry).map(|_| Remains {
            source_entry,
            destination_entry,
            source: ports(scenario, Host::Source),
            destination: ports(scenario, Host::Destination),
            source_alive: alive(Host::Source),
            destination_alive: alive(Host::Destination),
            prefer_destination: !self.world.guest.resumable.source,
            kept_at_source: self.world.guest.running == Some(Host::Source),
            traits: traits(scenario.profile),
        })
    }

    pub(super) fn foreign(&mut self, index: u8, command: ForeignCommand) -> Result<(), Violation> {
        let nexus = node(index);
        let request = command.request(self.play.scenario, &self.world.device, index);
        let before = self.world.clone();
        let completion = self.world.device.execute_patiently(nexus, &request);
        let expected = if self.is_under_nonce(&before) {
            self.play.tolerate(Tolerance::KeyAbsent);
            self.world.shadow.foreign_under_nonce(nexus, &request)
        } else {
            self.world.shadow.foreign(nexus, &request)
        };
        self.narrator.say(|| format!("{} -> {command}: {}", nexus_name(nexus), answer(&completion)));
        oracle::after_foreign_command(
            self.play,
            &before,
            self.world,
            (index, command),
            (&completion, &expected),
        )
    }

    /// Only the nonce stands for the guest: method *destination nonce* between its PREEMPT and its last REGISTER.
    fn is_under_nonce(&self, world: &World<C::Procedure>) -> bool {
        let has = |key| world.guests(self.play.scenario).any(|nexus| world.device.key(nexus) == Some(key));
        world.shadow.standing == Standing::Registered && has(NONCE) && !has(GUEST_KEY)
    }

    pub(super) fn close_session(&mut self, id: CommandId, path: Path) -> Result<(), Violation> {
        let host = host_of(path.side);
        let outcome = if self.world.reaches(host) {
            self.narrator.say(|| format!("{path} logs out for good"));
            self.world.hosts.at_mut(host).session = Session::Closed;
            Outcome::Done(Completion::good(Vec::new()))
        } else {
            Outcome::NotSent
        };
        self.tell(Event::Completed { id, outcome })
    }

    pub(super) fn open_session(&mut self, id: CommandId, path: Path) -> Result<(), Violation> {
        let host = host_of(path.side);
        if !self.world.hosts.at(host).is_healthy() {
            return self.tell(Event::Completed { id, outcome: Outcome::NotSent });
        }
        self.narrator.say(|| format!("{path} logs in with the guest's name"));
        let hosts = &mut self.world.hosts;
        match host {
            // Whoever logs in last with a name has the nexus; the earlier session is gone.
            Host::Destination => {
                (hosts.destination.session, hosts.source.session) = (Session::Guests, Session::Closed)
            }
            Host::Source => {
                hosts.source.session = Session::Own;
                if hosts.destination.session == Session::Guests {
                    hosts.destination.session = Session::Closed;
                }
            }
        }
        self.tell(Event::Completed { id, outcome: Outcome::Done(Completion::good(Vec::new())) })
    }

    /// Keeps every PRGENERATION relative to the device's, so that states merge.
    pub(super) fn settle_generation(&mut self) {
        let by = self.world.device.generation();
        self.world.device.shift_generation(by);
        let shadow = &mut self.world.shadow.device;
        shadow.shift_generation(shadow.generation());
        let shift = |entry: &mut Option<Entry>| {
            if let Some(entry) = entry {
                entry.shift_generation(by);
            }
        };
        shift(&mut self.world.journal.source);
        shift(&mut self.world.journal.destination);
        if let Driver::Running(running) = &mut self.world.driver {
            self.play.conductor.shift_generation(&mut running.procedure, by);
            for action in &mut running.batch {
                if let Action::Journal(entry) = action {
                    entry.shift_generation(by);
                }
            }
        }
    }
}

/// Which command an action reports, and on which host.
fn whose(action: &Action) -> Option<(CommandId, Host)> {
    match action {
        Action::Execute { id, path, .. }
        | Action::CloseSession { id, path }
        | Action::OpenSession { id, path } => Some((*id, host_of(path.side))),
        Action::Journal(_) => None,
    }
}
