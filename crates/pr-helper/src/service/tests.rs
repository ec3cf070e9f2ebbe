//! The flow against a device server in process: what is recorded is what the device has, whatever stops on the way.

use super::*;
use handover::Port;
use ledger::{Change, Error, Guest, HandoverId, Ledger, Lock, Owner, PathId, Record, State};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::{TransportError, unit_attention};
use scsi::pr::{FullStatus, InAction, Key, ReservationType};
use scsi::{AdditionalSense, DataPhase, IscsiName, Isid, Request, Status, TransportId};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Minor number of `/dev/zero`.
const ZERO: u32 = 5;
const KEY: Key = Key(0x10);
const OTHER: Key = Key(0x20);
const KIND: ReservationType = ReservationType(5);

mod devices;
mod faults;
mod fencing;
mod handovers;
mod random;

/// Done once, while a command is with the device.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// The first two bytes of a CDB, and an answer.
type Instead = Option<([u8; 2], Completion)>;

/// A nexus to a logical unit in process; with `lost` its answers no longer arrive.
#[derive(Clone)]
struct Line {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
    lost: Arc<AtomicBool>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    cdbs: Arc<Mutex<Vec<Vec<u8>>>>,
    /// What commands that begin like this are answered instead of being carried out.
    instead: Arc<Mutex<Instead>>,
}

impl Nexus for Line {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let out = if let DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        let task = self.unit.begin(&self.handle, 1);
        self.cdbs.lock().unwrap().push(request.cdb.clone());
        if let Some((_, answer)) =
            self.instead.lock().unwrap().as_ref().filter(|(like, _)| request.cdb.starts_with(like))
        {
            return Ok(answer.clone());
        }
        let ended = self.unit.execute(&self.handle, &task, &request.cdb, out);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|act| act());
        if self.lost.load(SeqCst) {
            return Err(TransportError::OutcomeUnknown(std::io::ErrorKind::TimedOut.into()));
        }
        Ok(ended)
    }
}

/// Any descriptor leads to `line`, but one of `/dev/zero` to another nexus of the same logical unit.
struct Devices {
    line: Line,
    other: Line,
    port: Port,
    multipath: bool,
    nameless: bool,
    exchanged: bool,
}

impl OpenLun for Devices {
    fn open(&self, fd: OwnedFd, _: bool) -> Result<Opened, Completion> {
        let other = rustix::fs::minor(rustix::fs::fstat(&fd).unwrap().st_rdev) == ZERO;
        let (line, path) = if other { (&self.other, "other nexus") } else { (&self.line, "a nexus") };
        let (lun, path) = (lun(), PathId(path.into()));
        let identity = Arc::new(Identity { lun, path, node: "/dev/sdx".into(), port: self.port.clone() });
        let identity = (!self.nameless).then_some(identity);
        Ok(Opened { identity, nexus: Box::new(line.clone()), multipath: self.multipath })
    }

    fn confirm(&self, _: &Identity, _: &mut dyn Nexus) -> Result<bool, Completion> {
        Ok(!self.exchanged)
    }
}

/// The ledger, which counts what is made durable and takes no more than `room` changes.
struct Counted {
    guest: Guest,
    appends: AtomicUsize,
    room: AtomicUsize,
}

impl Book for Counted {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, Error> {
        Book::share(&self.guest, lun, wait)
    }
    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, Error> {
        Book::read(&self.guest, lun)
    }
    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        let spent = self.room.fetch_update(SeqCst, SeqCst, |room| room.checked_sub(1)).is_err();
        if spent {
            return Err(Error::Full { path: "log".into(), what: "no room in this test" });
        }
        self.appends.fetch_add(1, SeqCst);
        Book::append(&self.guest, changes)
    }
}

fn lun() -> LunId {
    LunId("naa.6".into())
}

fn it_nexus(number: u8) -> ItNexus {
    let name: IscsiName = format!("iqn.2026-11.test:h{number}").parse().unwrap();
    ItNexus { initiator: TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, number])), target_port: 1 }
}

struct Bench {
    state: tempfile::TempDir,
    line: Line,
    other: Line,
    foreign: Line,
    book: Arc<Counted>,
    service: Service,
    named: bool,
}

