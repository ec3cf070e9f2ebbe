//! Events that the guest is to hear of (virtio 1.2 5.6.6.3): logical units that came or went, parameters that changed. They wait
//! here until the guest offers a buffer; too many are dropped, and the guest then hears that it missed some and looks for itself.
//! Filled by whoever adds, removes or grows a logical unit; emptied by the event queue's thread.

use crate::queue::inbox::Inbox;
use crate::queue::ring::{Broken, Ring, Taken};
use crate::queue::{Connection, Engine, INBOX, Order, Start, watching};
use crate::wire;
use scsi::AdditionalSense;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many events wait for the guest.
const MOST: usize = 64;

/// Something that happened to a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was added.
    Added(u8),
    /// It was removed.
    Removed(u8),
    /// A parameter changed, as this sense code says (CAPACITY DATA HAS CHANGED, say).
    Changed(u8, AdditionalSense),
}

/// Where a logical unit says that its parameters changed: the events of its guest.
#[derive(Clone, Debug)]
pub struct Teller {
    events: Arc<Events>,
    number: u8,
}

impl Teller {
    pub(crate) const fn new(events: Arc<Events>, number: u8) -> Self {
        Self { events, number }
    }

    /// A parameter changed, as this sense code says.
    pub fn changed(&self, code: AdditionalSense) {
        self.events.push(Event::Changed(self.number, code));
    }
}

/// Events that nobody has told the guest yet.
#[derive(Debug, Default)]
pub struct Events {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    missed: bool,
    listener: Option<Arc<Inbox<Order>>>,
}

/// The next thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The event; none where events were lost and nothing else is to be said.
    pub(crate) event: Option<Event>,
    /// Events were lost before it.
    pub(crate) missed: bool,
}

impl Events {
    /// Something happened.
    pub fn push(&self, event: Event) {
        let listener = {
            let mut state = self.lock();
            if state.waiting.len() < MOST {
                state.waiting.push_back(event);
            } else {
                state.missed = true;
            }
            state.listener.clone()
        };
        if let Some(listener) = listener {
            listener.wake();
        }
    }

    /// The event queue's thread wants to be woken; none when it ends.
    pub(crate) fn listen(&self, listener: Option<Arc<Inbox<Order>>>) {
        self.lock().listener = listener;
    }

    /// A new guest: what happened before concerns it no more, it finds everything as it is.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.waiting.clear();
        state.missed = false;
    }

    /// Whether some were lost since the last one that was told.
    fn take_missed(&self) -> bool {
        std::mem::take(&mut self.lock().missed)
    }

    /// What could not be told yet is told next.
    fn give_back(&self, report: Report) {
        let mut state = self.lock();
        state.missed |= report.missed;
        if let Some(event) = report.event {
            state.waiting.push_front(event);
        }
    }

    /// The next thing to tell, if any of those waiting passes `heard` (the guest negotiated that kind); others are dropped.
    pub(crate) fn next(&self, heard: impl Fn(&Event) -> bool) -> Option<Report> {
        let mut state = self.lock();
        let event = loop {
            match state.waiting.pop_front() {
                Some(event) if !heard(&event) => {}
                event => break event,
            }
        };
        let missed = std::mem::take(&mut state.missed);
        (event.is_some() || missed).then_some(Report { event, missed })
    }

    /// How many wait for the queue to take them.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the event queue until it is told to stop; the next entry of the available ring, and why it ended early if it did.
pub(crate) fn serve(start: Start, inbox: &Arc<Inbox<Order>>) -> (u16, Result<(), Broken>) {
    let engine = match watching(1, &start, inbox) {
        Ok(engine) => engine,
        Err(error) => return (start.ring.base(), Err(error.into())),
    };
    let Start { ring, connection, .. } = start;
    let mut server = Server { connection, ring, engine, report: None, stopping: false };
    let device = Arc::clone(&server.connection.device);
    device.events().listen(Some(Arc::clone(inbox)));
    let result = server.run(inbox);
    device.events().listen(None);
    if let Some(report) = server.report.take() {
        device.events().give_back(report);
    }
    (server.ring.base(), result)
}

struct Server {
    connection: Arc<Connection>,
    ring: Ring,
    engine: Engine,
    /// What has to be told when the guest offers a buffer.
    report: Option<Report>,
    stopping: bool,
}

