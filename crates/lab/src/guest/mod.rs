//! The guest of the two hosts: it writes without end through virtio-scsi, reads back what it wrote, carries out orders
//! from outside, and logs all of it. Runs in a host's VM, beside QEMU; one for each QEMU.
//!
//! Like a real guest it consists of what is in its memory: the driver's rings, and a page with what it was writing. So on
//! the destination nothing is handed over but what the migration brought; it goes on there after `RESUME`.

mod diary;
mod progress;

pub use diary::{Answer, Diary, Entry, What};

use crate::orders::Orders;
use crate::process::wait_for;
use crate::qemu::qtest::Qtest;
use crate::qemu::{Gate, Qmp, VirtioScsi};
use anyhow::{Context, Result};
use nexus::Nexus;
use progress::Progress;
use scsi::{Completion, DataPhase, Request, Status, opcode};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a block of the disk.
const BLOCK: usize = 512;
/// Blocks that are written in turn.
const BLOCKS: u64 = 64;
/// Of so many writes one is read back.
const READ_EVERY: u64 = 8;
/// How long QEMU may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks for an order.
const LOOK: Duration = Duration::from_millis(50);
/// How long a guest may wait on its destination.
const PAUSE: Duration = Duration::from_secs(600);

/// What a guest is told once.
#[derive(Clone, Debug, clap::Args)]
pub struct Setting {
    /// Where QEMU's sockets are
    #[arg(long)]
    pub directory: PathBuf,
    /// Where it tells what it does, a line each
    #[arg(long)]
    pub log: PathBuf,
    /// Where it finds its orders, a line each
    #[arg(long)]
    pub orders: PathBuf,
}

/// A command that the guest is to send besides what it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    cdb: Vec<u8>,
    data_out: Vec<u8>,
    room: usize,
}

impl Order {
    /// The command of a request.
    #[must_use]
    pub fn new(request: &Request) -> Self {
        let (data_out, room) = match &request.data {
            DataPhase::None => (Vec::new(), 0),
            DataPhase::In(room) => (Vec::new(), *room),
            DataPhase::Out(data) => (data.clone(), 0),
        };
        Self { cdb: request.cdb.clone(), data_out, room }
    }

    fn request(self) -> Request {
        let data = match (self.data_out.is_empty(), self.room) {
            (true, 0) => DataPhase::None,
            (true, room) => DataPhase::In(room),
            (false, _) => DataPhase::Out(self.data_out),
        };
        Request { cdb: self.cdb, data }
    }
}

/// Runs until QEMU ends.
///
/// # Errors
/// If QEMU has not the devices that are needed, or the log cannot be written.
pub fn run(setting: &Setting) -> Result<()> {
    let mut diary = Diary::create(&setting.log)?;
    let ended = Guest::begin(setting, &mut diary).and_then(|mut guest| guest.go_on(&mut diary));
    diary.write(What::Ended(ended.err().map(|error| format!("{error:#}")).unwrap_or_default()))
}

struct Guest {
    disk: VirtioScsi,
    progress: Progress,
    orders: Orders<Order>,
    looked: Instant,
    gate: Arc<Gate>,
    _qmp: Qmp,
}

impl Guest {
    /// A new guest; or one that came from elsewhere, once it runs here.
    fn begin(setting: &Setting, diary: &mut Diary) -> Result<Self> {
        let qmp = Qmp::over(patiently(&setting.directory.join("qmp-guest"))?)?;
        let gate = Arc::clone(&qmp.gate);
        let came = !gate.is_open();
        gate.pass(PAUSE)?;
        let qtest = Qtest::new(patiently(&setting.directory.join("qtest"))?)?;
        let adopt = if came { VirtioScsi::adopt } else { VirtioScsi::new };
        let mut disk = adopt(qtest, Arc::clone(&gate))?;
        let progress = Progress::read(disk.memory())?;
        diary.write(What::Begun { came, sequence: progress.written })?;
        let (orders, looked) = (Orders::new(&setting.orders), Instant::now());
        Ok(Self { disk, progress, orders, looked, gate, _qmp: qmp })
    }

    fn go_on(&mut self, diary: &mut Diary) -> Result<()> {
        loop {
            if !self.gate.is_open() {
                diary.write(What::Stopped)?;
                self.gate.pass(PAUSE)?;
                diary.write(What::Resumed)?;
            }
            while let Some((number, order)) = self.next_order()? {
                let ended = self.disk.execute(&order.request())?;
                diary.write(What::Answered(number, Answer::new(&ended)))?;
            }
            self.write(diary)?;
            if self.progress.written.is_multiple_of(READ_EVERY) {
                self.read_back(diary)?;
            }
        }
    }

    /// Looks for one, unless that was done a moment ago: the file is outside the VM.
    fn next_order(&mut self) -> Result<Option<(usize, Order)>> {
        if self.looked.elapsed() < LOOK {
            return Ok(None);
        }
        let order = self.orders.next()?;
        if order.is_none() {
            self.looked = Instant::now();
        }
        Ok(order)
    }

    /// Writes the next block. What was being written when the guest left its source is written again.
    fn write(&mut self, diary: &mut Diary) -> Result<()> {
        let sequence = self.progress.written + 1;
        let ended =
            self.disk.execute(&request(opcode::WRITE_10, sequence, DataPhase::Out(block(sequence)))?)?;
        diary.write(What::Wrote(sequence, Answer::new(&ended)))?;
        self.progress.store(self.disk.memory(), sequence)
    }

    fn read_back(&mut self, diary: &mut Diary) -> Result<()> {
        let sequence = self.progress.written;
        let ended = self.disk.execute(&request(opcode::READ_10, sequence, DataPhase::In(BLOCK))?)?;
        let found = found(&ended);
        diary.write(What::Read {
            sequence,
            found,
            answer: Answer::new(&Completion { data: Vec::new(), ..ended }),
        })
    }
}

/// READ (10) or WRITE (10) of the block that this sequence number goes to.
fn request(code: u8, sequence: u64, data: DataPhase) -> Result<Request> {
    let [a, b, c, d] = u32::try_from(sequence % BLOCKS)?.to_be_bytes();
    Ok(Request { cdb: vec![code, 0, a, b, c, d, 0, 0, 1, 0], data })
}

/// A block's content: its sequence number again and again.
fn block(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().repeat(BLOCK / 8)
}

/// The sequence number that a block has all over.
fn found(ended: &Completion) -> Option<u64> {
    let first = ended.data.first_chunk().copied().map(u64::from_be_bytes)?;
    (ended.status == Status::GOOD && ended.data == block(first)).then_some(first)
}

fn patiently(path: &Path) -> Result<UnixStream> {
    let stream = wait_for(PATIENCE, || UnixStream::connect(path).ok());
    stream.with_context(|| format!("{}: nobody listens", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_by_its_content_and_a_torn_one_is_not() {
        let mut ended = Completion::good(block(7));
        assert_eq!(found(&ended), Some(7));
        ended.data[BLOCK - 1] ^= 1;
        assert_eq!(found(&ended), None);
        assert_eq!(found(&Completion { status: Status::BUSY, ..Completion::good(block(7)) }), None);
    }

    #[test]
    fn an_order_is_the_request_it_was_made_of() {
        for data in [DataPhase::None, DataPhase::In(8), DataPhase::Out(vec![1, 2])] {
            let request = Request { cdb: vec![0x5F; 10], data };
            assert_eq!(Order::new(&request).request(), request);
        }
    }
}
