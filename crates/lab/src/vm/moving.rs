//! A VM moves to another QEMU of this machine while its guest runs, as QEMU does it by default: memory is copied, then the guest stands still for a
//! moment. Whoever gives it disks has to be ready for both.

use crate::process::wait_for;
use crate::vm::hardware::Hardware;
use crate::vm::machine::{Media, Vm, command};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

/// How long a migration may take; it takes seconds on two idle cores.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the guest may stand still, in ms, before QEMU goes on copying instead: the cores may be busy with something else.
const DOWNTIME: u64 = 2000;

/// What a move took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// How long the guest stood still.
    pub downtime: Duration,
    /// Bytes of its memory that were sent.
    pub sent: u64,
}

impl Vm {
    /// Moves the guest to a new QEMU that gets its disks where `hardware` says; the old one ends. No program may be being run.
    ///
    /// # Errors
    /// If the guest cannot be moved; it runs where it did then, unless the message says otherwise.
    pub fn move_to(&mut self, media: &Media, hardware: &Hardware) -> Result<Moved> {
        ensure!(!self.is_silent, "the VM has not answered before");
        let files = TempDir::new()?;
        std::fs::hard_link(self.files.path().join("initrd"), files.path().join("initrd"))?;
        let mut command = command(media, files.path(), hardware)?;
        command.args(["-incoming", "defer"]);
        let mut there = Self::started(command, files)?;
        let uri = format!("unix:{}", there.files.path().join("incoming").display());
        there.qmp.execute_with("migrate-incoming", &json!({ "uri": uri }))?;
        let told = self.send_to(&uri).with_context(|| there.complaints())?;
        wait_for(PATIENCE, || there.runs().then_some(())).context("it does not run after its migration")?;
        std::mem::swap(self, &mut there);
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
        let sent = number(told.get("ram").and_then(|ram| ram.get("transferred")));
        Ok(Moved { downtime: Duration::from_millis(number(told.get("downtime"))), sent })
    }

    /// What QEMU tells of a migration that completed.
    fn send_to(&mut self, uri: &str) -> Result<Value> {
        let parameters = json!({ "max-bandwidth": u32::MAX, "downtime-limit": DOWNTIME });
        self.qmp.execute_with("migrate-set-parameters", &parameters)?;
        self.qmp.execute_with("migrate", &json!({ "uri": uri }))?;
        let over = || {
            let told = self.qmp.execute("query-migrate").ok()?;
            let status = told.get("status").and_then(Value::as_str)?;
            matches!(status, "completed" | "failed" | "cancelled").then_some(told)
        };
        let told = wait_for(PATIENCE, over).context("the migration takes too long")?;
        ensure!(told.get("status").and_then(Value::as_str) == Some("completed"), "the migration: {told}");
        Ok(told)
    }

    fn runs(&mut self) -> bool {
        let status = self.qmp.execute("query-status").ok();
        status.is_some_and(|status| status.get("running") == Some(&Value::Bool(true)))
    }

    /// What its QEMU wrote to standard error.
    fn complaints(&self) -> String {
        let told = std::fs::read_to_string(self.files.path().join("qemu.err")).unwrap_or_default();
        format!("the other QEMU said: {}", told.trim())
    }
}
