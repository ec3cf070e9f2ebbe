//! What each command does.

pub mod agent;
pub mod audit;
pub mod certs;
pub mod demo;
pub mod doctor;
pub mod handover;
pub mod migrate;
pub mod pr;
pub mod status;
pub mod target;
