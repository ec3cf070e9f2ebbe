//! One agent runs on each host: it hands a guest's registrations over together with the peer's agent, drives QEMU through
//! QMP, and after a crash finishes or undoes what its journal says.
#![forbid(unsafe_code)]

pub mod claim;
pub mod conduct;
pub mod config;
pub mod daemon;
pub mod drive;
pub mod entry;
pub mod export;
pub mod ground;
pub mod guests;
pub mod incoming;
pub mod journal;
pub mod migrate;
pub mod notify;
pub mod ownership;
pub mod recover;
pub mod steps;
pub mod vmm;
