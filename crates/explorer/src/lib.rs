//! Exhaustive search over handover and logical unit: every profile, role and method, with other nodes'
//! commands and faults between any two of ours, each state compared with a shadow that had no handover.
//!
//! [`scenario`] and [`orders`] say what is searched, `world` is a state, `moves` and `step` its successors, `shadow`
//! and [`oracle`] what must hold, `search` walks all of it, `trace` tells the shortest way to a broken promise, [`walk`]
//! goes beyond the bounds at random. `cargo xtask explore` is the way in.
//!
//! # Bounds
//! Two hosts with one path, or two; one guest; one or two other nodes, the first with the guest's key in half of the
//! scenarios; APTPL on and off; a source that is dead from the start. With every test run: one foreign command or one
//! fault anywhere, both together where the plan chooses on `spc` and `tgt`; one crash of a recovery. With `--full`: two
//! foreign commands, two faults, or one of each, everywhere with one path, and with two where the plan chooses on `spc`
//! and `tgt`. With `--deep`: the same everywhere with two paths; and where the plan chooses, with one path, one other node
//! and no APTPL, two of one and one of the other on every profile, two of both on `spc` and `tgt` unless the other node
//! shares the key.
//!
//! # What is taken for granted
//! - An unknown outcome means that the command will not be executed any more: the driver waits for the end of the session
//!   or of the task.
//! - A crashed host is not back before the handover has ended; a lost link may be back at any moment and keeps its nexus,
//!   on targets too that tie a registration to the session.
//! - An entry that reached only one host's journal counts as written or not written: nothing is done in between.
//! - After a power cycle PRGENERATION comes back as the value that would deceive us most: the one last read.
//!
//! # What is cut because it changes nothing
//! - A state that was reached before with more disturbances left; see `search`.
//! - Foreign commands and power cycles where none of our device commands is about to run: they commute with the rest.
//! - Unit attentions of other nodes are compared and taken after each command, so that they do not multiply states.
//! - PRGENERATION is relative to the device's, the shadow's is not kept at all.
#![forbid(unsafe_code)]

mod cast;
mod conductor;
mod device;
pub mod explore;
mod fingerprint;
mod foreign;
mod moves;
#[cfg(test)]
mod mutant;
#[cfg(test)]
mod naive;
pub mod oracle;
pub mod orders;
#[cfg(test)]
mod regressions;
pub mod scenario;
mod search;
mod shadow;
mod step;
mod trace;
pub mod walk;
mod world;

pub use search::Budget;
