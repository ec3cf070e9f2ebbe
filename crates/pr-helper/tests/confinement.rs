//! What a confined process can no longer do, and what it still can.
//!
//! Confinement is for good and for a process with one thread, so this has no test harness: the program starts
//! itself once for every check, and that process confines itself first. Without root the changes of user are skipped,
//! without landlock the checks on files, each with a message.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test without a harness: a check fails by panicking, and clippy cannot see that it is one"
)]

use ledger::{Ledger, LunId, Owner, PathId};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use nexus::{Nexus, TransportError};
use pr_helper::audit::{Audit, Journal};
use pr_helper::daemon::SYSFS;
use pr_helper::opening::{Identity, OpenLun, Opened};
use pr_helper::policy::Rules;
use pr_helper::privilege::{Account, Confinement, Measure, PrivilegeError, Report};
use pr_helper::service::Service;
use pr_helper::{Caller, Observer, Serve};
use rustix::fd::OwnedFd;
use scsi::pr::{Key, request};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// Exit status of a check that this machine cannot make.
const SKIPPED: u8 = 77;
const NOBODY: u32 = 65534;

/// What a check has to work with.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["state", "run", "outside"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        fs::write(directory.path().join("run/pid"), "1").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn confinement(&self) -> Confinement {
        Confinement {
            owned: vec![self.path("state")],
            tidied: vec![self.path("run")],
            ..Confinement::default()
        }
    }

    fn confine(&self) -> Report {
        self.confinement().apply().unwrap()
    }
}

