//! A logical unit for the tests of the queues: READ(10), WRITE(10) and SYNCHRONIZE CACHE on a file without name, and vendor specific
//! commands that wait ([`HOLD`]), echo ([`ECHO`]) or panic ([`PANIC`]) on a thread that may wait, or panic ([`BURST`]), take long ([`SLOW`])
//! or wait ([`GATE`]) at once, in the queue's thread.

use crate::unit::{
    Admission, Arrival, Ending, Finish, Finished, Function, Managed, Operation, Transfer, Unit, Work,
};
use scsi::{AdditionalSense, Completion, Sense, SenseKey};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};

/// Waits until it is released, aborted or reset; then gives data-in as long as its bytes 7 and 8 say.
pub(crate) const HOLD: u8 = 0xC0;
/// Gives back as data-in what came as data-out; its length is in bytes 7 and 8.
pub(crate) const ECHO: u8 = 0xC1;
/// Panics.
pub(crate) const PANIC: u8 = 0xC2;
/// Panics where it is admitted.
pub(crate) const BURST: u8 = 0xC3;

/// Ends after a millisecond, where it is admitted.
pub(crate) const SLOW: u8 = 0xC4;
/// Waits where it is admitted until it is released.
pub(crate) const GATE: u8 = 0xC5;

#[derive(Debug, Default)]
struct State {
    held: HashSet<u64>,
    aborted: HashSet<u64>,
    reset: bool,
    released: bool,
    managed: Vec<Function>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug)]
pub(crate) struct FakeUnit {
    medium: Arc<OwnedFd>,
    file: std::fs::File,
    alignment: usize,
    shared: Arc<Shared>,
}

impl FakeUnit {
    /// With a medium of 1 MiB of zeroes.
    pub(crate) fn new() -> Arc<Self> {
        Self::aligned(1)
    }

    /// The same, whose medium takes only aligned memory.
    pub(crate) fn aligned(alignment: usize) -> Arc<Self> {
        Self::on(tempfile::tempfile().unwrap(), alignment)
    }

    /// The same, whose medium is in memory.
    pub(crate) fn in_memory() -> Arc<Self> {
        Self::on(crate::memory::tests::memfd(0), 1)
    }

    fn on(file: std::fs::File, alignment: usize) -> Arc<Self> {
        file.set_len(1 << 20).unwrap();
        let medium = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
        Arc::new(Self { medium, file, alignment, shared: Arc::default() })
    }

    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    pub(crate) fn get(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    /// Lets all held commands end.
    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().released = true;
        self.shared.told.notify_all();
    }

    /// Waits until `count` commands are held.
    pub(crate) fn wait_for_held(&self, count: usize) {
        let state = self.shared.state.lock().unwrap();
        let deadline = std::time::Duration::from_secs(30);
        let enough = |state: &mut State| state.held.len() < count;
        let (_state, timeout) = self.shared.told.wait_timeout_while(state, deadline, enough).unwrap();
        assert!(!timeout.timed_out(), "fewer than {count} commands are held");
    }

    /// How many commands are held.
    pub(crate) fn held(&self) -> usize {
        self.shared.state.lock().unwrap().held.len()
    }

    /// What was asked of [`Unit::manage`].
    pub(crate) fn managed(&self) -> Vec<Function> {
        self.shared.state.lock().unwrap().managed.clone()
    }

    fn transfer(&self, operation: Operation, cdb: &[u8]) -> Admission {
        let lba = u32::from_be_bytes(cdb[2..6].try_into().unwrap());
        let blocks = u16::from_be_bytes(cdb[7..9].try_into().unwrap());
        Admission::Transfer(Transfer {
            medium: Arc::clone(&self.medium),
            operation,
            offset: u64::from(lba) * 512,
            length: usize::from(blocks) * 512,
            alignment: self.alignment,
            finish: Box::new(FakeFinish),
        })
    }
}

