//! The control socket of `tenure device`, in QMP's form: what the guests do, and LUNs that come and go.
//!
//! `query-device`; `lun-add` with `spec` and perhaps `lun`; `lun-remove` with `lun`. For root and the device's own user.

use super::host::{Host, Hosted};
use crate::exit::Failure;
use anyhow::Context;
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
    pub(super) fn open(path: &Path, host: &Arc<Host>) -> Result<Self, Failure> {
        let at = || format!("cannot listen at {}", path.display());
        let bound = bind(path, MODE).with_context(at)?;
        let (stop, stopped) = UnixStream::pair().with_context(at)?;
        let server = Server::new(Arc::new(Commands(Arc::clone(host))), ServerLimits::default());
        let serve = move || run(&server, &bound, &stopped);
        let thread = thread::Builder::new().name("control".into()).spawn(serve).with_context(at)?;
        Ok(Self { stop, thread })
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
struct Commands(Arc<Host>);

impl Service for Commands {
    fn greeting(&self) -> Greeting {
        let mut version = Object::new();
        version.insert("tenure".into(), env!("CARGO_PKG_VERSION").into());
        Greeting { version, capabilities: Vec::new() }
    }

    fn admits(&self, caller: &Caller) -> bool {
        let admitted = caller.uid == 0 || caller.uid == rustix::process::geteuid().as_raw();
        if !admitted {
            tracing::warn!(uid = caller.uid, pid = caller.pid, "turned away from the control socket");
        }
        admitted
    }

    fn execute(&self, _session: &Session, command: &str, arguments: Object) -> Result<Value, CommandError> {
        match command {
            "query-device" => read(&arguments, &[]).map(|()| self.query()),
            "lun-add" => self.add(&arguments),
            "lun-remove" => self.remove(&arguments),
            _ => Err(CommandError::not_found(command)),
        }
    }
}

impl Commands {
    fn query(&self) -> Value {
        let luns = self.0.luns();
        let luns = luns.iter().map(|(lun, spec)| json!({ "lun": lun, "spec": spec }));
        let guests = self.0.guests().iter().map(guest);
        json!({ "guests": guests.collect::<Vec<_>>(), "luns": luns.collect::<Vec<_>>() })
    }

    fn add(&self, arguments: &Object) -> Result<Value, CommandError> {
        read(arguments, &["spec", "lun"])?;
        let spec = arguments.get("spec").and_then(Value::as_str);
        let spec = spec.ok_or_else(|| CommandError::generic("argument spec is missing, or no string"))?;
        let number = if arguments.contains_key("lun") { Some(lun(arguments)?) } else { None };
        let number = self.0.add(number, spec).map_err(|error| failure(&error))?;
        tracing::info!(lun = number, spec, "added");
        Ok(json!({ "lun": number }))
    }

    fn remove(&self, arguments: &Object) -> Result<Value, CommandError> {
        read(arguments, &["lun"])?;
        let number = lun(arguments)?;
        self.0.remove(number).map_err(|error| failure(&error))?;
        tracing::info!(lun = number, "removed");
        Ok(json!({}))
    }
}

/// A guest, and for each of its logical units what it did so far.
fn guest(hosted: &Hosted) -> Value {
    let table = hosted.device.target().table();
    let luns = table.luns().map(|lun| {
        let totals = lun.totals();
        let (present, record) = hosted.real.shown(lun.number).unwrap_or((true, Value::Null));
        json!({ "present": present, "record": record, "lun": lun.number, "commands": totals.commands, "failed": totals.failed,
            "bytes-in": totals.data_in, "bytes-out": totals.data_out, "microseconds": totals.microseconds,
            "latency": totals.latency })
    });
    json!({ "name": hosted.guest.name, "socket": hosted.guest.socket, "initiator": hosted.initiator.to_string(),
        "luns": luns.collect::<Vec<_>>() })
}

/// Refuses arguments that the command does not have.
fn read(arguments: &Object, known: &[&str]) -> Result<(), CommandError> {
    match arguments.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(CommandError::generic(format!("argument {name} is unknown"))),
        None => Ok(()),
    }
}

fn lun(arguments: &Object) -> Result<u8, CommandError> {
    let number = arguments.get("lun").and_then(Value::as_u64).and_then(|number| number.try_into().ok());
    number.ok_or_else(|| CommandError::generic("argument lun is missing, or none of 0 to 255"))
}

fn failure(error: &Failure) -> CommandError {
    CommandError::generic(error.to_string())
}
