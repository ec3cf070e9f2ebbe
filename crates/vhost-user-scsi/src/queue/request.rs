//! A request queue (virtio 1.2 5.6.6.1): takes commands from its ring, has them admitted by their logical unit, moves their data or
//! hands them to a worker, and gives them back with status, sense and residual. Used by [`super::Running`].
//!
//! Here is the thread's loop; a command passes through [`arrive`], [`carry`] and [`answer`], and stands in its [`place`] meanwhile.
//!
//! Guarantees: the thread never waits for a command; it takes no more at once than the device's limits say, and the rest waits in
//! the guest's ring; a request without room for a response is given back empty, one that is malformed otherwise says FAILURE or BAD
//! TARGET; stopping ends when everything taken is given back. Once the ring is broken nothing more is given back, and what is under
//! way is still waited for.

mod answer;
mod arrive;
mod buffers;
mod carry;
mod place;

pub(crate) use arrive::address;

use super::engine::{Engine, Event};
use super::inbox::Inbox;
use super::poll::Poll;
use super::ring::{Broken, Ring};
use super::tasks::Tasks;
use super::{Connection, Format, INBOX, Order, REQUEST, Seen, Start, watching};
use crate::target::View;
use crate::unit::Ending;
use buffers::Buffers;
use place::Places;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Serves the ring until it is told to stop; the next entry of the available ring, and why it ended early if it did.
pub(crate) fn serve(start: Start, inbox: &Arc<Inbox<Order>>) -> (u16, Result<(), Broken>) {
    let most = start.connection.device.settings().most_requests;
    let engine = match watching(most, &start, inbox) {
        Ok(engine) => engine,
        Err(error) => return (start.ring.base(), Err(error.into())),
    };
    let mut server = Server::new(start, Arc::clone(inbox), engine);
    let result = server.run();
    if result.is_err() {
        server.abandon();
    }
    (server.ring.base(), result)
}

/// After so many errors the engine is not waited with any more.
const ERRORS_MAX: u32 = 8;
/// The guest hears at least so often of what has ended while its ring has more to take: it need not wait for the last of a long run. More
/// often would cost both sides more than it wins.
const SILENCE: Duration = Duration::from_micros(250);

struct Server {
    connection: Arc<Connection>,
    /// Which request queue, from 0.
    queue: u16,
    ring: Ring,
    engine: Engine,
    inbox: Arc<Inbox<Order>>,
    view: View,
    tasks: Arc<Tasks>,
    format: Format,
    places: Places,
    buffers: Buffers,
    poll: Poll,
    /// Room for a request's header, and for a response's: used again for each.
    header: Vec<u8>,
    response: Vec<u8>,
    looks: Vec<(Option<u16>, SyncSender<Seen>)>,
    /// Since when something has ended that the guest was not told of.
    silent: Option<Instant>,
    stopping: bool,
    broken: bool,
    /// Why it is broken, until that was told.
    why: Option<Broken>,
}

