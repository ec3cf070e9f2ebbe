//! A virtio-scsi disk for any VMM with a vhost-user front end (QEMU, Cloud Hypervisor, crosvm): virtio 1.2 5.6 over the vhost-user
//! protocol. Every command passes here, so what a guest has registered is known exactly, each guest is an I_T nexus of its own, and
//! its rings say when it has stopped.
//!
//! From the guest inwards: [`front`] speaks vhost-user and owns the rings' life; `queue` serves a ring; [`memory`] is the guest's
//! memory and [`log`] its dirty log, of files that `descriptor` lets in; [`chain`] is a request's buffers; [`inflight`] outlives the process; [`wire`] has virtio-scsi's
//! bytes; [`device`] is one guest's device and [`target`] its logical units; [`unit`] is a logical unit as one guest's nexus reaches
//! it; [`gate`] says whether the guest runs here, and [`saved`] is what goes along when it
//! runs elsewhere. Used by `tenure device`.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod chain;
mod control;
mod descriptor;
pub mod device;
pub mod event;
pub mod front;
pub mod gate;
pub mod inflight;
pub mod log;
pub mod memory;
mod queue;
pub mod saved;
pub mod statistics;
pub mod target;
pub mod unit;
pub mod wire;
mod workers;

#[cfg(test)]
mod fake;
