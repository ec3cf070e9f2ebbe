//! What is looked at before anything is served, and by `tenure agent --check`.

use crate::config::{Config, Vm};
use crate::journal::Journals;
use handover::ENGINE_REVISION;
use peer::listener::BindError;
use peer::{Credentials, CredentialsError, Files, Local, Patience, Peer, Terms};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its certificates cannot be used.
    #[error("certificates: {0}")]
    Credentials(#[from] CredentialsError),
    /// It would not be believed by anybody.
    #[error("[agent] name is {name}, and its certificate is for {}", certificate.join(", "))]
    Name {
        /// What the configuration says.
        name: String,
        /// What the certificate says.
        certificate: Vec<String>,
    },
    /// There is no state directory.
    #[error("[agent] state: {}", path.display())]
    State {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// Peers cannot connect.
    #[error("{error}: {}", .error.source)]
    Listen {
        /// Why.
        error: BindError,
    },
    /// Nobody can be served at the control socket.
    #[error("[agent] socket: {}", path.display())]
    Control {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        Self::Listen { error }
    }
}

/// A configuration with which an agent would start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What is not there now and will be missed when it is needed.
    pub warnings: Vec<String>,
    /// Guests whose journals cannot be read: the agent would serve, and carry on no handover of theirs.
    pub unread: Vec<String>,
}

/// Looks at everything that can be looked at without serving.
///
/// # Errors
/// [`StartError`].
pub fn check(config: &Config) -> Result<Checked, StartError> {
    terms(config, "")?;
    state(config)?;
    let mut warnings = Vec::new();
    if config.agent.listen.is_none() {
        warnings.push("[agent] listen is absent: no guest can come to this host".to_owned());
    }
    for vm in &config.vms {
        let helpers = vm.helper.iter().chain(vm.devices.iter().filter_map(|device| device.helper.as_ref()));
        let sockets = std::iter::once(("QMP socket", &vm.qmp)).chain(helpers.map(|path| ("helper", path)));
        warnings.extend(sockets.filter_map(|(what, path)| missing(&vm.name, what, path)));
        if vm.peers.is_empty() {
            warnings.push(format!("vm {}: peers is absent: it can move nowhere", vm.name));
        }
    }
    Ok(Checked { warnings, unread: unread(config) })
}

fn unread(config: &Config) -> Vec<String> {
    let journals = Journals::new(&config.agent.state, &config.agent.name.to_string());
    let flaw = |vm: &Vm| Some(format!("vm {}: {}", vm.name, journals.read(&vm.name).err()?));
    config.vms.iter().filter_map(flaw).collect()
}

fn missing(vm: &str, what: &str, path: &Path) -> Option<String> {
    let trouble = match path.metadata() {
        Ok(found) if found.file_type().is_socket() => return None,
        Ok(_) => "it is no socket".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("vm {vm}: {what} {}: {trouble}", path.display()))
}

/// Who this host and its peers are, certificates included.
pub(super) fn terms(config: &Config, program: &str) -> Result<Terms, StartError> {
    let local = Local {
        host: config.agent.name.clone(),
        program: program.to_owned(),
        engine: ENGINE_REVISION,
        capabilities: Vec::new(),
    };
    let credentials = config.needs_certificates().then(|| credentials(config)).transpose()?;
    let peers =
        config.peers.iter().map(|peer| Peer { name: peer.name.clone(), address: peer.address.clone() });
    Ok(Terms { local, credentials, peers: peers.collect(), patience: Patience::default() })
}

fn credentials(config: &Config) -> Result<Credentials, StartError> {
    let files = &config.agent.certificates;
    let credentials = Credentials::load(&Files {
        authority: files.authority.clone(),
        certificate: files.certificate.clone(),
        key: files.key.clone(),
    })?;
    let name = config.agent.name.as_str();
    if credentials.names().iter().any(|found| found == name) {
        return Ok(credentials);
    }
    Err(StartError::Name { name: name.to_owned(), certificate: credentials.names().to_vec() })
}

/// The state directory is there: made by whoever installed the helpers, because it is theirs as well.
pub(super) fn state(config: &Config) -> Result<(), StartError> {
    let path = &config.agent.state;
    let failed = |source| StartError::State { path: path.clone(), source };
    if path.metadata().map_err(failed)?.is_dir() {
        Ok(())
    } else {
        Err(failed(io::ErrorKind::NotADirectory.into()))
    }
}
