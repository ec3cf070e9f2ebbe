//! What each value alone cannot tell: that names are there once, and that the parts fit together.

use super::{Config, LogicalUnit, Vm};
use peer::Address;
use pr_helper::DocumentError;
use std::collections::HashSet;
use std::hash::Hash;
use std::path::{Path, PathBuf};

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read, or does not say what it should.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Its parts do not fit together.
    #[error("{}: {trouble}", path.display())]
    Trouble {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        trouble: Trouble,
    },
}

/// What does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Two of a kind have a name in common.
    #[error("{what} {name} is there twice")]
    Twice {
        /// Of what.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// It would connect to itself.
    #[error("peer {0} is this host itself")]
    Itself(String),
    /// A guest without a name.
    #[error("a vm has no name")]
    Nameless,
    /// Somebody who is not configured.
    #[error("vm {vm} lists {peer}, which is no [[peer]]")]
    NoPeer {
        /// The guest.
        vm: String,
        /// Who.
        peer: String,
    },
    /// A path that depends on where the program was started.
    #[error("{what}: {} is not an absolute path", path.display())]
    Relative {
        /// Which path.
        what: String,
        /// The path.
        path: PathBuf,
    },
    /// A device is one of two kinds.
    #[error("vm {vm}: each device has either a node or a url")]
    Kind {
        /// The guest.
        vm: String,
    },
    /// A node is reached through a helper.
    #[error("vm {vm}: device {} needs a helper: the agent socket of the helper that serves the guest", node.display())]
    NoHelper {
        /// The guest.
        vm: String,
        /// The device.
        node: PathBuf,
    },
    /// Nothing but a URL has these.
    #[error("vm {vm}: `follows` goes with a url that names initiator and isid, and with `lun`")]
    Follows {
        /// The guest.
        vm: String,
    },
}

pub(super) fn checked(config: Config, path: &Path) -> Result<Config, ConfigError> {
    match check(&config) {
        Ok(()) => Ok(config),
        Err(trouble) => Err(ConfigError::Trouble { path: path.to_owned(), trouble }),
    }
}

fn check(config: &Config) -> Result<(), Trouble> {
    let agent = &config.agent;
    absolute("state", &agent.state)?;
    absolute("socket", &agent.socket)?;
    once("peer", config.peers.iter().map(|peer| peer.name.to_string()))?;
    once("vm", config.vms.iter().map(|vm| vm.name.clone()))?;
    once("the uuid", config.vms.iter().map(|vm| vm.uuid.to_string()))?;
    once("the record", config.vms.iter().map(|vm| vm.record().to_owned()))?;
    once("the QMP socket", config.vms.iter().map(|vm| vm.qmp.display().to_string()))?;
    if let Some(own) = config.peers.iter().find(|peer| peer.name == agent.name) {
        return Err(Trouble::Itself(own.name.to_string()));
    }
    config.vms.iter().try_for_each(|vm| check_vm(config, vm))
}

fn check_vm(config: &Config, vm: &Vm) -> Result<(), Trouble> {
    if vm.name.is_empty() || vm.record().is_empty() {
        return Err(Trouble::Nameless);
    }
    absolute(&format!("vm {}: qmp", vm.name), &vm.qmp)?;
    vm.helper.iter().try_for_each(|path| absolute(&format!("vm {}: helper", vm.name), path))?;
    let stranger = vm.peers.iter().find(|name| !config.peers.iter().any(|peer| peer.name == **name));
    if let Some(peer) = stranger {
        return Err(Trouble::NoPeer { vm: vm.name.clone(), peer: peer.to_string() });
    }
    once("peer", vm.peers.iter())?;
    vm.devices.iter().try_for_each(|device| check_device(vm, device))
}

fn check_device(vm: &Vm, device: &LogicalUnit) -> Result<(), Trouble> {
    let name = || vm.name.clone();
    match (&device.node, &device.url) {
        (Some(node), None) => {
            absolute(&format!("vm {}: node", vm.name), node)?;
            if device.helper.is_none() && vm.helper.is_none() {
                return Err(Trouble::NoHelper { vm: name(), node: node.clone() });
            }
        }
        (None, Some(_)) if device.helper.is_none() => {}
        _ => return Err(Trouble::Kind { vm: name() }),
    }
    device.helper.iter().try_for_each(|path| absolute(&format!("vm {}: helper", vm.name), path))?;
    if device.follows && (device.url.is_none() || device.lun.is_none()) {
        return Err(Trouble::Follows { vm: name() });
    }
    Ok(())
}

fn absolute(what: &str, path: &Path) -> Result<(), Trouble> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Trouble::Relative { what: what.to_owned(), path: path.to_owned() })
}

fn once<T: ToString + Hash + Eq>(what: &'static str, names: impl Iterator<Item = T>) -> Result<(), Trouble> {
    let mut seen = HashSet::new();
    for name in names {
        let text = name.to_string();
        if !seen.insert(name) {
            return Err(Trouble::Twice { what, name: text });
        }
    }
    Ok(())
}

impl Config {
    /// Whether certificates are needed: some peer is, or comes, over TCP.
    #[must_use]
    pub fn needs_certificates(&self) -> bool {
        let over_tcp = |address: &Address| matches!(address, Address::Tcp(_));
        self.agent.listen.as_ref().is_some_and(over_tcp)
            || self.peers.iter().any(|peer| over_tcp(&peer.address))
    }
}
