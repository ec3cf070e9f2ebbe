//! A request queue (virtio 1.2 5.6.6.1): takes commands from its ring, has them admitted by their logical unit, moves their data or
//! hands them to a worker, and gives them back with status, sense and residual. Used by [`super::Running`].
//!
//! Guarantees: the thread never waits for a command; it takes no more at once than the device's limits say, and the rest waits in
//! the guest's ring; a request without room for a response is given back empty, one that is malformed otherwise says FAILURE or BAD
//! TARGET; stopping ends when everything taken is given back. Once the ring is broken nothing more is given back, and what is under
//! way is still waited for.

use super::inbox::Inbox;
use super::ring::{Broken, Ring, Taken};
use super::sys::{Event, Io};
use super::tasks::{Task, Tasks};
use super::transfer::{Moving, Step};
use super::{Connection, Format, INBOX, Order, REQUEST, Start, Uring, watching};
use crate::chain::Chain;
use crate::memory::Segment;
use crate::statistics::Sample;
use crate::target::{Lun, View};
use crate::unit::{Admission, Arrival, Ending, Finished, Operation, Work};
use crate::wire;
use scsi::Completion;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

/// Serves the ring until it is told to stop; the next entry of the available ring, and why it ended early if it did.
pub(crate) fn serve(start: Start, inbox: &Arc<Inbox<Order>>) -> (u16, Result<(), Broken>) {
    let most = start.connection.device.settings().most_requests;
    let uring = match watching(most, &start.kick, inbox) {
        Ok(uring) => uring,
        Err(error) => return (start.ring.base(), Err(error.into())),
    };
    let mut server = Server::new(start, Arc::clone(inbox), uring);
    let result = server.run();
    if result.is_err() {
        server.abandon();
    }
    (server.ring.base(), result)
}

struct Server {
    connection: Arc<Connection>,
    /// Which request queue, from 0.
    queue: u16,
    ring: Ring,
    uring: Uring,
    inbox: Arc<Inbox<Order>>,
    view: View,
    tasks: Arc<Tasks>,
    format: Format,
    places: Vec<Option<Request>>,
    free: Vec<u32>,
    /// Admitted, and waiting for others to give up their buffers.
    waiting: VecDeque<u32>,
    /// Bytes in buffers.
    buffered: usize,
    looks: Vec<SyncSender<()>>,
    stopping: bool,
    broken: bool,
    /// Why it is broken, until that was told.
    why: Option<Broken>,
}

/// A command that was taken.
struct Request {
    head: u16,
    chain: Chain,
    began: Instant,
    lun: Option<Arc<Lun>>,
    /// Room for data-in, bytes of data-out, and how many of those the CDB names.
    data_in: usize,
    data_out: usize,
    wanted_out: usize,
    /// Bytes of buffer that it needs, and its part of [`Server::buffered`].
    needs: usize,
    buffered: usize,
    state: State,
}

enum State {
    /// Nothing is under way for it.
    Idle,
    /// It has to wait until others give up their buffers.
    Waiting(Held),
    Moving(Moving),
    Working,
}

/// An admitted command that has not begun.
enum Held {
    Transfer(Moving),
    Work(Box<dyn Work>),
}

impl Server {
    fn new(start: Start, inbox: Arc<Inbox<Order>>, uring: Uring) -> Self {
        let Start { index, ring, connection, .. } = start;
        let queue = index.saturating_sub(REQUEST);
        let most = connection.device.settings().most_requests;
        let tasks = connection.tasks.get(usize::from(queue)).cloned();
        Self {
            queue,
            ring,
            uring,
            inbox,
            view: connection.device.target().view(),
            tasks: tasks.unwrap_or_else(|| Arc::new(Tasks::new(usize::from(most)))),
            format: connection.format(),
            places: std::iter::repeat_with(|| None).take(usize::from(most)).collect(),
            free: (0..u32::from(most)).rev().collect(),
            waiting: VecDeque::new(),
            buffered: 0,
            looks: Vec::new(),
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
            // Whoever asked knows now that what the guest had offered before is under way.
            self.looks.drain(..).for_each(|look| look.send(()).unwrap_or(()));
            if self.stopping && self.under_way() == 0 && !self.ring.owes() {
                return Ok(());
            }
            let waited = if more { self.uring.poll(&mut events) } else { self.uring.wait(&mut events) };
            self.note(waited.map_err(Broken::from));
            events.drain(..).for_each(|event| self.happened(event));
            if let Some(why) = self.why.take() {
                return Err(why);
            }
        }
    }

