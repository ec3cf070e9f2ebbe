//! A stand-in for QEMU that speaks QMP as 7.2 and 11.1 do and has no guest but a run state: for tests of who may run the
//! guest, with every failure at every step.
//!
//! What it does in a migration was read and measured on QEMU 7.2.22 and 11.1.3; `tests/scripted.rs` compares the order of its events and
//! states with a pair of real ones. While its guest runs it holds a lock that both ends share ([`diary`]): a guest that runs
//! twice is found out by the second one, whatever the clocks say.

mod blocks;
mod commands;
pub mod diary;
mod faults;
mod incoming;
mod link;
mod options;
mod outgoing;
mod schema;
mod state;

pub use faults::{Fault, Kind};
pub use options::{Disk, Options, Release};

use anyhow::{Context, Result};
use commands::Monitor;
use qmp::server::{Server, ServerLimits, Service, bind};
use state::Machine;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Runs one until `quit`, or until it dies as it was told to.
///
/// # Errors
/// It cannot listen, or its diary cannot be written.
pub fn run(options: Options) -> Result<()> {
    let at = |path: &PathBuf| bind(path, 0o600).with_context(|| path.display().to_string());
    let sockets = options.qmp.iter().map(at).collect::<Result<Vec<_>>>()?;
    let (stop, stopped) = UnixStream::pair()?;
    let machine = Arc::new(Machine::new(options, stop)?);
    let monitor = Arc::new(Monitor::new(Arc::clone(&machine)));
    let server = || Server::new(Arc::clone(&monitor) as Arc<dyn Service>, limits());
    let servers: Vec<_> = sockets.iter().map(|socket| (server(), socket)).collect();
    machine.power_on(servers.iter().map(|(server, _)| server.emitter()).collect())?;
    println!("{}", serde_json::json!({ "schema": 1, "ready": true, "qmp": machine.options.qmp }));
    let stopped = &stopped;
    thread::scope(|scope| {
        for (server, socket) in &servers {
            // A command that hangs, as it was told to, does not keep the process.
            scope.spawn(move || drop(server.run(socket.listener(), stopped)));
        }
    });
    Ok(())
}

/// Of each socket, as real ones do it; it also floods its clients where it is told to.
fn limits() -> ServerLimits {
    ServerLimits {
        connections: 1,
        in_turn: true,
        client: qmp::Limits { line: 2 * faults::MEGABYTES, ..qmp::Limits::QEMU },
        drain: Duration::from_millis(500),
        ..ServerLimits::default()
    }
}
