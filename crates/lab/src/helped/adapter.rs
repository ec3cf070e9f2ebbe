//! What a kernel is to a host's helper and agent: it holds one session to each target, which outlives all of them, and carries out
//! a command to its end also where the one who sent it dies meanwhile.

use super::{Came, Disk, Wanted};
use crate::leash::Listening;
use anyhow::{Context, Result};
use iscsi::initiator::{IscsiNexus, IscsiUrl, Session};
use nexus::{Nexus, TransportError};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The sessions, in the order of the units.
type Nexuses = Arc<Mutex<Vec<IscsiNexus>>>;

/// A host's adapter.
#[derive(Debug)]
pub struct Adapter {
    urls: Vec<IscsiUrl>,
    nexuses: Nexuses,
    nodes: Vec<PathBuf>,
    _listening: Listening,
}

fn lock(nexuses: &Mutex<Vec<IscsiNexus>>) -> MutexGuard<'_, Vec<IscsiNexus>> {
    nexuses.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_in(url: &IscsiUrl) -> Result<IscsiNexus> {
    let nobody = IscsiName::new("iqn.2026-11.example.tenure:nobody")?;
    Ok(Session::login(&url.session(&nobody, Isid([0; 6])))?.nexus(url.lun))
}

impl Adapter {
    /// Logs in to these logical units, and makes a file `NAME.N` for each in the directory.
    ///
    /// # Errors
    /// If a target does not let it in, or nothing can be made there.
    pub fn plug_in(directory: &Path, name: &str, devices: &[String]) -> Result<Self> {
        let urls = devices.iter().map(|device| Ok(device.parse()?)).collect::<Result<Vec<IscsiUrl>>>()?;
        let opened = urls.iter().map(log_in).collect::<Result<Vec<_>>>()?;
        let socket = directory.join(format!("{name}.adapter"));
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let listening = Listening::of(&listener)?;
        let make = |(unit, nexus): (usize, &IscsiNexus)| {
            let port = nexus.initiator_port().context("a session without a port")?.to_string();
            let node = directory.join(format!("{name}.{unit}"));
            std::fs::write(&node, serde_json::to_vec(&Disk { adapter: socket.clone(), unit, port })?)?;
            anyhow::Ok(node)
        };
        let nodes = opened.iter().enumerate().map(make).collect::<Result<Vec<_>>>()?;
        let nexuses: Nexuses = Arc::new(Mutex::new(opened));
        let shared = Arc::clone(&nexuses);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let nexuses = Arc::clone(&shared);
                thread::spawn(move || converse(&stream, &nexuses));
            }
        });
        Ok(Self { urls, nexuses, nodes, _listening: listening })
    }

    /// The files that stand for its disks.
    #[must_use]
    pub fn nodes(&self) -> &[PathBuf] {
        &self.nodes
    }

    /// The ways past all helpers.
    #[must_use]
    pub fn nexuses(&self) -> Vec<IscsiNexus> {
        lock(&self.nexuses).clone()
    }

    /// The host's power failed and came back: its sessions are new ones.
    ///
    /// # Errors
    /// If a target does not let it in.
    pub fn power_cycle(&self) -> Result<()> {
        let opened = self.urls.iter().map(log_in).collect::<Result<Vec<_>>>()?;
        *lock(&self.nexuses) = opened;
        Ok(())
    }
}

fn converse(stream: &UnixStream, nexuses: &Mutex<Vec<IscsiNexus>>) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let wanted: Wanted = serde_json::from_str(&line).ok()?;
        // Commands of several processes are under way at a time.
        let nexus = lock(nexuses).get(wanted.unit).cloned();
        let came = nexus.map_or_else(|| Came::NotSent("no such unit".into()), |nexus| run(nexus, wanted));
        let answer = serde_json::to_string(&came).ok()?;
        answers.write_all((answer + "\n").as_bytes()).ok()?;
    }
    Some(())
}

fn run(mut nexus: IscsiNexus, wanted: Wanted) -> Came {
    let data = match (wanted.out, wanted.allocation) {
        (Some(list), _) => DataPhase::Out(list),
        (None, 0) => DataPhase::None,
        (None, allocation) => DataPhase::In(allocation),
    };
    match nexus.execute(&Request { cdb: wanted.cdb, data }) {
        Ok(Completion { status, sense, data }) => Came::Completed { status: status.0, sense, data },
        Err(TransportError::NotSent(why)) => Came::NotSent(why.to_string()),
        Err(TransportError::OutcomeUnknown(why)) => Came::Unknown(why.to_string()),
    }
}
