//! QEMU's pr-manager protocol on a Unix socket, and what stands behind it: policy, ledger, guard and audit.
//!
//! The privileged program `tenure-pr-helper` is this library and a `main`. A request is read by `server`, judged and
//! carried out by a [`Serve`], and answered. How the agent reaches a logical unit through the helper is `agent`, and [`Client`]
//! its end.
#![forbid(unsafe_code)]
// They panic where nobody reads, and a reply would be lost: `tracing` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod audit;
mod client;
pub mod daemon;
pub mod document;
pub mod listening;
pub mod metrics;
mod observer;
pub mod opening;
pub mod policy;
pub mod privilege;
mod request;
pub mod server;
pub mod service;
mod socket;
pub mod wire;

pub use guard::failure;

pub use client::{Client, Refused};
pub use document::DocumentError;
pub use observer::{Observer, PrOutEvent, RequestEvent};
pub use request::{Caller, Command, Serve};
