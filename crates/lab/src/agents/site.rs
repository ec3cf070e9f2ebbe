//! One of the two hosts: its ledger and journal, and the ground that the guest's logical units are on.

use super::KEY;
use super::log::Log;
use crate::served::Served;
use agent::drive::Device;
use agent::ground::{Ground, Order, Place, Way};
use anyhow::{Error, Result};
use handover::Side;
use ledger::{HandoverId, Ledger, Owner};
use peer::message::Id;
use pr_helper::opening::{OpenLun, Opened};
use rustix::fd::OwnedFd;
use scsi::Completion;
use std::path::Path;
use std::time::Duration;

/// What both hosts call the handover.
pub(super) const ID: Id = Id(7);
/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) ground: Ground,
    pub(super) log: Log,
}

impl Site {
    /// Every logical unit over one session of the initiator `name`.
    pub(super) fn open(served: &Served, disks: u16, name: &str, side: Side, state: &Path) -> Result<Self> {
        let directory = state.join(name);
        std::fs::create_dir_all(&directory)?;
        let ledger = Ledger::open(&directory)?;
        let places = (0..disks).map(|disk| place(&served.device(disk, name))).collect::<Result<Vec<_>>>()?;
        let owner = Owner("guest".into());
        let order = Order {
            ledger: &ledger,
            owner,
            handover: HandoverId(ID.0),
            side,
            timeout: PATIENCE,
            devices: &NoNodes,
        };
        let ground = Ground::open(&order, &places)?;
        Ok(Self { name: name.to_owned(), ground, log: Log::open(&directory, name)? })
    }
}

fn place(device: &str) -> Result<Place> {
    let device: Device = device.parse().map_err(Error::msg)?;
    Ok(Place { key: Some(KEY), ..Place::new(Way::Own(device)) })
}

/// There are no device nodes here.
struct NoNodes;

impl OpenLun for NoNodes {
    fn open(&self, _: OwnedFd, _: bool) -> Result<Opened, Completion> {
        Err(pr_helper::failure::not_a_device())
    }
}
