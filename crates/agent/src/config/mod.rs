//! `tenure.toml`: this host, its peers, and the guests that may move, as the operator writes them.
//!
//! What is wrong is said with line and column, a key that nobody knows is refused, and what does not fit together is
//! refused by name. The format is published as `docs/schema/agent.schema.json`; a test holds it and this parser together.

mod check;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
mod words;

pub use check::{ConfigError, Trouble};
pub use words::{Switch, Uuid};

use crate::claim::Policy;
use crate::drive::Device;
use crate::ground::{Place, Way};
use ledger::LunId;
use peer::{Address, HostName};
use scsi::pr::Key;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use words::{Version, key, text, url};

/// Where the file is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/tenure/tenure.toml";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(rename = "version")]
    _version: Version,
    /// This host.
    pub agent: Agent,
    /// The others.
    #[serde(default, rename = "peer")]
    pub peers: Vec<Peer>,
    /// The guests.
    #[serde(default, rename = "vm")]
    pub vms: Vec<Vm>,
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// This host's name: what its certificate says and its peers call it.
    #[serde(deserialize_with = "text")]
    pub name: HostName,
    /// The state directory, which it shares with the helpers.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// The control socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// Where peers connect; none can without.
    #[serde(default, deserialize_with = "words::optional_text")]
    pub listen: Option<Address>,
    /// What this host shows over TCP, and whom it believes.
    #[serde(default)]
    pub certificates: Certificates,
}

/// `[agent.certificates]`: three PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    /// The authorities' certificates.
    pub authority: PathBuf,
    /// This host's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Default for Certificates {
    fn default() -> Self {
        let file = |name| Path::new("/etc/tenure").join(name);
        Self { authority: file("ca.pem"), certificate: file("host.pem"), key: file("host-key.pem") }
    }
}

/// `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name: what its certificate says.
    #[serde(deserialize_with = "text")]
    pub name: HostName,
    /// Where it listens.
    #[serde(deserialize_with = "text")]
    pub address: Address,
}

/// `[[vm]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Its name, the same on every host.
    pub name: String,
    /// Its UUID, which QEMU is asked for.
    pub uuid: Uuid,
    /// The QMP socket of its QEMU, which no other program may use.
    pub qmp: PathBuf,
    /// Under which name its reservations are recorded: the helper's `--vm`; its own name if absent.
    pub record: Option<String>,
    /// The peers it may go to and come from; none if absent.
    #[serde(default, deserialize_with = "words::texts")]
    pub peers: Vec<HostName>,
    /// Whether it may leave and come at all.
    #[serde(default)]
    pub migrate: Switch,
    /// What it may claim when it is started here without a handover.
    #[serde(default)]
    pub reclaim: Policy,
    /// The agent socket of its helper, for devices that do not name one.
    pub helper: Option<PathBuf>,
    /// Where its QEMU waits for it, in QEMU's form: `tcp:`, `unix:`, `vsock:` or `rdma:`. If absent, the source has to say it (`--uri`).
    #[serde(default, deserialize_with = "words::way")]
    pub incoming: Option<String>,
    /// Its logical units; those that QEMU names are found without.
    #[serde(default, rename = "device")]
    pub devices: Vec<LogicalUnit>,
}

/// `[[vm.device]]`: a logical unit that QEMU does not name, or about which there is more to say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogicalUnit {
    /// The device node, best by a stable name.
    pub node: Option<PathBuf>,
    /// `iscsi://…`: through a session of the agent's own.
    #[serde(default, deserialize_with = "url")]
    pub url: Option<Device>,
    /// The agent socket of the helper that serves the guest there.
    pub helper: Option<PathBuf>,
    /// The guest's key, where no record knows it.
    #[serde(default, deserialize_with = "key")]
    pub key: Option<Key>,
    /// The logical unit by its name; anything else found there is refused.
    pub lun: Option<LunId>,
    /// The initiator name and ISID of the URL belong to this guest alone and go with it.
    #[serde(default)]
    pub follows: bool,
}

fn default_state() -> PathBuf {
    "/var/lib/tenure".into()
}

fn default_socket() -> PathBuf {
    "/run/tenure/agent.sock".into()
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] with the place, or the names of what does not fit together.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        check::checked(pr_helper::document::load(path)?, path)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        check::checked(pr_helper::document::parse(text, path)?, path)
    }

    /// The guest of that name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.name == name)
    }
}

impl Vm {
    /// The name under which its reservations are recorded.
    #[must_use]
    pub fn record(&self) -> &str {
        self.record.as_deref().unwrap_or(&self.name)
    }

    /// Where its configured logical units are; those of unknown kind are left out, which checking has excluded.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let way = |unit: &LogicalUnit| match (&unit.node, &unit.url) {
            (Some(node), _) => {
                let socket = unit.helper.clone().or_else(|| self.helper.clone())?;
                Some(Way::Helper { node: node.clone(), socket })
            }
            (None, url) => url.clone().map(Way::Own),
        };
        let place = |unit: &LogicalUnit| {
            let way = way(unit)?;
            Some(Place { key: unit.key, lun: unit.lun.clone(), follows: unit.follows, ..Place::new(way) })
        };
        self.devices.iter().filter_map(place).collect()
    }

    /// Whether it may go to, or come from, that host.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn may_move(&self, peer: &HostName) -> Result<(), String> {
        let name = &self.name;
        if self.migrate == Switch::Off {
            return Err(format!("vm {name} has migrate = \"off\" on this host"));
        }
        if !self.peers.contains(peer) {
            return Err(format!("vm {name} does not list {peer} among its peers on this host"));
        }
        Ok(())
    }
}
