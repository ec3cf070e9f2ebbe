//! The link between the two hosts, with the destination's agent at its end: it can be cut before and after each message, and that
//! agent can stay away.

use super::{Host, Killed, World, lock};
use crate::incoming::{Incoming, Word, resume};
use crate::migrate::{CallError, Link, Log, Site, remains, talk};
use crate::ownership::Guest;
use crate::ownership::Mark;
use handover::Side;
use peer::message::{Record, Records, Refusal, Reply, Request};
use peer::sequence::Sequence;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The link, with the destination's agent at its end.
pub(in crate::migrate::tests) struct Wire {
    pub(in crate::migrate::tests) world: Arc<World>,
    served: Mutex<Option<(Sequence, Option<Incoming>)>>,
    /// Before, or after, this many messages the link is cut.
    pub(in crate::migrate::tests) cut: Mutex<Option<(usize, bool)>>,
    pub(in crate::migrate::tests) calls: AtomicUsize,
    /// The destination's agent does not come back.
    pub(in crate::migrate::tests) gone: Mutex<bool>,
    pub(in crate::migrate::tests) gone_after_cut: bool,
    /// Messages whose answers came too late.
    pub(in crate::migrate::tests) late: AtomicUsize,
    /// Something that another node does before this message.
    pub(in crate::migrate::tests) meanwhile: Mutex<Option<usize>>,
}

impl Wire {
    pub(in crate::migrate::tests) fn new(world: &Arc<World>) -> Self {
        Self {
            world: Arc::clone(world),
            served: Mutex::new(Some((Sequence::new(), None))),
            cut: Mutex::default(),
            calls: AtomicUsize::new(0),
            gone: Mutex::default(),
            gone_after_cut: false,
            late: AtomicUsize::new(0),
            meanwhile: Mutex::default(),
        }
    }

    fn host(&self) -> Arc<Host> {
        Arc::new(Host { world: Arc::clone(&self.world), side: Side::Destination })
    }

    fn serve(&self, request: &Request) -> Result<Reply, CallError> {
        let mut served = lock(&self.served);
        let (sequence, incoming) = served.as_mut().ok_or_else(lost)?;
        if let Request::State(_) = request {
            return Ok(Reply::State(self.told(Side::Destination)));
        }
        let answered = catch_unwind(AssertUnwindSafe(|| {
            sequence.admit(request)?;
            self.answer(incoming, request)
        }));
        match answered {
            Ok(answer) => Ok(answer?),
            Err(killed) => {
                assert!(killed.is::<Killed>(), "the destination's agent panicked");
                self.world.kill[1].store(usize::MAX, Ordering::SeqCst);
                if self.world.whole_host.load(Ordering::SeqCst) {
                    lock(&self.world.qemus).guests[1] = Guest::Absent;
                }
                *served = None;
                Err(lost())
            }
        }
    }

    fn answer(&self, incoming: &mut Option<Incoming>, request: &Request) -> Result<Reply, Refusal> {
        match request {
            Request::Open(open) => {
                let (opened, reply) = Incoming::open(self.host(), "a", open)?;
                *incoming = Some(opened);
                Ok(reply)
            }
            Request::Recover(recover) => {
                let log =
                    self.world.log(Side::Destination).ok_or_else(|| Refusal::new("Unknown", "no journal"))?;
                let (opened, reply) = Incoming::recover(self.host(), log, recover)?;
                *incoming = Some(opened);
                Ok(reply)
            }
            _ => incoming
                .as_mut()
                .ok_or_else(|| Refusal::new("OutOfOrder", "nothing is open"))?
                .handle(request),
        }
    }

    /// What the agent of this side tells of its journal and of the guest.
    fn told(&self, side: Side) -> Records {
        let record = self
            .world
            .log(side)
            .map(|log| Record { verdict: log.ended(), ..remains::record(&*log, &log.begun().luns) });
        let open = self.world.log(side).filter(|log| side == Side::Destination && log.ended().is_none());
        let ran_there = open.is_some_and(|log| log.ran_there() && !log.marks().has(Mark::Go));
        let guest = talk::word_there(self.world.guest(side), ran_there);
        Records { record, guest: guest.map(str::to_owned) }
    }