impl Bench {
    fn new(profile: &str, named: bool) -> Self {
        let spec = LunSpec { profile: profile.into(), ..LunSpec::memory(1 << 20) };
        let unit = LogicalUnit::open(&spec).unwrap();
        unit.identify("iqn.2026-11.test:target", &[1]);
        let lost = Arc::new(AtomicBool::new(false));
        let line = |number| {
            let handle = unit.attach(&it_nexus(number));
            let (meanwhile, cdbs, instead) = (Arc::default(), Arc::default(), Arc::default());
            Line { unit: Arc::clone(&unit), handle, lost: Arc::clone(&lost), meanwhile, cdbs, instead }
        };
        let (line, mut foreign, other) = (line(1), line(2), line(3));
        foreign.lost = Arc::default();
        let state = tempfile::tempdir().unwrap();
        let book = counted(state.path());
        let devices = devices(&line, &other, named);
        let service = service(devices, &book);
        Self { state, line, other, foreign, book, service, named }
    }

    /// The helper died; a new one has the same state directory and device.
    fn restart(&mut self) {
        self.line.lost.store(false, SeqCst);
        self.book = counted(self.state.path());
        self.serve_with(|_| {});
    }

    /// A service over the same record, and devices that are changed by this.
    fn serve_with(&mut self, change: impl FnOnce(&mut Devices)) {
        let mut devices = devices(&self.line, &self.other, self.named);
        change(&mut devices);
        self.service = service(devices, &self.book);
    }

    fn guest(&self, request: &Request) -> Completion {
        self.send("/dev/null", request)
    }

    /// Through the guest's other nexus.
    fn elsewhere(&self, request: &Request) -> Completion {
        self.send("/dev/zero", request)
    }

    fn send(&self, device: &str, request: &Request) -> Completion {
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let data_out = if let DataPhase::Out(list) = &request.data { list.clone() } else { vec![] };
        let fd = std::fs::File::open(device).unwrap().into();
        self.service.serve(&Caller::default(), Command { cdb, data_out, fd })
    }

    /// Sent again past the unit attentions that a guest's own retry would take.
    fn insist(&self, request: &Request) -> Completion {
        let mut ended = self.guest(request);
        while unit_attention(&ended).is_some() {
            ended = self.guest(request);
        }
        ended
    }

    /// The guest's reads and writes take the unit attentions: the helper sees nothing of it.
    fn io(&mut self) {
        let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
        while unit_attention(&self.line.execute(&ready).unwrap()).is_some() {}
    }

    /// Another node fences the guest, whose reads and writes take the unit attention.
    fn fence_unseen(&mut self) {
        assert_eq!(self.foreign(&request::register_and_ignore(OTHER, false)), Status::GOOD);
        assert_eq!(self.foreign(&request::preempt(OTHER, KEY, KIND)), Status::GOOD);
        self.io();
    }

    fn foreign(&mut self, request: &Request) -> Status {
        nexus::retry_unit_attention(&mut self.foreign, request, 8).unwrap().completion.status
    }

    fn record(&self) -> Arc<Record> {
        self.book.read(&lun()).unwrap().unwrap_or_else(|| Arc::new(Record::new(lun())))
    }

    fn recorded(&self) -> (Option<Key>, Option<ReservationType>) {
        let record = self.record();
        record.paths.first().map_or((None, None), |path| (path.tracked.key, path.tracked.held))
    }

    /// What READ FULL STATUS says of the guest's nexus.
    fn device(&mut self) -> (Option<Key>, Option<ReservationType>) {
        let read = request::read(InAction::READ_FULL_STATUS, 8192);
        let ended = nexus::retry_unit_attention(&mut self.foreign, &read, 8).unwrap().completion;
        let status = FullStatus::parse(&ended.data).unwrap();
        let guest = it_nexus(1).initiator;
        let own = status.descriptors.iter().find(|one| one.initiator_port.as_ref() == Ok(&guest));
        (own.map(|own| own.key), own.and_then(|own| own.holds).map(|(_, kind)| kind))
    }

    fn set(&self, state: State) {
        let change = Change::State { state, handover: Some(HandoverId(7)), why: None };
        self.book.guest.append(&[(lun(), change)]).unwrap();
    }
}

fn counted(state: &std::path::Path) -> Arc<Counted> {
    let guest = Ledger::open(state).unwrap().guest(&Owner("vm".into())).unwrap();
    Arc::new(Counted { guest, appends: AtomicUsize::new(0), room: AtomicUsize::new(usize::MAX) })
}

