//! A gate on the way from a host to its target: passes iSCSI on as it is, tells a [`Keeper`] of every command before the target gets
//! it and of its end before the host does, and does what the keeper says. So something can happen between two commands of a
//! handover, and not about then.
//!
//! Sessions without digests, as our initiator asks for; connections end with either side.

use super::Host;
use anyhow::{Context, Result};
use iscsi::pdu::frame::{Framing, MAX_DATA_SEGMENT, Parsed};
use iscsi::pdu::{BHS_LENGTH, Header, Opcode, ScsiCommand};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// A command on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// Whose.
    pub host: Host,
    /// The addressed logical unit.
    pub lun: u64,
    /// The CDB, padded with zeros.
    pub cdb: [u8; 16],
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The target gets it, and the host the answer.
    Pass,
    /// The target gets it with a service action that no device server knows, and rejects it.
    Spoil,
    /// The target executes it, and the connection ends in place of the answer.
    Lose,
}

/// Who stands at the gates.
pub trait Keeper: Send + Sync {
    /// A command comes; the target has not got it yet.
    fn before(&self, passing: &Passing) -> Way;
    /// It has ended; the host does not know yet.
    fn after(&self, passing: &Passing);
}

/// An open gate.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gate {
    /// Opens one before a target's portal.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn open(host: Host, portal: &str, keeper: Arc<dyn Keeper>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, closed) = (listener.local_addr()?, Arc::<AtomicBool>::default());
        let (portal, stop) = (portal.to_owned(), Arc::clone(&closed));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(|stream| stream.ok()) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // The host sees an end of the connection, as where there is no target.
                let _ = connect(host, stream, &portal, &keeper);
            }
        });
        Ok(Self { address, closed, thread: Some(thread) })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn portal(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Commands under way on one connection, by task tag.
type UnderWay = Mutex<BTreeMap<u32, (Passing, Way)>>;

struct Connection {
    host: Host,
    keeper: Arc<dyn Keeper>,
    under_way: UnderWay,
    initiator: TcpStream,
    target: TcpStream,
}

fn connect(host: Host, initiator: TcpStream, portal: &str, keeper: &Arc<dyn Keeper>) -> Result<()> {
    let target = TcpStream::connect(portal).with_context(|| portal.to_owned())?;
    initiator.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let (under_way, keeper) = (UnderWay::default(), Arc::clone(keeper));
    let connection = Arc::new(Connection { host, keeper, under_way, initiator, target });
    for there in [true, false] {
        let connection = Arc::clone(&connection);
        thread::Builder::new().name("gate".into()).spawn(move || {
            // However it ends, both sides shall know.
            let _ = connection.pump(there);
            connection.close();
        })?;
    }
    Ok(())
}

impl Connection {
    fn close(&self) {
        let _ = self.initiator.shutdown(Shutdown::Both);
        let _ = self.target.shutdown(Shutdown::Both);
    }

    fn pump(&self, there: bool) -> Result<()> {
        let (mut from, mut to) =
            if there { (&self.initiator, &self.target) } else { (&self.target, &self.initiator) };
        let framing = Framing { digests: Default::default(), max_data: MAX_DATA_SEGMENT };
        let (mut buffer, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            while let Parsed::Frame(frame) = framing.next(&buffer)? {
                let mut pdu: Vec<u8> = buffer.drain(..frame.length).collect();
                let goes_on = if there { self.comes(&mut pdu) } else { self.ends(&pdu) };
                if !goes_on {
                    return Ok(());
                }
                to.write_all(&pdu)?;
            }
            let read = from.read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            buffer.extend(chunk.iter().take(read));
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, (Passing, Way)>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn comes(&self, pdu: &mut [u8]) -> bool {
        let Some(bhs) = pdu.first_chunk_mut::<BHS_LENGTH>() else { return false };
        if Opcode::of(bhs) != Opcode::SCSI_COMMAND {
            return true;
        }
        let mut command = ScsiCommand::parse(bhs);
        let Some(lun) = command.lun.number() else { return true };
        let passing = Passing { host: self.host, lun, cdb: command.cdb };
        let way = self.keeper.before(&passing);
        self.table().insert(command.initiator_task_tag, (passing, way));
        if way == Way::Spoil {
            command.cdb[1] |= 0x1F;
            bhs[32..].copy_from_slice(&command.cdb);
        }
        true
    }

    /// Whether the answer goes on to the host.
    fn ends(&self, pdu: &[u8]) -> bool {
        let Some(bhs) = pdu.first_chunk::<BHS_LENGTH>() else { return false };
        // Data-In carries the status where S is set (RFC 7143 11.7.1).
        let over = match Opcode::of(bhs) {
            Opcode::SCSI_RESPONSE => true,
            Opcode::DATA_IN => bhs[1] & 1 != 0,
            _ => false,
        };
        let tag = u32::from_be_bytes([bhs[16], bhs[17], bhs[18], bhs[19]]);
        let Some((passing, way)) = over.then(|| self.table().remove(&tag)).flatten() else { return true };
        self.keeper.after(&passing);
        way != Way::Lose
    }
}
