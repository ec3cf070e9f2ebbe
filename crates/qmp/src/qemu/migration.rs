//! Live migration (qapi/migration.json).

use super::{Qemu, QemuError};
use crate::message::Object;
use crate::open::open_string;
use serde::Deserialize;
use serde_json::{Value, json};

open_string! {
    /// Where a migration stands. An unknown one is one under way.
    MigrationStatus {
        /// There is none.
        NONE = "none",
        /// It begins.
        SETUP = "setup",
        /// Waits for the guest to give up devices.
        WAIT_UNPLUG = "wait-unplug",
        /// Memory is sent.
        ACTIVE = "active",
        /// The guest is stopped, and QEMU waits for `migrate-continue`.
        PRE_SWITCHOVER = "pre-switchover",
        /// The devices are sent.
        DEVICE = "device",
        /// Post-copy, before the destination runs (10.2 on).
        POSTCOPY_DEVICE = "postcopy-device",
        /// Post-copy: the destination runs.
        POSTCOPY_ACTIVE = "postcopy-active",
        /// Post-copy: the link is broken.
        POSTCOPY_PAUSED = "postcopy-paused",
        /// Post-copy: the link is being mended.
        POSTCOPY_RECOVER = "postcopy-recover",
        /// Done.
        COMPLETED = "completed",
        /// It fails: the source is being put back (11.0 on).
        FAILING = "failing",
        /// It has failed.
        FAILED = "failed",
        /// It is being cancelled.
        CANCELLING = "cancelling",
        /// It was cancelled.
        CANCELLED = "cancelled",
        /// Two copies are kept in step.
        COLO = "colo",
    }
}

impl MigrationStatus {
    /// Whether nothing is under way any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        [Self::NONE, Self::COMPLETED, Self::FAILED, Self::CANCELLED].contains(self)
    }
}

open_string! {
    /// A capability of a migration.
    Capability {
        /// An event at each change of state (2.4).
        EVENTS = "events",
        /// The source learns whether the destination could load (2.10).
        RETURN_PATH = "return-path",
        /// The source waits before the switchover (2.11).
        PAUSE_BEFORE_SWITCHOVER = "pause-before-switchover",
        /// The destination may run before its memory is there (2.6).
        POSTCOPY_RAM = "postcopy-ram",
    }
}

/// How much memory was sent. All in bytes unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Ram {
    /// All of the guest's.
    pub total: u64,
    /// Sent so far, with what was sent again.
    pub transferred: u64,
    /// Not sent yet.
    pub remaining: u64,
    /// The last rate measured, in megabits per second.
    #[serde(default)]
    pub mbps: f64,
    /// Pages that the guest dirties in a second.
    #[serde(rename = "dirty-pages-rate", default)]
    pub dirty_pages_rate: u64,
    /// The size of a page.
    #[serde(rename = "page-size", default)]
    pub page_size: u64,
    /// How often all memory was gone through.
    #[serde(rename = "dirty-sync-count", default)]
    pub passes: u64,
}

/// `query-migrate`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// Absent where there was none yet.
    pub status: Option<MigrationStatus>,
    /// Absent before memory is sent.
    pub ram: Option<Ram>,
    /// Why it failed, in words.
    pub error_desc: Option<String>,
    /// Why none can begin (6.0).
    #[serde(default)]
    pub blocked_reasons: Vec<String>,
    /// Milliseconds since it began.
    pub total_time: Option<u64>,
    /// Milliseconds that the guest stood still, of a completed one.
    pub downtime: Option<u64>,
    /// The same, as QEMU expects it while memory is sent.
    pub expected_downtime: Option<u64>,
    /// Milliseconds from the command to the first byte.
    pub setup_time: Option<u64>,
    /// Destination: where it listens.
    #[serde(default)]
    pub socket_address: Vec<SocketAddress>,
}

/// Where a destination listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SocketAddress {
    /// `inet`: the host.
    pub host: Option<String>,
    /// `inet`: the port's number.
    pub port: Option<String>,
    /// `unix`: the socket.
    pub path: Option<String>,
}

impl MigrationInfo {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> MigrationStatus {
        self.status.clone().unwrap_or(MigrationStatus::NONE)
    }
}

impl Qemu {
    /// `query-migrate`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn migration(&self) -> Result<MigrationInfo, QemuError> {
        self.query("query-migrate", json!({}))
    }

    /// `migrate-set-capabilities`.
    ///
    /// # Errors
    /// [`QemuError`]; QEMU refuses an unknown one, and any while a migration runs.
    pub fn set_capabilities(&self, capabilities: &[(Capability, bool)]) -> Result<(), QemuError> {
        let list = capabilities.iter().map(|(name, state)| json!({ "capability": name, "state": state }));
        let arguments = json!({ "capabilities": list.collect::<Vec<_>>() });
        self.execute("migrate-set-capabilities", arguments).map(drop)
    }

    /// `query-migrate-capabilities`: by name, whether it is on.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn capabilities(&self) -> Result<Vec<(String, bool)>, QemuError> {
        #[derive(Deserialize)]
        struct Listed {
            capability: String,
            state: bool,
        }
        let listed: Vec<Listed> = self.query("query-migrate-capabilities", json!({}))?;
        Ok(listed.into_iter().map(|listed| (listed.capability, listed.state)).collect())
    }

    /// `query-migrate-parameters`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn parameters(&self) -> Result<Object, QemuError> {
        self.query("query-migrate-parameters", json!({}))
    }

    /// `migrate-set-parameters`: only those given change. `downtime-limit` is in milliseconds; it may be set while a migration runs.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn set_parameters(&self, parameters: Object) -> Result<(), QemuError> {
        self.execute("migrate-set-parameters", Value::Object(parameters)).map(drop)
    }

    /// `migrate`: begins it, and returns before it is done.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn migrate(&self, uri: &str) -> Result<(), QemuError> {
        self.execute("migrate", json!({ "uri": uri })).map(drop)
    }

    /// `migrate-incoming`, on a QEMU started with `-incoming defer`: listens.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn migrate_incoming(&self, uri: &str) -> Result<(), QemuError> {
        self.execute("migrate-incoming", json!({ "uri": uri })).map(drop)
    }

    /// `migrate-continue` from pre-switchover.
    ///
    /// # Errors
    /// [`QemuError`]; QEMU refuses in any other state.
    pub fn migrate_continue(&self) -> Result<(), QemuError> {
        self.execute("migrate-continue", json!({ "state": MigrationStatus::PRE_SWITCHOVER })).map(drop)
    }

    /// `migrate_cancel`. Succeeds when nothing runs, too; it is over when the status says so.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn migrate_cancel(&self) -> Result<(), QemuError> {
        self.execute("migrate_cancel", json!({})).map(drop)
    }
}