type Check = fn(&Place) -> u8;
const CHECKS: &[(&str, Check)] = &[
    ("a program cannot be started", no_program),
    ("a process cannot be forked, a thread can", threads_only),
    ("a file outside the allowed directories cannot be opened", no_file_outside),
    ("the state directory can be read, written, and changed", state_works),
    ("socket and pidfile can be removed, and nothing else made there", tidying_works),
    ("proc can be read", proc_works),
    ("unix sockets, descriptors in hand and panics go on working", descriptors_work),
    ("a guest is served, its record compacted, its audit turned over and sent to the journal", service_works),
    ("what the kernel says of a device can be read", sysfs_works),
    ("no TCP connection can be made", no_tcp),
    ("no other service's socket can be reached", no_socket_reached),
    ("only CAP_SYS_RAWIO is left, in every set", one_capability),
    ("a user without privileges keeps CAP_SYS_RAWIO and gets the state directory", another_user),
    ("a file with another name is not given away", no_hard_link_given),
    ("a process with threads is refused", no_threads_before),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(name) = arguments.iter().find_map(|argument| argument.strip_prefix("--confined=")) {
        let (_, check) = CHECKS.iter().find(|(known, _)| *known == name).unwrap();
        return ExitCode::from(check(&Place::new()));
    }
    let failed = CHECKS.iter().filter(|(name, _)| !holds(name)).count();
    println!("confinement: {} checks, {failed} failed", CHECKS.len());
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one check in a process of its own, whose directories are removed here: it cannot do that any more.
fn holds(name: &str) -> bool {
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.arg(format!("--confined={name}")).env("TMPDIR", scratch.path()).output().unwrap();
    let word = match output.status.code() {
        Some(0) => "ok",
        Some(code) if code == i32::from(SKIPPED) && may_skip() => "skipped",
        _ => "FAILED",
    };
    println!("{name} ... {word}");
    print!("{}", String::from_utf8_lossy(&output.stderr));
    word != "FAILED"
}

/// Not under `cargo xtask test --no-skip`.
fn may_skip() -> bool {
    std::env::var_os("TENURE_NO_SKIP").is_none()
}

fn skipped(why: &str) -> u8 {
    eprintln!("    {why}");
    SKIPPED
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn has_landlock(report: &Report) -> bool {
    !matches!(report.landlock, Measure::Unavailable(_))
}

fn no_program(place: &Place) -> u8 {
    assert_eq!(place.confine().seccomp, Measure::Applied);
    use std::os::unix::process::CommandExt;
    // exec in place: no fork before it that could be what fails.
    let error = Command::new("/bin/true").exec();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    0
}

fn threads_only(place: &Place) -> u8 {
    place.confine();
    assert!(Command::new("/bin/true").spawn().is_err());
    let thread = std::thread::Builder::new().name("worker".into()).stack_size(128 << 10);
    assert_eq!(thread.spawn(|| 7).unwrap().join().unwrap(), 7);
    0
}

fn no_file_outside(place: &Place) -> u8 {
    let report = place.confine();
    if !has_landlock(&report) {
        return skipped("no landlock in this kernel");
    }
    for path in ["/etc/passwd", "/dev/null", "/bin/true"]
        .map(PathBuf::from)
        .iter()
        .chain([&place.path("outside/secret")])
    {
        assert_eq!(File::open(path).unwrap_err().kind(), io::ErrorKind::PermissionDenied, "{path:?}");
    }
    assert!(File::create(place.path("outside/new")).is_err());
    0
}

fn state_works(place: &Place) -> u8 {
    place.confine();
    let state = place.path("state");
    fs::create_dir_all(state.join("guests/a")).unwrap();
    let log = state.join("guests/a/log");
    let mut file = File::create(state.join("guests/a/new")).unwrap();
    file.write_all(b"line\n").unwrap();
    file.lock().unwrap();
    file.sync_data().unwrap();
    file.set_len(2).unwrap();
    fs::rename(state.join("guests/a/new"), &log).unwrap();
    File::open(state.join("guests/a")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(&log).unwrap(), b"li");
    assert_eq!(fs::read_dir(state.join("guests")).unwrap().count(), 1);
    fs::remove_file(log).unwrap();
    0
}

fn tidying_works(place: &Place) -> u8 {
    let listener = UnixListener::bind(place.path("run/sock")).unwrap();
    let report = place.confine();
    drop(listener);
    fs::remove_file(place.path("run/sock")).unwrap();
    fs::remove_file(place.path("run/pid")).unwrap();
    assert!(!has_landlock(&report) || File::create(place.path("run/new")).is_err());
    0
}

fn proc_works(place: &Place) -> u8 {
    place.confine();
    assert!(fs::read_to_string("/proc/self/comm").unwrap().starts_with("confinement"));
    0
}

fn descriptors_work(place: &Place) -> u8 {
    let mut outside = File::open(place.path("outside/secret")).unwrap();
    let listener = UnixListener::bind(place.path("run/sock")).unwrap();
    let mut client = UnixStream::connect(place.path("run/sock")).unwrap();
    place.confine();
    let mut text = String::new();
    outside.read_to_string(&mut text).unwrap();
    assert_eq!(text, "secret");
    let (mut served, _) = listener.accept().unwrap();
    served.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    served.set_nonblocking(false).unwrap();
    client.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    assert!(std::panic::catch_unwind(|| panic!("unwinding takes no forbidden call")).is_err());
    0
}

/// A logical unit in this process, behind any descriptor.
#[derive(Clone)]
struct Memory {
    unit: Arc<LogicalUnit>,
    handle: NexusHandle,
}

impl Memory {
    fn new() -> Self {
        let unit = LogicalUnit::open(&LunSpec::memory(1 << 20)).unwrap();
        let name = "iqn.2026-11.test:guest".parse().unwrap();
        let initiator = scsi::TransportId::iscsi(name, scsi::Isid([0x80, 0, 0, 0, 0, 1]));
        let handle = unit.attach(&ItNexus { initiator, target_port: 1 });
        Self { unit, handle }
    }
}

impl Nexus for Memory {
    fn execute(&mut self, request: &scsi::Request) -> Result<scsi::Completion, TransportError> {
        let out = if let scsi::DataPhase::Out(list) = &request.data { list.as_slice() } else { &[] };
        let task = self.unit.begin(&self.handle, 1);
        Ok(self.unit.execute(&self.handle, &task, &request.cdb, out))
    }
}

impl OpenLun for Memory {
    fn open(&self, _: OwnedFd, _: bool) -> Result<Opened, scsi::Completion> {
        let (lun, path) = (LunId("naa.6".into()), PathId("a nexus".into()));
        let identity = Identity { lun, path, node: "/dev/sdx".into(), port: handover::Port::default() };
        Ok(Opened { identity: Some(identity.into()), nexus: Box::new(self.clone()), multipath: false })
    }
}

/// The first change of 500 finds a full audit, and the last ones a log that is mostly history.
fn service_works(place: &Place) -> u8 {
    let state = place.path("state");
    let daemon = UnixDatagram::bind(place.path("run/journal")).unwrap();
    daemon.set_nonblocking(true).unwrap();
    let ledger = Ledger::open(&state).unwrap();
    let guest = ledger.guest(&Owner("vm".into())).unwrap();
    let records = ledger.directory(guest.owner()).unwrap();
    File::create(records.join("audit.jsonl")).unwrap().set_len(16 << 20).unwrap();
    let journal = Journal::connect(&place.path("run/journal")).unwrap();
    let audit: Arc<dyn Observer> = Arc::new(Audit::open(&records, Some(journal)).unwrap());
    let (rules, memory) = (Rules::default(), Box::new(Memory::new()));
    let service = Service::new("vm", rules, memory, Box::new(guest), Box::new(vec![audit]));
    let null = File::open("/dev/null").unwrap();
    Confinement { owned: vec![records.clone()], ..place.confinement() }.apply().unwrap();
    let caller = Caller::default();
    let log = records.join("log");
    let mut longest = 0;
    for number in 0..1000 {
        let request = request::register_and_ignore(Key(1 + number % 2), false);
        let mut cdb = [0; 16];
        cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
        let scsi::DataPhase::Out(data_out) = request.data else { panic!("REGISTER has a list") };
        let command = pr_helper::Command { cdb, data_out, fd: null.try_clone().unwrap().into() };
        let ended = service.serve(&caller, command);
        assert!(ended.status.is_good() || number == 0, "{number}: {ended:?}");
        longest = longest.max(fs::metadata(&log).unwrap().len());
    }
    assert!(fs::metadata(&log).unwrap().len() < longest, "the log was never compacted");
    assert_eq!(fs::metadata(records.join("audit.jsonl.1")).unwrap().len(), 16 << 20);
    assert!(fs::metadata(records.join("audit.jsonl")).unwrap().len() > 0);
    assert!(daemon.recv(&mut [0; 4096]).is_ok());
    0
}

/// Whether a device is a multipath map is asked of sysfs, and must not seem unknown for want of a rule.
fn sysfs_works(place: &Place) -> u8 {
    let readable = SYSFS.map(PathBuf::from).to_vec();
    let report = Confinement { readable, ..place.confinement() }.apply().unwrap();
    let Some(device) = fs::read_dir("/sys/class/block").unwrap().next() else {
        return skipped("no block device here");
    };
    let device = device.unwrap().path();
    let number = fs::read_to_string(device.join("dev")).unwrap();
    let device = Path::new("/sys/dev/block").join(number.trim());
    assert!(fs::read_to_string(device.join("size")).is_ok());
    assert!(fs::read_dir(device.canonicalize().unwrap()).is_ok());
    let unknown = fs::read_to_string(device.join("dm/uuid")).err().map(|error| error.kind());
    assert!(matches!(unknown, None | Some(io::ErrorKind::NotFound)), "{unknown:?}");
    assert!(fs::read_to_string("/proc/devices").is_ok());
    let beyond = fs::read_dir("/sys/kernel").err().map(|error| error.kind());
    assert!(!has_landlock(&report) || beyond == Some(io::ErrorKind::PermissionDenied), "{beyond:?}");
    0
}

fn no_tcp(place: &Place) -> u8 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.confine();
    let address = listener.local_addr().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    0
}

/// What listens elsewhere may trust user 0.
fn no_socket_reached(place: &Place) -> u8 {
    let (log, other) = (place.path("run/log"), place.path("run/other"));
    let [logger, listener] = [&log, &other].map(|path| UnixDatagram::bind(path).unwrap());
    let _streams = UnixListener::bind(place.path("run/streams")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let connected = UnixDatagram::unbound().unwrap();
    connected.connect(&log).unwrap();
    place.confine();
    assert!(UnixStream::connect(place.path("run/streams")).is_err());
    assert!(UnixDatagram::unbound().is_err() && UnixStream::pair().is_err());
    assert!(connected.connect(&other).is_err());
    assert!(connected.send_to(b"x", &other).is_err());
    assert_eq!(listener.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    connected.send(b"x").unwrap();
    assert_eq!(logger.recv(&mut [0]).unwrap(), 1);
    0
}

/// A line of /proc/self/status as the kernel tells it.
fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

fn capability_sets() -> Vec<u64> {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(status);
    sets.iter().map(|set| u64::from_str_radix(set, 16).unwrap()).collect()
}

const RAW_IO: u64 = 1 << 17;

fn one_capability(place: &Place) -> u8 {
    let report = place.confine();
    assert_eq!(status("NoNewPrivs"), "1");
    assert_eq!(status("Seccomp"), "2");
    if !is_root() {
        return skipped("not root: there is no CAP_SYS_RAWIO to keep");
    }
    assert_eq!(report.capabilities, Measure::Applied);
    assert_eq!(capability_sets(), [0, RAW_IO, RAW_IO, 0, 0]);
    0
}

fn another_user(place: &Place) -> u8 {
    if !is_root() {
        return skipped("not root: cannot become another user");
    }
    fs::create_dir_all(place.path("state/guests/a")).unwrap();
    fs::write(place.path("state/guests/a/log"), "old\n").unwrap();
    fs::set_permissions(place.path("state"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // The temporary directory itself is root's, 0700, and no part of what is handed over.
    fs::set_permissions(place.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let account = Account::find(Some(&NOBODY.to_string()), None).unwrap();
    let report = Confinement { account, ..place.confinement() }.apply().unwrap();
    assert_eq!(report.capabilities, Measure::Applied);
    assert_eq!(capability_sets(), [0, RAW_IO, RAW_IO, 0, 0]);
    assert_eq!(status("Uid"), ["65534"; 4].join("\t"));
    assert_eq!(status("Gid"), ["65534"; 4].join("\t"));
    assert_eq!(status("Groups"), "");
    assert_eq!(fs::read(place.path("state/guests/a/log")).unwrap(), b"old\n");
    fs::write(place.path("state/guests/b"), "new").unwrap();
    0
}

fn no_hard_link_given(place: &Place) -> u8 {
    if !is_root() {
        return skipped("not root: cannot become another user");
    }
    let secret = place.path("outside/secret");
    fs::hard_link(&secret, place.path("state/link")).unwrap();
    std::os::unix::fs::symlink(&secret, place.path("state/symlink")).unwrap();
    let kept = File::open(&secret).unwrap();
    let account = Account::find(Some(&NOBODY.to_string()), None).unwrap();
    Confinement { account, ..place.confinement() }.apply().unwrap();
    assert_eq!(kept.metadata().unwrap().uid(), 0);
    0
}

fn no_threads_before(place: &Place) -> u8 {
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = waiting.recv();
    });
    let refused = place.confinement().apply().unwrap_err();
    assert!(matches!(refused, PrivilegeError::Threads(2)), "{refused}");
    drop(done);
    thread.join().unwrap();
    assert!(File::open(Path::new("/dev/null")).is_ok(), "nothing was given up half-way");
    0
}
