//! Moves a running guest to another host together with its registrations, on as many logical units as it has, all or nothing:
//! the source's part, which leads. The destination's is [`incoming`](crate::incoming).
//!
//! While the guest runs: plan and prepare on both hosts' nexuses, and its memory. When the rest of that fits the downtime limit:
//! `stop`, freeze both records, QEMU's pre-switchover, the handover's phases Freeze, Take and Verify, QEMU's switchover, and `go`.
//! Until `go` is in the journal every failure ends with the guest at the source, with all that it had; or, where that cannot be
//! proved, paused, with a word to the operator. What may be done at each step is [`ownership`](crate::ownership)'s to say.
//!
//! What a migration needs of its host is behind traits: [`Machine`] is QEMU, [`Site`] the guest's place here with [`Ground`] and
//! [`Log`], [`Link`] the other agent, [`Watch`] whoever ordered it.

mod abort;
pub(crate) mod alone;
mod back;
mod document;
mod fail;
mod give;
pub(crate) mod leg;
mod machine;
mod memory;
mod pace;
mod patience;
mod release;
pub(crate) mod remains;
mod site;
mod source;
pub(crate) mod talk;
#[cfg(test)]
mod tests;
mod times;
pub(crate) mod units;
mod via;

pub use abort::abort;
pub use back::resume;
pub use document::{Downtime, LunReport, Order, Progress, Report, Verdict};
pub use machine::{Identity, Left, Machine, MachineError, Pace, Settings, Stage, Stopped, Transfer};
pub use release::release;
pub use site::{Begin, CallError, End, Ground, Last, Leg, Link, Log, Lun, Site, Trouble, UnitEnd};
pub use source::{Unwatched, Watch, migrate};
