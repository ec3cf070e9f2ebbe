//! A guest from one host to another by a file, over iSCSI to a target in this process.

use super::*;
use crate::cli::ExportArgs;
use crate::command::export;
use crate::console::Verbosity;
use ::handover::Tracked;
use agent::drive::{Device, Link};
use iscsi::target::{Target, TargetConfig};
use ledger::{Change, PathId};
use logical_unit::LogicalUnit;
use nexus::{Nexus, retry_unit_attention};
use scsi::IscsiName;
use scsi::pr::{InAction, Key, ReadKeys, ReservationType, request};
use std::path::PathBuf;

const KEY: Key = Key(0x10);
const KIND: ReservationType = ReservationType(5);
const UUID: &str = "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11";

fn target() -> Target {
    let unit = LogicalUnit::open(&"memory=64K".parse().unwrap()).unwrap();
    let name = IscsiName::new("iqn.2026-11.example:disk").unwrap();
    let device = logical_unit::Device::new(vec![unit]);
    Target::bind(TargetConfig::new("127.0.0.1:0".parse().unwrap(), name, device)).unwrap()
}

fn url(target: &Target, host: &str) -> String {
    let portal = target.local_addr();
    format!("iscsi://{portal}/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:{host}")
}

/// A host's state directory and its tenure.toml.
struct Host {
    state: tempfile::TempDir,
    link: Link,
}

impl Host {
    fn new(target: &Target, name: &str, more: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let url = url(target, name);
        let text = format!(
            "version = 1\n[agent]\nname = \"{name}\"\nstate = \"{}\"\n[[vm]]\nname = \"db\"\nuuid = \"{UUID}\"\n\
             qmp = \"/run/qmp\"\n{more}\n[[vm.device]]\nurl = \"{url}\"\n",
            state.path().display()
        );
        std::fs::write(state.path().join("tenure.toml"), text).unwrap();
        let link = Link::connect(url.parse::<Device>().unwrap(), TIMEOUT).unwrap();
        Self { state, link }
    }

    fn send(&mut self, request: &scsi::Request) -> scsi::Completion {
        retry_unit_attention(&mut self.link, request, 8).unwrap().completion
    }

    fn import(&self, file: Option<PathBuf>, take_over: bool) -> Result<Exit, Failure> {
        let vm = file.is_none().then(|| "db".to_owned());
        let config = self.state.path().join("tenure.toml");
        run(
            &ImportArgs { file, vm, config, take_over, json: false },
            &mut Console::standard(Verbosity::Quiet),
        )
    }

    fn keys(&mut self) -> Vec<Key> {
        ReadKeys::parse(&self.send(&request::read(InAction::READ_KEYS, 64)).data).unwrap().keys
    }
}

/// Host a, where the guest holds the reservation, exports it; the file.
fn exported(target: &Target) -> (Host, PathBuf) {
    let mut a = Host::new(target, "a", "");
    assert!(a.send(&request::register(Key::NONE, KEY, false)).status.is_good());
    assert!(a.send(&request::reserve(KEY, KIND)).status.is_good());
    let port = a.link.initiator_port().unwrap();
    let ground_of = ground::Order {
        ledger: &Ledger::open(a.state.path()).unwrap(),
        owner: Owner("db".into()),
        handover: HandoverId(1),
        side: Side::Source,
        timeout: TIMEOUT,
        devices: &LinuxDevices::default(),
    };
    let vm = Config::load(&a.state.path().join("tenure.toml")).unwrap().vms.remove(0);
    let lun = Ground::open(&ground_of, &vm.places()).unwrap().units()[0].lun.clone();
    let tracked = Tracked { key: Some(KEY), held: Some(KIND), ..Tracked::default() };
    let path = PathId(format!("{port} port 1"));
    let guest = ground_of.ledger.guest(&ground_of.owner).unwrap();
    guest.append(&[(lun, Change::Commit { path, tracked, generation: None })]).unwrap();
    let file = a.state.path().join("db.tenure");
    let (state, config) = (a.state.path().to_owned(), a.state.path().join("tenure.toml"));
    let args = ExportArgs { vm: "db".into(), file: file.clone(), state, config, stopped: false };
    assert_eq!(export::run(&args, &mut Console::standard(Verbosity::Quiet)).unwrap(), Exit::Done);
    a.link = Link::connect(url(target, "a").parse::<Device>().unwrap(), TIMEOUT).unwrap();
    (a, file)
}

#[test]
fn a_saved_guest_is_taken_over_on_another_host_only_when_it_is_told_to() {
    let target = target();
    let (mut a, file) = exported(&target);
    let b = Host::new(&target, "b", "");
    assert_eq!(b.import(Some(file.clone()), false).unwrap_err().exit, Exit::Refused);
    assert_eq!(b.import(Some(file.clone()), true).unwrap(), Exit::Done);
    assert_eq!(a.keys(), [KEY]);
    assert!(!a.send(&request::register(KEY, KEY, false)).status.is_good(), "the old nexus has nothing");
    assert_eq!(b.import(Some(file.clone()), false).unwrap(), Exit::Done, "a second time it is its own");
    assert_eq!(
        a.import(Some(file), true).unwrap_err().exit,
        Exit::Refused,
        "and nobody takes it back by the file"
    );
}

#[test]
fn a_guest_that_was_fenced_while_it_was_saved_is_exit_6_and_no_claim_at_all_is_exit_4() {
    let target = target();
    let (mut a, file) = exported(&target);
    let off = Host::new(&target, "c", "reclaim = \"off\"");
    assert_eq!(off.import(Some(file.clone()), false).unwrap_err().exit, Exit::Refused);
    assert!(a.send(&request::register(KEY, Key::NONE, false)).status.is_good());
    let b = Host::new(&target, "b", "reclaim = \"take-over\"");
    assert_eq!(b.import(Some(file), false).unwrap(), Exit::Fenced);
    assert_eq!(a.keys(), []);
}

#[test]
fn a_restarted_guest_is_found_by_what_the_record_remembers() {
    let target = target();
    let (mut a, _) = exported(&target);
    assert_eq!(a.import(None, false).unwrap(), Exit::Done);
    a.link = Link::connect(url(&target, "a").parse::<Device>().unwrap(), TIMEOUT).unwrap();
    assert!(a.send(&request::register(KEY, KEY, false)).status.is_good());
}

#[test]
fn a_file_that_is_none_is_refused() {
    let target = target();
    let b = Host::new(&target, "b", "");
    let file = b.state.path().join("file");
    std::fs::write(&file, "tenure-guest 2\n").unwrap();
    let refused = b.import(Some(file), true).unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    assert!(refused.to_string().contains("newer version"), "{refused}");
}
