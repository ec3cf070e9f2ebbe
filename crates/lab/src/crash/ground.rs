//! What is true: what the device has for the guest, read by its peer, and what the ledger says of it.

use crate::lio;
use anyhow::{Context, Result, ensure};
use ledger::{Ledger, Owner, State};
use nexus::linux::SgDevice;
use nexus::retry_unit_attention;
use scsi::pr::{FullStatus, InAction, Key, ReservationType, request};
use scsi::{Request, Status, TransportId};
use std::fmt;
use std::path::{Path, PathBuf};

/// Whose records the helper is told to keep.
pub(super) const OWNER: &str = "lab";
/// Unit attentions that may stand before an answer.
const ATTENTIONS: usize = 8;

/// What a nexus has registered and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) key: Option<Key>,
    pub(super) held: Option<ReservationType>,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key, self.held) {
            (None, _) => f.write_str("not registered"),
            (Some(key), None) => write!(f, "registered with {key}"),
            (Some(key), Some(kind)) => write!(f, "registered with {key}, holding {kind}"),
        }
    }
}

/// Everybody who is registered.
#[derive(Clone, Debug, Default)]
pub(super) struct Registrants(FullStatus);

impl Registrants {
    /// What the initiator port of this number has.
    pub(super) fn of(&self, index: u8) -> Fact {
        let name = initiator(index);
        let own = self.0.descriptors.iter().find(|one| one.initiator_port.as_ref().ok() == name.as_ref());
        Fact { key: own.map(|own| own.key), held: own.and_then(|own| own.holds).map(|(_, kind)| kind) }
    }

    /// All keys, sorted.
    pub(super) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.0.descriptors.iter().map(|one| one.key).collect();
        keys.sort_unstable();
        keys
    }
}

fn initiator(index: u8) -> Option<TransportId> {
    let name = lio::initiator(index);
    u64::from_str_radix(name.trim_start_matches("naa."), 16).ok().map(TransportId::Sas)
}

/// Both sources.
pub(super) struct Ground {
    state: PathBuf,
    peer: SgDevice,
}

impl Ground {
    pub(super) fn new(state: &Path, peer: &Path) -> Result<Self> {
        Ok(Self { state: state.to_owned(), peer: SgDevice::open(peer)? })
    }

    /// Sends a command of the peer's own; its unit attentions are of no interest.
    pub(super) fn peer(&mut self, request: &Request) -> Result<Status> {
        Ok(retry_unit_attention(&mut self.peer, request, ATTENTIONS)?.completion.status)
    }

    /// READ FULL STATUS.
    pub(super) fn device(&mut self) -> Result<Registrants> {
        let read = request::read(InAction::READ_FULL_STATUS, 8192);
        let ended = retry_unit_attention(&mut self.peer, &read, ATTENTIONS)?.completion;
        ensure!(ended.status == Status::GOOD, "READ FULL STATUS: {}", ended.status);
        Ok(Registrants(FullStatus::parse(&ended.data).context("READ FULL STATUS")?))
    }

    /// The ledger's record of the guest, as it is on the disk, and how sure the ledger is. Nothing recorded means not
    /// registered.
    pub(super) fn recorded(&self) -> Result<(Fact, State)> {
        let read = Ledger::read_only(&self.state).and_then(|ledger| ledger.guest(&Owner(OWNER.into())));
        let records = match read {
            Ok(guest) => guest.records(),
            Err(ledger::Error::Missing(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        ensure!(records.len() <= 1, "{} records of one logical unit", records.len());
        let Some(record) = records.first() else { return Ok((Fact::default(), State::Active)) };
        ensure!(record.paths.len() <= 1, "{} paths of one nexus", record.paths.len());
        let tracked = record.paths.first().map(|path| path.tracked).unwrap_or_default();
        Ok((Fact { key: tracked.key, held: tracked.held }, record.standing()))
    }
}
