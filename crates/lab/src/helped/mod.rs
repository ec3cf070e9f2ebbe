//! A host with a helper, without a kernel's disk: an adapter that keeps the host's sessions as a kernel does, files that stand for its
//! device nodes, the helper's own server over them as a process that can be killed, and QEMU's end of it.
//!
//! Everything but the disks is what is shipped: the service, its ledger, its audit, its guard, both its protocols. What differs is
//! the [`OpenLun`](pr_helper::opening::OpenLun) behind it: [`FileDisks`] in the place of SG_IO.

mod adapter;
mod devices;
mod guest;
mod helper;
mod host;

pub use adapter::Adapter;
pub use devices::FileDisks;
pub use guest::QemuEnd;
pub use helper::{Options, serve};
pub use host::HelpedHost;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a file that stands for a disk says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Disk {
    /// Where the adapter listens.
    adapter: PathBuf,
    /// Which of its logical units.
    unit: usize,
    /// The initiator port's name.
    port: String,
}

/// A command for the adapter, as a line.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    unit: usize,
    cdb: Vec<u8>,
    out: Option<Vec<u8>>,
    allocation: usize,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
enum Came {
    Completed { status: u8, sense: Vec<u8>, data: Vec<u8> },
    NotSent(String),
    Unknown(String),
}
