//! A vhost-user front end without a guest CPU: memory in a memfd, rings, drivers for virtio-scsi and virtio-blk, and whatever a VMM does
//! with a device: reconnect after it was killed, log dirty pages, move the guest to another device.
//!
//! It is the peer against which `tenure device` is tested and measured; other back ends can be driven as well, to be compared with. A device
//! that says what cannot be is an error here, never ignored.

pub mod block;
pub mod connection;
pub mod keeper;
pub mod kills;
pub mod load;
pub mod log;
pub mod memory;
pub mod message;
pub mod migration;
pub mod ring;
pub mod scsi;

pub use connection::{Connection, Inflight, Wishes, feature, protocol};
pub use ring::{Gone, Shape};

use anyhow::{Context, Result, ensure};
use memory::{Layout, Memory, PAGE};
use ring::Ring;
use std::path::Path;
use std::sync::Arc;

/// What a front end is made of.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its rings, from number 0 on.
    pub rings: Vec<Shape>,
    /// What is agreed upon, if the device can.
    pub wishes: Wishes,
    /// In how many regions the memory is.
    pub regions: u64,
}

/// A guest's memory and rings, and the device that serves them.
#[derive(Debug)]
pub struct FrontEnd {
    connection: Connection,
    memory: Arc<Memory>,
    rings: Vec<Ring>,
    inflight: Option<Inflight>,
    wishes: Wishes,
}

impl FrontEnd {
    /// Connects, shares the memory and starts all rings.
    ///
    /// # Errors
    /// If nobody listens, or the device refuses.
    pub fn connect(path: &Path, setting: &Setting) -> Result<Self> {
        let wishes = needed(setting);
        let connection = Connection::open(path, wishes)?;
        let [_, agreed] = connection.features();
        let shapes: Vec<Shape> = setting.rings.iter().map(|shape| possible(*shape, agreed)).collect();
        let memory = Arc::new(Memory::new(room(&shapes, setting.regions)?, setting.regions)?);
        let mut layout = Layout::new(&memory);
        let ring = |(number, shape)| Ring::new(&memory, &mut layout, number, shape);
        let rings = (0..).zip(shapes).map(ring).collect::<Result<Vec<_>>>()?;
        let mut front = Self { connection, memory, rings, inflight: None, wishes };
        front.start(&vec![0; front.rings.len()])?;
        Ok(front)
    }

    /// Connects again, to a device that was started anew: it is told where the rings are and what was under way. Nothing is signalled: it has to
    /// look by itself.
    ///
    /// # Errors
    /// If nobody listens, or the device refuses or can do less than the one before.
    pub fn reconnect(&mut self, path: &Path) -> Result<()> {
        let connection = Connection::open(path, self.wishes)?;
        let ([_, before], [_, now]) = (self.connection.features(), connection.features());
        ensure!(before & !feature::LOG_ALL == now, "features {now:#x} where there were {before:#x}");
        self.connection = connection;
        let bases = self.rings.iter().map(Ring::base).collect::<Result<Vec<_>>>()?;
        self.start(&bases)
    }

    /// Shares memory and starts the rings at these bases.
    fn start(&mut self, bases: &[u16]) -> Result<()> {
        let Self { connection, memory, rings, inflight, .. } = self;
        if connection.has(protocol::INFLIGHT_SHMFD) {
            let size = rings.iter().map(|ring| ring.shape().size).max().unwrap_or(1);
            let kept = match inflight.take() {
                Some(kept) => kept,
                None => connection.make_inflight(u16::try_from(rings.len())?, size)?,
            };
            connection.set_inflight(inflight.insert(kept))?;
        }
        connection.share(memory)?;
        for (ring, base) in rings.iter_mut().zip(bases) {
            ring.attach(connection.life()?, memory);
            connection.start(ring, *base)?;
        }
        Ok(())
    }

    /// Stops all rings, and gives their bases. Requests that the device had taken have been given back; others stay in the rings.
    ///
    /// # Errors
    /// If the device does not answer, or has not given back what it had taken.
    pub fn stop(&mut self) -> Result<Vec<u16>> {
        let Self { connection, rings, .. } = self;
        let mut bases = Vec::new();
        for ring in rings.iter() {
            let base = connection.stop(ring.number())?;
            let used = ring.base()?;
            ensure!(base == used, "ring {} stopped at {base}, but gave {used} back", ring.number());
            bases.push(base);
        }
        Ok(bases)
    }

    /// Starts the rings again after [`Self::stop`].
    ///
    /// # Errors
    /// If the device refuses.
    pub fn resume(&mut self, bases: &[u16]) -> Result<()> {
        for (ring, base) in self.rings.iter().zip(bases) {
            self.connection.start(ring, *base)?;
        }
        Ok(())
    }

    /// One ring.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn ring(&mut self, number: usize) -> Result<&mut Ring> {
        self.rings.get_mut(number).with_context(|| format!("no ring {number}"))
    }

    /// All rings.
    pub fn rings(&mut self) -> &mut [Ring] {
        &mut self.rings
    }

    /// The guest's memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The session.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Without what one of the rings is not to use: it holds for all of them, and a device that may rely on event indices signals by nothing else.
fn needed(setting: &Setting) -> Wishes {
    let unless = |wanted: bool, feature: u64| if wanted { 0 } else { feature };
    let unwanted = |shape: &Shape| {
        unless(shape.event_idx, feature::EVENT_IDX) | unless(shape.indirect, feature::INDIRECT)
    };
    let unwanted = setting.rings.iter().fold(0, |bits, shape| bits | unwanted(shape));
    Wishes { features: setting.wishes.features & !unwanted, ..setting.wishes }
}

/// A ring as the device can serve it.
const fn possible(shape: Shape, features: u64) -> Shape {
    Shape {
        indirect: shape.indirect && features & feature::INDIRECT != 0,
        event_idx: shape.event_idx && features & feature::EVENT_IDX != 0,
        ..shape
    }
}

/// Bytes that these rings need, in whichever region they land.
fn room(shapes: &[Shape], regions: u64) -> Result<u64> {
    let of_request = |shape: &Shape| u64::from(shape.room).next_multiple_of(PAGE) + PAGE;
    let of_ring = |shape: &Shape| {
        let requests = if shape.requests == 0 { shape.size } else { shape.requests };
        u64::from(shape.size) * 32 + 8 * PAGE + u64::from(requests) * of_request(shape)
    };
    let biggest = shapes.iter().map(of_request).max().context("no rings")?;
    let all: u64 = shapes.iter().map(of_ring).sum();
    // What does not fit into a region's end is left there.
    Ok((all + regions * biggest + PAGE).max(regions * 2 * biggest))
}
