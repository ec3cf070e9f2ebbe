//! The demo's stage: one LUN behind an iSCSI target, two hosts, two more nodes of the guest's cluster.

use crate::command::pr::unit_attention;
use crate::command::target;
use agent::drive::words;
use agent::drive::{Device, Opened};
use anyhow::{Context, Result, ensure};
use iscsi::target::Target;
use logical_unit::LunSpec;
use nexus::Nexus;
use scsi::pr::{Capabilities, InAction, Key, ReadKeys, ReadReservation, ReservationType, request};
use scsi::{Completion, DataPhase, Request, opcode};
use std::time::Duration;

/// What the guest is registered with.
pub(super) const GUEST: Key = Key(0x6E57);
/// The watching node's key.
pub(super) const WATCHER: Key = Key(0xCAFE);
/// A silent member of the cluster.
const MEMBER: Key = Key(0xBEEF);

const IQN: &str = "iqn.2026-11.example.tenure:demo";
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
const BLOCK: usize = 512;

/// Everything that is there before the handover.
pub(super) struct Cluster {
    target: Target,
    /// The host where the guest runs.
    pub(super) alpha: Device,
    /// The host where it is to run.
    pub(super) beta: Device,
    /// The watching node.
    pub(super) gamma: Device,
    delta: Opened,
}

/// What the LUN looks like after the handover, to a node that had no part in it.
#[derive(Clone, Debug)]
pub(super) struct Left {
    /// How often the guest's key is listed.
    pub(super) guest_keys: usize,
    /// All the others are still registered, and nobody else is.
    pub(super) others_intact: bool,
    /// The reservation is the guest's, with its type.
    pub(super) reservation_intact: bool,
}

impl Cluster {
    /// Serves the LUN. With `identity` both hosts log in under the guest's own name and ISID.
    pub(super) fn new(profile: &str, identity: bool) -> Result<Self> {
        let spec: LunSpec = format!("memory=16M,profile={profile}").parse()?;
        let target = target::serve("127.0.0.1:0", IQN, None, &[spec]).map_err(|failure| failure.reason)?;
        let alpha = device(&target, "alpha")?;
        let beta = device(&target, if identity { "alpha" } else { "beta" })?;
        let (gamma, delta) = (device(&target, "gamma")?, open(&device(&target, "delta")?)?);
        Ok(Self { target, alpha, beta, gamma, delta })
    }

    /// Where the target listens.
    pub(super) fn address(&self) -> String {
        self.target.local_addr().to_string()
    }

    /// Logs a node in.
    pub(super) fn open(&self, device: &Device) -> Result<Opened> {
        open(device)
    }

    /// The cluster forms: every node registers, the guest on alpha reserves. `watcher` gets its key too.
    pub(super) fn form(
        &mut self,
        guest: &mut dyn Nexus,
        watcher: &mut dyn Nexus,
        kind: ReservationType,
    ) -> Result<()> {
        let capabilities = run(guest, &request::read(InAction::REPORT_CAPABILITIES, 8))?;
        let aptpl = Capabilities::parse(&capabilities.data).is_some_and(|read| read.persist_capable);
        good(guest, &request::register(Key::NONE, GUEST, aptpl))?;
        good(watcher, &request::register(Key::NONE, WATCHER, aptpl))?;
        good(&mut self.delta, &request::register(Key::NONE, MEMBER, aptpl))?;
        good(guest, &request::reserve(GUEST, kind))
    }

    /// A look from delta.
    pub(super) fn left(&mut self, kind: ReservationType) -> Result<Left> {
        let keys = run(&mut self.delta, &request::read(InAction::READ_KEYS, 1024))?;
        let keys = ReadKeys::parse(&keys.data).context("READ KEYS")?.keys;
        let held = run(&mut self.delta, &request::read(InAction::READ_RESERVATION, 24))?;
        let held = ReadReservation::parse(&held.data).context("READ RESERVATION")?.reservation;
        let holder = if kind.is_all_registrants() { Key::NONE } else { GUEST };
        let others: Vec<Key> = keys.iter().copied().filter(|key| *key != GUEST).collect();
        Ok(Left {
            guest_keys: keys.len() - others.len(),
            others_intact: others.len() == 2 && others.contains(&WATCHER) && others.contains(&MEMBER),
            reservation_intact: held.is_some_and(|held| held.kind == kind && held.key == holder),
        })
    }

    /// Ends every session and the target.
    pub(super) fn end(self) {
        drop(self.delta);
        self.target.shutdown();
    }
}

fn open(device: &Device) -> Result<Opened> {
    Ok(device.open(TIMEOUT)?)
}

fn device(target: &Target, host: &str) -> Result<Device> {
    let isid = host.bytes().fold(0u32, |sum, byte| sum + u32::from(byte));
    let initiator = format!("iqn.2026-11.example.tenure:{host}");
    let url =
        format!("iscsi://{}/{IQN}/0?initiator={initiator}&isid=80000000{isid:04x}", target.local_addr());
    url.parse().map_err(anyhow::Error::msg)
}

/// Sends a command until no unit attention is in its way; a login and a cluster that forms cause some.
pub(super) fn run(nexus: &mut dyn Nexus, request: &Request) -> Result<Completion> {
    for _ in 0..5 {
        let completion = nexus.execute(request)?;
        if unit_attention(&completion).is_none() {
            return Ok(completion);
        }
    }
    anyhow::bail!("unit attentions without end")
}

/// Sends a command that must end GOOD.
pub(super) fn good(nexus: &mut dyn Nexus, request: &Request) -> Result<()> {
    let completion = run(nexus, request)?;
    ensure!(completion.status.is_good(), "{}", words::status(&completion));
    Ok(())
}

/// WRITE(10) of one block that says `text`.
pub(super) fn write(lba: u8, text: &str) -> Request {
    let mut block = text.as_bytes().to_vec();
    block.resize(BLOCK, 0);
    Request { cdb: transfer(opcode::WRITE_10, lba), data: DataPhase::Out(block) }
}

/// READ(10) of one block.
pub(super) fn read(lba: u8) -> Request {
    Request { cdb: transfer(opcode::READ_10, lba), data: DataPhase::In(BLOCK) }
}

fn transfer(code: u8, lba: u8) -> Vec<u8> {
    vec![code, 0, 0, 0, 0, lba, 0, 0, 1, 0]
}

/// What a block says.
pub(super) fn text(completion: &Completion) -> Result<String> {
    ensure!(completion.status.is_good(), "{}", words::status(completion));
    let end = completion.data.iter().position(|byte| *byte == 0).context("no text")?;
    Ok(String::from_utf8_lossy(completion.data.get(..end).unwrap_or_default()).into_owned())
}
