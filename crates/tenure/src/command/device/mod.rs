//! `tenure device`: gives guests virtio-scsi disks over vhost-user until it is asked to end; and asks one that runs ([`client`]).

mod client;
mod control;
mod custody;
mod guests;
mod handed;
mod host;
mod lun;
mod parted;
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
use parted::{Keeping, Parted};
use qmp::server::Bound;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vhost_user_scsi::device::Device;
use vhost_user_scsi::front::{Stop, serve};

/// The one line on standard output that says where guests connect.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    schema: u32,
    ready: bool,
    guests: Vec<ReadyGuest<'a>>,
    luns: usize,
    /// Where its peers connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<String>,
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
    features: [&'static str; 1],
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
        console.json(&Capabilities { r#type: "scsi", features: ["migrate-precopy"] })?;
        return Ok(Exit::Done);
    }
    // Before anything else, so that no signal ends a half-started device the hard way.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals")?;
    log::to_standard_error(console.verbosity());
    raise_descriptors();
    let manager = Manager::connect(std::env::var_os("NOTIFY_SOCKET").as_deref());
    let manager = manager.unwrap_or_else(|error| {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
        Manager::default()
    });
    let guests = guests(args)?;
    let parted = Parted::open(args, &guests)?;
    let host = Arc::new(Host::open(args, &guests, parted.is_elsewhere(), parted.ticket())?);
    let peering = parted.peering();
    let custodies = parted.custodies(&host)?;
    // All of them before the first guest is served: what cannot be served must be heard of while nothing depends on it.
    let sockets = guests.iter().flat_map(|guest| &guest.sockets);
    let bound = sockets.map(|socket| listen(socket, args)).collect::<Result<Vec<_>, _>>()?;
    let control = args.control.as_deref().map(|path| Control::open(path, &host, &custodies)).transpose()?;
    let mut keeping = Keeping::start(args, peering.as_deref(), &custodies)?;
    let served = places(&host).zip(bound).map(start).collect::<Result<Vec<_>, _>>()?;
    tell_ready(&host, keeping.address(), console)?;
    told(manager.ready(), console);
    if let Some(signal) = signals.forever().next() {
        console.note(format!("signal {signal}: ending"));
    }
    thread::spawn(move || end_at_once(signals));
    told(manager.stopping(), console);
    control.into_iter().for_each(Control::stop);
    finish_following(&host);
    // A guest whose rings stop because this process ends has not left.
    keeping.turn_peers_away();
    // All at once: each of them waits for what its guest has under way.
    served.iter().for_each(|one| one.stop.stop());
    let ended = served.into_iter().map(Served::end);
    ended.fold(Ok(()), Result::and)?;
    keeping.end();
    Ok(Exit::Done)
}

/// How long a handover that is under way may take until a device that is to end does.
const FOLLOWING: Duration = Duration::from_secs(30);

/// Sessions end with this process, and at some targets with them what is still to be taken over from here.
fn finish_following(host: &Host) {
    let end = Instant::now() + FOLLOWING;
    let is_following = |hosted: &Hosted| hosted.real.is_following();
    while host.guests().iter().any(is_following) && Instant::now() < end {
        thread::sleep(host::LOOK);
    }
    for hosted in host.guests() {
        let awaited = hosted.real.awaited();
        if awaited.is_empty() {
            continue;
        }
        let luns = awaited.iter().map(|lun| lun.0.as_str()).collect::<Vec<_>>().join(", ");
        tracing::error!(
            guest = hosted.guest.name,
            luns,
            "its registration is awaited from this host's nexus, and no other host can take it over before this device runs again; at a \
             target that ends registrations with the session (tgt) it is lost now"
        );
    }
}

/// Whoever does not wait for what guests have under way says so by a second signal. To the guests that is as if the device was killed.
fn end_at_once(mut signals: Signals) {
    if let Some(signal) = signals.forever().next() {
        tracing::warn!(signal, "ending at once");
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

/// Raises the limit on descriptors as far as it goes: a front end brings one for each piece of memory and three for each ring.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Allowed to everybody; if not, there are just fewer front ends.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn told(result: io::Result<()>, console: &mut Console) {
    if let Err(error) = result {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
    }
}

fn tell_ready(host: &Host, peers: Option<String>, console: &mut Console) -> Result<(), Failure> {
    let luns = host.luns().len();
    for (Hosted { guest, .. }, socket) in places(host) {
        console.note(format!("serving {luns} LUN(s) to {} at {}", guest.name, socket.display()));
    }
    let guests = places(host).map(|(Hosted { guest, initiator, .. }, socket)| ReadyGuest {
        name: &guest.name,
        socket,
        initiator: initiator.to_string(),
    });
    console.json(&Ready { schema: 1, ready: true, guests: guests.collect(), luns, peers })
}

/// The thread that serves a guest's front ends.
struct Served {
    name: String,
    stop: Arc<Stop>,
    thread: JoinHandle<io::Result<()>>,
}

/// Every guest at every socket of its own.
fn places(host: &Host) -> impl Iterator<Item = (&Hosted, &Path)> {
    host.guests().iter().flat_map(|one| one.guest.sockets.iter().map(move |socket| (one, socket.as_path())))
}

fn start(((hosted, _), bound): ((&Hosted, &Path), Bound)) -> Result<Served, Failure> {
    let name = hosted.guest.name.clone();
    let (device, stop) = (Arc::clone(&hosted.device), Arc::new(Stop::new().context("no eventfd")?));
    let told = Arc::clone(&stop);
    let thread = thread::Builder::new().name(name.clone());
    let thread =
        thread.spawn(move || serve_until_told(bound.listener(), &device, &told)).context("no thread")?;
    Ok(Served { name, stop, thread })
}

fn serve_until_told(listener: &UnixListener, device: &Arc<Device>, stop: &Stop) -> io::Result<()> {
    or_end(device.name(), "no front end can be served any more", || serve(listener, device, stop))
}

/// A guest that cannot be served any more has lost its disks. That ends the process, in good order, so that whoever watches over it hears
/// of that and starts it again.
fn or_end(device: &str, what: &str, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let ended = catch_unwind(AssertUnwindSafe(act));
    let ended = ended.unwrap_or_else(|_| Err(io::Error::other("its thread died")));
    if let Err(error) = &ended {
        tracing::error!(device, %error, what);
        let _ = signal_hook::low_level::raise(SIGTERM);
    }
    ended
}

impl Served {
    /// Waits until nothing of the guest's is under way.
    fn end(self) -> Result<(), Failure> {
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread died")));
        Ok(ended.context(self.name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vhost_user_scsi::device::Settings;

    #[test]
    fn a_socket_that_cannot_be_served_any_more_ends_the_process_in_good_order() {
        let mut signals = Signals::new([SIGTERM]).unwrap();
        let device = Arc::new(Device::new("test", Settings::default(), None));
        let stop = Stop::new().unwrap();
        // A socket that nobody listens at: it fails as often as it is asked.
        let broken = std::os::unix::net::UnixStream::pair().unwrap().0;
        let broken = UnixListener::from(std::os::fd::OwnedFd::from(broken));
        assert!(serve_until_told(&broken, &device, &stop).is_err());
        assert_eq!(signals.pending().collect::<Vec<_>>(), [SIGTERM]);
        assert!(or_end("test", "a test", || panic!("of a test")).is_err());
        assert_eq!(signals.pending().collect::<Vec<_>>(), [SIGTERM]);
    }
}
