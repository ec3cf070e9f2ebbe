//! The service on a disk that is full or read-only: what would change the registration is refused before it is sent, or known
//! to be unverified; everything else works, and so does everything once there is room again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

mod support;

use handover::Port;
use ledger::{Ledger, LunId, Owner, PathId, State};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::{Nexus, TransportError};
use pr_helper::opening::{Identity, OpenLun, Opened};
use pr_helper::policy::Rules;
use pr_helper::service::Service;
use pr_helper::{Caller, Serve};
use rustix::fd::OwnedFd;
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, Status, TransportId};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const ROLE: &str = "FULL_DISK_ROLE";
const STATE: &str = "FULL_DISK_STATE";
const KEY: Key = Key(0x10);
const KIND: ReservationType = ReservationType(5);

/// A logical unit in process.
#[derive(Clone)]
struct Disk {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
    path: PathId,
}

impl Nexus for Disk {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let list = if let DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        let task = self.unit.begin(&self.handle, 1);
        Ok(self.unit.execute(&self.handle, &task, &request.cdb, list))
    }
}

impl OpenLun for Disk {
    fn open(&self, _: OwnedFd, _: bool) -> Result<Opened, Completion> {
        let (lun, path) = (LunId("naa.6".into()), self.path.clone());
        let identity = Identity { lun, path, node: "/dev/sdx".into(), port: Port::default() };
        Ok(Opened { identity: Some(Arc::new(identity)), nexus: Box::new(self.clone()), multipath: false })
    }
}

impl Disk {
    /// `name`: of the nexus, as long as records shall be.
    fn new(name: String) -> Self {
        let unit = LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap();
        unit.identify("iqn.2026-11.test:target", &[1]);
        let host: IscsiName = "iqn.2026-11.test:host".parse().unwrap();
        let initiator = TransportId::iscsi(host, Isid([0x80, 0, 0, 0, 0, 1]));
        let handle = unit.attach(&ItNexus { initiator, target_port: 1 });
        Self { unit, handle, path: PathId(name) }
    }
}

/// A helper, from its start on.
struct Helper {
    service: Service,
    disk: Disk,
    state: PathBuf,
}

impl Helper {
    fn start(disk: &Disk, state: &Path) -> Self {
        let guest = Ledger::open(state).unwrap().guest(&Owner("vm".into())).unwrap();
        let (rules, devices) = (Rules::default(), Box::new(disk.clone()));
        let service = Service::new("vm", rules, devices, Box::new(guest), Box::new(()));
        Self { service, disk: disk.clone(), state: state.to_owned() }
    }

    fn send(&self, request: &Request) -> Completion {
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let data_out = if let DataPhase::Out(list) = &request.data { list.clone() } else { Vec::new() };
        let fd = File::open("/dev/null").unwrap().into();
        self.service.serve(&Caller::default(), pr_helper::Command { cdb, data_out, fd })
    }

    fn register(&self) {
        // A new nexus begins with a unit attention.
        while !self.send(&request::register(Key::NONE, KEY, false)).status.is_good() {}
        self.good(&request::reserve(KEY, KIND));
    }

    fn good(&self, request: &Request) {
        let ended = self.send(request);
        assert!(ended.status.is_good(), "{request:02x?}: {ended:02x?}");
    }

    /// HARDWARE ERROR, INTERNAL TARGET FAILURE, and the device has what it had.
    fn is_refused(&self, request: &Request) -> bool {
        let before = self.device();
        let ended = self.send(request);
        let told = (ended.sense.get(2).copied(), ended.sense.get(12).copied());
        ended.status == Status::CHECK_CONDITION && told == (Some(4), Some(0x44)) && self.device() == before
    }

    /// What the record says the nexus holds; `None` if it says that it cannot be sure.
    fn recorded(&self) -> Option<Option<ReservationType>> {
        let guest = Ledger::read_only(&self.state).unwrap().guest(&Owner("vm".into())).unwrap();
        let record = guest.record(&LunId("naa.6".into())).unwrap();
        (record.standing() == State::Active).then(|| record.path(&self.disk.path).unwrap().tracked.held)
    }

