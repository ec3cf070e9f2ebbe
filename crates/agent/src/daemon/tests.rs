//! Two hosts on one, by their sockets: who may ask for which guest, the control socket, and reloading.

use super::*;
use crate::guests::Hosted;
use crate::journal::Journals;
use peer::message::{About, Done, Guest, Id, Open, Opened, Options, Record, Records, Recover, State};
use peer::{CallError, HostName, Link, Local, Patience, Peer, Refusal, Reply, Request, Terms};
use qmp::{Client, Object};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);
const UUID: &str = "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11";

/// Says yes to everything.
struct Willing;

struct WillingPart;

impl Guests for Willing {
    fn own(&self, vm: &crate::config::Vm) -> Result<Records, Refusal> {
        Ok(Records { record: None, guest: Some(vm.name.clone()) })
    }

    fn records(&self, vm: &crate::config::Vm, peer: &HostName, _: Option<Id>) -> Result<Records, Refusal> {
        Ok(Records { record: None, guest: Some(format!("{} for {peer}", vm.name)) })
    }

    fn open(&self, _: &crate::config::Vm, _: &HostName, _: &Open) -> Result<(Box<dyn Part>, Reply), Refusal> {
        Ok((Box::new(WillingPart), Reply::Opened(Opened { luns: Vec::new(), record: None, guest: None })))
    }

    fn recover(
        &self,
        _: &crate::config::Vm,
        _: &HostName,
        _: &Recover,
    ) -> Result<(Box<dyn Part>, Reply), Refusal> {
        Ok((Box::new(WillingPart), Reply::Opened(Opened { luns: Vec::new(), record: None, guest: None })))
    }
}

impl Part for WillingPart {
    fn handle(&mut self, request: &Request) -> Result<Reply, Refusal> {
        match request {
            Request::State(_) => Ok(Reply::State(Records { record: None, guest: Some("loading".into()) })),
            _ => Ok(Reply::Done(Done {})),
        }
    }
}

/// Host `b` with guest `web`, which may come from `a`, guest `still`, which may not move, and guest `other`, which is not
/// `a`'s affair.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn text(&self) -> String {
        let vm = |name: &str, uuid: &str, more: &str| {
            format!("[[vm]]\nname = '{name}'\nuuid = '{uuid}'\nqmp = '/q/{name}'\n{more}\n")
        };
        format!(
            "version = 1\n[agent]\nname = 'b'\nstate = '{}'\nsocket = '{}'\nlisten = 'unix:{}'\n\
             [[peer]]\nname = 'a'\naddress = 'unix:{}'\n{}{}{}",
            self.directory.path().display(),
            self.path("control"),
            self.path("b"),
            self.path("a"),
            vm("web", UUID, "peers = ['a']"),
            vm("still", &UUID.replace("d11", "d12"), "peers = ['a']\nmigrate = 'off'"),
            vm("other", &UUID.replace("d11", "d13"), ""),
        )
    }

    fn config(&self, text: &str) -> Config {
        Config::parse(text, Path::new("tenure.toml")).unwrap()
    }

    fn start(&self) -> Daemon {
        Daemon::start(self.config(&self.text()), "0.1.0", |_| Arc::new(Willing)).unwrap()
    }

    fn link(&self, engine: u32) -> Link {
        let name = |text: &str| -> HostName { text.parse().unwrap() };
        let local = Local { host: name("a"), program: "0.0.9".into(), engine, capabilities: Vec::new() };
        let address = Address::Unix(self.path("b").into());
        let peers = vec![Peer { name: name("b"), address }];
        let terms = Terms { local, credentials: None, peers, patience: Patience::default() };
        Link::connect(&terms, &name("b")).unwrap()
    }

    fn ask(&self, command: &str, arguments: &Value) -> Result<Value, String> {
        let by = Instant::now() + LONG;
        let client = Client::connect(Path::new(&self.path("control")), &Default::default(), by).unwrap();
        let arguments: Object = arguments.as_object().unwrap().clone();
        client.execute(command, arguments, by).map_err(|error| error.to_string())
    }
}

fn guest(vm: &str, uuid: &str) -> Guest {
    Guest { vm: vm.into(), uuid: uuid.into() }
}

fn open(vm: &str, uuid: &str) -> Request {
    let (guest, options) = (guest(vm, uuid), Options::default());
    Request::Open(Open { handover: Id(7), guest, luns: Vec::new(), options })
}

