//! A machine and a stand-in for QEMU, which keeps parameters and does nothing.

use super::*;
use qmp::server::{Server, ServerLimits, Service, Session, bind};
use qmp::{CommandError, Greeting, Object};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tempfile::TempDir;

/// What it was told, and what holds a migration back in it.
struct StandIn {
    told: Arc<Mutex<Vec<String>>>,
    parameters: Mutex<Object>,
}

impl Service for StandIn {
    fn greeting(&self) -> Greeting {
        Greeting { version: Object::new(), capabilities: Vec::new() }
    }

    fn takes_descriptors(&self) -> bool {
        true
    }

    fn execute(&self, session: &Session, command: &str, arguments: Object) -> Result<Value, CommandError> {
        let mut parameters = self.parameters.lock().unwrap();
        match command {
            "query-status" => return Ok(json!({ "status": "inmigrate", "running": false })),
            "query-block" | "query-named-block-nodes" => return Ok(json!([])),
            "query-migrate-parameters" => return Ok(parameters.clone().into()),
            "migrate-set-parameters" => parameters.extend(arguments),
            "migrate" | "migrate-incoming" => {
                let uri = arguments.get("uri").and_then(Value::as_str).unwrap();
                let name = uri.strip_prefix("fd:");
                let given = name.is_some_and(|name| session.take_descriptor(name).is_some());
                self.told
                    .lock()
                    .unwrap()
                    .push(format!("{command} {uri}{}", if given { ", given" } else { "" }));
            }
            "migrate-set-capabilities" | "stop" | "query-qmp-schema" => {}
            _ => return Err(CommandError::not_found(command)),
        }
        Ok(json!({}))
    }
}

struct Qemu {
    directory: TempDir,
    told: Arc<Mutex<Vec<String>>>,
    /// Its end stops the server.
    _stop: UnixStream,
}

impl Qemu {
    fn start() -> Self {
        let (directory, told) = (TempDir::new().unwrap(), Arc::<Mutex<_>>::default());
        let usual = json!({ BANDWIDTH: 128 << 20, DOWNTIME: 300 }).as_object().unwrap().clone();
        let service = StandIn { told: Arc::clone(&told), parameters: Mutex::new(usual) };
        let bound = bind(&directory.path().join("qmp"), 0o600).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let server = Server::new(Arc::new(service), ServerLimits::default());
        thread::spawn(move || server.run(bound.listener(), stopped));
        Self { directory, told, _stop: stop }
    }

    fn machine(&self, incoming: Option<&str>, ordered: Ordered) -> QemuMachine {
        let path = self.directory.path().join("qmp");
        QemuMachine {
            vmm: Some(Arc::new(Vmm::connect(&path, vmm::PATIENCE).unwrap())),
            path,
            role: Role::Source,
            uuid: String::new(),
            incoming: incoming.map(str::to_owned),
            bandwidth: Mutex::default(),
            ordered,
            steps: Steps::default(),
        }
    }

    fn plain(&self) -> QemuMachine {
        self.machine(None, Ordered::default())
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

const SOCKET: &str = "unix:/var/lib/disks/another-guests.img";

#[test]
fn the_other_host_does_not_say_which_file_qemu_removes_or_connects_to() {
    let qemu = Qemu::start();
    for asked in [qemu.plain().listen(Some(SOCKET)).map(drop), qemu.plain().send(SOCKET)] {
        assert!(matches!(&asked, Err(MachineError::Refused(why)) if why.contains("`incoming`")), "{asked:?}");
    }
    assert_eq!(qemu.told(), [""; 0]);
}

#[test]
fn a_socket_of_this_host_that_its_operator_named_is_listened_on_and_sent_to() {
    let qemu = Qemu::start();
    let waiting = qemu.machine(Some(SOCKET), Ordered::default());
    assert_eq!(waiting.listen(None).unwrap(), SOCKET);
    assert_eq!(waiting.listen(Some(SOCKET)).unwrap(), SOCKET);
    qemu.machine(None, Ordered::new(Some(SOCKET.into()), None)).send(SOCKET).unwrap();
    let listened = format!("migrate-incoming {SOCKET}");
    assert_eq!(qemu.told(), [listened.clone(), listened, format!("migrate {SOCKET}")]);
}

#[test]
fn a_guest_goes_into_a_descriptor_once_whatever_the_uri() {
    let qemu = Qemu::start();
    let (stream, _other) = UnixStream::pair().unwrap();
    let machine = qemu.machine(None, Ordered::new(None, Some(stream.into())));
    machine.send(SOCKET).unwrap();
    let again = machine.send("tcp:[::1]:4444");
    assert!(matches!(again, Err(MachineError::Refused(_))), "{again:?}");
    assert_eq!(qemu.told(), ["migrate fd:tenure, given"]);
}

#[test]
fn what_held_a_migration_back_does_not_stay_when_the_agent_died_in_it() {
    let usual = Duration::from_millis(300);
    for last in [Pace::Held, Pace::Limited(32_768)] {
        let qemu = Qemu::start();
        let died = qemu.plain();
        died.configure(&Settings::default()).unwrap();
        died.adjust(last).unwrap();
        drop(died);
        let next = qemu.plain();
        next.configure(&Settings::default()).unwrap();
        next.adjust(Pace::Full).unwrap();
        assert_eq!(
            next.limits_now(),
            Some((UNLIMITED, 0)),
            "the next migration is not held by what it found"
        );
        let after = qemu.plain();
        after.adjust(Pace::Switch(Some(usual))).unwrap();
        assert_eq!(after.limits_now(), Some((UNLIMITED, 300)));
    }
}

#[test]
fn limits_that_are_the_operators_stay_as_they_are() {
    let qemu = Qemu::start();
    let before = qemu.plain().limits_now();
    qemu.plain().adjust(Pace::Switch(Some(Duration::from_secs(1)))).unwrap();
    assert_eq!(qemu.plain().limits_now(), before, "this program began no migration");
    let begun = qemu.plain();
    begun.configure(&Settings::default()).unwrap();
    begun.adjust(Pace::Held).unwrap();
    begun.adjust(Pace::Switch(Some(Duration::from_millis(300)))).unwrap();
    assert_eq!(begun.limits_now(), before);
}
