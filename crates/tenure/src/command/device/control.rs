//! The control socket of `tenure device`, in QMP's form: what the guests do, and LUNs that come and go.
//!
//! `query-device`; `lun-add` with `spec` and perhaps `lun`; `lun-remove` and `lun-resize` with `lun`; `guest-claim` with `guest` and
//! perhaps `without-state`. For root and the device's
//! own user.

use super::custody::Custody;
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
use vhost_user_scsi::device::{Aio, Phase};
use vhost_user_scsi::statistics::{Kind, Total};

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
    pub(super) fn open(path: &Path, host: &Arc<Host>, custodies: &[Arc<Custody>]) -> Result<Self, Failure> {
        let at = || format!("cannot listen at {}", path.display());
        let bound = bind(path, MODE).with_context(at)?;
        let (stop, stopped) = UnixStream::pair().with_context(at)?;
        let server =
            Server::new(Arc::new(Commands(Arc::clone(host), custodies.to_vec())), ServerLimits::default());
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
struct Commands(Arc<Host>, Vec<Arc<Custody>>);

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
        let done = self.carry_out(command, &arguments);
        if done.is_ok() && command != "query-device" {
            // It may have mended what a guest waits for.
            self.1.iter().for_each(|custody| custody.try_again());
        }
        done
    }
}

impl Commands {
    fn carry_out(&self, command: &str, arguments: &Object) -> Result<Value, CommandError> {
        match command {
            "query-device" => read(arguments, &[]).map(|()| self.query()),
            "lun-add" => self.add(arguments),
            "lun-remove" => self.remove(arguments),
            "lun-resize" => self.resize(arguments),
            "guest-claim" => self.claim(arguments),
            _ => Err(CommandError::not_found(command)),
        }
    }

    fn query(&self) -> Value {
        let luns = self.0.luns();
        let luns = luns.iter().map(|(lun, spec)| json!({ "lun": lun, "spec": spec }));
        let guests = self.0.guests().iter().map(|hosted| self.guest(hosted));
        json!({ "guests": guests.collect::<Vec<_>>(), "luns": luns.collect::<Vec<_>>() })
    }

    /// A guest, and who has it if that is not for ever this device.
    fn guest(&self, hosted: &Hosted) -> Value {
        let mut told = guest(hosted);
        let custody = self.1.iter().find(|custody| custody.guest() == hosted.guest.name);
        if let (Some(custody), Some(told)) = (custody, told.as_object_mut()) {
            let (place, trouble) = custody.status();
            told.insert("place".into(), place.word().into());
            told.extend(place.other().map(|other| ("peer".into(), other.as_str().into())));
            told.extend(trouble.map(|trouble| ("waits".into(), trouble.into())));
            let keeps = hosted.real.keeps();
            if !keeps.is_empty() {
                told.insert("keeps".into(), keeps.into());
            }
        }
        told
    }

    /// The operator says that a guest is this device's, because the other one is gone for good.
    fn claim(&self, arguments: &Object) -> Result<Value, CommandError> {
        read(arguments, &["guest", "without-state"])?;
        let name = arguments.get("guest").and_then(Value::as_str);
        let custody = self.1.iter().find(|custody| name == Some(custody.guest()));
        let custody = custody
            .ok_or_else(|| CommandError::generic("argument guest names no guest that could be elsewhere"))?;
        let without = match arguments.get("without-state") {
            None => false,
            Some(Value::Bool(without)) => *without,
            Some(_) => return Err(CommandError::generic("argument without-state is true or false")),
        };
        custody.claim(without).map_err(|refusal| CommandError::generic(refusal.desc))?;
        Ok(json!({}))
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

    fn resize(&self, arguments: &Object) -> Result<Value, CommandError> {
        read(arguments, &["lun"])?;
        let number = lun(arguments)?;
        let grown = self.0.resize(number).map_err(|error| failure(&error))?;
        tracing::info!(lun = number, grown, "measured");
        Ok(json!({ "grown": grown }))
    }
}

/// A guest, and for each of its logical units what it did so far and what is under way.
fn guest(hosted: &Hosted) -> Value {
    let device = &hosted.device;
    let under_way = device.under_way();
    let table = device.target().table();
    let luns = table.luns().map(|lun| {
        let totals = lun.totals();
        let (present, record) = hosted.real.shown(lun.number).unwrap_or((true, Value::Null));
        let failed: u64 = Kind::ALL.iter().map(|kind| totals.of(*kind).failed).sum();
        let waits = under_way.iter().find(|waits| waits.lun == lun.number);
        let oldest = waits.map_or(0, |waits| u64::try_from(waits.oldest.as_millis()).unwrap_or(u64::MAX));
        json!({ "present": present, "record": record, "lun": lun.number, "age": u64::try_from(lun.age().as_millis()).unwrap_or(u64::MAX),
            "commands": totals.commands(), "failed": failed,
            "under-way": { "commands": waits.map_or(0, |waits| waits.commands), "milliseconds": oldest },
            "read": total(totals.of(Kind::Read)), "write": total(totals.of(Kind::Write)),
            "other": total(totals.of(Kind::Other)) })
    });
    let state = match device.phase() {
        Phase::Idle => "idle",
        Phase::Connected => "connected",
        Phase::Running => "running",
        Phase::Draining => "draining",
    };
    let aio = if device.aio() == Aio::Threads { "threads" } else { "io_uring" };
    json!({ "name": hosted.guest.name, "sockets": hosted.guest.sockets, "initiator": hosted.initiator.to_string(),
        "state": state, "aio": aio, "luns": luns.collect::<Vec<_>>() })
}

fn total(total: &Total) -> Value {
    json!({ "commands": total.commands, "failed": total.failed, "bytes": total.bytes,
        "microseconds": total.microseconds, "longest": total.longest, "latency": total.latency })
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
