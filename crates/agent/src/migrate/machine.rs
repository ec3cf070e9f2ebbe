//! What a migration asks of this host's QEMU. `agent::vmm` does it over QMP.

use crate::ownership::Guest;
pub use crate::vmm::{Left, Progress as Transfer, Stage};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// A QEMU. Every call is bounded in time.
pub trait Machine: Send + Sync {
    /// Which guest this is, and what keeps it from being moved.
    ///
    /// # Errors
    /// [`MachineError`].
    fn identity(&self) -> Result<Identity, MachineError>;

    /// How the guest stands; [`Guest::Unknown`] where QEMU does not answer.
    fn guest(&self) -> Guest;

    /// Sets capabilities and parameters of a migration, and those that every migration of ours needs.
    ///
    /// # Errors
    /// [`MachineError`].
    fn configure(&self, settings: &Settings) -> Result<(), MachineError>;

    /// Destination: waits for the guest there, or where it is configured; gives where the source's QEMU is to connect.
    ///
    /// # Errors
    /// [`MachineError`].
    fn listen(&self, uri: Option<&str>) -> Result<String, MachineError>;

    /// Source: begins.
    ///
    /// # Errors
    /// [`MachineError`].
    fn send(&self, uri: &str) -> Result<(), MachineError>;

    /// Where the migration stands.
    ///
    /// # Errors
    /// [`MachineError`].
    fn transfer(&self) -> Result<Transfer, MachineError>;

    /// Returns when QEMU tells of a change, or at `until`.
    fn wait(&self, until: Instant);

    /// Sets parameters while a migration runs.
    ///
    /// # Errors
    /// [`MachineError`].
    fn adjust(&self, pace: Pace) -> Result<(), MachineError>;

    /// Stops the guest.
    ///
    /// # Errors
    /// [`MachineError`].
    fn stop(&self) -> Result<Stopped, MachineError>;

    /// Whether anybody let the guest run since [`Machine::stop`], as far as was told before the last look at it. If that was so
    /// before the switchover, QEMU stopped it again by itself, and lets it run again by itself when the migration fails.
    fn ran(&self) -> bool;
    /// Source: how the guest stands where its migration is completed, whoever began that; `None` where it is not, or the guest runs.
    ///
    /// # Errors
    /// [`MachineError`].
    fn left(&self) -> Result<Option<Left>, MachineError>;

    /// Source: lets a migration that stands before the switchover go on.
    ///
    /// # Errors
    /// [`MachineError`].
    fn switch_over(&self) -> Result<(), MachineError>;

    /// Source: asks for an end. It is over when [`Transfer`] says so.
    ///
    /// # Errors
    /// [`MachineError`].
    fn cancel(&self) -> Result<(), MachineError>;

    /// Lets the guest run. Only [`ownership`](crate::ownership) says when.
    ///
    /// # Errors
    /// [`MachineError`].
    fn cont(&self) -> Result<(), MachineError>;
}

/// Who a QEMU says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its UUID.
    pub uuid: String,
    /// What keeps it from being moved by us, each with what to do about it.
    pub obstacles: Vec<String>,
}

/// How QEMU is to migrate, beside what is always set (events, return path, pause before the switchover).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Capabilities, by QEMU's names.
    pub capabilities: Map<String, Value>,
    /// Parameters, by QEMU's names.
    pub parameters: Map<String, Value>,
}

/// What holds a migration back, so that it does not switch over before it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So slow that no guest is through before it was looked at.
    Held,
    /// No more bytes per second than these, with the smallest downtime limit.
    Limited(u64),
    /// As fast as the order wants it, with the smallest downtime limit: QEMU goes on sending what the guest changes.
    Full,
    /// The same with the downtime limit of the order, or none: the guest is stopped.
    Switch(Option<Duration>),
}

/// What a [`Machine::stop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It stopped the guest, or the guest was stopped: nothing but `cont` lets it run.
    ByUs,
    /// The migration had stopped it already, and QEMU lets it run again if that fails.
    ByMigration,
}

/// Why QEMU did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// There is no such process any more.
    #[error("QEMU is gone: {0}")]
    Gone(String),
    /// No answer in time, or one that makes no sense: whether it was done is not known.
    #[error("QEMU does not answer: {0}")]
    Silent(String),
    /// It said no.
    #[error("QEMU refused: {0}")]
    Refused(String),
}
