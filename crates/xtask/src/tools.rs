//! The programs that tests need from the distribution: found, installed where that is allowed, or named as missing.

use crate::shell;
use anyhow::{Result, bail};
use std::process::Command;
use std::sync::OnceLock;

/// A program or file and the Debian package it comes in.
pub(crate) struct Tool {
    /// Program name, or absolute path of a file.
    pub(crate) what: &'static str,
    /// Debian package.
    pub(crate) package: &'static str,
}

/// The target that handovers are tested on besides our own.
pub(crate) const TGT: &[Tool] =
    &[Tool { what: "tgtd", package: "tgt" }, Tool { what: "tgtadm", package: "tgt" }];
/// libiscsi's programs.
pub(crate) const LIBISCSI: &[Tool] = &[
    Tool { what: "iscsi-test-cu", package: "libiscsi-bin" },
    Tool { what: "iscsi-ls", package: "libiscsi-bin" },
    Tool { what: "iscsi-inq", package: "libiscsi-bin" },
    Tool { what: "iscsi-readcapacity16", package: "libiscsi-bin" },
    Tool { what: "iscsi-perf", package: "libiscsi-bin" },
];
/// QEMU's programs.
pub(crate) const QEMU: &[Tool] =
    &[Tool { what: "qemu-img", package: "qemu-utils" }, Tool { what: "qemu-io", package: "qemu-utils" }];
/// What the lab's VM, and QEMU in it, are made of.
pub(crate) const LAB: &[Tool] = &[
    Tool { what: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { what: "qemu-pr-helper", package: "qemu-system-common" },
    Tool { what: "busybox", package: "busybox-static" },
    Tool { what: "depmod", package: "kmod" },
];

/// What a guest uses its disks with.
pub(crate) const DISKS: &[Tool] = &[
    Tool { what: "sg_persist", package: "sg3-utils" },
    Tool { what: "fio", package: "fio" },
    Tool { what: "sfdisk", package: "fdisk" },
    Tool { what: "mkfs.ext4", package: "e2fsprogs" },
    Tool { what: "fence_scsi", package: "fence-agents" },
];

/// What two hosts need besides: the kernel's iSCSI initiator is set up by open-iscsi.
pub(crate) const HOSTS: &[Tool] =
    &[Tool { what: "iscsid", package: "open-iscsi" }, Tool { what: "iscsiadm", package: "open-iscsi" }];

/// Makes sure that all these are there, installing them as root.
///
/// # Errors
/// Names what is missing and why it could not be installed.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing = |tools: &[Tool]| -> Vec<&'static str> {
        let mut packages: Vec<_> =
            tools.iter().filter(|tool| shell::which(tool.what).is_none()).map(|tool| tool.package).collect();
        packages.dedup();
        packages
    };
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)?;
    match missing(tools).as_slice() {
        [] => Ok(()),
        still => bail!("not found although installed: {}", still.join(" ")),
    }
}

/// Makes sure that a Debian package is there whose files are no programs.
///
/// # Errors
/// If it is missing and cannot be installed.
pub(crate) fn ensure_package(package: &str) -> Result<()> {
    let query = shell::output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]));
    let installed = query.is_ok_and(|out| out.stdout.ends_with(b"install ok installed"));
    if installed { Ok(()) } else { install(&[package]) }
}

/// Makes sure that cargo-fuzz is there.
///
/// # Errors
/// If it is missing and cannot be built.
pub(crate) fn ensure_cargo_fuzz() -> Result<()> {
    if shell::which("cargo-fuzz").is_some()
        || shell::read(Command::new("cargo").args(["fuzz", "--version"])).is_ok()
    {
        return Ok(());
    }
    shell::cargo(&["install", "--locked", "cargo-fuzz"], &[])
}

fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!("needs the Debian packages {names}; not root, so not installed");
    }
    if shell::which("apt-get").is_none() {
        bail!("needs the Debian packages {names}; there is no apt-get here");
    }
    static UPDATED: OnceLock<bool> = OnceLock::new();
    UPDATED.get_or_init(|| shell::run(apt_get().args(["update", "-q"])).is_ok());
    shell::run(apt_get().args(["install", "-q", "-y", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
