//! `tenure device`: gives guests virtio-scsi disks over vhost-user until it is asked to end; and asks one that runs ([`client`]).

mod client;
mod control;
mod guests;
mod host;
mod lun;
mod real;

use crate::cli::DeviceArgs;
use crate::command::log;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use ::agent::notify::Manager;
use anyhow::Context;
use control::Control;
use guests::{guests, listen};
use host::{Host, Hosted};
use qmp::server::Bound;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use vhost_user_scsi::front::{Stop, serve};

/// The one line on standard output that says where guests connect.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    schema: u32,
    ready: bool,
    guests: Vec<ReadyGuest<'a>>,
    luns: usize,
}

#[derive(Debug, Serialize)]
struct ReadyGuest<'a> {
    name: &'a str,
    socket: &'a Path,
    initiator: String,
}

/// What a program that manages VMMs asks a back end first (vhost-user specification, "Backend program conventions").
#[derive(Debug, Serialize)]
struct Capabilities {
    r#type: &'static str,
    features: [&'static str; 0],
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// A usage error, or a LUN or socket that cannot be served; nothing listens then.
pub fn run(args: &DeviceArgs, console: &mut Console) -> Result<Exit, Failure> {
    if let Some(verb) = &args.verb {
        return client::run(verb, console);
    }
    if args.print_capabilities {
        console.json(&Capabilities { r#type: "scsi", features: [] })?;
        return Ok(Exit::Done);
    }
    // Before anything else, so that no signal ends a half-started device the hard way.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals")?;
    log::to_standard_error(console.verbosity());
    let manager = Manager::connect(std::env::var_os("NOTIFY_SOCKET").as_deref());
    let manager = manager.unwrap_or_else(|error| {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
        Manager::default()
    });
    let guests = guests(args)?;
    let host = Arc::new(Host::open(args, &guests)?);
    // All of them before the first guest is served: what cannot be served must be heard of while nothing depends on it.
    let bound = guests.iter().map(|guest| listen(guest, args)).collect::<Result<Vec<_>, _>>()?;
    let control = args.control.as_deref().map(|path| Control::open(path, &host)).transpose()?;
    let served = host.guests().iter().zip(bound).map(start).collect::<Result<Vec<_>, _>>()?;
    tell_ready(&host, console)?;
    told(manager.ready(), console);
    if let Some(signal) = signals.forever().next() {
        console.note(format!("signal {signal}: ending"));
    }
    told(manager.stopping(), console);
    control.into_iter().for_each(Control::stop);
    // All at once: each of them waits for what its guest has under way.
    served.iter().for_each(|one| one.stop.stop());
    served.into_iter().try_for_each(Served::end)?;
    Ok(Exit::Done)
}

fn told(result: io::Result<()>, console: &mut Console) {
    if let Err(error) = result {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
    }
}

fn tell_ready(host: &Host, console: &mut Console) -> Result<(), Failure> {
    let luns = host.luns().len();
    for Hosted { guest, .. } in host.guests() {
        console.note(format!("serving {luns} LUN(s) to {} at {}", guest.name, guest.socket.display()));
    }
    let guests = host.guests().iter().map(|Hosted { guest, initiator, .. }| ReadyGuest {
        name: &guest.name,
        socket: &guest.socket,
        initiator: initiator.to_string(),
    });
    console.json(&Ready { schema: 1, ready: true, guests: guests.collect(), luns })
}

/// The thread that serves a guest's front ends.
struct Served {
    name: String,
    stop: Arc<Stop>,
    thread: JoinHandle<io::Result<()>>,
}

fn start((hosted, bound): (&Hosted, Bound)) -> Result<Served, Failure> {
    let name = hosted.guest.name.clone();
    let (device, stop) = (Arc::clone(&hosted.device), Arc::new(Stop::new().context("no eventfd")?));
    let told = Arc::clone(&stop);
    let thread = thread::Builder::new().name(name.clone());
    let thread = thread.spawn(move || serve(bound.listener(), &device, &told)).context("no thread")?;
    Ok(Served { name, stop, thread })
}

impl Served {
    /// Waits until nothing of the guest's is under way.
    fn end(self) -> Result<(), Failure> {
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread died")));
        Ok(ended.context(self.name)?)
    }
}
