//! The VM's first root: a static busybox, the modules, and the script that mounts everything else.

use crate::vm::cpio::Archive;
use crate::vm::kernel::Kernel;
use anyhow::{Context, Result};

/// What the VM needs: its devices, 9p and overlay for the root, SCSI, the kernel's own target, and iSCSI at both ends.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "configfs",
    "virtio_scsi",
    "sd_mod",
    "sg",
    "target_core_mod",
    "target_core_file",
    "tcm_loop",
    "virtio_net",
    "iscsi_target_mod",
    "iscsi_tcp",
    "crc32c_generic",
    "ext4",
];

const DIRECTORIES: &[&str] = &["bin", "dev", "proc", "sys", "modules", "lower", "overlay", "root"];

/// Builds it.
///
/// # Errors
/// If a module or the static busybox is missing.
pub(crate) fn build(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    DIRECTORIES.iter().for_each(|path| archive.directory(path));
    let busybox = std::fs::read("/bin/busybox").context("/bin/busybox (package busybox-static)")?;
    archive.file("bin/busybox", &busybox, true);
    archive.file("init", include_bytes!("init.sh"), true);
    let mut order = String::new();
    for (name, content) in kernel.modules(MODULES)? {
        archive.file(&format!("modules/{name}"), &content, false);
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes(), false);
    Ok(archive.finish())
}
