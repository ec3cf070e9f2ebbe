//! The program `tenure-pr-helper`: from the command line to serving, and to an orderly end.
//!
//! The order is what keeps it safe. Signals are caught before anything is made that must be removed again. Everything
//! that takes privilege is opened next: socket, pidfile, metrics, state directory, audit, the log. Then privileges are given up,
//! while there is one thread. Only then is anybody told that the helper is ready, and the first client heard.
//!
//! A state directory that cannot be used does not keep a guest's machine from starting: PERSISTENT RESERVE IN works,
//! PERSISTENT RESERVE OUT is refused, and the log says what to do. Everything else that is wrong ends the program with
//! one line and exit status 1, as `qemu-pr-helper` does.

mod agents;
mod config;
mod detach;
mod error;
mod log;
mod manager;
mod name;
mod opened;
mod options;
mod pidfile;
mod records;
mod refusals;
mod running;
mod socket;
mod trace;

pub use config::check as check_configuration;
pub use name::Name;
pub use opened::SYSFS;
pub use options::CommandLine;

use crate::privilege::{Measure, Report};
use crate::server::Limits;
use detach::Detached;
use error::{StartError, told};
use log::Log;
use manager::Manager;
use opened::Opened;
use options::{Asked, Options};
use running::Running;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the program with these arguments, its name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = Name::of(arguments.first());
    let ended = options::parse(name, &arguments).and_then(|asked| match asked {
        Asked::Print(text) => {
            // A reader that went away has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Asked::Serve(options) if options.daemon && !options.detached => detach::spawn(&arguments),
        Asked::Serve(mut options) => serve(&mut options).map(|()| ExitCode::SUCCESS),
    });
    ended.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "{name}: {}", told(&error));
        ExitCode::FAILURE
    })
}

/// Serves until SIGTERM, SIGINT or SIGHUP.
fn serve(options: &mut Options) -> Result<(), StartError> {
    // In the background it was started under the name `exe`. Only for people: the kernel takes any 15 bytes.
    let _ = rustix::thread::set_name(options.name.short());
    let stop = stop_signals()?;
    let detached = options.detached.then(Detached::new).transpose()?;
    let log = Log::install(options)?;
    let limits = Limits { connections: connections(), ..Limits::default() };
    let manager = Manager::connect(std::env::var_os("NOTIFY_SOCKET").as_deref());
    let opened = Opened::open(options)?;
    say(&opened.confinement().apply()?);
    let running = Running::start(opened, limits)?;
    manager.tell("READY=1");
    if let Some(detached) = detached {
        detached.ready()?;
        log.leave_terminal();
    }
    running.until(stop, &manager)
}

/// A stream that can be read once a signal asks to end. SIGHUP ends too, as it does the incumbent.
fn stop_signals() -> Result<UnixStream, StartError> {
    let (read, write) = UnixStream::pair().map_err(StartError::Signals)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let write = write.try_clone().map_err(StartError::Signals)?;
        signal_hook::low_level::pipe::register(signal, write).map_err(StartError::Signals)?;
    }
    Ok(read)
}

/// Raises the limit on descriptors as far as it goes. Every client takes one, and every command under way three more;
/// as most clients are idle, half of the descriptors are for them.
fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Allowed to everybody; if not, there are just fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let most = Limits::default().connections;
    getrlimit(Resource::Nofile)
        .current
        .map_or(most, |descriptors| usize::try_from(descriptors / 2).map_or(most, |half| half.clamp(1, most)))
}

/// Says what protects the host, and loudly what does not.
fn say(report: &Report) {
    for (name, measure) in report.measures() {
        match measure {
            Measure::Failed(why) => tracing::warn!("{name} failed: {why}"),
            Measure::Unavailable(why) => tracing::warn!("{name} is not available: {why}"),
            other => tracing::info!("{name}: {other}"),
        }
    }
}

/// In the background the working directory is another.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
