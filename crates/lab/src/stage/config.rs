//! The guests of a stage, and the `tenure.toml` of either host.

use super::{Host, Stage};
use crate::served::Served;
use scsi::pr::Key;
use std::fmt::Write as _;

/// A logical unit of a guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The DEVICE of either host.
    pub device: [String; 2],
    /// The agent's socket of either host's helper; DEVICE is a node then.
    pub helper: Option<[String; 2]>,
    /// The guest's key, where the hosts are told.
    pub key: Option<Key>,
}

impl Disk {
    /// A disk under these URLs.
    #[must_use]
    pub const fn new(device: [String; 2]) -> Self {
        Self { device, helper: None, key: None }
    }

    /// A disk of a target, with each host's name as the initiator.
    #[must_use]
    pub fn of(served: &Served, index: u16) -> Self {
        Self::new(Host::BOTH.map(|host| served.device(index, host.name())))
    }

    /// The hosts are told the guest's key.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Behind helpers with these agents' sockets.
    #[must_use]
    pub fn behind(self, helper: [String; 2]) -> Self {
        Self { helper: Some(helper), ..self }
    }

    /// The DEVICE of one host.
    #[must_use]
    pub fn at(&self, host: Host) -> &str {
        host.of(&self.device).as_str()
    }
}

/// A guest that may move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name: letters, digits, hyphens.
    pub name: String,
    /// Its logical units.
    pub disks: Vec<Disk>,
    /// Further lines of its `[[vm]]` on either host.
    pub more: [String; 2],
}

impl Guest {
    /// A guest with these logical units.
    #[must_use]
    pub fn new(name: &str, disks: Vec<Disk>) -> Self {
        Self { name: name.to_owned(), disks, more: [String::new(), String::new()] }
    }

    /// A UUID that depends on nothing but the name.
    #[must_use]
    pub fn uuid(&self) -> String {
        let sum = |seed: u64| {
            let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
            self.name.bytes().fold(seed, mix)
        };
        let (high, low) = (sum(0xCBF2_9CE4_8422_2325), sum(0x6C62_272E_07BB_0142) & 0xFFFF_FFFF_FFFF);
        format!("{:08x}-{:04x}-4000-8000-{low:012x}", high >> 32, high & 0xFFFF)
    }
}

/// What an agent is started with.
pub(super) fn text(stage: &Stage, host: Host) -> String {
    let other = host.other().name();
    let mut text = format!(
        "version = 1\n[agent]\nname = '{}'\nstate = '{}'\nsocket = '{}'\nlisten = 'unix:{}'\n\
         [[peer]]\nname = '{other}'\naddress = 'unix:{}'\n",
        host.name(),
        stage.state(host).display(),
        stage.control(host).display(),
        stage.door(host).display(),
        stage.way_to(host.other()).display(),
    );
    stage.guests().iter().for_each(|guest| text += &of_guest(stage, guest, host));
    text
}

fn of_guest(stage: &Stage, guest: &Guest, host: Host) -> String {
    let (other, qmp) = (host.other().name(), stage.qmp(&guest.name, host));
    let [alpha, beta] = &guest.more;
    let mut text = format!(
        "[[vm]]\nname = '{}'\nuuid = '{}'\nqmp = '{}'\npeers = ['{other}']\nincoming = 'tcp:127.0.0.1:0'\n{}",
        guest.name,
        guest.uuid(),
        qmp.display(),
        if host == Host::Alpha { alpha } else { beta },
    );
    for disk in &guest.disks {
        let key = disk.key.map(|key| format!("key = '{key}'\n")).unwrap_or_default();
        let helper = disk.helper.as_ref().map(|helper| format!("helper = '{}'\n", host.of(helper)));
        let (way, helper) = (if helper.is_some() { "node" } else { "url" }, helper.unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = write!(text, "[[vm.device]]\n{way} = '{}'\n{helper}{key}", disk.at(host));
    }
    text
}