fn refused(link: &Link, request: &Request) -> (String, String) {
    match link.call(request, LONG) {
        Err(CallError::Refused(refusal)) => (refusal.class, refusal.desc),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_that_lists_the_peer_may_come() {
    let place = Place::new();
    let _b = place.start();
    let link = place.link(handover::ENGINE_REVISION);
    link.call(&open("web", &UUID.to_uppercase()), LONG).unwrap();
    link.call(&Request::Freeze(About { handover: Id(7) }), LONG).unwrap();
}

/// QEMU serves one QMP client, and the handover's part is that.
#[test]
fn how_a_guest_stands_is_told_by_the_handover_that_is_open_for_it_and_else_by_the_journal() {
    let place = Place::new();
    let _b = place.start();
    let link = place.link(handover::ENGINE_REVISION);
    let uuid = |vm: &str| if vm == "web" { UUID.to_owned() } else { UUID.replace("d11", "d12") };
    let told = |vm: &str, handover| {
        let state = Request::State(State { guest: guest(vm, &uuid(vm)), handover });
        match link.call(&state, LONG) {
            Ok(Reply::State(records)) => records.guest.unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told("web", None), "web for a");
    link.call(&open("web", UUID), LONG).unwrap();
    assert_eq!([told("web", None), told("web", Some(Id(7)))], ["loading", "loading"]);
    assert_eq!([told("web", Some(Id(8))), told("still", None)], ["web for a", "still for a"]);
}

#[test]
fn a_peer_that_opens_an_orchestrated_handover_which_nobody_takes_here_is_refused_and_nothing_is_begun() {
    let place = Place::new();
    let state = place.directory.path().to_owned();
    let ledger = || ledger::Ledger::open(&state).unwrap();
    let hosted = |host: &Arc<Host>| -> Arc<dyn Guests> { Arc::new(Hosted::new(host, ledger())) };
    let _b = Daemon::start(place.config(&place.text()), "0.1.0", hosted).unwrap();
    let link = place.link(handover::ENGINE_REVISION);
    let asked = |orchestrated| {
        let options = Options { orchestrated, ..Options::default() };
        let guest = guest("web", UUID);
        refused(&link, &Request::Open(Open { handover: Id(7), guest, luns: Vec::new(), options })).1
    };
    assert_eq!(asked(true), "nobody takes vm web here: tenure handover take");
    assert_ne!(asked(false), asked(true), "one with a QEMU needs nobody's word: that QEMU waits");
    assert!(Journals::new(&state, "b").read("web").unwrap().handovers().is_empty());
}

#[test]
fn another_vms_uuid_is_refused() {
    let place = Place::new();
    let _b = place.start();
    let (class, desc) =
        refused(&place.link(handover::ENGINE_REVISION), &open("web", &UUID.replace("d11", "d12")));
    assert_eq!(class, "UnknownGuest");
    assert_eq!(desc, format!("vm web has another UUID here ({UUID})"));
}

#[test]
fn a_guest_that_does_not_list_the_peer_is_refused_as_one_that_is_not_there() {
    let place = Place::new();
    let _b = place.start();
    let link = place.link(handover::ENGINE_REVISION);
    for vm in ["other", "nobody"] {
        let state = Request::State(State { guest: guest(vm, &UUID.replace("d11", "d13")), handover: None });
        for request in [open(vm, &UUID.replace("d11", "d13")), state] {
            assert_eq!(refused(&link, &request).1, format!("b has no vm {vm} that lists a"));
        }
    }
}

#[test]
fn a_guest_with_migrate_off_does_not_come_but_an_interrupted_handover_of_it_is_put_in_order() {
    let place = Place::new();
    let _b = place.start();
    let link = place.link(handover::ENGINE_REVISION);
    let uuid = UUID.replace("d11", "d12");
    assert_eq!(refused(&link, &open("still", &uuid)).1, "vm still has migrate = \"off\" on this host");
    let record = Record { handover: Id(7), led: true, marks: Vec::new(), luns: Vec::new(), verdict: None };
    let guest = guest("still", &uuid);
    let recover = Recover { guest, record, prefer_destination: false, kept_at_source: false };
    link.call(&Request::Recover(recover), LONG).unwrap();
}

#[test]
fn a_peer_with_another_engine_is_refused_before_anything_is_planned() {
    let place = Place::new();
    let _b = place.start();
    let (class, desc) = refused(&place.link(99), &open("web", UUID));
    assert_eq!(class, "Engine");
    assert!(desc.starts_with("tenure 0.0.9 there has revision 99 of the procedure"), "{desc}");
}

#[test]
fn a_peer_that_lost_its_link_recovers_at_once_and_another_handover_does_not() {
    let place = Place::new();
    let _b = place.start();
    let (lost, new) = (place.link(handover::ENGINE_REVISION), place.link(handover::ENGINE_REVISION));
    lost.call(&open("web", UUID), LONG).unwrap();
    let recover = |handover: u128| {
        let (marks, luns) = (Vec::new(), Vec::new());
        let record = Record { handover: Id(handover), led: true, marks, luns, verdict: None };
        let guest = guest("web", UUID);
        Request::Recover(Recover { guest, record, prefer_destination: false, kept_at_source: false })
    };
    assert_eq!(refused(&new, &recover(8)).0, "Busy");
    lost.call(&Request::Freeze(About { handover: Id(7) }), LONG).unwrap();
    new.call(&recover(7), LONG).unwrap();
    assert!(lost.call(&Request::Freeze(About { handover: Id(7) }), LONG).is_err());
}

#[test]
fn a_guest_is_in_one_handover_at_a_time_until_its_link_is_gone() {
    let place = Place::new();
    let b = place.start();
    let (first, second) = (place.link(handover::ENGINE_REVISION), place.link(handover::ENGINE_REVISION));
    first.call(&open("web", UUID), LONG).unwrap();
    assert_eq!(refused(&second, &open("web", UUID)).1, "a handover of vm web is under way");
    assert_eq!(place.ask("query-agent", &json!({})).unwrap()["vms"][0]["busy"], json!(true));
    drop(first);
    let by = Instant::now() + LONG;
    while b.host().busy().has("web") {
        assert!(Instant::now() < by);
        std::thread::yield_now();
    }
    second.call(&open("web", UUID), LONG).unwrap();
}

#[test]
fn the_control_socket_tells_of_host_peers_and_guests() {
    let place = Place::new();
    let _b = place.start();
    let told = place.ask("query-agent", &json!({})).unwrap();
    assert_eq!((&told["name"], &told["version"]), (&json!("b"), &json!("0.1.0")));
    assert_eq!(told["vms"][1]["migrate"], json!(false));
    assert_eq!(place.ask("query-vm", &json!({ "vm": "web" })).unwrap(), json!({ "guest": "web" }));
    assert!(place.ask("query-vm", &json!({ "vm": "nobody" })).unwrap_err().contains("there is no vm nobody"));
    assert!(place.ask("query-vm", &json!({})).unwrap_err().contains("argument vm is missing"));
    assert!(place.ask("query-vm", &json!({ "vm": 1 })).unwrap_err().contains("no string"));
    assert!(place.ask("query-vm", &json!({ "vm": "web", "x": "y" })).unwrap_err().contains("x is unknown"));
    assert!(place.ask("format-disk", &json!({})).unwrap_err().contains("CommandNotFound"));
}

#[test]
fn a_peer_can_be_tried_out() {
    let place = Place::new();
    let _b = place.start();
    let error = place.ask("query-peer", &json!({ "peer": "a" })).unwrap_err();
    assert!(error.contains("a at unix:") && error.contains("cannot be reached"), "{error}");
    assert!(
        place.ask("query-peer", &json!({ "peer": "c" })).unwrap_err().contains("not configured as a peer")
    );
}

#[test]
fn a_new_configuration_holds_at_once_and_all_of_it_or_nothing() {
    let place = Place::new();
    let b = place.start();
    let link = place.link(handover::ENGINE_REVISION);
    let off = place.text().replacen("peers = ['a']", "peers = ['a']\nmigrate = 'off'", 1);
    b.reload(place.config(&off)).unwrap();
    assert!(refused(&link, &open("web", UUID)).1.contains("migrate = \"off\""));
    let moved = place.text().replace("listen = 'unix:", "listen = 'unix:/elsewhere");
    let error = b.reload(place.config(&moved)).unwrap_err().to_string();
    assert!(error.starts_with("[agent] listen was changed, which takes a restart"), "{error}");
    assert!(refused(&link, &open("web", UUID)).1.contains("migrate = \"off\""), "the old one holds");
}

#[test]
fn an_agent_that_ends_leaves_no_socket_and_is_not_alive() {
    let place = Place::new();
    let b = place.start();
    assert!(b.is_alive());
    assert_eq!(b.listen().unwrap().to_string(), format!("unix:{}", place.path("b")));
    b.stop();
    assert!(!Path::new(&place.path("b")).exists() && !Path::new(&place.path("control")).exists());
}

#[test]
fn a_second_agent_is_refused() {
    let place = Place::new();
    let _b = place.start();
    let error = Daemon::start(place.config(&place.text()), "0.1.0", |_| Arc::new(Willing)).unwrap_err();
    assert!(matches!(error, StartError::Control { .. }), "{error}");
}

#[test]
fn what_is_missing_is_told_by_a_check_and_what_is_wrong_is_refused() {
    let place = Place::new();
    let warnings = check(&place.config(&place.text())).unwrap().warnings;
    assert!(warnings.iter().any(|text| text.starts_with("vm web: QMP socket /q/web: ")), "{warnings:?}");
    assert!(warnings.iter().any(|text| text == "vm other: peers is absent: it can move nowhere"));
    let nowhere = place.text().replace("state = '", "state = '/nowhere");
    assert!(matches!(check(&place.config(&nowhere)), Err(StartError::State { .. })));
    let tcp = place.text().replace("listen = 'unix:", "listen = '127.0.0.1:0'\n#");
    let error = check(&place.config(&tcp)).unwrap_err().to_string();
    assert_eq!(error, "certificates: /etc/tenure/ca.pem");
}

#[test]
fn a_journal_that_cannot_be_read_is_told_by_a_check() {
    let place = Place::new();
    drop(Journals::new(place.directory.path(), "b").open("web").unwrap());
    let unread = || check(&place.config(&place.text())).unwrap().unread;
    assert_eq!(unread(), Vec::<String>::new());
    std::fs::write(place.path("handovers/web.log"), "nonsense, of more than one line\n\n").unwrap();
    let unread = unread();
    assert!(
        matches!(&unread[..], [one] if one.starts_with("vm web: ") && one.contains("is damaged")),
        "{unread:?}"
    );
}
