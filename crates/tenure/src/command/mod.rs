//! What each command does.

pub mod agent;
pub mod audit;
pub mod certs;
pub mod demo;
mod descriptor;
pub mod device;
pub mod doctor;
pub mod export;
pub mod handover;
pub mod import;
mod log;
pub mod migrate;
pub mod pr;
pub mod status;
pub mod target;