    /// The destination's agent starts.
    fn restart(&self) {
        let site: Arc<dyn Site> = self.host();
        if let Some(log) = self.world.log(Side::Destination).filter(|log| log.ended().is_none()) {
            let log: Arc<dyn Log> = log;
            let resumed = resume(&site, &log, None, Word::None);
            assert!(resumed.is_ok() || self.world.full.load(Ordering::SeqCst), "{resumed:?}");
        }
    }

    /// The destination's agent asks what the source's has of a handover that it has open itself, and does what it can.
    pub(in crate::migrate::tests) fn ask_source(&self) {
        let site: Arc<dyn Site> = self.host();
        let Some(log) = self.world.log(Side::Destination).filter(|log| log.ended().is_none()) else { return };
        let log: Arc<dyn Log> = log;
        resume(&site, &log, Some(&self.told(Side::Source)), Word::None).unwrap();
    }

    /// The destination's agent puts in order what it can while the source's does not answer.
    pub(in crate::migrate::tests) fn destination_alone(&self, word: Word) -> Result<(), Refusal> {
        let site: Arc<dyn Site> = self.host();
        let Some(log) = self.world.log(Side::Destination).filter(|log| log.ended().is_none()) else {
            return Ok(());
        };
        let log: Arc<dyn Log> = log;
        resume(&site, &log, None, word).map(drop)
    }

    pub(in crate::migrate::tests) fn break_off(&self) {
        *lock(&self.served) = None;
        lock(&self.world.qemus).destination_connects();
    }
}

fn lost() -> CallError {
    CallError::Lost("cut".into())
}

impl Link for Wire {
    fn call(&self, request: &Request, patience: Duration) -> Result<Reply, CallError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        self.world.step(Side::Source);
        if *lock(&self.meanwhile) == Some(number) {
            self.world.fence();
        }
        let cut = *lock(&self.cut);
        if cut == Some((number, false)) {
            self.break_off();
            *lock(&self.gone) = self.gone_after_cut;
        }
        let _ = self.world.took();
        let reply = self.serve(request);
        if self.world.took() > patience {
            self.break_off();
            self.late.fetch_add(1, Ordering::SeqCst);
            return Err(lost());
        }
        if cut == Some((number, true)) {
            self.break_off();
            *lock(&self.gone) = self.gone_after_cut;
            return Err(lost());
        }
        self.world.step(Side::Source);
        reply
    }

    fn reconnect(&self) -> Result<(), CallError> {
        if *lock(&self.gone) {
            return Err(lost());
        }
        let mut served = lock(&self.served);
        if served.is_none() {
            self.restart();
        }
        *served = Some((Sequence::new(), None));
        Ok(())
    }
}

/// A link on which somebody does something at the moment of a message, or answers in the destination's place.
pub(in crate::migrate::tests) struct Hook<'a, F> {
    pub(in crate::migrate::tests) wire: &'a Wire,
    pub(in crate::migrate::tests) hook: F,
    /// Where the other host's agent answers and turns this one away: why.
    pub(in crate::migrate::tests) turned_away: Option<&'static str>,
}

impl<F: Fn(&Request) -> Option<CallError> + Send + Sync> Link for Hook<'_, F> {
    fn call(&self, request: &Request, patience: Duration) -> Result<Reply, CallError> {
        match (self.hook)(request) {
            Some(error) => Err(error),
            None => self.wire.call(request, patience),
        }
    }

    fn reconnect(&self) -> Result<(), CallError> {
        match &self.turned_away {
            Some(why) => Err(CallError::Unwelcome((*why).to_owned())),
            None => self.wire.reconnect(),
        }
    }
}
