//! An agent's way to a device server in process: the service behind the agent's socket, the guest's own way, another node, and
//! the ledger as another process has it open.

use super::{PATIENCE, null};
use handover::Port;
use ledger::{Change, Guest, HandoverId, Ledger, LunId, Owner, PathId, State};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::{Nexus, TransportError};
use pr_helper::agent::frame::{Hello, REPLY_LENGTH, ReplyHeader, RequestHeader, Role, VERSION};
use pr_helper::agent::{self, Answer};
use pr_helper::opening::{Identity, OpenLun, Opened};
use pr_helper::policy::Rules;
use pr_helper::server::Limits;
use pr_helper::service::Service;
use pr_helper::{Caller, Client, Command, Observer, PrOutEvent, Refused, Serve};
use rustix::fd::{AsFd, OwnedFd};
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, Status, TransportId};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub const KEY: Key = Key(0x10);
pub const NONCE: Key = Key(0x77);
pub const OTHER: Key = Key(0x20);
pub const KIND: ReservationType = ReservationType(5);
pub const ID: HandoverId = HandoverId(7);

pub fn lun() -> LunId {
    LunId("naa.6".into())
}

pub fn path() -> PathId {
    PathId("a nexus".into())
}

/// Holds commands back: each says that it began, and waits for its turn to end.
pub struct Gate {
    pub begun: Sender<()>,
    pub end: Mutex<Receiver<()>>,
}

/// The guest's nexus, which counts what reaches the device.
#[derive(Clone)]
pub struct Line {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
    pub sent: Arc<AtomicUsize>,
    pub gate: Arc<Mutex<Option<Gate>>>,
}

impl Nexus for Line {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.sent.fetch_add(1, SeqCst);
        if let Some(gate) = &*self.gate.lock().unwrap() {
            gate.begun.send(()).unwrap();
            gate.end.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        let out = if let DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        let task = self.unit.begin(&self.handle, 1);
        Ok(self.unit.execute(&self.handle, &task, &request.cdb, out))
    }
}

/// Any descriptor leads to this nexus.
pub struct Devices {
    line: Line,
    multipath: bool,
    unopened: Arc<Mutex<Option<Completion>>>,
}

impl OpenLun for Devices {
    fn open(&self, _: OwnedFd, _: bool) -> Result<Opened, Completion> {
        if let Some(ended) = self.unopened.lock().unwrap().take() {
            return Err(ended);
        }
        let identity = Identity { lun: lun(), path: path(), node: "/dev/sdx".into(), port: Port::default() };
        let nexus = Box::new(self.line.clone());
        Ok(Opened { identity: Some(Arc::new(identity)), nexus, multipath: self.multipath })
    }
}

/// Every PERSISTENT RESERVE OUT in a few words.
#[derive(Clone, Default)]
pub struct Told(pub Arc<Mutex<Vec<String>>>);

impl Observer for Told {
    fn pr_out(&self, event: &PrOutEvent<'_>) {
        let handover = event.handover.map(|id| id.0);
        let uid = event.caller.uid;
        let what =
            format!("{} {:?} {} {:?}", event.cdb.action, handover, event.completion.status, event.refused);
        assert!(handover.is_none() || uid == rustix::process::geteuid().as_raw());
        self.0.lock().unwrap().push(what);
    }
}

pub struct Bench {
    /// What another process, the agent, has open of the ledger.
    pub ledger: Guest,
    pub line: Line,
    pub foreign: Line,
    pub told: Told,
    /// How the next look at a descriptor ends, if not well.
    pub unopened: Arc<Mutex<Option<Completion>>>,
    service: Arc<Service>,
    pub socket: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    _directory: tempfile::TempDir,
}

