//! A SCSI device server: the complete persistent reservation state machine (SPC-4 5.13) and a block
//! logical unit (SBC-4) over a store. Used by the iSCSI target, the explorer and vhost-user-scsi.
//!
//! [`LunSpec`] says what to serve, [`LogicalUnit::open`] serves it, [`Device`] gathers logical units
//! behind LUNs. The transport attaches its I_T nexuses, begins a [`Task`] for each command that arrives
//! and executes it when its data is there; or it has the task admitted and moves the data itself ([`Transfer`]).
#![forbid(unsafe_code)]

pub mod access;
pub mod aptpl;
pub mod attention;
mod block;
mod device;
mod directory;
pub mod envelope;
mod identity;
mod it_nexus;
mod lun_spec;
mod nexuses;
mod open;
mod pr_unit;
pub mod presentation;
pub mod profile;
pub mod reservations;
pub mod snapshot;
mod store;
mod task_set;
mod transfer;
mod unit;

pub use block::{Move, Room};
pub use device::{Device, execute_missing, report_luns};
pub use directory::Directory;
pub use it_nexus::{ItNexus, NexusId};
pub use lun_spec::{LunSpec, LunSpecError, Medium};
pub use open::OpenError;
pub use pr_unit::{Effect, Outcome, PrUnit};
pub use profile::Profile;
pub use store::Caching;
pub use task_set::{Aborted, Executing, Task, TaskSet};
pub use transfer::{Admission, Transfer};
pub use unit::{LogicalUnit, NexusHandle};
