//! Whoever sends a guest's PERSISTENT RESERVE commands keeps account of them here: the record of what the guest registered,
//! written ahead and committed around each command, the lock that keeps handovers out, and the questions that make record and
//! device agree after a crash, an error or a restart.
//!
//! [`Guard`] has the order in which that happens; [`Identity`] says which logical unit and which I_T nexus a record is of. Neither
//! a policy nor a socket: the privileged helper (`pr-helper`) and the device (`vhost-user-scsi`) put those in front.
#![forbid(unsafe_code)]
// They panic where nobody reads, and a reply would be lost: `tracing` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod book;
mod complaint;
mod evidence;
pub mod failure;
mod guard;
pub mod host;
mod identity;
pub mod limit;
mod names;
mod order;
pub mod question;
mod run;

pub use book::Book;
pub use guard::{Guard, Task, Unsent, Way, masked};
pub use identity::{Identity, identify, identify_device, is_same};
pub use order::Order;
pub use run::Refused;