    /// The ring is broken if this is an error. Whoever has several things to do does the others all the same: what is never told of
    /// as ended would be waited for in vain.
    fn note(&mut self, result: Result<(), Broken>) {
        if let Err(error) = result {
            self.broken = true;
            self.why.get_or_insert(error);
        }
    }

    /// Waits for what is under way, and gives nothing back.
    fn abandon(&mut self) {
        (self.stopping, self.broken) = (true, true);
        let waiting = std::mem::take(&mut self.waiting);
        for place in waiting {
            let ended = self.end(place, Ending::Lost, 0);
            self.note(ended);
        }
        let mut events = Vec::new();
        while self.under_way() > 0 {
            if let Err(error) = self.uring.wait(&mut events) {
                tracing::error!(%error, "commands under way cannot be waited for");
                return;
            }
            events.drain(..).for_each(|event| self.happened(event));
            // A task management function that asks must be able to end what we wait for.
            self.looks.clear();
        }
    }

    fn under_way(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes what the guest offers, as far as limits allow, and tells it of what was given back. Whether there may be more: a guest
    /// that always has more must not keep us from our orders.
    fn take_all(&mut self) -> Result<bool, Broken> {
        self.ring.want_no_kicks()?;
        for _ in 0..self.places.len() {
            let may = !self.stopping || self.ring.owes();
            if !may || self.free.is_empty() || !self.waiting.is_empty() {
                self.ring.tell()?;
                return Ok(false);
            }
            match self.ring.take()? {
                Some(taken) => self.arrive(taken)?,
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
            Order::Look(answer) => self.looks.push(answer),
            Order::Stop => self.stopping = true,
            Order::Ended(place, ending) => return self.end(place, ending, 0),
            Order::Managed(..) => {}
        }
        Ok(())
    }

    /// A request: parsed as far as a response needs it.
    fn arrive(&mut self, taken: Taken) -> Result<(), Broken> {
        let Taken { head, chain, walked } = taken;
        let Format { cdb, sense } = self.format;
        let response = wire::Response::LENGTH + sense;
        if chain.in_length() < response {
            return self.ring.give_back(head, 0);
        }
        let Some(place) = self.free.pop() else { return self.ring.give_back(head, 0) };
        let mut bytes = vec![0; wire::RequestHeader::LENGTH + cdb];
        let read = chain.read(self.ring.memory(), 0, &mut bytes);
        let understood = walked.is_ok() && read.is_ok_and(|read| read == bytes.len());
        let request = Request {
            head,
            began: Instant::now(),
            lun: None,
            data_in: chain.in_length() - response,
            data_out: chain.out_length().saturating_sub(bytes.len()),
            wanted_out: 0,
            needs: 0,
            buffered: 0,
            state: State::Idle,
            chain,
        };
        self.put(place, request);
        match wire::Request::parse(&bytes, u32::try_from(cdb).unwrap_or(u32::MAX)) {
            Ok(request) if understood => self.route(place, &request),
            _ => self.fail(place, wire::ResponseCode::FAILURE),
        }
    }

    /// To its logical unit, or to the target itself.
    fn route(&mut self, place: u32, request: &wire::Request<'_>) -> Result<(), Broken> {
        let Some(number) = address(&request.header.lun) else {
            return self.fail(place, wire::ResponseCode::BAD_TARGET);
        };
        let table = Arc::clone(self.view.table(self.connection.device.target()));
        let lun = number.and_then(|number| table.get(number)).cloned();
        if let Some(completion) = table.answer(lun.as_ref(), request.cdb) {
            return self.end(place, Ending::Status(completion), 0);
        }
        match lun {
            Some(lun) => self.admit(place, &lun, request),
            None => self.fail(place, wire::ResponseCode::BAD_TARGET),
        }
    }

    fn admit(&mut self, place: u32, lun: &Arc<Lun>, request: &wire::Request<'_>) -> Result<(), Broken> {
        let id = self.connection.device.next_id();
        let Some(here) = self.at(place) else { return Ok(()) };
        here.lun = Some(Arc::clone(lun));
        let (data_out, data_in) = (here.data_out, here.data_in);
        let wanted = lun.unit.data_out_length(request.cdb).unwrap_or(data_out as u64);
        let Some(wanted) = usize::try_from(wanted).ok().filter(|wanted| *wanted <= data_out) else {
            return self.fail(place, wire::ResponseCode::OVERRUN);
        };
        here.wanted_out = wanted;
        // Known to the control queue before the logical unit has it: who aborts it then waits for it.
        self.tasks.enter(place as usize, Task { id, tag: request.header.id, lun: lun.number });
        let admission = lun.unit.admit(&Arrival { id, cdb: request.cdb, data_out, data_in });
        self.go_on(place, admission)
    }

    fn go_on(&mut self, place: u32, admission: Admission) -> Result<(), Broken> {
        let (most, longest) = {
            let settings = self.connection.device.settings();
            (settings.most_buffered, settings.most_data_out)
        };
        let (format, memory) = (self.format, Arc::clone(self.ring.memory()));
        let Some(here) = self.at(place) else { return Ok(()) };
        let held = match admission {
            Admission::Ended(ending) => return self.end(place, ending, 0),
            Admission::Work(work) => Held::Work(work),
            Admission::Transfer(transfer) => {
                let segments = here.segments(transfer.operation == Operation::Read, format);
                Held::Transfer(Moving::new(transfer, &memory, segments))
            }
        };
        let need = held.buffer(here.data_out);
        if need > longest {
            drop(held);
            return self.fail(place, wire::ResponseCode::FAILURE);
        }
        here.needs = need;
        if self.buffered > 0 && self.buffered.saturating_add(need) > most {
            self.set(place, State::Waiting(held));
            self.waiting.push_back(place);
            return Ok(());
        }
        self.begin(place, held)
    }

    /// Begins what has waited for buffers, as far as there is room now.
    fn resume(&mut self) -> Result<(), Broken> {
        let most = self.connection.device.settings().most_buffered;
        while let Some(place) = self.waiting.front().copied() {
            let need = self.at(place).map_or(0, |here| here.needs);
            if self.buffered > 0 && self.buffered.saturating_add(need) > most {
                return Ok(());
            }
            self.waiting.pop_front();
            if let Some(State::Waiting(held)) = self.set(place, State::Idle) {
                self.begin(place, held)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, place: u32, held: Held) -> Result<(), Broken> {
        let Some(here) = self.at(place) else { return Ok(()) };
        let need = here.needs;
        here.buffered = need;
        self.buffered = self.buffered.saturating_add(need);
        match held {
            Held::Transfer(mut moving) => {
                let step = moving.begin();
                self.set(place, State::Moving(moving));
                self.step(place, step)
            }
            Held::Work(work) => self.work(place, work, need),
        }
    }

    /// Hands a command to a worker, with its data-out.
    fn work(&mut self, place: u32, work: Box<dyn Work>, need: usize) -> Result<(), Broken> {
        let format = self.format;
        let Some(here) = self.at(place) else { return Ok(()) };
        let segments = here.segments(false, format);
        let mut data = vec![0; need];
        here.state = State::Working;
        let gathered = self.ring.memory().gather(segments, &mut data);
        if gathered.is_err() {
            return self.fail(place, wire::ResponseCode::FAILURE);
        }
        let reply = Reply { inbox: Arc::clone(&self.inbox), place, ending: None };
        let job = Box::new(move || {
            let mut reply = reply;
            reply.ending = Some(work.run(&data));
        });
        if let Err(error) = self.connection.device.workers().hand(job) {
            // The job was dropped, and has answered that the command is lost.
            tracing::error!(%error, "no thread for a command");
        }
        Ok(())
    }

    /// An operation of a transfer is over.
    fn moved(&mut self, place: u32, io: Io, result: std::io::Result<usize>) -> Result<(), Broken> {
        let Some(Request { state: State::Moving(moving), .. }) = self.at(place) else { return Ok(()) };
        let step = moving.next(io, result);
        self.step(place, step)
    }

    fn step(&mut self, place: u32, step: Step) -> Result<(), Broken> {
        let over = match step {
            Step::Over(finish, result) => (finish, result),
            Step::Go(io) => {
                let Err(error) = self.uring.start(place, io) else { return Ok(()) };
                let Some(Request { state: State::Moving(moving), .. }) = self.at(place) else {
                    return Ok(());
                };
                match moving.over(Err(error)) {
                    Step::Over(finish, result) => (finish, result),
                    Step::Go(_) => return Ok(()),
                }
            }
        };
        let (finish, result) = over;
        let moved = match self.set(place, State::Idle) {
            Some(State::Moving(moving)) if result.is_ok() => moving.data_in(),
            _ => 0,
        };
        match finish.finish(result) {
            Finished::Ended(ending) => self.end(place, ending, moved),
            Finished::Work(work) => {
                self.give_up_buffers(place);
                self.go_on(place, Admission::Work(work))
            }
        }
    }

    /// The command has ended; `moved` bytes of data-in are in the guest already.
    fn end(&mut self, place: u32, ending: Ending, moved: usize) -> Result<(), Broken> {
        match ending {
            Ending::Status(completion) => self.complete(place, &completion, moved),
            Ending::Aborted => self.fail(place, wire::ResponseCode::ABORTED),
            Ending::Reset => self.fail(place, wire::ResponseCode::RESET),
            Ending::Lost => self.fail(place, wire::ResponseCode::TRANSPORT_FAILURE),
        }
    }

    /// With a status.
    fn complete(&mut self, place: u32, completion: &Completion, moved: usize) -> Result<(), Broken> {
        let format = self.format;
        let Some(here) = self.at(place) else { return Ok(()) };
        let data = completion.data.get(..completion.data.len().min(here.data_in)).unwrap_or_default();
        let code = if data.len() < completion.data.len() {
            wire::ResponseCode::OVERRUN
        } else {
            wire::ResponseCode::OK
        };
        let moved_in = moved.max(data.len());
        let moved_out = if completion.status.is_good() { here.wanted_out } else { 0 };
        let all = here.data_in.saturating_add(here.data_out);
        let residual = all.saturating_sub(moved_in).saturating_sub(moved_out);
        let segments = here.segments(true, format);
        let sense = completion.sense.get(..completion.sense.len().min(format.sense)).unwrap_or_default();
        let response = wire::Response {
            sense_length: u32::try_from(sense.len()).unwrap_or(0),
            residual: u32::try_from(residual).unwrap_or(u32::MAX),
            status_qualifier: 0,
            status: completion.status.0,
            response: code,
        };
        let sample = Sample {
            data_in: moved_in as u64,
            data_out: moved_out as u64,
            took: here.began.elapsed(),
            failed: !completion.status.is_good(),
        };
        let mut bytes = response.to_bytes().to_vec();
        bytes.extend_from_slice(sense);
        let copied = self.ring.memory().scatter(segments, data).is_ok();
        self.leave(place, copied.then_some(&bytes), moved_in, &sample)
    }

    /// Without a status.
    fn fail(&mut self, place: u32, code: wire::ResponseCode) -> Result<(), Broken> {
        let Some(here) = self.at(place) else { return Ok(()) };
        let all = here.data_in.saturating_add(here.data_out);
        let residual = u32::try_from(all).unwrap_or(u32::MAX);
        let response = wire::Response { residual, response: code, ..wire::Response::default() };
        let sample = Sample { data_in: 0, data_out: 0, took: here.began.elapsed(), failed: true };
        self.leave(place, Some(&response.to_bytes()), 0, &sample)
    }

    /// Gives the request back, with these bytes as the beginning of its response; empty where there are none.
    fn leave(
        &mut self,
        place: u32,
        response: Option<impl AsRef<[u8]>>,
        moved_in: usize,
        sample: &Sample,
    ) -> Result<(), Broken> {
        self.give_up_buffers(place);
        let Some(here) = self.places.get_mut(place as usize).and_then(Option::take) else { return Ok(()) };
        self.free.push(place);
        if let Some(counters) = here.lun.as_ref().and_then(|lun| lun.counters(self.queue)) {
            counters.record(sample);
        }
        let result = if self.broken { Ok(()) } else { self.give_back(&here, response, moved_in) };
        self.tasks.leave(place as usize);
        self.ring.recycle(here.chain);
        result
    }

    fn give_back(
        &mut self,
        here: &Request,
        response: Option<impl AsRef<[u8]>>,
        moved_in: usize,
    ) -> Result<(), Broken> {
        let length = wire::Response::LENGTH + self.format.sense;
        let memory = self.ring.memory();
        let told = response.is_some_and(|response| here.chain.write(memory, 0, response.as_ref()).is_ok());
        let written =
            if told { u32::try_from(length.saturating_add(moved_in)).unwrap_or(u32::MAX) } else { 0 };
        self.ring.give_back(here.head, written)
    }

    fn give_up_buffers(&mut self, place: u32) {
        let given = self.at(place).map_or(0, |here| std::mem::take(&mut here.buffered));
        self.buffered = self.buffered.saturating_sub(given);
    }

    fn at(&mut self, place: u32) -> Option<&mut Request> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn put(&mut self, place: u32, request: Request) {
        if let Some(here) = self.places.get_mut(place as usize) {
            *here = Some(request);
        }
    }

    /// Exchanges a request's state; the one before.
    fn set(&mut self, place: u32, state: State) -> Option<State> {
        self.at(place).map(|here| std::mem::replace(&mut here.state, state))
    }
}

impl Request {
    /// Where its data-in (or data-out) is in the guest.
    fn segments(&self, data_in: bool, format: Format) -> Vec<Segment> {
        if data_in {
            self.chain.in_segments(wire::Response::LENGTH + format.sense, usize::MAX).collect()
        } else {
            self.chain.out_segments(wire::RequestHeader::LENGTH + format.cdb, usize::MAX).collect()
        }
    }
}

impl Held {
    /// Bytes of buffer that it needs, of a command with that much data-out.
    fn buffer(&self, data_out: usize) -> usize {
        match self {
            Self::Transfer(moving) => moving.buffer(),
            Self::Work(work) => work.data_out().min(data_out),
        }
    }
}

/// A worker's answer, which comes also when the worker does not.
struct Reply {
    inbox: Arc<Inbox<Order>>,
    place: u32,
    ending: Option<Ending>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.inbox.post(Order::Ended(self.place, self.ending.take().unwrap_or(Ending::Lost)));
    }
}

/// The number that a LUN of this device's one target has: none in it where no logical unit has that number; none at all where it
/// names another target.
pub(crate) fn address(lun: &[u8; 8]) -> Option<Option<u8>> {
    match wire::Lun::parse(lun).ok()? {
        // It answers as any LUN does: REPORT LUNS is the target's.
        wire::Lun::ReportLuns => Some(None),
        wire::Lun::Unit { target: 0, address: wire::Address::Number(number) } => {
            Some(u8::try_from(number).ok())
        }
        wire::Lun::Unit { target: 0, address: wire::Address::WellKnown(1) } => Some(None),
        wire::Lun::Unit { .. } => None,
    }
}
