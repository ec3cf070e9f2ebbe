//! A live migration as bare as it can be: no agent, no regard to persistent reservations. It shows that the guest and its
//! driver move; what else the two hosts need is `tenure migrate`'s.

use crate::process::wait_for;
use anyhow::{Context, Result, bail, ensure};
use qmp::qemu::{Capability, MigrationStatus, Qemu, RunState};
use std::path::Path;
use std::time::Duration;

/// How long a migration may take; it takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends the guest to the QEMU that waits at `uri`, up to the pause before the switchover.
///
/// # Errors
/// If the migration fails; the guest runs here again then, as QEMU has it.
pub fn out(socket: &Path, uri: &str) -> Result<()> {
    let qemu = connect(socket)?;
    qemu.migrate(uri)?;
    wait(&qemu, &MigrationStatus::PRE_SWITCHOVER)?;
    ensure!(!qemu.status()?.running, "the guest runs before the switchover");
    Ok(())
}

/// Lets the guest go from that pause on.
///
/// # Errors
/// If the migration fails.
pub fn switch(socket: &Path) -> Result<()> {
    let qemu = connect(socket)?;
    qemu.migrate_continue()?;
    wait(&qemu, &MigrationStatus::COMPLETED)
}

/// Lets a QEMU that was started with `-incoming defer` listen at `uri`.
///
/// # Errors
/// If it is not such a QEMU.
pub fn incoming(socket: &Path, uri: &str) -> Result<()> {
    Ok(connect(socket)?.migrate_incoming(uri)?)
}

/// Waits until the guest is there in full, and lets it run.
///
/// # Errors
/// If it does not come.
pub fn go_on(socket: &Path) -> Result<()> {
    let qemu = connect(socket)?;
    let coming = || qemu.status().is_ok_and(|now| now.status == RunState::INMIGRATE);
    wait_for(PATIENCE, || (!coming()).then_some(())).context("the guest does not come")?;
    qemu.cont()?;
    ensure!(qemu.status()?.running, "the guest does not run");
    Ok(())
}

/// Cancels a migration that somebody else began.
///
/// # Errors
/// If there is none.
pub fn cancel(socket: &Path) -> Result<()> {
    let qemu = Qemu::connect(socket, PATIENCE)?;
    ensure!(!qemu.migration()?.status().is_over(), "nothing is under way");
    Ok(qemu.migrate_cancel()?)
}

fn connect(socket: &Path) -> Result<Qemu> {
    let started = || Qemu::connect(socket, PATIENCE).ok();
    let qemu = wait_for(PATIENCE, started).with_context(|| format!("{}: no QEMU", socket.display()))?;
    let wanted = [Capability::EVENTS, Capability::RETURN_PATH, Capability::PAUSE_BEFORE_SWITCHOVER];
    if qemu.migration()?.status().is_over() {
        qemu.set_capabilities(&wanted.map(|capability| (capability, true)))?;
    }
    Ok(qemu)
}

fn wait(qemu: &Qemu, wanted: &MigrationStatus) -> Result<()> {
    let info = wait_for(PATIENCE, || match qemu.migration() {
        Ok(info) if info.status() != *wanted && !info.status().is_over() => None,
        info => Some(info),
    });
    let info = info.context("the migration takes too long")??;
    if info.status() != *wanted {
        bail!("the migration is {}: {}", info.status().0, info.error_desc.unwrap_or_default());
    }
    Ok(())
}
