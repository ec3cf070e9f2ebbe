//! The VM with the kernel's target set up in it: what `cargo xtask lab` starts.

use crate::vm::Vm;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// A VM with a logical unit and two nexuses to it.
#[derive(Debug)]
pub struct Lab {
    vm: Vm,
    /// `/dev/sdX` and `/dev/sgN` of each nexus.
    pub disks: Vec<[String; 2]>,
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
}

fn serve(vm: &mut Vm, backing: &str) -> Result<Vec<[String; 2]>> {
    let argv = ["/lab/programs/tenure-lab", "lio", "--backing", backing];
    let told = vm.run(&argv, Duration::from_secs(60))?.good().context("setting up LIO")?;
    let pair =
        |line: &str| line.split_once(' ').map(|(block, generic)| [block.to_owned(), generic.to_owned()]);
    Ok(told.lines().filter_map(pair).collect())
}
