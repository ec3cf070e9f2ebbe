//! Trials of a helper in the VM, seen from outside: the steps of `cargo xtask lab`.

use crate::qemu::Front;
use crate::table::{Policy, Row, differences};
use crate::vm::Vm;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Debian's own helper, as QEMU knows it.
pub const INCUMBENT: &str = "/usr/bin/qemu-pr-helper";
/// How long one recording may take; it takes about one minute.
const RECORDING: Duration = Duration::from_secs(600);

/// A VM with a logical unit and two nexuses to it: the guest's and a peer's.
#[derive(Debug)]
pub struct Lab {
    vm: Vm,
    /// `/dev/sdX` and `/dev/sgN` of each nexus.
    disks: Vec<[String; 2]>,
}

impl Lab {
    /// Boots the VM and sets the target up in it.
    ///
    /// # Errors
    /// If either fails; the text says what is missing.
    pub fn start(cache: &Path, programs: &Path) -> Result<Self> {
        let mut vm = Vm::boot(cache, programs)?;
        let disks = serve(&mut vm, "/run/lun0.img")?;
        Ok(Self { vm, disks })
    }

    /// The VM.
    pub const fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// Sends the table through one helper and one kind of disk.
    ///
    /// # Errors
    /// If the recording fails.
    pub fn record(&mut self, helper: &str, front: Front) -> Result<Vec<Row>> {
        let [[block, generic], [peer, _]] =
            self.disks.first_chunk().context("the lab has fewer than two disks")?;
        let guest = if front == Front::Block { block } else { generic };
        let front = front.to_string();
        let argv =
            ["/lab/programs/tenure-lab", "record", "--helper", helper, "--front", &front, "--guest", guest];
        let told = self.vm.run(&[&argv[..], &["--peer", peer]].concat(), RECORDING)?.good()?;
        Ok(serde_json::from_str(&told)?)
    }

    /// Records two helpers and wants every difference to be one that the policy explains; tells a summary.
    ///
    /// # Errors
    /// If a recording fails, or the helpers differ in what they should not.
    pub fn compare(&mut self, ours: &str, front: Front, policy: Policy) -> Result<String> {
        let incumbent = self.record(INCUMBENT, front)?;
        let found = differences(&incumbent, &self.record(ours, front)?, policy)?;
        let unmeant: Vec<String> =
            found.iter().filter(|difference| !difference.meant).map(ToString::to_string).collect();
        let rows = incumbent.len();
        ensure!(unmeant.is_empty(), "{} of {rows} rows differ:\n{}", unmeant.len(), unmeant.join("\n"));
        Ok(format!("{front}: {rows} rows, {} differ as meant", found.len()))
    }
}

fn serve(vm: &mut Vm, backing: &str) -> Result<Vec<[String; 2]>> {
    let argv = ["/lab/programs/tenure-lab", "lio", "--backing", backing];
    let told = vm.run(&argv, Duration::from_secs(60))?.good().context("setting up LIO")?;
    let pair =
        |line: &str| line.split_once(' ').map(|(block, generic)| [block.to_owned(), generic.to_owned()]);
    Ok(told.lines().filter_map(pair).collect())
}
