//! Where a guest's logical unit is found on this host, as the configuration or QEMU says it.

use super::{Error, Order};
use crate::drive::{self, Device, HelperRoute, Link, Ports, Route};
use handover::{Port, Side};
use ledger::{LunId, PathId};
use pr_helper::opening::{Identity, identify};
use rustix::fs::{Mode, OFlags};
use scsi::pr::Key;
use std::path::{Path, PathBuf};

/// How commands come to the logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A device node, through the agent socket of the helper that serves the guest.
    Helper {
        /// `/dev/sdX`, `/dev/disk/by-id/…`.
        node: PathBuf,
        /// The helper's agent socket.
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
}

impl Place {
    /// A way, and nothing said about it.
    #[must_use]
    pub const fn new(way: Way) -> Self {
        Self { way, key: None, lun: None, follows: false }
    }

    pub(super) fn open(&self, order: &Order<'_>, ports: &Ports) -> Result<Found, Error> {
        let (identity, link) = match &self.way {
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
            _ => Ok(Found { identity, key: self.key, follows: self.follows, link }),
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
    let (socket, node) = (socket.to_owned(), node.to_owned());
    let route = Route::Helper(HelperRoute { socket, node, handover: order.handover });
    Ok(((*identity).clone(), Link::connect(route, order.timeout)?))
}

fn directly(order: &Order<'_>, device: &Device, ports: &Ports) -> Result<(Identity, Link), Error> {
    let place = device.to_string();
    let mut link = Link::connect(device.shared(ports, order.timeout), order.timeout)?;
    let identity = identify(&mut link, place.clone())
        .map_err(|answer| Error::Silent { place: place.clone(), answer: Box::new(answer) })?;
    Ok((identity.ok_or(Error::Nameless(place))?, link))
}