    /// The keys that are registered, and the type of the reservation.
    fn device(&self) -> (Vec<Key>, Option<ReservationType>) {
        let ask = |action| self.disk.clone().execute(&request::read(action, 64)).unwrap().data;
        let keys = ReadKeys::parse(&ask(InAction::READ_KEYS)).unwrap().keys;
        let held = ReadReservation::parse(&ask(InAction::READ_RESERVATION)).unwrap().reservation;
        (keys, held.map(|held| held.kind))
    }

    fn held(&self) -> Option<ReservationType> {
        self.device().1
    }
}

/// In a mount namespace of its own, runs the role on a file system of its own. Needs root.
fn on_own_disk(role: &str) {
    if !rustix::process::geteuid().is_root() {
        return support::skipped("only root can mount a file system");
    }
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(r#"mount -t tmpfs -o size=1m,mode=0700 tmpfs "$FULL_DISK_STATE" && exec "$@""#).arg("sh");
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "in_the_namespace", "--nocapture"]);
    let ended = command.env(ROLE, role).env(STATE, state.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && told.contains("all done"), "{told}");
}

/// Not a test of its own: without a role it does nothing.
#[test]
fn in_the_namespace() {
    let (Ok(role), Some(state)) = (std::env::var(ROLE), std::env::var_os(STATE)) else { return };
    match role.as_str() {
        "full" => full(Path::new(&state)),
        _ => read_only(Path::new(&state)),
    }
    writeln!(std::io::stdout(), "all done").unwrap();
}

#[test]
fn on_a_full_disk_changes_are_refused_and_no_reply_is_unknown() {
    on_own_disk("full");
}

#[test]
fn on_a_read_only_disk_changes_are_refused_and_the_rest_goes_on_also_after_a_restart() {
    on_own_disk("read-only");
}

/// The disk gets full at another place each time: before an intent, or between intent and commit.
fn full(state: &Path) {
    let mut unverified = 0;
    for length in 0..16 {
        let helper = Helper::start(&Disk::new("n".repeat(1 + 40 * length)), &state.join(length.to_string()));
        helper.register();
        let mut ballast = File::create(state.join("ballast")).unwrap();
        while ballast.write_all(&[0; 512]).is_ok() {}
        drop(ballast);
        change_until_refused(&helper);
        match helper.recorded() {
            Some(held) => assert_eq!(held, helper.held()),
            None => unverified += 1,
        }
        while_full(&helper);
        fs::remove_file(state.join("ballast")).unwrap();
        helper.good(&request::register(KEY, KEY, true));
        assert_eq!(helper.recorded(), Some(helper.held()));
    }
    assert!((1..16).contains(&unverified), "{unverified} of 16");
}

/// Releases and reserves; each GOOD is recorded, or known not to be.
fn change_until_refused(helper: &Helper) {
    for _ in 0..1000 {
        let change =
            if helper.held().is_some() { request::release(KEY, KIND) } else { request::reserve(KEY, KIND) };
        if helper.is_refused(&change) {
            return;
        }
        assert!(helper.recorded().is_none_or(|held| held == helper.held()));
    }
    panic!("the disk does not get full");
}

fn while_full(helper: &Helper) {
    for action in [InAction::READ_KEYS, InAction::READ_RESERVATION, InAction::REPORT_CAPABILITIES] {
        helper.good(&request::read(action, 8192));
    }
    assert!(helper.is_refused(&request::register(KEY, Key(0x11), false)));
    if helper.recorded().is_some() {
        helper.good(&request::register(KEY, KEY, false));
    }
}

fn read_only(state: &Path) {
    let disk = Disk::new("a nexus".into());
    Helper::start(&disk, state).register();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(state).status().unwrap();
    assert!(remounted.success());
    let helper = Helper::start(&disk, state);
    helper.good(&request::read(InAction::READ_KEYS, 8192));
    helper.good(&request::reserve(KEY, KIND));
    helper.good(&request::register(KEY, KEY, false));
    assert!(helper.is_refused(&request::release(KEY, KIND)));
    assert_eq!((helper.held(), helper.recorded()), (Some(KIND), Some(Some(KIND))));
}
