//! The guest's memory: QEMU's part of a migration until the guest, stopped by us, stands before the switchover, with both
//! records frozen.

use super::document::Progress;
use super::fail::Fail;
use super::machine::{Pace, Settings, Stage, Stopped, Transfer};
use super::pace::{Next, Pacer};
use super::source::{ARRIVAL, LOOK, Run};
use super::talk;
use super::times::Times;
use crate::conduct::Pause;
use crate::ownership::Guest;
use crate::vmm::HELD;
use handover::Ending;
use peer::message::Incoming;
use std::time::{Duration, Instant};

/// Bytes of memory that are not worth waiting for.
const SMALL: u64 = 16 << 20;
/// How long QEMU may take to begin.
const BEGINNING: Duration = Duration::from_secs(30);

impl Run<'_> {
    /// The guest's memory, until QEMU stands before the switchover with the guest stopped by us.
    pub(super) fn memory(&mut self, stop_first: bool) -> Result<(), Fail> {
        self.step("memory");
        let machine = self.site.machine();
        if stop_first {
            self.stop()?;
        }
        let (capabilities, parameters) = (self.order.capabilities.clone(), self.order.parameters.clone());
        let listen = Incoming {
            handover: self.handover,
            uri: self.order.uri.clone(),
            capabilities: capabilities.clone(),
            parameters: parameters.clone(),
        };
        let uri = self
            .talk()
            .incoming(listen)
            .map_err(|error| Fail::Failed(format!("at the destination: {error}")))?;
        self.transferring = true;
        machine.configure(&Settings { capabilities, parameters })?;
        machine.adjust(Pace::Held)?;
        machine.send(&uri)?;
        let begun = self.begun()?;
        if self.times.stopped.is_none() {
            // So little is through before it could be looked at again, and within any limit.
            if begun.remaining > SMALL {
                self.until_it_fits()?;
            }
            self.stop()?;
        }
        machine.adjust(Pace::Switch(self.was_running.then(|| self.order.downtime_limit())))?;
        self.freeze()?;
        self.wait_stage(Stage::PreSwitchover, ARRIVAL)?;
        self.times.switchover = Some(Instant::now());
        Ok(())
    }

    /// QEMU has looked at the memory.
    fn begun(&self) -> Result<Transfer, Fail> {
        let end = Instant::now() + BEGINNING;
        loop {
            let transfer = self.look()?;
            if transfer.stage == Stage::PreSwitchover && self.times.stopped.is_none() {
                return Err(Fail::TooFast);
            }
            if transfer.total > 0 || transfer.stage == Stage::PreSwitchover {
                return Ok(transfer);
            }
            if Instant::now() >= end {
                return Err(Fail::Failed("QEMU's migration does not begin".into()));
            }
            self.site.machine().wait(Instant::now() + LOOK);
        }
    }

    fn look(&self) -> Result<Transfer, Fail> {
        if self.watch.cancelled() {
            return Err(Fail::Cancelled);
        }
        let transfer = self.site.machine().transfer()?;
        let why = || transfer.reason.clone().unwrap_or_else(|| "QEMU gives no reason".into());
        match transfer.stage {
            Stage::Failed => Err(Fail::Failed(format!("QEMU's migration failed: {}", why()))),
            Stage::Cancelled => Err(Fail::Failed("QEMU's migration was cancelled by somebody else".into())),
            Stage::None => Err(Fail::Failed("QEMU has no migration any more".into())),
            _ => Ok(transfer),
        }
    }

    fn until_it_fits(&self) -> Result<(), Fail> {
        let (begun, limit) = (Instant::now(), self.order.timeout.map(Duration::from_secs));
        let mut pacer = Pacer::new(self.order.downtime_limit(), HELD);
        let mut told = begun;
        loop {
            let transfer = self.look()?;
            if transfer.stage == Stage::PreSwitchover {
                return Err(Fail::TooFast);
            }
            if told.elapsed() >= Duration::from_millis(200) {
                told = Instant::now();
                let (total, remaining, rate) = (transfer.total, transfer.remaining, transfer.rate);
                self.watch.tell(Progress::Memory { total, remaining, rate });
            }
            let wait = match pacer.look(begun.elapsed(), &transfer) {
                Next::Stop => return Ok(()),
                Next::Faster(rate, time) => {
                    self.site.machine().adjust(rate.map_or(Pace::Full, Pace::Limited))?;
                    time
                }
                Next::Look(time) => time,
            };
            if limit.is_some_and(|limit| begun.elapsed() >= limit) {
                let why = "the memory did not get through in time; raise --downtime-limit";
                return Err(Fail::Failed(why.into()));
            }
            self.site.machine().wait(Instant::now() + wait);
        }
    }

    /// Stops the guest, so that nothing but our `cont` lets it run.
    fn stop(&mut self) -> Result<(), Fail> {
        self.times.stopped = Some(Instant::now());
        match self.site.machine().stop()? {
            Stopped::ByUs => Ok(()),
            Stopped::ByMigration => Err(Fail::TooFast),
        }
    }

    /// QEMU was too fast: whether it can be done again with the guest stopped from the beginning.
    pub(super) fn again(&mut self) -> Result<bool, Fail> {
        let machine = self.site.machine();
        machine.cancel()?;
        let end = Instant::now() + BEGINNING;
        while !machine.transfer()?.stage.is_over() {
            if Instant::now() >= end {
                return Ok(false);
            }
            machine.wait(Instant::now() + LOOK);
        }
        self.times = Times::default();
        let there = self.talk().state(self.guest.clone())?;
        Ok(talk::view(&there).guest == Guest::Loading)
    }

    /// Both records say `handover` and are locked; what the guest changed since it was looked at is read again.
    fn freeze(&mut self) -> Result<(), Fail> {
        let begun = Instant::now();
        let changed = self.ground.freeze()?;
        self.talk().freeze()?;
        self.times.frozen = begun.elapsed();
        let Some(leader) = self.leader.as_mut().filter(|_| changed) else { return Ok(()) };
        leader.refresh();
        match leader.advance()? {
            Pause::Phase(_) | Pause::Finished(Ending::Nobody) => Ok(()),
            Pause::Finished(ending) => {
                Err(Fail::Failed(format!("the guest changed its registrations: {ending:?}")))
            }
        }
    }

    pub(crate) fn wait_stage(&self, wanted: Stage, patience: Duration) -> Result<(), Fail> {
        let end = Instant::now() + patience;
        loop {
            let transfer = self.look()?;
            if transfer.stage == wanted {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Fail::Failed(format!("QEMU's migration stands still ({:?})", transfer.stage)));
            }
            self.site.machine().wait(Instant::now() + LOOK);
        }
    }
}
