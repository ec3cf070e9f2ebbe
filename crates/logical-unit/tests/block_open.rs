//! Opening logical units: what is refused before anything is served, and what survives a restart.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it fails"
)]

mod support;

use logical_unit::{Caching, LogicalUnit, LunSpec, OpenError};
use scsi::AdditionalSense;
use scsi::SenseKey;
use scsi::pr::{InAction, Key, ReadKeys, ReservationType, request};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::{Host, good, open, refused};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn spec(&self) -> String {
        format!("file={},size=1M", self.path("lun").display())
    }
}

fn error(spec: &str) -> OpenError {
    LogicalUnit::open(&spec.parse::<LunSpec>().unwrap()).unwrap_err()
}

fn keys(host: &Host) -> Vec<Key> {
    ReadKeys::parse(&good(host.send(&request::read(InAction::READ_KEYS, 1024)))).unwrap().keys
}

/// The registered host after a restart: the first thing it hears is POWER ON (SPC-4 5.13.6).
fn powered_on(unit: &Arc<LogicalUnit>) -> Host {
    let host = Host::new(unit, 1);
    assert_eq!(refused(&host.raw(&[0; 6], &[])), (SenseKey::UNIT_ATTENTION, AdditionalSense::POWER_ON));
    good(host.raw(&[0; 6], &[]));
    host
}

fn register_durably(folder: &Folder) {
    let host = Host::new(&open(&folder.spec()), 1);
    good(host.send(&request::register(Key(0), Key(5), true)));
    good(host.send(&request::reserve(Key(5), ReservationType(3))));
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let folder = Folder::new();
    let missing = format!("file={}", folder.path("missing").display());
    assert!(matches!(error(&missing), OpenError::File { path, .. } if path.ends_with("missing")));
    assert!(matches!(error("memory=511"), OpenError::TooSmall(511)));
    assert!(matches!(error("memory=2T"), OpenError::TooLarge));
    fs::write(folder.path("tiny"), [0; 100]).unwrap();
    let tiny = format!("file={}", folder.path("tiny").display());
    assert!(matches!(error(&tiny), OpenError::TooSmall(100)));
    let unknown = error("memory=1M,profile=acme").to_string();
    assert!(unknown.contains("acme") && unknown.contains("keep-self"), "{unknown}");
    let _served = open(&folder.spec());
    assert!(matches!(error(&folder.spec()), OpenError::InUse(_)));
    let small = format!("file={},size=4096", folder.path("lun").display());
    drop(_served);
    assert!(matches!(error(&small), OpenError::Larger { present: 1_048_576, .. }));
}

#[test]
fn aptpl_registrations_survive_a_restart_beside_the_file() {
    let folder = Folder::new();
    register_durably(&folder);
    let unit = open(&folder.spec());
    let (holder, other) = (powered_on(&unit), Host::new(&unit, 2));
    assert_eq!(keys(&other), [Key(5)]);
    good(holder.access(scsi::block::Operation::Read, scsi::block::Form::Ten, 0, 1, &[]));
    let conflict = other.access(scsi::block::Operation::Read, scsi::block::Form::Ten, 0, 1, &[]);
    assert_eq!(conflict.status, scsi::Status::RESERVATION_CONFLICT);
}

#[test]
fn without_aptpl_nothing_survives_a_restart_or_a_power_cycle() {
    let folder = Folder::new();
    let host = Host::new(&open(&folder.spec()), 1);
    good(host.send(&request::register(Key(0), Key(5), false)));
    drop(host);
    let host = Host::new(&open(&folder.spec()), 1);
    assert_eq!(keys(&host), []);
    good(host.send(&request::register(Key(0), Key(6), false)));
    host.unit.power_cycle();
    assert_eq!(refused(&host.raw(&[0; 6], &[])), (SenseKey::UNIT_ATTENTION, AdditionalSense::POWER_ON));
    assert_eq!(keys(&host), []);
}

#[test]
fn a_damaged_image_is_refused_by_name_and_never_overwritten() {
    let folder = Folder::new();
    register_durably(&folder);
    let image = folder.path("lun.pr");
    let mut bytes = fs::read(&image).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let refusal = error(&folder.spec());
    assert!(matches!(refusal, OpenError::Reservations(_)));
    assert!(refusal.to_string().contains("lun.pr"), "{refusal}");
    assert_eq!(fs::read(&image).unwrap(), bytes);
    let larger = format!("file={},size=2M", folder.path("lun").display());
    assert!(matches!(error(&larger), OpenError::Reservations(_)));
    assert_eq!(fs::metadata(folder.path("lun")).unwrap().len(), 1 << 20, "the file has not grown either");
}

