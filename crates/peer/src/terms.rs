//! Who this host is, who its peers are, and how long it waits: what both ends of a link go by. Replaced as a whole when
//! the configuration is read again; links that are there keep what they were made with.

use crate::{Address, Credentials, HostName};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What this host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub host: HostName,
    /// The program's version, for people.
    pub program: String,
    /// The revision of the engine: two replicas go alike only if it is the same.
    pub engine: u32,
    /// What else it can do; the other end uses what both can.
    pub capabilities: Vec<String>,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which is what its certificate says.
    pub name: HostName,
    /// Where it listens. One at a Unix socket has no certificate: it is on this host, under root or this program's user.
    pub address: Address,
}

/// How long one end waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// From the connection to the end of the negotiation.
    pub hello: Duration,
    /// For the next request; a link on which nothing comes for so long has nobody at its other end. Shorter than a source
    /// waits for a lost peer, because a handover that was open on the old link keeps its guest until then.
    pub idle: Duration,
    /// After so long without a request the caller sends a ping, and waits as long for the answer.
    pub ping: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), hello: seconds(10), idle: seconds(20), ping: seconds(5) }
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Terms {
    /// This host.
    pub local: Local,
    /// What it shows over TCP; without it there are only Unix sockets.
    pub credentials: Option<Credentials>,
    /// The others.
    pub peers: Vec<Peer>,
    /// How long it waits.
    pub patience: Patience,
}

impl Terms {
    /// The peer of that name.
    #[must_use]
    pub fn peer(&self, name: &HostName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == *name)
    }
}

/// [`Terms`] that can be replaced while they are used.
#[derive(Debug)]
pub struct SharedTerms(RwLock<Arc<Terms>>);

impl SharedTerms {
    /// The first ones.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self(RwLock::new(Arc::new(terms)))
    }

    /// Those that hold now.
    #[must_use]
    pub fn get(&self) -> Arc<Terms> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on these.
    pub fn set(&self, terms: Terms) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }
}
