//! `tenure agent`: the daemon of a host in its process, with signals, the service manager and the log.

use crate::cli::AgentArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use ::agent::config::{Config, ConfigError};
use ::agent::daemon::{Daemon, Guests, Host, StartError, check};
use ::agent::guests::{Hosted, Surroundings};
use ::agent::notify::{Manager, watchdog};
use anyhow::Context;
use ledger::Ledger;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Between looks at nothing, where no watchdog asks.
const LONG: Duration = Duration::from_secs(3600);

/// The one line on standard output that says where the agent listens.
#[derive(Debug, Serialize)]
struct Ready {
    schema: u32,
    ready: bool,
    name: String,
    listen: Option<String>,
    socket: String,
}

/// Serves until SIGTERM or SIGINT; or only looks.
///
/// # Errors
/// A configuration that makes no sense ([`Exit::Usage`]), or with which nothing can be served.
pub fn run(args: &AgentArgs, console: &mut Console) -> Result<Exit, Failure> {
    run_amid(args, console, Surroundings::default())
}

/// The same, in these surroundings.
///
/// # Errors
/// As [`run`].
pub fn run_amid(
    args: &AgentArgs,
    console: &mut Console,
    surroundings: Surroundings,
) -> Result<Exit, Failure> {
    let config = Config::load(&args.config).map_err(wrong)?;
    if args.check {
        return look(&config, console);
    }
    // Before anything is served, so that no signal ends a half-started agent the hard way.
    let signals = signals().context("signals")?;
    crate::command::log::to_standard_error(console.verbosity());
    let manager = Manager::connect(std::env::var_os("NOTIFY_SOCKET").as_deref());
    let manager = manager.unwrap_or_else(|error| {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
        Manager::default()
    });
    let daemon = start(config, surroundings)?;
    tell_ready(&daemon, console)?;
    told(manager.ready(), console);
    serve(&daemon, args, &signals, &manager, console);
    told(manager.stopping(), console);
    daemon.stop();
    Ok(Exit::Done)
}

fn start(config: Config, surroundings: Surroundings) -> Result<Daemon, Failure> {
    let state = config.agent.state.clone();
    let ledger = Ledger::open(&state).with_context(|| state.display().to_string())?;
    let mut hosted = None;
    let guests = |host: &Arc<Host>| {
        let made = Arc::new(Hosted::amid(host, ledger, surroundings));
        hosted = Some(Arc::clone(&made));
        made as Arc<dyn Guests>
    };
    let daemon = Daemon::start(config, env!("CARGO_PKG_VERSION"), guests).map_err(failed)?;
    // Only now: peers must find this host where it asks them to put something in order.
    hosted.iter().try_for_each(Hosted::keep_order).context("recovery")?;
    Ok(daemon)
}

fn wrong(error: ConfigError) -> Failure {
    Failure { exit: Exit::Usage, reason: error.into() }
}

fn failed(error: StartError) -> Failure {
    Failure { exit: Exit::Failed, reason: error.into() }
}

fn look(config: &Config, console: &mut Console) -> Result<Exit, Failure> {
    let checked = check(config).map_err(failed)?;
    checked.warnings.iter().for_each(|warning| console.warning(warning));
    if !checked.unread.is_empty() {
        return Err(Failure::new(Exit::Failed, checked.unread.join("; ")));
    }
    let (peers, vms) = (config.peers.len(), config.vms.len());
    console.note(format!("{}: {peers} peer(s), {vms} guest(s); an agent would start", config.agent.name));
    Ok(Exit::Done)
}

fn tell_ready(daemon: &Daemon, console: &mut Console) -> Result<(), Failure> {
    let agent = &daemon.host().config().agent;
    let listen = daemon.listen().map(ToString::to_string);
    let socket = agent.socket.display().to_string();
    console.json(&Ready { schema: 1, ready: true, name: agent.name.to_string(), listen, socket })
}

/// Signals as they come, from a thread of their own.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = channel();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|signal| sender.send(signal)))?;
    Ok(receiver)
}

/// Until a signal ends it.
fn serve(
    daemon: &Daemon,
    args: &AgentArgs,
    signals: &Receiver<i32>,
    manager: &Manager,
    console: &mut Console,
) {
    let variable = |name| std::env::var(name).ok();
    let (limit, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
    let watched = watchdog(limit.as_deref(), pid.as_deref(), std::process::id());
    loop {
        match signals.recv_timeout(watched.unwrap_or(LONG)) {
            Ok(SIGHUP) => reload(daemon, args, manager, console),
            Err(RecvTimeoutError::Timeout) if daemon.is_alive() => {
                if watched.is_some() {
                    told(manager.alive(), console);
                }
            }
            // A dead part is the watchdog's to notice.
            Err(RecvTimeoutError::Timeout) => console.error("a part of the agent has ended"),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn reload(daemon: &Daemon, args: &AgentArgs, manager: &Manager, console: &mut Console) {
    told(manager.reloading(), console);
    let read = Config::load(&args.config).map_err(anyhow::Error::from);
    match read.and_then(|config| Ok(daemon.reload(config)?)) {
        Ok(()) => console.note(format!("{}: read again", args.config.display())),
        Err(error) => console.error(format!("not reloaded, the old configuration holds: {error:#}")),
    }
    told(manager.ready(), console);
}

/// A manager that hears nothing stops nobody.
fn told(result: io::Result<()>, console: &mut Console) {
    if let Err(error) = result {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
    }
}
