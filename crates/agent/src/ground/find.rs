//! The device nodes of a logical unit of which only the name is known.
//!
//! udev's links tell where to look first; only what the device itself says counts. So it works without udev's links as well.

use ledger::LunId;
use pr_helper::opening::OpenLun;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Devices that are looked at.
const MOST: usize = 4096;

/// The nodes under `dev` (`/dev`) through which this logical unit is reached, one for each I_T nexus; none that is a
/// dm-multipath map.
#[must_use]
pub fn nodes_of(lun: &LunId, devices: &dyn OpenLun, dev: &Path) -> Vec<PathBuf> {
    let (mut found, mut paths) = (Vec::new(), BTreeSet::new());
    for node in candidates(lun, dev) {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(&node, flags, Mode::empty()) else { continue };
        let Ok(opened) = devices.open(fd, false) else { continue };
        let identity = opened.identity.filter(|identity| identity.lun == *lun && !opened.multipath);
        if identity.is_some_and(|identity| paths.insert(identity.path.clone())) {
            found.push(node);
        }
    }
    found
}

/// The nodes of a logical unit that was reached by these, which may have been renamed since: those of them that still lead there, or, if
/// none does, as many others as there are. Nodes by which the guest never went are left out.
#[must_use]
pub fn nodes_again(lun: &LunId, before: &[PathBuf], devices: &dyn OpenLun, dev: &Path) -> Vec<PathBuf> {
    let now = nodes_of(lun, devices, dev);
    let now_there: Vec<_> = now.iter().map(fs::canonicalize).filter_map(Result::ok).collect();
    let same = |node: &&PathBuf| fs::canonicalize(node).is_ok_and(|node| now_there.contains(&node));
    let still: Vec<_> = before.iter().filter(same).cloned().collect();
    match still.is_empty() && now.len() == before.len() {
        true => now,
        false => still,
    }
}

/// The nodes that udev's links with this name lead to, then every SCSI disk.
fn candidates(lun: &LunId, dev: &Path) -> Vec<PathBuf> {
    let digits = lun.0.split_once('.').map_or(lun.0.as_str(), |(_, name)| name);
    let links = entries(&dev.join("disk/by-id"));
    let named = links.into_iter().filter(|link| link.to_string_lossy().contains(digits));
    let disks = entries(dev).into_iter().filter(|node| is_disk(node));
    let all = named.filter_map(|link| fs::canonicalize(link).ok()).chain(disks);
    let mut seen = BTreeSet::new();
    all.filter(|node| seen.insert(node.clone())).take(MOST).collect()
}

/// `sd` and letters: whole disks.
fn is_disk(node: &Path) -> bool {
    let name = node.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("sd"));
    name.is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase()))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
