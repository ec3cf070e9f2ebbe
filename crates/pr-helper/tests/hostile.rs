//! Hostile clients leave no descriptor, no thread and no memory behind. A program of its own, because it counts those of the process.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use pr_helper::server::Limits;
use std::sync::Arc;
use std::time::Duration;
use support::hostile::{attack, stays_flat};
use support::*;

#[test]
fn hostile_clients_leave_descriptors_threads_and_memory_flat() {
    let limits = Limits { deadline: Duration::from_millis(5), ..Limits::default() };
    let server = Running::new(Arc::new(AtOnce), limits);
    stays_flat(&server.path, std::process::id(), 50, 200, |path| {
        assert!(attack(path).iter_mut().all(Client::is_closed), "who stalls is closed");
    });
}
