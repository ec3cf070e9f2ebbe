//! `tenure handover freeze|take|release`: a script, or libvirt, moves the guest itself, and Tenure its registrations.
#![allow(clippy::unwrap_used, reason = "a test")]

use agent::journal::Journals;
use lab::process::{DEADLINE, wait_for};
use lab::served::Served;
use lab::stage::{Disk, Guest, Host, Life, Qemus, Stage, has_key, insist};
use lab::tenure::{Ran, Tenure};
use ledger::{Ledger, Owner, State};
use qmp::qemu::{MigrationStatus, Qemu};
use scsi::Status;
use scsi::pr::{Key, ReservationType, request};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const KEY: Key = Key(0x4b);
const FOREIGN: Key = Key(0x77);

fn set() -> (Served, Stage) {
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let served = tenure.target(&["memory=1M", "memory=1M"]).unwrap();
    let disks = (0..2).map(|lun| Disk::of(&served, lun).with_key(KEY)).collect();
    let stage = Stage::open(&tenure, Qemus::Threads, vec![Guest::new("web", disks)]).unwrap();
    for disk in &stage.guest("web").unwrap().disks {
        let reserve = request::reserve(KEY, ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
        for command in [request::register(Key::NONE, KEY, false), reserve] {
            assert_eq!(insist(disk.at(Host::Alpha), &command).unwrap().status, Status::GOOD);
        }
    }
    (served, stage)
}

fn is_at(stage: &Stage, host: Host) {
    for disk in &stage.guest("web").unwrap().disks {
        let has = |host| has_key(disk.at(host), KEY, false).unwrap();
        assert!(has(host) && !has(host.other()), "{disk:?}: not at {host:?} alone");
    }
}

fn handover(stage: &Stage, host: Host, verb: &str, more: &[&str]) -> (i32, Ran) {
    let control = stage.control(host).display().to_string();
    let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
    let words = ["handover", verb, "web", "--control", &control, "--json"];
    let ran = tenure.run(&[&words[..], more].concat()).unwrap();
    (ran.exit, ran)
}

fn qemu(stage: &Stage, host: Host) -> Qemu {
    Qemu::connect(&stage.second_qmp("web", host), Duration::from_secs(5)).unwrap()
}

fn states(stage: &Stage, host: Host) -> Vec<State> {
    let guest = Ledger::open(&stage.state(host)).unwrap().guest(&Owner("web".into())).unwrap();
    guest.records().iter().map(|record| record.state).collect()
}

#[test]
fn a_script_that_speaks_qmp_itself_moves_a_guest_there_and_back() {
    let (_served, stage) = set();
    stage.start_qemu("web", Host::Alpha, Life::Runs, &[]).unwrap();
    for from in Host::BOTH {
        let to = from.other();
        stage.start_qemu("web", to, Life::Waits, &[]).unwrap();
        let running = handover(&stage, from, "freeze", &["--to", to.name()]);
        assert_eq!(running.0, 4, "it runs: {running:?}");
        qemu(&stage, from).stop().unwrap();
        let early = handover(&stage, to, "take", &["--from", from.name()]);
        assert_eq!(early.0, 4, "it is not frozen: {early:?}");
        let frozen = handover(&stage, from, "freeze", &["--to", to.name()]);
        assert_eq!(frozen.0, 0, "{frozen:?}");
        assert_eq!(states(&stage, from), [State::Handover; 2]);
        let early = handover(&stage, from, "release", &[]);
        assert_eq!(early.0, 4, "it was not taken: {early:?}");
        let taken = handover(&stage, to, "take", &["--from", from.name()]);
        assert_eq!(taken.0, 0, "{taken:?}");
        is_at(&stage, to);
        migrate(&stage, from);
        qemu(&stage, to).cont().unwrap();
        let released = handover(&stage, from, "release", &[]);
        assert_eq!(released.0, 0, "{released:?}");
        is_at(&stage, to);
        assert_eq!(
            (states(&stage, from), states(&stage, to)),
            (vec![State::Moved; 2], vec![State::Active; 2])
        );
        stage.quit_qemu("web", from).unwrap();
    }
    stage.ran_once("web").unwrap();
}

/// What the script does, beside Tenure.
fn migrate(stage: &Stage, from: Host) {
    let destination = qemu(stage, from.other());
    destination.migrate_incoming("tcp:127.0.0.1:0").unwrap();
    let listening = destination.migration().unwrap().socket_address;
    let port = listening.iter().find_map(|at| at.port.clone()).unwrap();
    let uri = format!("tcp:127.0.0.1:{port}");
    let source = qemu(stage, from);
    source.migrate(&uri).unwrap();
    let over = || {
        let status = source.migration().unwrap().status();
        assert_ne!(status, MigrationStatus::FAILED);
        (status == MigrationStatus::COMPLETED).then_some(())
    };
    wait_for(DEADLINE, over).unwrap();
}

#[test]
fn a_guest_whose_qemu_cannot_be_asked_is_frozen_only_by_the_operators_word() {
    let (_served, stage) = set();
    let gone = handover(&stage, Host::Alpha, "freeze", &["--to", "beta"]);
    assert_eq!(gone.0, 4, "{gone:?}");
    assert_eq!(handover(&stage, Host::Alpha, "freeze", &["--to", "beta", "--stopped"]).0, 0);
    let taken = handover(&stage, Host::Beta, "take", &["--from", "alpha"]);
    assert_eq!(taken.0, 0, "nobody's QEMU was asked: {taken:?}");
    is_at(&stage, Host::Beta);
}

#[test]
fn a_freeze_that_nobody_takes_outlives_the_agent_and_ends_by_the_operators_word() {
    let (_served, stage) = set();
    stage.start_qemu("web", Host::Alpha, Life::Paused, &[]).unwrap();
    assert_eq!(handover(&stage, Host::Alpha, "freeze", &["--to", "beta", "--stopped"]).0, 0);
    stage.kill_agent(Host::Alpha).unwrap();
    stage.start_agent(Host::Alpha).unwrap();
    assert_eq!(states(&stage, Host::Alpha), [State::Handover; 2]);
    let aborted = handover(&stage, Host::Alpha, "abort", &["--yes"]);
    assert_eq!(aborted.0, 0, "{aborted:?}");
    assert_eq!(states(&stage, Host::Alpha), [State::Active; 2]);
    let late = handover(&stage, Host::Beta, "take", &["--from", "alpha"]);
    assert_eq!(late.0, 4, "{late:?}");
    is_at(&stage, Host::Alpha);
}

#[test]
fn a_take_that_is_refused_leaves_the_guest_with_all_it_had_and_frozen_no_more() {
    let (_served, stage) = set();
    let disk = stage.guest("web").unwrap().disks.last().unwrap().clone();
    let occupied = request::register(Key::NONE, FOREIGN, false);
    assert_eq!(insist(disk.at(Host::Beta), &occupied).unwrap().status, Status::GOOD);
    assert_eq!(handover(&stage, Host::Alpha, "freeze", &["--to", "beta", "--stopped"]).0, 0);
    let refused = handover(&stage, Host::Beta, "take", &["--from", "alpha"]);
    assert!([4, 5].contains(&refused.0), "{refused:?}");
    is_at(&stage, Host::Alpha);
    assert_eq!(states(&stage, Host::Alpha), [State::Active; 2]);
    assert!(has_key(disk.at(Host::Beta), FOREIGN, false).unwrap(), "another guest's");
    let log = Journals::new(&stage.state(Host::Beta), "beta").read("web").unwrap();
    assert!(log.handovers().iter().all(|handover| !handover.is_open()));
    let told: Value = refused.1.json().unwrap();
    assert_eq!(told.pointer("/exit").unwrap(), refused.0, "{told}");
}

/// The session daemon of a host of its own, with directories of its own.
struct Libvirt {
    daemon: Child,
    socket: PathBuf,
}

impl Libvirt {
    /// Two of them; `None` where libvirt is not installed.
    fn pair(directory: &Path) -> Option<[Self; 2]> {
        let installed = |program| Command::new(program).arg("--version").output().is_ok();
        if !["libvirtd", "virsh"].into_iter().all(installed) {
            eprintln!(
                "skipped: libvirtd and virsh (libvirt-daemon-driver-qemu, libvirt-clients) are not installed"
            );
            return None;
        }
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        Some(["a", "b"].map(|host| Self::start(&directory.join(host), host)))
    }

    /// libvirt tells hosts apart by their UUIDs, and does not migrate from one to itself.
    fn start(home: &Path, host: &str) -> Self {
        let root = rustix::process::geteuid().is_root();
        let make = |name: &str| {
            let path = home.join(name);
            fs::create_dir_all(&path).unwrap();
            let mut each = path.ancestors().take_while(|each| each.starts_with(home));
            each.try_for_each(|each| chown(each, root.then_some(NOBODY), root.then_some(NOBODY))).unwrap();
            path
        };
        let config = make("config/libvirt");
        let [run, cache, data] = ["run", "cache", "data"].map(make);
        fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
        let uuid = format!("host_uuid = \"11111111-2222-4333-8444-00000000000{host}\"\n");
        fs::write(config.join("libvirtd.conf"), uuid).unwrap();
        fs::write(config.join("qemu.conf"), "security_driver = \"none\"\n").unwrap();
        // As root it would be the machine's own daemon.
        let mut command = Command::new(if root { "setpriv" } else { "libvirtd" });
        if root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "libvirtd"]);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", home).env("XDG_RUNTIME_DIR", &run);
        command
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", cache)
            .env("XDG_DATA_HOME", data);
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let socket = run.join("libvirt/libvirt-sock");
        wait_for(DEADLINE, || UnixStream::connect(&socket).ok()).unwrap();
        Self { daemon, socket }
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket.display())
    }

    fn virsh(&self, words: &[&str]) -> String {
        let output = Command::new("virsh").args(["-q", "-c", &self.uri()]).args(words).output().unwrap();
        assert!(output.status.success(), "virsh {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // Its QEMUs outlive it otherwise.
        let _ = Command::new("virsh").args(["-q", "-c", &self.uri(), "destroy", "web"]).output();
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const NOBODY: u32 = 65534;

const DOMAIN: &str = "<domain type='qemu'><name>web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><controller type='usb' model='none'/>\
    <memballoon model='none'/></devices></domain>";

#[test]
fn a_guest_that_libvirt_moves_keeps_its_registrations() {
    let (_served, stage) = set();
    let directory = tempfile::tempdir().unwrap();
    let Some([a, b]) = Libvirt::pair(directory.path()) else { return };
    let domain = directory.path().join("web.xml");
    fs::write(&domain, DOMAIN).unwrap();
    a.virsh(&["create", &domain.display().to_string()]);
    a.virsh(&["migrate", "--live", "--suspend", "web", &b.uri(), "--migrateuri", "tcp:127.0.0.1"]);
    assert_eq!(
        (a.virsh(&["list", "--name"]).as_str(), b.virsh(&["domstate", "web"]).as_str()),
        ("", "paused")
    );
    let frozen = handover(&stage, Host::Alpha, "freeze", &["--to", "beta", "--stopped"]);
    assert_eq!(frozen.0, 0, "{frozen:?}");
    let taken = handover(&stage, Host::Beta, "take", &["--from", "alpha"]);
    assert_eq!(taken.0, 0, "{taken:?}");
    is_at(&stage, Host::Beta);
    b.virsh(&["resume", "web"]);
    assert_eq!(b.virsh(&["domstate", "web"]), "running");
    let released = handover(&stage, Host::Alpha, "release", &[]);
    assert_eq!(released.0, 0, "{released:?}");
}
