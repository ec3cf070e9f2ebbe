//! What each guest of this host has registered and holds, durably: one append-only log per guest, written ahead of the
//! command that changes it, checksummed, versioned, and locked across processes.
//!
//! Written by the pr-helper and the vhost-user device, later by the agent; read by `tenure status`. A record says what the
//! last command that the device accepted left behind, or that nobody can be sure (see [`PathRecord::intent`] and
//! [`State::Unverified`]); it never claims more. Keys are personal to a cluster, so the directory is readable by root alone.
#![forbid(unsafe_code)]

mod carried;
mod change;
mod directory;
mod error;
pub mod frame;
mod guest;
mod line;
mod lock;
pub mod log;
mod names;
mod record;

pub use carried::{CarriedError, carried, changes_to, read_carried};
pub use change::{Change, Intended};
pub use directory::Ledger;
pub use error::Error;
pub use guest::Guest;
pub use lock::Lock;
pub use names::{HandoverId, LunId, Owner, PathId, file_name};
pub use record::{MOST_HISTORY, MOST_OWED, Past, PathRecord, Record, State};
