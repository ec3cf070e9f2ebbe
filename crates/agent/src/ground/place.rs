//! Where a guest's logical unit is found on this host, as the configuration or QEMU says it.

use super::{Error, Order, TIMEOUT};
use crate::drive::{self, Device, HelperRoute, Link, Ports, Route};
use handover::known_targets::TargetIdentity;
use handover::{Outcome, Port, Side};
use ledger::{LunId, PathId};
use nexus::unit_attention;
use pr_helper::listening;
use pr_helper::opening::{Identity, identify};
use rustix::fs::{Mode, OFlags};
use scsi::pr::Key;
use scsi::{AdditionalSense, DataPhase, Request, opcode};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Threads that open places.
const MOST_THREADS: usize = 16;
/// Standard INQUIRY data with the target's names.
const INQUIRY_LENGTH: u8 = 96;
/// Unit attentions that are taken of one logical unit.
const MOST_ATTENTIONS: usize = 32;

/// How commands come to the logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A device node, through the agent socket of the helper that serves the guest.
    Helper {
        /// `/dev/sdX`, `/dev/disk/by-id/…`.
        node: PathBuf,
        /// The helper's agent socket, or the directory in which each guest's helper has its own.
        socket: PathBuf,
    },
    /// A session of the agent's own (`iscsi://`), or a device that it may use itself.
    Own(Device),
}

/// One way to one of a guest's logical units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The way.
    pub way: Way,
    /// The guest's key there, where the record does not know it.
    pub key: Option<Key>,
    /// Which logical unit it must be; any, if nobody says.
    pub lun: Option<LunId>,
    /// The initiator name and ISID belong to this guest alone and go with it: at the destination nobody logs in before
    /// the source has logged out, and `lun` says which logical unit it is.
    pub follows: bool,
}

/// A place that was looked at.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) key: Option<Key>,
    pub(super) follows: bool,
    pub(super) link: Link,
    /// What the target calls itself.
    pub(super) target: Option<TargetIdentity>,
    /// Sense data of unit attentions that were pending on a session of our own and may be the guest's.
    pub(super) taken: Vec<Vec<u8>>,
}

/// How long so many places may take to be opened by an agent: of those that one thread opens each has its login, and one
/// outage with its last attempt.
#[must_use]
pub fn opening(places: usize) -> Duration {
    let turns = places.div_ceil(MOST_THREADS).max(1);
    TIMEOUT.saturating_mul(3).saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
}

/// Opens all of them, several at once: each is asked who it is, which takes the target's time.
pub(super) fn open_all(places: &[Place], order: &Order<'_>, ports: &Ports) -> Result<Vec<Found>, Error> {
    let open = |places: &[Place]| places.iter().map(|place| place.open(order, ports)).collect::<Vec<_>>();
    let begin = || thread::Builder::new().name("places".to_owned());
    thread::scope(|scope| {
        let share = |places| begin().spawn_scoped(scope, move || open(places)).map_err(|_| places);
        let running: Vec<_> = places.chunks(places.len().div_ceil(MOST_THREADS).max(1)).map(share).collect();
        let end = |one: Result<thread::ScopedJoinHandle<'_, _>, _>| match one {
            Ok(thread) => thread.join().unwrap_or_else(|_| vec![Err(Error::Died)]),
            // There was no thread for it, so this one does it.
            Err(places) => open(places),
        };
        running.into_iter().flat_map(end).collect()
    })
}

impl Place {
    /// A way, and nothing said about it.
    #[must_use]
    pub const fn new(way: Way) -> Self {
        Self { way, key: None, lun: None, follows: false }
    }

