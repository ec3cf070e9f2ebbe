//! A host in process: helper service with its agent socket, ledger, and the guest's own commands, over logical units that
//! several hosts share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use agent::ground::{Ground, Order, Place, Way};
use handover::{Port, Side};
use ledger::{Guest, HandoverId, Ledger, LunId, Owner, PathId, Record};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::{Nexus, TransportError};
use pr_helper::opening::{Identity, OpenLun, Opened};
use pr_helper::policy::Rules;
use pr_helper::service::Service;
use pr_helper::{Caller, Command, Observer, Serve};
use rustix::fd::OwnedFd;
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, Status, TransportId};
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub const KEY: Key = Key(0x10);
pub const OTHER: Key = Key(0x20);
pub const KIND: ReservationType = ReservationType(5);
pub const ID: HandoverId = HandoverId(7);
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn units(count: usize) -> Vec<Arc<LogicalUnit>> {
    (0..count).map(|_| LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap()).collect()
}

pub fn lun(index: usize) -> LunId {
    LunId(format!("naa.6{index:03}"))
}

/// A nexus to a logical unit.
#[derive(Clone)]
pub struct Line {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
    port: TransportId,
}

impl Line {
    pub fn new(unit: &Arc<LogicalUnit>, initiator: u8) -> Self {
        let name = IscsiName::new(&format!("iqn.2026-11.test:{initiator}")).unwrap();
        let port = TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, initiator]));
        let handle = unit.attach(&ItNexus { initiator: port.clone(), target_port: 1 });
        Self { unit: Arc::clone(unit), handle, port }
    }

    /// Past unit attentions.
    pub fn insist(&mut self, request: &Request) -> Status {
        nexus::retry_unit_attention(self, request, 8).unwrap().completion.status
    }
}

impl Nexus for Line {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let out = if let DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        let task = self.unit.begin(&self.handle, 1);
        Ok(self.unit.execute(&self.handle, &task, &request.cdb, out))
    }
}

/// What is behind which file.
struct Devices {
    lines: HashMap<u64, (usize, Line)>,
}

impl OpenLun for Devices {
    fn open(&self, fd: OwnedFd, _: bool) -> Result<Opened, Completion> {
        let inode = std::fs::File::from(fd).metadata().unwrap().ino();
        let (index, line) = self.lines.get(&inode).ok_or_else(pr_helper::failure::not_a_device)?;
        let port = Port { initiator: Some(line.port.clone()), target_port: Some(1) };
        let path = PathId(format!("{} port 1", line.port));
        let identity = Identity { lun: lun(*index), path, node: format!("/dev/sd{index}"), port };
        Ok(Opened { identity: Some(Arc::new(identity)), nexus: Box::new(line.clone()), multipath: false })
    }
}

struct Deaf;

impl Observer for Deaf {}

/// A host with a helper for one guest.
pub struct Host {
    pub lines: Vec<Line>,
    service: Arc<Service>,
    devices: Devices,
    directory: tempfile::TempDir,
    sockets: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Host {
    /// `number`: its initiator's.
    pub fn new(units: &[Arc<LogicalUnit>], number: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines: Vec<_> = units.iter().map(|unit| Line::new(unit, number)).collect();
        let devices = || {
            let behind = |(index, line): (usize, &Line)| {
                let node = directory.path().join(format!("disk{index}"));
                let file = std::fs::File::options().create(true).append(true).open(node).unwrap();
                (file.metadata().unwrap().ino(), (index, line.clone()))
            };
            Devices { lines: lines.iter().enumerate().map(behind).collect() }
        };
        let book = Ledger::open(directory.path()).unwrap().guest(&Owner("vm".into())).unwrap();
        let service =
            Service::new("vm", Rules::default(), Box::new(devices()), Box::new(book), Box::new(Deaf));
        let service = Arc::new(service);
        // As `tenure-pr-helper --agent-socket DIR/` names it.
        let sockets = directory.path().join("agents/");
        let socket = pr_helper::listening::place(&sockets, Some("vm".as_ref())).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let server =
            pr_helper::agent::server(Arc::<Service>::clone(&service), uid, pr_helper::agent::limits());
        let thread = Some(std::thread::spawn(move || server.run(&listener, stopped)));
        let devices = devices();
        Self { lines, service, devices, directory, sockets, stop, thread }
    }

    pub fn ledger(&self) -> Guest {
        Ledger::open(self.directory.path()).unwrap().guest(&Owner("vm".into())).unwrap()
    }

    pub fn record(&self, index: usize) -> Arc<Record> {
        self.ledger().record(&lun(index)).unwrap()
    }

    pub fn devices(&self) -> &dyn OpenLun {
        &self.devices
    }

    pub fn node(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("disk{index}"))
    }

    pub fn places(&self) -> Vec<Place> {
        let way = |index| Way::Helper { node: self.node(index), socket: self.sockets.clone() };
        (0..self.lines.len()).map(|index| Place::new(way(index))).collect()
    }

    pub fn ground(&self, side: Side, handover: HandoverId) -> Result<Ground, agent::ground::Error> {
        let ledger = Ledger::open(self.directory.path()).unwrap();
        let owner = Owner("vm".into());
        let order =
            Order { ledger: &ledger, owner, handover, side, timeout: PATIENCE, devices: &self.devices };
        Ground::open(&order, &self.places())
    }

    /// A command of the guest.
    pub fn guest(&self, index: usize, request: &Request) -> Completion {
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let data_out = if let DataPhase::Out(list) = &request.data { list.clone() } else { vec![] };
        let fd = std::fs::File::options().read(true).write(true).open(self.node(index)).unwrap().into();
        self.service.serve(&Caller::default(), Command { cdb, data_out, fd })
    }

    /// The same, past unit attentions.
    pub fn insist(&self, index: usize, request: &Request) -> Completion {
        let mut ended = self.guest(index, request);
        while nexus::unit_attention(&ended).is_some() {
            ended = self.guest(index, request);
        }
        ended
    }

    /// The guest becomes the holder.
    pub fn hold(&self, index: usize) {
        assert_eq!(self.insist(index, &request::register(Key::NONE, KEY, false)).status, Status::GOOD);
        assert_eq!(self.insist(index, &request::reserve(KEY, KIND)).status, Status::GOOD);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"x");
        let ended = self.thread.take().unwrap().join().unwrap();
        assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
    }
}

pub fn read_keys() -> Request {
    request::read(InAction::READ_KEYS, 256)
}

/// PERSISTENT RESERVE OUT that leaves everything as it is.
pub fn refresh() -> Request {
    request::register(KEY, KEY, false)
}
