//! The guest of two hosts, from outside: QEMU and what drives it on a host, its orders and its diary.

use super::{Host, PATIENCE, PROGRAM};
use crate::guest::{Diary, Entry, Order, What};
use crate::orders;
use crate::process::wait_for;
use crate::qemu::qtest::hex;
use anyhow::{Context, Result, ensure};
use nexus::{Nexus, TransportError};
use scsi::{Completion, Request};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where QEMU's sockets are in a host's VM.
pub const DIRECTORY: &str = "/run/lab";
/// How long an order may take.
const ORDER: Duration = Duration::from_secs(60);

/// A QEMU on a host, with the guest that is or will be in it.
#[derive(Debug)]
pub struct Seat {
    qemu: u32,
    diary: PathBuf,
    orders: PathBuf,
    ordered: usize,
}

impl Host {
    /// Starts QEMU on the shared disk, and the guest in it; or, for a guest that is to come, one that waits for it. Persistent
    /// reservations go through the helper that listens at `helper`. `tag` is part of the names of files. What was seated here
    /// before is killed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn seat(&mut self, tag: &str, incoming: bool, helper: Option<&str>) -> Result<Seat> {
        let disk = self.disk.display().to_string();
        let mut argv = vec![PROGRAM, "qemu", "--directory", DIRECTORY, "--device", &disk];
        argv.extend(helper.iter().flat_map(|helper| ["--helper", helper]));
        argv.extend(incoming.then_some("--incoming"));
        self.vacate()?;
        // Nothing of what a course before this one left.
        self.vm.empty(DIRECTORY)?;
        let qemu = self.vm.start(&argv, Path::new("/run/qemu-start.log"))?;
        let socket = format!("{DIRECTORY}/qmp");
        ensure!(self.vm.appears(&socket, qemu, PATIENCE)?, "QEMU does not start");
        let [diary, orders] = ["diary", "orders"].map(|kind| format!("{kind}-{tag}"));
        for file in [&diary, &orders] {
            std::fs::write(self.vm.keep().join(file), "")?;
        }
        let [inner_diary, inner_orders] = [&diary, &orders].map(|name| format!("/lab/keep/{name}"));
        let argv =
            [PROGRAM, "guest", "--directory", DIRECTORY, "--log", &inner_diary, "--orders", &inner_orders];
        let guest = self.vm.start(&argv, Path::new("/run/guest.log"))?;
        self.seated = vec![qemu, guest];
        let keep = self.vm.keep();
        Ok(Seat { qemu, diary: keep.join(diary), orders: keep.join(orders), ordered: 0 })
    }

    /// Ends the QEMU of a guest that has left, or kills one that has not.
    ///
    /// # Errors
    /// If the VM is gone.
    pub fn vacate(&mut self) -> Result<()> {
        std::mem::take(&mut self.seated).into_iter().try_for_each(|program| self.vm.end(program))
    }

    /// Kills QEMU and leaves its guest to find that out.
    pub(super) fn kill_qemu(&mut self) -> Result<()> {
        let qemu = self.seated.first().copied().context("there is no QEMU")?;
        self.vm.end(qemu)
    }
}

impl Seat {
    /// QEMU's number in the VM.
    #[must_use]
    pub const fn qemu(&self) -> u32 {
        self.qemu
    }

    /// What the guest has done here so far.
    ///
    /// # Errors
    /// If the diary cannot be read.
    pub fn diary(&self) -> Result<Vec<Entry>> {
        Diary::read(&self.diary)
    }

    /// Waits until the guest has done something that counts.
    ///
    /// # Errors
    /// If it does not in time; the text has the end of the diary.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&[Entry]) -> bool) -> Result<Vec<Entry>> {
        let seen = wait_for(PATIENCE, || self.diary().ok().filter(|diary| enough(diary)));
        seen.with_context(|| {
            let diary = self.diary().unwrap_or_default();
            let last = diary.get(diary.len().saturating_sub(3)..).unwrap_or_default();
            format!("the guest does not {what}: {last:?}")
        })
    }

    /// Waits until the guest has written so many blocks here.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_written(&self, blocks: usize) -> Result<()> {
        let enough = |diary: &[Entry]| diary.iter().filter(|entry| is_write(entry)).count() >= blocks;
        self.wait_until("write", enough).map(drop)
    }

    /// Waits until it has written so many more.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_written_on(&self, blocks: usize) -> Result<()> {
        self.wait_written(self.written()? + blocks)
    }

    /// How many blocks the guest has written here, or tried to.
    pub(super) fn written(&self) -> Result<usize> {
        Ok(self.diary()?.iter().filter(|entry| is_write(entry)).count())
    }

    fn order(&mut self, request: &Request) -> Result<Completion> {
        orders::give(&self.orders, &Order::new(request))?;
        let number = self.ordered;
        self.ordered += 1;
        let answered = || {
            self.diary().ok()?.into_iter().find_map(|entry| match entry.what {
                What::Answered(order, answer) if order == number => Some(answer.completion()),
                _ => None,
            })
        };
        wait_for(ORDER, answered).with_context(|| format!("no answer to {}", hex(&request.cdb)))
    }
}

/// Whether it is about a block that was written.
pub(super) const fn is_write(entry: &Entry) -> bool {
    matches!(entry.what, What::Wrote(..))
}

/// What the guest is told to send.
impl Nexus for Seat {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.order(request)
            .map_err(|error| TransportError::OutcomeUnknown(std::io::Error::other(format!("{error:#}"))))
    }
}
