//! Everything that takes privilege to open, opened while the process has it.

use super::agents::AgentSocket;
use super::error::{StartError, told};
use super::options::Options;
use super::pidfile::Pidfile;
use super::records::Records;
use super::refusals::{OwnUser, Refusals};
use super::socket::Socket;
use crate::Observer;
use crate::audit::{Audit, Journal};
use crate::listening::{Made, place};
use crate::metrics::{Address, Endpoint, EndpointError, Metrics};
use crate::opening::LinuxDevices;
use crate::policy::Rules;
use crate::privilege::{Account, Confinement};
use crate::service::Service;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where sysfs tells of a device: its name, its adapter and initiator port, and whether device-mapper made it.
pub const SYSFS: [&str; 2] = ["/sys/class", "/sys/devices"];

/// What is open.
pub(super) struct Opened {
    account: Option<Account>,
    /// The guest's directory, if there is one.
    records: Option<PathBuf>,
    pub(super) files: Files,
    pub(super) agents: Option<AgentSocket>,
    pub(super) parts: Parts,
}

/// Files that are removed at the end, which is when this is dropped.
pub(super) struct Files {
    pub(super) socket: Socket,
    pidfile: Option<Pidfile>,
    metrics: Option<Made>,
}

/// What a service is made of.
pub(super) struct Parts {
    vm: String,
    rules: Rules,
    records: Records,
    audit: Option<Audit>,
    endpoint: Option<Endpoint>,
}

impl Opened {
    /// Opens all of it; what can be checked without making anything comes first.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        let rules = options.policy.as_deref().map(Rules::load).transpose()?.unwrap_or_default();
        let account = Account::find(options.user.as_deref(), options.group.as_deref())?;
        let pidfile = options.pidfile.as_deref().map(Pidfile::make).transpose()?;
        let socket = Socket::open(options)?;
        let vm = options.vm.clone().unwrap_or_else(|| socket.owner().to_owned());
        let records = Records::open(&options.state, &vm);
        let records_in = records.directory();
        if let Some(directory) = &records_in {
            check_owner(directory, account)?;
        }
        let agents = AgentSocket::open(options, records_in.as_deref());
        let (endpoint, metrics) = metrics(options, records_in.as_deref()).unzip();
        let audit = records_in.as_deref().and_then(audit);
        Ok(Self {
            account,
            records: records_in,
            files: Files { socket, pidfile, metrics: metrics.flatten() },
            agents,
            parts: Parts { vm, rules, records, audit, endpoint },
        })
    }

    /// What stays within reach.
    pub(super) fn confinement(&self) -> Confinement {
        Confinement {
            account: self.account,
            owned: self.records.iter().cloned().collect(),
            tidied: self.directories(),
            readable: SYSFS.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
        }
    }

    /// Of what is removed at the end, as far as they have nothing else in them: the right to remove is one for all that is
    /// beneath. What has to stay in a directory that others use is replaced by the next start.
    fn directories(&self) -> Vec<PathBuf> {
        let Files { socket, pidfile, metrics } = &self.files;
        let [pidfile, metrics] = [pidfile.as_ref().map(Pidfile::path), metrics.as_ref().map(Made::path)];
        let made = [socket.made(), pidfile, metrics, self.agents.as_ref().map(AgentSocket::path)];
        let made: Vec<&Path> = made.into_iter().flatten().collect();
        let directories = made.iter().filter_map(|path| path.parent());
        directories.filter(|directory| has_only(directory, &made)).map(Path::to_owned).collect()
    }
}

fn has_only(directory: &Path, made: &[&Path]) -> bool {
    let mut entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.all(|entry| entry.is_ok_and(|entry| made.contains(&entry.path().as_path())))
}

impl Parts {
    /// The service, with everybody who watches it; starts the thread that answers for metrics.
    pub(super) fn service(self) -> Result<Service, StartError> {
        let mut observers: Vec<Arc<dyn Observer>> =
            vec![Arc::new(Refusals), Arc::new(OwnUser::new(rustix::process::geteuid().as_raw()))];
        let missing = self.audit.as_ref().map(Audit::counts).unwrap_or_default();
        if let Some(audit) = self.audit {
            observers.push(Arc::new(audit));
        }
        if let Some(endpoint) = self.endpoint {
            let metrics = Arc::new(Metrics::of_audit(&missing));
            endpoint.serve(Arc::clone(&metrics)).map_err(StartError::Thread)?;
            observers.push(metrics);
        }
        let devices = Box::<LinuxDevices>::default();
        Ok(Service::new(self.vm, self.rules, devices, Box::new(self.records), Box::new(observers)))
    }
}

/// The records must be those of the user this will run as: root without CAP_DAC_OVERRIDE can open no other's. Root's own
/// are given to the user of `-u`.
fn check_owner(records: &Path, account: Option<Account>) -> Result<(), StartError> {
    let now = rustix::process::geteuid();
    let user = account.and_then(Account::user).unwrap_or(now.as_raw());
    match std::fs::metadata(records).map(|records| records.uid()) {
        Ok(owner) if owner != user && !(now.is_root() && owner == 0) => {
            Err(StartError::OthersRecords { path: records.to_owned(), owner, user })
        }
        _ => Ok(()),
    }
}

/// Where metrics are served, if they can be: guests are served without.
fn metrics(options: &Options, records: Option<&Path>) -> Option<(Endpoint, Option<Made>)> {
    let address = match options.metrics.clone()? {
        Address::Unix(path) => place(&path, records.and_then(Path::file_name)).map(Address::Unix),
        tcp @ Address::Tcp(_) => Ok(tcp),
    };
    let bound = address.map_err(EndpointError::from).and_then(|address| Endpoint::bind(&address));
    bound.inspect_err(|error| tracing::error!("no metrics are served: {}", told(error))).ok()
}

/// The audit, if the guest's directory can have it.
fn audit(records: &Path) -> Option<Audit> {
    let journal = Journal::of_service(std::env::var_os("JOURNAL_STREAM").as_deref());
    let opened = Audit::open(records, journal);
    opened.inspect_err(|error| tracing::error!(%error, "no audit can be kept in {}", records.display())).ok()
}