impl Server {
    fn run(&mut self, inbox: &Inbox<Order>) -> Result<(), Broken> {
        let mut events = Vec::new();
        loop {
            let more = self.deliver()?;
            if self.stopping && !self.ring.owes() {
                return Ok(());
            }
            if more {
                self.engine.poll(&mut events)?
            } else {
                self.engine.wait(&mut events)?
            }
            let told = events
                .drain(..)
                .filter(|event| matches!(event, crate::queue::Event::Readable(INBOX)))
                .count();
            let orders = if told > 0 { inbox.take() } else { Vec::new() };
            orders.into_iter().for_each(|order| self.ordered(order));
        }
    }

    fn ordered(&mut self, order: Order) {
        match order {
            Order::Change(change, answer) => drop(answer.send(change.apply(&mut self.ring))),
            Order::Stop => self.stopping = true,
            Order::Ended(..) | Order::Managed(..) | Order::Look(..) => {}
        }
    }

    /// Tells the guest what there is to tell, as far as it has offered buffers; whether there may be more.
    fn deliver(&mut self) -> Result<bool, Broken> {
        for _ in 0..self.ring.size() {
            if !self.next_report() {
                self.ring.tell()?;
                return Ok(false);
            }
            match self.ring.take()? {
                Some(taken) => self.tell(&taken)?,
                None => {
                    self.ring.tell()?;
                    if !self.ring.want_kicks()? {
                        return Ok(false);
                    }
                }
            }
        }
        self.ring.tell()?;
        Ok(true)
    }

    /// Whether there is something to tell.
    fn next_report(&mut self) -> bool {
        if self.report.is_none() && self.ring.owes() {
            // A device that was killed had a buffer in its hands: what it was about to say is lost.
            self.report = Some(Report { event: None, missed: true });
        }
        if self.report.is_none() && !self.stopping {
            let connection = &self.connection;
            self.report = connection.device.events().next(|event| match event {
                Event::Added(_) | Event::Removed(_) => connection.has(wire::F_HOTPLUG),
                Event::Changed(..) => connection.has(wire::F_CHANGE),
            });
        }
        self.report.is_some() && (!self.stopping || self.ring.owes())
    }

    /// Fills a buffer. One that is too small is given back empty, and the report is kept.
    fn tell(&mut self, taken: &Taken) -> Result<(), Broken> {
        let Taken { head, chain, walked, .. } = taken;
        let fits = walked.is_ok() && chain.in_length() >= wire::Event::LENGTH;
        let Some(mut report) = self.report.filter(|_| fits) else { return self.ring.give_back(*head, 0) };
        // It may have waited for a buffer for long, and others were lost meanwhile: the next one that is told says so.
        report.missed |= self.connection.device.events().take_missed();
        self.report = Some(report);
        let bytes = report.to_wire().to_bytes();
        chain.write(self.ring.memory(), 0, &bytes)?;
        self.report = None;
        self.ring.give_back(*head, u32::try_from(bytes.len()).unwrap_or(0))
    }
}

impl Report {
    fn to_wire(self) -> wire::Event {
        let lun = |number: u8| wire::Lun::Unit { target: 0, address: wire::Address::Number(number.into()) };
        let reset = |number, reason| wire::Event::of(lun(number), wire::EventKind::TRANSPORT_RESET, reason);
        let event = match self.event {
            None => wire::Event::default(),
            Some(Event::Added(number)) => reset(number, wire::Reason::RESCAN),
            Some(Event::Removed(number)) => reset(number, wire::Reason::REMOVED),
            Some(Event::Changed(number, code)) => {
                let reason = wire::Reason::sense(code.asc, code.ascq);
                wire::Event::of(lun(number), wire::EventKind::PARAM_CHANGE, reason)
            }
        };
        if self.missed { event.after_missed() } else { event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_events_are_told_as_missed_once() {
        let events = Events::default();
        (0..=255).for_each(|number| events.push(Event::Added(number)));
        let first = events.next(|_| true).unwrap();
        assert_eq!(first, Report { event: Some(Event::Added(0)), missed: true });
        for number in 1..MOST {
            let number = u8::try_from(number).unwrap();
            let expected = Report { event: Some(Event::Added(number)), missed: false };
            assert_eq!(events.next(|_| true), Some(expected));
        }
        assert_eq!(events.next(|_| true), None);
        assert_eq!(events.next(|_| true), None);
    }

    #[test]
    fn events_that_the_guest_did_not_ask_for_are_dropped() {
        let events = Events::default();
        events.push(Event::Added(1));
        events.push(Event::Removed(2));
        let report = events.next(|event| matches!(event, Event::Removed(_))).unwrap();
        assert_eq!(report.event, Some(Event::Removed(2)));
        assert_eq!(events.next(|_| true), None);
    }
}
