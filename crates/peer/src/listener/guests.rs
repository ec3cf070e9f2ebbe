//! Who is connected, and how many may be.

use crate::HostName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Connections whose other end has not proved its name yet.
const MOST_STRANGERS: usize = 32;
/// Links of one peer.
const MOST_OF_A_PEER: usize = 8;

/// Another hold on a connection, to end it.
pub(super) enum Hold {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Hold {
    /// Whether the other end has closed it, or it is broken; what came before that may not be read yet.
    fn has_gone(&self) -> bool {
        let of = match self {
            Self::Tcp(socket) => PollFd::new(socket, PollFlags::RDHUP),
            Self::Unix(socket) => PollFd::new(socket, PollFlags::RDHUP),
        };
        // HUP and ERR are told unasked. What cannot be asked is taken to be there.
        matches!(poll(&mut [of], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    fn end(&self) {
        // It may have ended already.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

/// Ends one link from elsewhere: a service that learns that its peer has given it up.
#[derive(Clone)]
pub struct LinkEnd(Weak<Hold>);

impl std::fmt::Debug for LinkEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkEnd")
    }
}

impl LinkEnd {
    /// Whether nobody is at its other end any more: an answer would reach nobody.
    #[must_use]
    pub fn has_gone(&self) -> bool {
        self.0.upgrade().is_none_or(|hold| hold.has_gone())
    }

    /// Ends it: its session hears of that after the request under way.
    pub fn end(&self) {
        if let Some(hold) = self.0.upgrade() {
            hold.end();
        }
    }
}

#[derive(Default)]
struct Known {
    next: u64,
    all: HashMap<u64, (Arc<Hold>, Option<HostName>)>,
}

/// Everybody who is connected.
#[derive(Clone, Default)]
pub(super) struct Guests(Arc<Mutex<Known>>);

impl Guests {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a stranger in, unless there are too many.
    pub(super) fn enter(&self, hold: Hold) -> Option<Guest> {
        let mut known = self.lock();
        if known.all.values().filter(|(_, name)| name.is_none()).count() >= MOST_STRANGERS {
            return None;
        }
        known.next += 1;
        let number = known.next;
        let hold = Arc::new(hold);
        let end = LinkEnd(Arc::downgrade(&hold));
        known.all.insert(number, (hold, None));
        Some(Guest { guests: self.clone(), number, end })
    }

    /// Ends every connection.
    pub(super) fn end(&self) {
        self.lock().all.values().for_each(|(hold, _)| hold.end());
    }
}

/// One of them; leaves when dropped.
pub(super) struct Guest {
    guests: Guests,
    number: u64,
    end: LinkEnd,
}

impl Guest {
    /// The way to end its connection.
    pub(super) fn end(&self) -> LinkEnd {
        self.end.clone()
    }

    /// It is this peer, unless that has too many links.
    pub(super) fn admit(&self, name: &HostName) -> bool {
        let mut known = self.guests.lock();
        if known.all.values().filter(|(_, known)| known.as_ref() == Some(name)).count() >= MOST_OF_A_PEER {
            return false;
        }
        known.all.get_mut(&self.number).map(|(_, known)| *known = Some(name.clone())).is_some()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_link_whose_other_end_was_closed_has_gone_also_before_all_is_read() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let guest = Guests::default().enter(Hold::Unix(here)).unwrap();
        let link = guest.end();
        there.write_all(b"a request").unwrap();
        assert!(!link.has_gone());
        drop(there);
        assert!(link.has_gone());
        drop(guest);
        assert!(link.has_gone(), "nobody serves it any more");
    }
}
