//! The commands that a request queue has taken and not given back, each in a place of its own. Used by [`super`].

use super::super::Format;
use super::super::transfer::Moving;
use crate::chain::Chain;
use crate::memory::Segment;
use crate::target::Lun;
use crate::unit::Work;
use crate::wire;
use std::sync::Arc;
use std::time::Instant;

/// A command that was taken.
pub(super) struct Request {
    pub(super) head: u16,
    pub(super) chain: Chain,
    pub(super) began: Instant,
    pub(super) lun: Option<Arc<Lun>>,
    /// Room for data-in, bytes of data-out, and how many of those the CDB names.
    pub(super) data_in: usize,
    pub(super) data_out: usize,
    pub(super) wanted_out: usize,
    /// The operation code, for the statistics.
    pub(super) opcode: u8,
    /// A device that was killed had taken it before.
    pub(super) again: bool,
    /// Bytes of buffer that it has.
    pub(super) buffered: usize,
    pub(super) state: State,
}

/// How far a command is.
pub(super) enum State {
    /// Nothing is under way for it.
    Idle,
    /// It has to wait until others give up their buffers.
    Waiting(Box<dyn Work>),
    /// The queue moves its data.
    Moving(Moving),
    /// A worker has it.
    Working,
}

impl Request {
    /// Where its data-in (or data-out) is in the guest.
    pub(super) fn segments(&self, data_in: bool, format: Format) -> impl Iterator<Item = Segment> + Clone {
        let of = |wanted: bool| if wanted { usize::MAX } else { 0 };
        let ins = self.chain.in_segments(wire::Response::LENGTH + format.sense, of(data_in));
        let outs = self.chain.out_segments(wire::RequestHeader::LENGTH + format.cdb, of(!data_in));
        ins.chain(outs)
    }
}

/// All of a queue's places.
pub(super) struct Places {
    all: Vec<Option<Request>>,
    free: Vec<u32>,
}

impl Places {
    pub(super) fn new(most: u16) -> Self {
        let all = std::iter::repeat_with(|| None).take(most.into()).collect();
        Self { all, free: (0..u32::from(most)).rev().collect() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many commands are in them.
    pub(super) fn under_way(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// How many of them a worker has.
    pub(super) fn working(&self) -> usize {
        let working = |place: &&Option<Request>| matches!(place, Some(Request { state: State::Working, .. }));
        self.all.iter().filter(working).count()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Puts a command into a free place, if there is one.
    pub(super) fn put(&mut self, request: Request) -> Option<u32> {
        let place = self.free.pop()?;
        *self.all.get_mut(place as usize)? = Some(request);
        Some(place)
    }

    /// The command leaves its place.
    pub(super) fn take(&mut self, place: u32) -> Option<Request> {
        let request = self.all.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(request)
    }

    pub(super) fn at(&mut self, place: u32) -> Option<&mut Request> {
        self.all.get_mut(place as usize)?.as_mut()
    }

    /// Exchanges a command's state; the one before.
    pub(super) fn set(&mut self, place: u32, state: State) -> Option<State> {
        self.at(place).map(|here| std::mem::replace(&mut here.state, state))
    }
}
