//! Exhaustive search over handover and logical unit: every profile, role and method, with other nodes'
//! commands and faults between any two of ours, each state compared with a shadow that had no handover.
//!
//! [`scenario`] says what is searched, `world` is a state, `moves` and `step` its successors, `shadow` and
//! [`oracle`] what must hold, `search` walks all of it, `trace` tells the shortest way to a broken promise.
#![forbid(unsafe_code)]

mod cast;
mod conductor;
mod device;
pub mod explore;
mod fingerprint;
mod foreign;
mod moves;
#[cfg(test)]
mod naive;
pub mod oracle;
pub mod orders;
pub mod scenario;
mod search;
mod shadow;
mod step;
mod trace;
pub mod walk;
mod world;

pub use search::Budget;
