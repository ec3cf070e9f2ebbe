//! An iSCSI target over a [`Device`]: one thread per connection, one connection per session.
//!
//! `registry` knows who is logged in and reinstates sessions, `connection` owns a socket and its
//! deadlines, `session` is the full feature phase without I/O. A lost connection or a logout loses the
//! I_T nexus and never a registration. Whatever a peer sends, its connection is answered or closed;
//! others do not notice.
//!
//! Used by the command line, the demo and the tests of the initiator.

mod budget;
mod connection;
mod registry;
mod session;
#[cfg(test)]
mod tests;

use crate::login::responder::Policy;
use crate::login::{Chap, Proposal};
use budget::Budget;
use logical_unit::Device;
use registry::{Registry, Ticket};
use scsi::IscsiName;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The one target port: relative target port identifier and target portal group tag.
pub const TARGET_PORT: u16 = 1;
/// Commands that a session may have under way: a handover asks four questions of each of a guest's logical units at once, and
/// 64 of those are to cost one round trip. What they take is bounded by [`Limits::memory`].
const WINDOW: u32 = 512;

/// What bounds a peer's use of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// For the whole login phase.
    pub login: Duration,
    /// For one PDU from its first byte to its last, and for a peer that takes no bytes.
    pub stall: Duration,
    /// Silence after which a peer is pinged; after as much again it is dropped.
    pub ping: Duration,
    /// Memory for data under way, in bytes, of all connections together; beside it each connection has fixed buffers of
    /// less than 2 MiB and room for one small command. Commands beyond it end with TASK SET FULL.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            login: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            ping: Duration::from_secs(30),
            memory: 512 << 20,
        }
    }
}

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The target's name.
    pub iqn: IscsiName,
    /// Credentials that initiators must show.
    pub chap: Option<Chap>,
    /// The logical units.
    pub device: Device,
    /// Bounds for peers.
    pub limits: Limits,
}

impl TargetConfig {
    /// A target without authentication.
    #[must_use]
    pub fn new(listen: SocketAddr, iqn: IscsiName, device: Device) -> Self {
        Self { listen, iqn, chap: None, device, limits: Limits::default() }
    }
}

/// What every connection's thread needs.
#[derive(Debug)]
struct Shared {
    device: Device,
    policy: Policy,
    limits: Limits,
    registry: Registry,
    budget: Budget,
}

/// A listening target; dropping it shuts it down.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Target {
    /// Starts to listen and serve.
    ///
    /// # Errors
    /// What the system says about the address.
    pub fn bind(config: TargetConfig) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(config.listen)?);
        let address = listener.local_addr()?;
        config.device.identify(config.iqn.as_str(), &[TARGET_PORT]);
        let policy = Policy {
            target: config.iqn,
            portal_group: TARGET_PORT,
            chap: config.chap,
            proposal: Proposal::default(),
            window: WINDOW,
        };
        let registry = Registry::new(config.limits.connections);
        let shared = Arc::new(Shared {
            device: config.device,
            policy,
            limits: config.limits,
            registry,
            budget: Budget::new(config.limits.memory),
        });
        let (door, guests) = (Arc::clone(&listener), Arc::clone(&shared));
        let acceptor =
            thread::Builder::new().name("iscsi-accept".to_owned()).spawn(move || accept(&door, &guests))?;
        Ok(Self { address, listener, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there are, logged in or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.registry.count()
    }

    /// Memory that commands and answers under way hold, in bytes; see [`Limits::memory`].
    #[must_use]
    pub fn memory_in_use(&self) -> usize {
        self.shared.budget.used()
    }

    /// Stops listening, tells every initiator that its session ends, and returns when the last connection is closed.
    pub fn shutdown(mut self) {
        self.close();
    }

    fn close(&mut self) {
        self.shared.registry.close();
        // Wakes the acceptor; an error means that it does not listen any more.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.registry.wait_until_empty();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.registry.is_closed() {
        match listener.accept() {
            Ok((stream, _)) => welcome(stream, shared),
            // Out of descriptors, most likely: those in use will be closed some time.
            Err(_) if !shared.registry.is_closed() => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
}

/// Gives the connection a thread, or closes it if there are too many.
fn welcome(stream: TcpStream, shared: &Arc<Shared>) {
    host(stream, shared, connection::serve);
}

/// `serve` has the connection; its place is free again however that ends.
fn host(
    stream: TcpStream,
    shared: &Arc<Shared>,
    serve: impl FnOnce(TcpStream, &Shared, &Ticket) + Send + 'static,
) {
    let Ok(handle) = stream.try_clone() else { return };
    let Some(ticket) = shared.registry.enter(handle) else { return };
    let seat = Seat { shared: Arc::clone(shared), ticket };
    // Without a thread the closure is dropped, and the seat with it.
    let _ = thread::Builder::new()
        .name("iscsi-target".to_owned())
        .spawn(move || serve(stream, &seat.shared, &seat.ticket));
}

/// A connection's place among the guests, given back when this is dropped: a thread that died of a defect would else keep
/// it for ever, refuse its initiator port every new login, and never let the target end.
struct Seat {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.registry.leave(&self.ticket);
    }
}
