//! Carrying out an admitted command: buffers first, then its transfer, operation by operation, or a worker. Used by [`super`].

use super::super::Order;
use super::super::inbox::Inbox;
use super::super::ring::Broken;
use super::super::sys::Io;
use super::super::transfer::{Moving, Step};
use super::Server;
use super::place::{Request, State};
use crate::unit::{Admission, Ending, Finish, Finished, Operation, Transfer, Work};
use crate::wire;
use std::io;
use std::sync::Arc;

impl Server {
    pub(super) fn go_on(&mut self, place: u32, admission: Admission) -> Result<(), Broken> {
        match admission {
            Admission::Ended(ending) => self.end(place, ending, 0),
            Admission::Work(work) => self.hold(place, work),
            Admission::Transfer(transfer) => self.begin(place, transfer),
        }
    }

    /// Begins a transfer. It has its blocks, and must not wait for those who may be waiting for them: where there is no room for a
    /// long buffer it has a short one.
    fn begin(&mut self, place: u32, transfer: Transfer) -> Result<(), Broken> {
        let format = self.format;
        let Some(here) = self.places.at(place) else { return Ok(()) };
        let segments = here.segments(transfer.operation == Operation::Read, format);
        let mut moving = Moving::new(transfer, self.ring.memory(), segments);
        let lun = here.number();
        if !self.buffers.try_take(lun, moving.buffer()) {
            moving.shrink();
            self.buffers.force(lun, moving.buffer());
        }
        here.buffered = moving.buffer();
        let step = moving.begin();
        here.state = State::Moving(moving);
        self.step(place, step)
    }

    /// A command for a worker needs room for its data first.
    fn hold(&mut self, place: u32, work: Box<dyn Work>) -> Result<(), Broken> {
        let longest = self.connection.device.settings().most_data_out;
        let Some(here) = self.places.at(place) else { return Ok(()) };
        let data_out = work.data_out().min(here.data_out);
        if data_out > longest {
            drop(work);
            return self.fail(place, wire::ResponseCode::FAILURE);
        }
        let need = data_out.saturating_add(work.data_in().unwrap_or(here.data_in));
        if !self.buffers.take(place, here.number(), need) {
            here.state = State::Waiting(work);
            return Ok(());
        }
        here.buffered = need;
        self.work(place, work)
    }

    /// Begins what has waited for buffers, as far as there is room now.
    pub(super) fn resume(&mut self) -> Result<(), Broken> {
        while let Some((place, need)) = self.buffers.next() {
            let Some(here) = self.places.at(place) else { continue };
            here.buffered = need;
            if let State::Waiting(work) = std::mem::replace(&mut here.state, State::Idle) {
                self.work(place, work)?;
            }
        }
        Ok(())
    }

    /// Hands a command to a worker, with its data-out.
    fn work(&mut self, place: u32, work: Box<dyn Work>) -> Result<(), Broken> {
        let format = self.format;
        let Some(here) = self.places.at(place) else { return Ok(()) };
        here.state = State::Working;
        let lane = here.number();
        let mut data = vec![0; work.data_out().min(here.data_out)];
        if self.ring.memory().gather(here.segments(false, format), &mut data).is_err() {
            return self.fail(place, wire::ResponseCode::FAILURE);
        }
        let reply = Reply { inbox: Arc::clone(&self.inbox), place, ending: None };
        let job = Box::new(move || {
            let mut reply = reply;
            reply.ending = Some(work.run(&data));
        });
        if let Err(error) = self.connection.device.workers().hand(lane, job) {
            // The job was dropped, and has answered that the command is lost.
            tracing::error!(%error, "no thread for a command");
        }
        Ok(())
    }

    /// An operation of a transfer is over.
    pub(super) fn moved(&mut self, place: u32, io: Io, result: io::Result<usize>) -> Result<(), Broken> {
        let Some(Request { state: State::Moving(moving), .. }) = self.places.at(place) else { return Ok(()) };
        let step = moving.next(io, result);
        self.step(place, step)
    }

    /// Goes on with a transfer until an operation is under way, or all is over.
    fn step(&mut self, place: u32, mut step: Step) -> Result<(), Broken> {
        loop {
            let io = match step {
                Step::Over(finish, result) => return self.over(place, finish, result),
                Step::Go(io) => io,
            };
            let Some(Request { state: State::Moving(moving), lun, .. }) = self.places.at(place) else {
                return Ok(());
            };
            let lun = lun.as_deref();
            step = if lun.is_some_and(|lun| lun.is_in_memory(&io.file)) {
                // Nothing is waited for, and io_uring would have a thread of the kernel do it: no file in memory takes requests that
                // must not wait.
                let result = io.carry_out();
                moving.next(io, result)
            } else {
                let Err(error) = self.engine.start(place, lun.map_or(0, |lun| lun.number), io) else {
                    return Ok(());
                };
                moving.over(Err(error))
            };
        }
    }

    fn over(&mut self, place: u32, finish: Box<dyn Finish>, result: io::Result<()>) -> Result<(), Broken> {
        let (moved, torn) = match self.places.set(place, State::Idle) {
            Some(State::Moving(moving)) if result.is_ok() => (moving.data_in(), moving.is_torn()),
            _ => (0, false),
        };
        let finished = finish.finish(result);
        if torn {
            return Err(Broken::Torn);
        }
        match finished {
            Finished::Ended(ending) => self.end(place, ending, moved),
            Finished::Work(work) => {
                self.give_up_buffers(place);
                self.go_on(place, Admission::Work(work))
            }
        }
    }

    pub(super) fn give_up_buffers(&mut self, place: u32) {
        if let Some(here) = self.places.at(place) {
            self.buffers.give(here.number(), std::mem::take(&mut here.buffered));
        }
    }
}

impl Request {
    /// Its logical unit's number; 0 where it has none.
    pub(super) fn number(&self) -> u8 {
        self.lun.as_ref().map_or(0, |lun| lun.number)
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