fn devices(line: &Line, other: &Line, named: bool) -> Devices {
    let initiator = Some(it_nexus(1).initiator);
    let port = if named { Port { initiator, target_port: Some(1) } } else { Port::default() };
    Devices {
        line: line.clone(),
        other: other.clone(),
        port,
        multipath: false,
        nameless: false,
        exchanged: false,
    }
}

fn service(devices: Devices, book: &Arc<Counted>) -> Service {
    Service::new("vm", Rules::default(), Box::new(devices), Box::new(Arc::clone(book)), Box::new(()))
}

fn holder(profile: &str, named: bool) -> Bench {
    let bench = Bench::new(profile, named);
    assert_eq!(bench.insist(&request::register(Key::NONE, KEY, false)).status, Status::GOOD);
    assert_eq!(bench.insist(&request::reserve(KEY, KIND)).status, Status::GOOD);
    bench
}

fn code(completion: &Completion) -> Option<AdditionalSense> {
    completion.decoded_sense().map(|sense| sense.code)
}

#[test]
fn a_repeated_reserve_or_register_makes_nothing_durable() {
    let bench = holder("spc", false);
    let before = bench.book.appends.load(SeqCst);
    for _ in 0..5 {
        assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
        assert_eq!(bench.guest(&request::register(KEY, KEY, false)).status, Status::GOOD);
    }
    assert_eq!(bench.book.appends.load(SeqCst), before);
    bench.guest(&request::register(KEY, KEY, true));
    assert_eq!(bench.book.appends.load(SeqCst), before + 2);
}

/// The probe counts in PRGENERATION: a guest of QEMU's own helper would read a smaller one.
#[test]
fn what_the_device_accepts_or_rejects_leads_to_no_probe() {
    let mut bench = holder("lio", false);
    assert_eq!(bench.guest(&request::register_and_ignore(OTHER, false)).status, Status::GOOD);
    assert_eq!(bench.guest(&request::release(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
    let other_type = ReservationType::WRITE_EXCLUSIVE;
    assert_eq!(bench.guest(&request::release(OTHER, other_type)).status, Status::RESERVATION_CONFLICT);
    assert_eq!(bench.device(), (Some(OTHER), Some(KIND)));
    let read = bench.insist(&request::read(InAction::READ_KEYS, 8));
    assert_eq!(read.data[..4], [0, 0, 0, 2], "two registrations and nothing else");
}

#[test]
fn a_full_state_directory_refuses_changes_and_nothing_else() {
    let mut bench = holder("spc", false);
    bench.book.room.store(0, SeqCst);
    let refused = bench.guest(&request::register(KEY, Key::NONE, false));
    assert_eq!(code(&refused), Some(AdditionalSense::INTERNAL_TARGET_FAILURE));
    assert_eq!(bench.device(), (Some(KEY), Some(KIND)));
    assert_eq!(bench.guest(&request::read(InAction::READ_KEYS, 8192)).status, Status::GOOD);
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
}

#[test]
fn a_commit_that_fails_leaves_good_and_lets_no_more_changes_pass_until_the_device_was_asked() {
    let mut bench = holder("spc", false);
    bench.book.room.store(1, SeqCst);
    assert_eq!(bench.guest(&request::release(KEY, KIND)).status, Status::GOOD);
    assert_eq!(bench.record().standing(), State::Unverified);
    let refused = bench.guest(&request::reserve(KEY, KIND));
    assert_eq!(code(&refused), Some(AdditionalSense::INTERNAL_TARGET_FAILURE));
    bench.book.room.store(usize::MAX, SeqCst);
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
    assert_eq!(bench.recorded(), bench.device());
    assert_eq!(bench.record().standing(), State::Active);
}

#[test]
fn a_guest_that_moved_or_is_being_moved_reaches_no_device() {
    let mut bench = holder("spc", false);
    for (state, status) in [(State::Moved, Status::RESERVATION_CONFLICT), (State::Handover, Status::BUSY)] {
        bench.set(state);
        assert_eq!(bench.guest(&request::release(KEY, KIND)).status, status);
        assert_eq!(bench.device(), (Some(KEY), Some(KIND)));
    }
}

#[test]
fn a_freeze_makes_the_guest_wait_and_then_busy() {
    let bench = holder("spc", false);
    let _frozen = bench.book.guest.freeze(&lun(), Instant::now()).unwrap();
    let begun = Instant::now();
    assert_eq!(bench.guest(&request::release(KEY, KIND)).status, Status::BUSY);
    assert!(begun.elapsed() >= Service::WAIT && begun.elapsed() < Service::WAIT * 5);
}

#[test]
fn a_handover_that_is_given_up_in_time_lets_the_waiting_guest_on_and_finds_its_lock_free() {
    let mut bench = holder("spc", false);
    bench.set(State::Handover);
    let frozen = bench.book.guest.freeze(&lun(), Instant::now()).unwrap();
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| bench.guest(&request::release(KEY, KIND)));
        drop(frozen);
        // The guest waits for the record and not in the lock.
        drop(bench.book.guest.freeze(&lun(), Instant::now()).unwrap());
        bench.set(State::Active);
        assert_eq!(guest.join().unwrap().status, Status::GOOD);
    });
    assert_eq!(bench.device(), (Some(KEY), None));
}

