//! The destination: listens, loads, and runs the guest if nobody said otherwise.

use super::link::{Address, Link, Listener, Parcel};
use super::options::Release;
use super::state::Machine;
use anyhow::{Result, bail, ensure};
use qmp::qemu::{MigrationStatus, RunState};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

/// Listens. An error: QEMU would have refused at once.
pub(super) fn begin(
    machine: &Arc<Machine>,
    address: &Address,
    descriptor: Option<OwnedFd>,
    exit_on_error: bool,
) -> Result<()> {
    ensure!(machine.options.incoming, "'-incoming' was not specified on the command line");
    let mut state = machine.lock();
    let begun = state.run != RunState::INMIGRATE || state.migration.status.is_some();
    ensure!(!begun, "The incoming migration has already been started");
    let (listener, at) = Listener::bind(address, descriptor)?;
    state.migration.address = Some(at);
    machine.migration_is(&mut state, MigrationStatus::SETUP);
    drop(state);
    let machine = Arc::clone(machine);
    let load = move || {
        if let Err(error) = listener.accept().and_then(|link| load(&machine, link)) {
            fail(&machine, &format!("{error:#}"), exit_on_error);
        }
    };
    thread::Builder::new().name("incoming".into()).spawn(load)?;
    Ok(())
}

fn load(machine: &Machine, mut link: Link) -> Result<()> {
    let Parcel::Begin { answer } = link.receive()? else { bail!("this is no migration") };
    machine.migration_is(&mut machine.lock(), MigrationStatus::ACTIVE);
    machine.step("accepted")?;
    let Parcel::Devices { ran } = link.receive()? else { bail!("devices were expected") };
    if let Err(error) = machine.step("load") {
        if answer {
            link.send(&Parcel::Failed)?;
        }
        return Err(error);
    }
    machine.step("loaded")?;
    if answer {
        link.send(&Parcel::Loaded)?;
    }
    arrive(machine, ran)
}

/// A guest that did not run at the source does not run here, whatever `-S` says.
fn arrive(machine: &Machine, ran: bool) -> Result<()> {
    machine.step("arrived")?;
    let mut state = machine.lock();
    if ran && state.autostart {
        machine.resume(&mut state)?;
    } else {
        machine.halt(&mut state, RunState::PAUSED)?;
    }
    machine.migration_is(&mut state, MigrationStatus::COMPLETED);
    Ok(())
}

fn fail(machine: &Machine, why: &str, exit: bool) {
    let mut state = machine.lock();
    state.migration.error = Some(why.to_owned());
    machine.migration_is(&mut state, MigrationStatus::FAILED);
    drop(state);
    if exit || machine.release() < Release::V11_1 {
        eprintln!("load of migration failed: {why}");
        // What was emitted goes out first, as far as anybody takes it.
        thread::sleep(std::time::Duration::from_millis(5));
        std::process::exit(1);
    }
}

/// `socket-address` of query-migrate.
pub(super) fn address(at: Option<&Value>) -> Option<Value> {
    at.map(|at| json!([at]))
}