/// A directory in the image's place makes every write of it fail, even for root.
fn block_image(path: &Path) {
    fs::create_dir(path.with_extension("pr.new")).unwrap();
}

#[test]
fn a_command_whose_image_cannot_be_written_did_not_happen() {
    let folder = Folder::new();
    let host = Host::new(&open(&folder.spec()), 1);
    good(host.send(&request::register(Key(0), Key(5), true)));
    block_image(&folder.path("lun"));
    let failed = host.send(&request::register(Key(5), Key(6), true));
    assert_eq!(refused(&failed), (SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE));
    assert_eq!(keys(&host), [Key(5)]);
    fs::remove_dir(folder.path("lun.pr.new")).unwrap();
    good(host.send(&request::register(Key(5), Key(6), true)));
    drop(host);
    assert_eq!(keys(&powered_on(&open(&folder.spec()))), [Key(6)]);
}

/// A loop device over a file; given back when this is dropped.
struct Loop(String);

impl Loop {
    /// `None` where this user, or this machine, has none.
    fn over(path: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
        made.status.success().then(|| Self(String::from_utf8(made.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_served_alone_and_remembered_where_it_is_told() {
    let folder = Folder::new();
    fs::write(folder.path("image"), vec![0xFF; 1 << 20]).unwrap();
    let Some(device) = Loop::over(&folder.path("image")) else {
        eprintln!("no loop device here: not tested");
        return;
    };
    let bare = format!("block={}", device.0);
    assert!(matches!(error(&bare), OpenError::NoReservations(_)));
    let spec = format!("{bare},reservations={},direct=on", folder.0.path().display());
    let host = Host::new(&open(&spec), 1);
    assert_eq!(host.unit.caching(), Caching::Direct { alignment: 512 });
    assert!(matches!(error(&spec), OpenError::Held(_)), "O_EXCL");
    host.write(3, &[7; 512]);
    assert_eq!(host.read(2, 2), [[0xFF; 512], [7; 512]].concat());
    // WRITE SAME(10) with UNMAP of a block of zeros.
    good(host.raw(&[0x41, 0x08, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 512]));
    assert_eq!(host.read(0, 9), [vec![0; 8 * 512], vec![0xFF; 512]].concat());
    good(host.send(&request::register(Key(0), Key(5), true)));
    drop(host);
    assert_eq!(keys(&powered_on(&open(&spec))), [Key(5)]);
}

/// Two nodes of one disk stand for its two paths.
#[test]
fn two_paths_to_one_disk_are_not_served_as_two() {
    let folder = Folder::new();
    fs::write(folder.path("image"), vec![0xFF; 1 << 20]).unwrap();
    let Some(device) = Loop::over(&folder.path("image")) else {
        eprintln!("no loop device here: not tested");
        return;
    };
    let spec = format!("block={},reservations={}", device.0, folder.0.path().display());
    let unit = open(&spec);
    let image = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().path());
    let lock = image.into_iter().find(|path| path.extension().is_some_and(|it| it == "lock")).unwrap();
    assert!(fs::File::open(&lock).unwrap().try_lock().is_err(), "whoever has the same name finds it taken");
    drop(unit);
    let claimed = fs::File::open(&lock).unwrap();
    claimed.try_lock().unwrap();
    assert!(matches!(error(&spec), OpenError::InUse(_)));
}

#[test]
fn only_a_regular_file_is_served_as_one() {
    let folder = Folder::new();
    for path in [Path::new("/dev/null"), Path::new("/dev/loop-control"), folder.0.path()] {
        let refused = error(&format!("file={},size=1M", path.display()));
        assert!(matches!(refused, OpenError::NotAFile(_)) || !path.exists(), "{refused}");
    }
}

#[test]
fn only_a_block_device_is_served_as_one() {
    let folder = Folder::new();
    drop(open(&folder.spec()));
    let spec = format!("block={},reservations=/tmp", folder.path("lun").display());
    assert!(matches!(error(&spec), OpenError::NotABlockDevice(_)));
}