impl Server {
    fn new(start: Start, inbox: Arc<Inbox<Order>>, engine: Engine) -> Self {
        let Start { index, ring, connection, .. } = start;
        let queue = index.saturating_sub(REQUEST);
        let settings = connection.device.settings();
        let tasks = connection.tasks.get(usize::from(queue)).cloned();
        Self {
            queue,
            ring,
            engine,
            inbox,
            view: connection.device.target().view(),
            tasks: tasks.unwrap_or_else(|| Arc::new(Tasks::new(settings.most_requests.into()))),
            format: connection.format(),
            places: Places::new(settings.most_requests),
            buffers: Buffers::new(settings.most_buffered),
            poll: Poll::new(settings.poll),
            header: Vec::new(),
            response: Vec::new(),
            looks: Vec::new(),
            silent: None,
            stopping: false,
            broken: false,
            why: None,
            connection,
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        let mut events = Vec::new();
        loop {
            self.resume()?;
            let more = self.take_all()?;
            self.answer_looks()?;
            if self.stopping && self.places.under_way() == 0 && !self.ring.owes() {
                return Ok(());
            }
            let waited = if more { self.engine.poll(&mut events) } else { self.sleep(&mut events) };
            self.note(waited.map_err(Broken::from));
            events.drain(..).for_each(|event| self.happened(event));
            if let Some(why) = self.why.take() {
                return Err(why);
            }
        }
    }

    /// Whoever asked knows now whether what the guest had offered before is under way.
    fn answer_looks(&mut self) -> Result<(), Broken> {
        for (until, answer) in self.looks.drain(..) {
            let until = until.map_or_else(|| self.ring.offered(), Ok)?;
            answer.send(Seen { until, all: self.ring.has_taken(until) }).unwrap_or(());
        }
        Ok(())
    }

    fn sleep(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        if !self.is_idle() {
            return self.engine.wait(events);
        }
        let begun = Instant::now();
        let waited = self.engine.wait(events);
        self.poll.slept(begun.elapsed());
        waited
    }

    /// Nothing is under way, and nobody waits for the end.
    fn is_idle(&self) -> bool {
        self.places.under_way() == 0 && !self.stopping
    }

    /// Keeps the first error. All that has happened is looked at first: whose end is not taken note of would be waited for in vain.
    fn note(&mut self, result: Result<(), Broken>) {
        if let Err(why) = result {
            self.broken = true;
            self.why.get_or_insert(why);
        }
    }

    /// Waits for what is under way, and gives nothing back.
    fn abandon(&mut self) {
        (self.stopping, self.broken) = (true, true);
        for place in self.buffers.abandon() {
            let ended = self.end(place, Ending::Lost, 0);
            self.note(ended);
        }
        let (mut events, mut errors) = (Vec::new(), 0);
        while self.places.under_way() > 0 && errors < ERRORS_MAX {
            let waited = self.engine.wait(&mut events);
            // Also after an error: whose end is not taken note of would be waited for in vain.
            events.drain(..).for_each(|event| self.happened(event));
            // A task management function that asks must be able to end what we wait for.
            self.looks.clear();
            if let Err(error) = waited {
                errors += 1;
                tracing::error!(%error, "waiting for commands under way");
            }
        }
        self.abandon_workers();
    }

    /// Without the engine, where that has failed: its own transfers it waits for when it goes.
    fn abandon_workers(&mut self) {
        let wake = self.inbox.descriptor();
        while self.places.working() > 0 {
            if let Err(error) = poll(&mut [PollFd::new(&wake, PollFlags::IN)], None)
                && error != Errno::INTR
            {
                return tracing::error!(%error, "commands under way cannot be waited for");
            }
            self.happened(Event::Readable(INBOX));
            self.looks.clear();
        }
    }

    /// Takes what the guest offers, as far as limits allow, and tells it of what was given back. Whether there may be more: a guest
    /// that always has more must not keep us from our orders.
    fn take_all(&mut self) -> Result<bool, Broken> {
        self.ring.want_no_kicks()?;
        for _ in 0..self.places.len() {
            let may = !self.stopping || self.ring.owes();
            if !may || self.places.is_full() {
                self.ring.tell()?;
                return Ok(false);
            }
            match self.ring.take()? {
                Some(taken) => self.arrive(taken)?,
                None => {
                    self.ring.tell()?;
                    if self.is_idle() && self.poll.look(|| self.ring.offers())? {
                        continue;
                    }
                    if !self.ring.want_kicks()? {
                        return Ok(false);
                    }
                }
            }
        }
        self.ring.tell()?;
        Ok(true)
    }

    /// Tells the guest what has ended, once that is long enough ago.
    fn tell_in_time(&mut self, now: Instant) -> Result<(), Broken> {
        if !self.ring.has_to_tell() {
            self.silent = None;
            return Ok(());
        }
        if now.saturating_duration_since(*self.silent.get_or_insert(now)) < SILENCE {
            return Ok(());
        }
        self.silent = None;
        self.ring.tell()
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Readable(INBOX) => {
                for order in self.inbox.take() {
                    let done = self.ordered(order);
                    self.note(done);
                }
            }
            // A kick: the ring is looked at anyway.
            Event::Readable(_) => {}
            Event::Done(place, io, result) => {
                let done = self.moved(place, io, result);
                self.note(done);
            }
        }
    }

    fn ordered(&mut self, order: Order) -> Result<(), Broken> {
        match order {
            Order::Change(change, answer) => answer.send(change.apply(&mut self.ring)).unwrap_or(()),
            Order::Look(until, answer) => self.looks.push((until, answer)),
            Order::Stop => self.stopping = true,
            Order::Ended(place, ending) => return self.end(place, ending, 0),
            Order::Managed(..) => {}
        }
        Ok(())
    }
}
