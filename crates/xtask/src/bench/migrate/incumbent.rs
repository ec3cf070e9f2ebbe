//! QEMU's own `migrate-pr`: what moving the registrations of all disks adds to the time that the guest stands still.

use super::{KEY, KIND, serve};
use anyhow::{Context, Result, ensure};
use lab::qemu::{Backports, Disk, Moved, Pair, Setting};
use lab::states::{good, run};
use lab::tenure::Tenure;
use scsi::Status;
use scsi::pr::{InAction, Key, ReadReservation, request};

/// Starts a target and a pair of QEMUs, registers and reserves on every disk as the guest, and moves the guest.
pub(super) fn migrate(program: &Backports, tenure: &Tenure, disks: u8, migrate_pr: bool) -> Result<Moved> {
    let served = serve(tenure, disks)?;
    let mut pair = Pair::start(&Setting { program, served: &served, disks, migrate_pr })?;
    for number in 0..disks {
        let mut disk = pair.guest().disk(number);
        good(&mut disk, &request::register(Key::NONE, KEY, false))?;
        good(&mut disk, &request::reserve(KEY, KIND))?;
    }
    let moved = pair.migrate()?;
    for number in 0..disks {
        check(&mut pair.guest().disk(number), migrate_pr).with_context(|| format!("disk {number}"))?;
    }
    Ok(moved)
}

/// Where the registrations moved the guest has its own; otherwise its key is the source's nexus's, and the guest has none.
fn check(disk: &mut Disk<'_>, migrate_pr: bool) -> Result<()> {
    let told = run(disk, &request::read(InAction::READ_RESERVATION, 24))?;
    let reservation = ReadReservation::parse(&told.data).and_then(|read| read.reservation);
    let kept = reservation.is_some_and(|held| held.key == KEY && held.kind == KIND);
    ensure!(kept, "the reservation is {reservation:?} after a migration");
    let wanted = if migrate_pr { Status::GOOD } else { Status::RESERVATION_CONFLICT };
    let proof = run(disk, &request::register(KEY, KEY, false))?.status;
    ensure!(proof == wanted, "REGISTER with the guest's key ended {proof} after a migration");
    Ok(())
}
