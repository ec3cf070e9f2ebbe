//! The control socket: QMP's form, for root and the agent's own user.

use super::{Guests, Host, StartError};
use crate::config::Switch;
use peer::{HostName, Link};
use qmp::server::{Bound, Caller, Server, ServerLimits, Service, Session, bind};
use qmp::{CommandError, Greeting, Object};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Who may write to the socket's file; who may speak is looked at beside.
const MODE: u32 = 0o600;

/// The socket at work.
#[derive(Debug)]
pub(super) struct Control {
    /// Its end stops the thread.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl Control {
    pub(super) fn open(path: &Path, host: Arc<Host>, guests: Arc<dyn Guests>) -> Result<Self, StartError> {
        let failed = |source| StartError::Control { path: path.to_owned(), source };
        let bound = bind(path, MODE).map_err(failed)?;
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let server = Server::new(Arc::new(Commands { host, guests }), ServerLimits::default());
        let serve = move || run(&server, &bound, &stopped);
        let thread = thread::Builder::new().name("control".into()).spawn(serve).map_err(failed)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Lets commands under way end.
    pub(super) fn stop(self) {
        drop(self.stop);
        // What it had to tell, it has logged.
        let _ = self.thread.join();
    }
}

fn run(server: &Server, bound: &Bound, stop: &UnixStream) {
    if let Err(error) = server.run(bound.listener(), stop) {
        tracing::error!(%error, "the control socket");
    }
}

/// What can be asked for.
struct Commands {
    host: Arc<Host>,
    guests: Arc<dyn Guests>,
}

impl Service for Commands {
    fn greeting(&self) -> Greeting {
        let (host, program) = (self.host.config().agent.name.to_string(), self.host.program.clone());
        let mut version = Object::new();
        version.insert("tenure".into(), program.into());
        version.insert("host".into(), host.into());
        Greeting { version, capabilities: Vec::new() }
    }

    fn admits(&self, caller: &Caller) -> bool {
        let admitted = caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw();
        if !admitted {
            tracing::warn!(uid = caller.uid, pid = caller.pid, "turned away from the control socket");
        }
        admitted
    }

    /// `migrate` may bring along what QEMU is to send into.
    fn takes_descriptors(&self) -> bool {
        true
    }

    fn execute(&self, session: &Session, command: &str, arguments: Object) -> Result<Value, CommandError> {
        match command {
            "query-agent" => self.query_agent(),
            "query-peer" => self.query_peer(&Arguments::read(arguments, &["peer"])?),
            "query-vm" => self.query_vm(&Arguments::read(arguments, &["vm"])?),
            _ => {
                let known = self.guests.command(session, command, arguments);
                known.unwrap_or_else(|| Err(CommandError::not_found(command)))
            }
        }
    }
}

impl Commands {
    fn query_agent(&self) -> Result<Value, CommandError> {
        let config = self.host.config();
        let vms = config.vms.iter().map(|vm| {
            json!({ "name": vm.name, "uuid": vm.uuid.as_str(), "migrate": vm.migrate == Switch::On,
                "peers": vm.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "busy": self.host.busy.has(&vm.name) })
        });
        let peers = config.peers.iter();
        let peers =
            peers.map(|peer| json!({ "name": peer.name.to_string(), "address": peer.address.to_string() }));
        Ok(json!({ "name": config.agent.name.to_string(), "version": self.host.program,
            "state": config.agent.state, "peers": peers.collect::<Vec<_>>(), "vms": vms.collect::<Vec<_>>() }))
    }

    /// Connects to the peer and says what was agreed: whether both hosts take each other.
    fn query_peer(&self, arguments: &Arguments) -> Result<Value, CommandError> {
        let name: HostName = arguments.get("peer")?.parse().map_err(failure)?;
        let link = Link::connect(&self.host.terms.get(), &name).map_err(failure)?;
        let agreed = link.agreed();
        Ok(json!({ "name": agreed.host.to_string(), "version": agreed.program, "messages": agreed.messages,
            "engine": agreed.engine }))
    }

    /// What the journal has on the guest's last handover, and how the guest stands.
    fn query_vm(&self, arguments: &Arguments) -> Result<Value, CommandError> {
        let (config, name) = (self.host.config(), arguments.get("vm")?);
        let vm = config.vm(name).ok_or_else(|| CommandError::generic(format!("there is no vm {name}")))?;
        let records = self.guests.own(vm).map_err(CommandError::from)?;
        serde_json::to_value(records).map_err(failure)
    }
}

fn failure(error: impl std::fmt::Display) -> CommandError {
    CommandError::generic(error.to_string())
}

/// Strings by name; others are refused.
struct Arguments(Object);

impl Arguments {
    fn read(arguments: Object, known: &[&str]) -> Result<Self, CommandError> {
        match arguments.iter().find(|(name, value)| !known.contains(&name.as_str()) || !value.is_string()) {
            Some((name, _)) => Err(CommandError::generic(format!("argument {name} is unknown or no string"))),
            None => Ok(Self(arguments)),
        }
    }

    fn get(&self, name: &str) -> Result<&str, CommandError> {
        let value = self.0.get(name).and_then(Value::as_str);
        value.ok_or_else(|| CommandError::generic(format!("argument {name} is missing")))
    }
}