impl Unit for FakeUnit {
    fn admit(&self, command: &Arrival<'_>) -> Admission {
        let cdb = command.cdb;
        match cdb[0] {
            0x00 => Admission::Ended(Ending::Status(Completion::good(Vec::new()))),
            0x12 => Admission::Ended(Ending::Status(Completion::good(vec![0x5A; usize::from(cdb[4])]))),
            0x28 => self.transfer(Operation::Read, cdb),
            0x2A => self.transfer(Operation::Write { durable: cdb[1] & 8 != 0 }, cdb),
            0x35 => self.transfer(Operation::Flush, &[0; 16]),
            BURST => panic!("a test's panic"),
            SLOW | GATE => {
                std::thread::sleep(std::time::Duration::from_millis(1));
                let state = self.shared.state.lock().unwrap();
                let is_held = |state: &mut State| cdb[0] == GATE && !state.released;
                drop(self.shared.told.wait_while(state, is_held).unwrap());
                Admission::Ended(Ending::Status(Completion::good(Vec::new())))
            }
            HOLD | ECHO | PANIC => Admission::Work(Box::new(FakeWork {
                id: command.id,
                code: cdb[0],
                length: u16::from_be_bytes([cdb[7], cdb[8]]).into(),
                shared: Arc::clone(&self.shared),
            })),
            _ => Admission::Ended(Ending::Status(failed(AdditionalSense::INVALID_COMMAND_OPERATION_CODE))),
        }
    }

    fn manage(&self, function: Function) -> Managed {
        let mut state = self.shared.state.lock().unwrap();
        state.managed.push(function);
        match function {
            Function::AbortTask(id) => drop(state.aborted.insert(id)),
            Function::AbortTaskSet | Function::ClearTaskSet => {
                let all: Vec<u64> = state.held.iter().copied().collect();
                state.aborted.extend(all);
            }
            Function::LogicalUnitReset | Function::NexusReset => state.reset = true,
        }
        drop(state);
        self.shared.told.notify_all();
        Managed::Complete
    }

    fn data_out_length(&self, cdb: &[u8]) -> Option<u64> {
        let count = u64::from(u16::from_be_bytes([cdb[7], cdb[8]]));
        match cdb[0] {
            0x2A => Some(count * 512),
            ECHO => Some(count),
            _ => Some(0),
        }
    }
}

fn failed(code: AdditionalSense) -> Completion {
    Completion::check(&Sense::new(SenseKey::ILLEGAL_REQUEST, code))
}

#[derive(Debug)]
struct FakeFinish;

impl Finish for FakeFinish {
    fn finish(self: Box<Self>, result: io::Result<()>) -> Finished {
        Finished::Ended(Ending::Status(match result {
            Ok(()) => Completion::good(Vec::new()),
            Err(_) => failed(AdditionalSense::INTERNAL_TARGET_FAILURE),
        }))
    }
}

#[derive(Debug)]
struct FakeWork {
    id: u64,
    code: u8,
    length: usize,
    shared: Arc<Shared>,
}

impl Work for FakeWork {
    fn run(self: Box<Self>, data_out: &[u8]) -> Ending {
        match self.code {
            ECHO => return Ending::Status(Completion::good(data_out.to_vec())),
            PANIC => panic!("a test's panic"),
            _ => {}
        }
        let mut state = self.shared.state.lock().unwrap();
        state.held.insert(self.id);
        self.shared.told.notify_all();
        let mut state = self
            .shared
            .told
            .wait_while(state, |state| !state.released && !state.reset && !state.aborted.contains(&self.id))
            .unwrap();
        state.held.remove(&self.id);
        match (state.aborted.contains(&self.id), state.reset) {
            (true, _) => Ending::Aborted,
            (_, true) => Ending::Reset,
            _ => Ending::Status(Completion::good(vec![0x5A; self.length])),
        }
    }

    fn data_out(&self) -> usize {
        if self.code == ECHO { self.length } else { 0 }
    }
}