    pub(super) fn open(&self, order: &Order<'_>, ports: &Ports) -> Result<Found, Error> {
        let (identity, mut link) = match &self.way {
            Way::Helper { node, socket } => through_helper(order, node, socket)?,
            Way::Own(device) if self.follows && order.side == Side::Destination => {
                self.unopened(order, device, ports)?
            }
            Way::Own(device) => directly(order, device, ports)?,
        };
        match &self.lun {
            Some(wanted) if *wanted != identity.lun => {
                Err(Error::Other { place: identity.node, found: identity.lun, wanted: wanted.clone() })
            }
            _ => {
                let taken = match &self.way {
                    Way::Own(_) => drain(&mut link),
                    Way::Helper { .. } => Vec::new(),
                };
                let target = target(&mut link);
                Ok(Found { identity, key: self.key, follows: self.follows, link, target, taken })
            }
        }
    }

    fn unopened(&self, order: &Order<'_>, device: &Device, ports: &Ports) -> Result<(Identity, Link), Error> {
        let place = device.to_string();
        let lun = self.lun.clone().ok_or_else(|| Error::Nameless(place.clone()))?;
        let route = device.shared(ports, order.timeout);
        let initiator = route.initiator_port();
        let words = initiator.as_ref().map_or_else(|| place.clone(), ToString::to_string);
        let port = Port { initiator, target_port: None };
        let identity = Identity { lun, path: PathId(words), node: place, port };
        Ok((identity, Link::closed(route, order.timeout)))
    }
}

fn through_helper(order: &Order<'_>, node: &Path, socket: &Path) -> Result<(Identity, Link), Error> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |errno: rustix::io::Errno| drive::Error::Open { node: node.to_owned(), source: errno.into() };
    let device = rustix::fs::open(node, flags, Mode::empty()).map_err(open)?;
    let place = || node.display().to_string();
    let opened = order
        .devices
        .open(device, false)
        .map_err(|answer| Error::Silent { place: place(), answer: Box::new(answer) })?;
    if opened.multipath {
        let why = "a dm-multipath map: its paths have registrations of their own, and a handover moves none of them";
        return Err(Error::Node { node: node.to_owned(), why });
    }
    let identity = opened.identity.ok_or_else(|| Error::Nameless(place()))?;
    let records = order.ledger.directory(&order.owner)?;
    let socket = listening::place(socket, records.file_name())
        .map_err(|source| Error::Socket { path: socket.to_owned(), source })?;
    let node = node.to_owned();
    let route = Route::Helper(HelperRoute { socket, node, handover: order.handover });
    Ok(((*identity).clone(), Link::connect(route, order.timeout)?))
}

/// By INQUIRY, which every target answers; not of a session that is not open yet.
fn target(link: &mut Link) -> Option<TargetIdentity> {
    let inquiry = Request {
        cdb: vec![opcode::INQUIRY, 0, 0, 0, INQUIRY_LENGTH, 0],
        data: DataPhase::In(INQUIRY_LENGTH.into()),
    };
    let Outcome::Done(ended) = link.send(&inquiry) else { return None };
    ended.status.is_good().then(|| TargetIdentity::from_inquiry(&ended.data)).flatten()
}

/// Takes what is pending since a login of our own, which the target tells on every logical unit, so that it costs no round
/// trip while the guest is paused. What the login itself caused (29h) is nobody's; anything else is the guest's. Whether
/// the guest was fenced is asked of the device only after this, so nothing is missed.
fn drain(link: &mut Link) -> Vec<Vec<u8>> {
    let ready = Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None };
    let mut taken = Vec::new();
    for _ in 0..MOST_ATTENTIONS {
        let Outcome::Done(ended) = link.send(&ready) else { break };
        let Some(attention) = unit_attention(&ended) else { break };
        if attention.asc != AdditionalSense::POWER_ON_OR_RESET.asc {
            taken.push(ended.sense);
        }
    }
    taken
}

fn directly(order: &Order<'_>, device: &Device, ports: &Ports) -> Result<(Identity, Link), Error> {
    let place = device.to_string();
    let mut link = Link::connect(device.shared(ports, order.timeout), order.timeout)?;
    let identity = identify(&mut link, place.clone())
        .map_err(|answer| Error::Silent { place: place.clone(), answer: Box::new(answer) })?;
    Ok((identity.ok_or(Error::Nameless(place))?, link))
}
