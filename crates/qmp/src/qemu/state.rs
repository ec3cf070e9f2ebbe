//! Whether the guest runs, and which guest it is (qapi/run-state.json, qapi/machine.json, qapi/misc.json).

use super::{Qemu, QemuError};
use crate::open::open_string;
use serde::Deserialize;
use serde_json::json;

open_string! {
    /// What the virtual machine does.
    RunState {
        /// The guest runs.
        RUNNING = "running",
        /// Stopped by the user.
        PAUSED = "paused",
        /// Started with `-S` and not continued yet.
        PRELAUNCH = "prelaunch",
        /// Waits for an incoming migration.
        INMIGRATE = "inmigrate",
        /// Stopped for the end of a migration.
        FINISH_MIGRATE = "finish-migrate",
        /// Stopped after a migration away.
        POSTMIGRATE = "postmigrate",
        /// Stopped by an I/O error.
        IO_ERROR = "io-error",
        /// Stopped by an error of QEMU's own.
        INTERNAL_ERROR = "internal-error",
        /// The guest has shut down and QEMU has not ended.
        SHUTDOWN = "shutdown",
        /// The guest has stopped itself, and wakes up again.
        SUSPENDED = "suspended",
        /// The guest has panicked.
        GUEST_PANICKED = "guest-panicked",
        /// State is being saved.
        SAVE_VM = "save-vm",
        /// State is being restored.
        RESTORE_VM = "restore-vm",
        /// A debugger has stopped it.
        DEBUG = "debug",
        /// The watchdog has stopped it.
        WATCHDOG = "watchdog",
        /// Two copies are kept in step.
        COLO = "colo",
    }
}

/// `query-status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the virtual CPUs run: the one word about who owns the guest.
    pub running: bool,
    /// Why, or why not.
    pub status: RunState,
}

#[derive(Deserialize)]
struct Uuid {
    #[serde(rename = "UUID")]
    uuid: String,
}

impl Qemu {
    /// `query-status`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn status(&self) -> Result<Status, QemuError> {
        self.query("query-status", json!({}))
    }

    /// `query-uuid`, in lower case; only zeros for a guest without one.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn uuid(&self) -> Result<String, QemuError> {
        let Uuid { uuid } = self.query("query-uuid", json!({}))?;
        Ok(uuid.to_ascii_lowercase())
    }

    /// `stop`: when it has returned, no virtual CPU runs and all I/O has ended.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn stop(&self) -> Result<(), QemuError> {
        self.execute("stop", json!({})).map(drop)
    }

    /// `cont`: the guest runs from now on. While a migration comes in: as soon as it is complete.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn cont(&self) -> Result<(), QemuError> {
        self.execute("cont", json!({})).map(drop)
    }
}