pub fn line(unit: &Arc<LogicalUnit>, number: u8) -> Line {
    let name = IscsiName::new(&format!("iqn.2026-11.test:{number}")).unwrap();
    let initiator = TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, number]));
    let handle = unit.attach(&ItNexus { initiator, target_port: 1 });
    Line { unit: Arc::clone(unit), handle, sent: Arc::default(), gate: Arc::default() }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Rules::default(), false, Limits::default())
    }

    pub fn with(rules: Rules, multipath: bool, limits: Limits) -> Self {
        let unit = LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap();
        let (line, foreign) = (line(&unit, 1), line(&unit, 2));
        let directory = tempfile::tempdir().unwrap();
        let guest = || Ledger::open(directory.path()).unwrap().guest(&Owner("vm".into())).unwrap();
        let told = Told::default();
        let unopened = Arc::default();
        let devices = Devices { line: line.clone(), multipath, unopened: Arc::clone(&unopened) };
        let service = Service::new("vm", rules, Box::new(devices), Box::new(guest()), Box::new(told.clone()));
        let service = Arc::new(service);
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let server =
            agent::server(Arc::<Service>::clone(&service), rustix::process::geteuid().as_raw(), limits);
        let thread = Some(std::thread::spawn(move || server.run(&listener, stopped)));
        Self {
            ledger: guest(),
            line,
            foreign,
            told,
            unopened,
            service,
            socket,
            stop,
            thread,
            _directory: directory,
        }
    }

    /// A guest that holds the reservation.
    pub fn holder() -> Self {
        let bench = Self::new();
        bench.hold();
        bench
    }

    pub fn hold(&self) {
        assert_eq!(self.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
        assert_eq!(self.insist(&request::reserve(KEY, KIND)).status, Status::GOOD);
        self.told.0.lock().unwrap().clear();
    }

    pub fn guest(&self, request: &Request) -> Completion {
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let data_out = if let DataPhase::Out(list) = &request.data { list.clone() } else { vec![] };
        self.service.serve(&Caller::default(), Command { cdb, data_out, fd: null() })
    }

    pub fn insist(&self, request: &Request) -> Completion {
        let mut ended = self.guest(request);
        while nexus::unit_attention(&ended).is_some() {
            ended = self.guest(request);
        }
        ended
    }

    pub fn foreign(&mut self, request: &Request) -> Status {
        nexus::retry_unit_attention(&mut self.foreign, request, 8).unwrap().completion.status
    }

    pub fn client(&self, id: HandoverId) -> Client {
        Client::new(&self.socket, null(), id).with_timeout(PATIENCE)
    }

    pub fn change(&self, change: Change) {
        self.ledger.append(&[(lun(), change)]).unwrap();
    }

    pub fn state(&self, state: State, handover: HandoverId) {
        self.change(Change::State { state, handover: Some(handover), why: None });
    }

    /// How many commands reach the device.
    pub fn reaching(&self, what: impl FnOnce()) -> usize {
        let before = self.line.sent.load(SeqCst);
        what();
        self.line.sent.load(SeqCst) - before
    }

    pub fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.0.lock().unwrap())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"x");
        let ended = self.thread.take().unwrap().join().unwrap();
        assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
    }
}

/// The reason of a refusal.
pub fn refusal(result: Result<Completion, TransportError>) -> String {
    match result {
        Err(TransportError::NotSent(error)) => {
            let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
            refused.unwrap_or_else(|| panic!("no refusal: {error}")).0.clone()
        }
        other => panic!("{other:?}"),
    }
}

pub fn read_keys() -> Request {
    request::read(InAction::READ_KEYS, 256)
}

pub fn rekey() -> Request {
    request::register(KEY, NONCE, false)
}

/// A connection whose bytes the test chooses.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn connect(bench: &Bench) -> Self {
        let mut stream = UnixStream::connect(&bench.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(Hello::parse(&hello), Ok(Hello { version: VERSION }));
        stream.write_all(&hello).unwrap();
        Self(stream)
    }

    pub fn send(&self, bytes: &[u8], fds: usize) -> rustix::io::Result<usize> {
        let device = null();
        let client = super::Client(self.0.try_clone().unwrap());
        client.send(bytes, &vec![device.as_fd(); fds])
    }

    pub fn is_closed(&mut self) -> bool {
        super::Client(self.0.try_clone().unwrap()).is_closed()
    }

    pub fn answer(&mut self) -> Answer {
        let mut header = [0; REPLY_LENGTH];
        self.0.read_exact(&mut header).unwrap();
        let header = ReplyHeader::parse(&header).unwrap();
        let mut body = vec![0; header.follows()];
        self.0.read_exact(&mut body).unwrap();
        header.answer(&body)
    }
}

pub fn bytes() -> Vec<u8> {
    let rekey = rekey();
    let DataPhase::Out(list) = &rekey.data else { panic!("a list") };
    let header = RequestHeader::new(ID, Role::Change, &rekey.cdb, list.len(), 0).unwrap();
    [&header.to_bytes(), list.as_slice()].concat()
}

pub fn gate(bench: &Bench) -> (Receiver<()>, Sender<()>) {
    let ((begin, begun), (end, ending)) = (channel(), channel());
    *bench.line.gate.lock().unwrap() = Some(Gate { begun: begin, end: Mutex::new(ending) });
    (begun, end)
}