#[test]
fn fencing_is_told_once_recorded_and_ended_by_a_new_register() {
    let mut bench = holder("spc", false);
    assert_eq!(bench.foreign(&request::register(Key::NONE, OTHER, false)), Status::GOOD);
    assert_eq!(bench.foreign(&request::preempt(OTHER, KEY, KIND)), Status::GOOD);
    // The conflict goes before the attention; the question that it raises takes the attention, which is then given.
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
    assert_eq!((bench.record().state, bench.recorded()), (State::Fenced, (None, None)));
    let told = bench.guest(&request::reserve(KEY, KIND));
    assert_eq!(code(&told), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
    assert_eq!(bench.guest(&request::register_and_ignore(KEY, false)).status, Status::GOOD);
    assert_eq!((bench.record().state, bench.recorded()), (State::Active, (Some(KEY), None)));
}

#[test]
fn a_release_of_nothing_proves_no_key_where_the_target_looks_at_none() {
    let mut bench = Bench::new("lio", true);
    bench.insist(&request::register_and_ignore(OTHER, false));
    assert_eq!(bench.insist(&request::release(KEY, KIND)).status, Status::GOOD);
    assert_eq!((bench.recorded(), bench.device()), ((Some(OTHER), None), (Some(OTHER), None)));
}

#[test]
fn an_attention_that_questions_took_is_given_once() {
    let mut bench = holder("spc", false);
    bench.foreign(&request::register(Key::NONE, OTHER, false));
    bench.foreign(&request::preempt(OTHER, KEY, KIND));
    bench.restart();
    let told = bench.guest(&request::reserve(KEY, KIND));
    assert_eq!(code(&told), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(bench.record().state, State::Fenced);
    assert_eq!(bench.device(), (None, None), "the probe registered a fenced guest");
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
}

#[test]
fn a_name_that_the_target_does_not_use_makes_nobody_fenced() {
    let mut bench = holder("spc", true);
    let port = Port { initiator: Some(it_nexus(9).initiator), target_port: Some(1) };
    bench.serve_with(|devices| devices.port = port);
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::GOOD);
    assert_eq!((bench.record().state, bench.recorded()), (State::Active, (Some(KEY), Some(KIND))));
    let fenced = |past: &ledger::Past| matches!(past.change, Change::State { .. });
    assert!(!bench.record().history.iter().any(fenced));
}

#[test]
fn a_target_that_forgot_everybody_is_lost_and_not_fenced() {
    let mut bench = holder("spc", false);
    bench.line.unit.power_cycle();
    bench.restart();
    bench.guest(&request::reserve(KEY, KIND));
    assert_eq!((bench.record().state, bench.recorded()), (State::Lost, (None, None)));
}

#[test]
fn a_multipath_map_is_refused_and_other_ports_are_masked() {
    let mut bench = Bench::new("spc", false);
    let mut list = scsi::pr::BasicParameters { service_action_key: KEY, ..Default::default() };
    list.all_target_ports = true;
    let all_ports = request::out(scsi::pr::OutAction::REGISTER, ReservationType(0), &list);
    let masked = bench.guest(&all_ports).decoded_sense().unwrap();
    assert_eq!(masked.code, AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    assert_eq!(masked.field_pointer.map(|at| (at.byte, at.bit)), Some((20, Some(2))));
    let capabilities = bench.insist(&request::read(InAction::REPORT_CAPABILITIES, 8));
    assert_eq!(capabilities.data[2] & 0x0C, 0);
    bench.serve_with(|devices| devices.multipath = true);
    let refused = bench.guest(&request::register(Key::NONE, KEY, false));
    assert_eq!(code(&refused), Some(AdditionalSense::INVALID_COMMAND_OPERATION_CODE));
    assert_eq!(bench.device(), (None, None));
}
