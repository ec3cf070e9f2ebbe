//! The steps of a live migration, at both ends.

use super::findings::NEEDED;
use super::{Finding, Vmm, VmmError};
use qmp::Object;
use qmp::message::Printable;
use qmp::qemu::{Capability, MigrationInfo, MigrationStatus, Qemu, RunState, Status};
use serde_json::Value;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The longest that QEMU takes for a limit.
const LONGEST: Duration = Duration::from_secs(2000);
/// Bytes per second, so slow that no guest's memory is through before it was looked at, on a busy host neither. QEMU sends
/// a tenth of it every 100 ms, and a page of zeros costs nine bytes: 64 MiB of them take half a minute.
pub const HELD: u64 = 4096;
/// How long QEMU may take to leave a state that it is done with.
const LEAVING: Duration = Duration::from_secs(2);
/// What our QEMUs know a descriptor by; one of that name which they had before, they close.
const STREAM: &str = "tenure";

/// Where a migration stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// How far.
    pub stage: Stage,
    /// Bytes of the guest's memory.
    pub total: u64,
    /// Of these, not sent yet.
    pub remaining: u64,
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes in a second, as QEMU measured it; 0 where it has not.
    pub rate: u64,
    /// How long QEMU says that the guest stood still, of one that is over.
    pub downtime: Option<Duration>,
    /// Why it failed, in QEMU's words.
    pub reason: Option<String>,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    #[default]
    None,
    /// It begins, sends memory, or does what this program does not know.
    Active,
    /// The guest is stopped; QEMU waits for [`Vmm::switch_over`].
    PreSwitchover,
    /// The switchover.
    Device,
    /// The other end has everything.
    Completed,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Stage {
    /// Nothing is under way.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::None | Self::Completed | Self::Failed | Self::Cancelled)
    }

    fn of(status: &MigrationStatus) -> Self {
        [
            (MigrationStatus::NONE, Self::None),
            (MigrationStatus::PRE_SWITCHOVER, Self::PreSwitchover),
            (MigrationStatus::DEVICE, Self::Device),
            (MigrationStatus::COMPLETED, Self::Completed),
            (MigrationStatus::FAILED, Self::Failed),
            (MigrationStatus::CANCELLED, Self::Cancelled),
        ]
        .into_iter()
        .find_map(|(known, stage)| (known == *status).then_some(stage))
        .unwrap_or(Self::Active)
    }
}

/// What a [`Vmm::stop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The guest is stopped whatever becomes of the migration: nothing but `cont` lets it run.
    ForGood,
    /// The migration had stopped it, and QEMU lets it run again if that fails. Said also where that cannot be told apart.
    ByMigration,
}

/// What holds a migration back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a second; `None`: as it is.
    pub bandwidth: Option<u64>,
    /// QEMU stops the guest when the rest gets through within this time. Zero: not before nothing is left; `None`: as it is.
    pub downtime: Option<Duration>,
}

impl From<&MigrationInfo> for Progress {
    fn from(info: &MigrationInfo) -> Self {
        let ram = info.ram.clone().unwrap_or_default();
        Self {
            stage: Stage::of(&info.status()),
            total: ram.total,
            remaining: ram.remaining,
            transferred: ram.transferred,
            rate: bytes_per_second(ram.mbps),
            downtime: info.downtime.map(Duration::from_millis),
            reason: info.error_desc.clone(),
        }
    }
}

/// QEMU may say infinity, or less than nothing.
fn bytes_per_second(megabits: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates; not a number is 0"
    )]
    let bytes = (megabits * 125_000.0) as u64;
    bytes
}

impl Vmm {
    /// Sets capabilities and parameters for the migration to come, and what every one of ours needs; switches QEMU's own migration of
    /// reservations off.
    ///
    /// # Errors
    /// [`VmmError`]; [`VmmError::Unfit`] for what a migration of ours cannot have.
    pub fn configure(&self, capabilities: &Object, parameters: &Object) -> Result<(), VmmError> {
        if let Some(finding) = unfit(capabilities).or_else(|| foreign(parameters)) {
            return Err(VmmError::Unfit(finding.to_string()));
        }
        self.switch_off_migrate_pr()?;
        let own = NEEDED.into_iter().map(|name| (name, true));
        let others =
            capabilities.iter().map(|(name, on)| (Capability::from(name.clone()), *on == Value::Bool(true)));
        let all: Vec<_> = others.chain(own).collect();
        self.ask(|qemu| qemu.set_capabilities(&all))?;
        if parameters.is_empty() {
            return Ok(());
        }
        self.ask(|qemu| qemu.set_parameters(parameters.clone()))
    }

    /// Destination: waits for the guest, which will not run by itself even if QEMU was started without `-S`. Gives the URI
    /// with the port that it listens on, if 0 was asked for.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn listen(&self, uri: &str) -> Result<String, VmmError> {
        fits(uri)?;
        if self.ask(Qemu::status)?.status != RunState::INMIGRATE {
            return Err(VmmError::Unfit("this QEMU does not wait for a guest".into()));
        }
        // While a guest is waited for, `stop` means: do not start it when it has come.
        self.ask(Qemu::stop)?;
        self.ask(|qemu| qemu.migrate_incoming(uri))?;
        let Some(host) = uri.strip_suffix(":0").filter(|uri| uri.starts_with("tcp:")) else {
            return Ok(uri.to_owned());
        };
        let listening = self.ask(Qemu::migration)?.socket_address;
        let port = listening.iter().find_map(|at| at.port.as_ref()?.parse::<u16>().ok());
        let port = port.ok_or_else(|| VmmError::Silent("it does not say on which port it listens".into()))?;
        Ok(format!("{host}:{port}"))
    }

    /// Source: begins.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn send(&self, uri: &str) -> Result<(), VmmError> {
        fits(uri)?;
        self.ask(|qemu| qemu.migrate(uri))
    }

    /// Source: begins, into this descriptor. What is at its other end leads to where the destination listens.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn send_into(&self, stream: impl AsFd) -> Result<(), VmmError> {
        self.ask(|qemu| qemu.getfd(STREAM, stream))?;
        self.ask(|qemu| qemu.migrate(&format!("fd:{STREAM}")))
    }

    /// Where the migration stands.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn progress(&self) -> Result<Progress, VmmError> {
        self.ask(Qemu::migration).map(|info| Progress::from(&info))
    }

    /// Sets limits, of a running migration too.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn limit(&self, limits: Limits) -> Result<(), VmmError> {
        let downtime = limits.downtime.map(|limit| limit.min(LONGEST).as_millis());
        let downtime = downtime.and_then(|limit| u64::try_from(limit).ok());
        let members = [("max-bandwidth", limits.bandwidth), ("downtime-limit", downtime)];
        let parameters =
            members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        self.ask(|qemu| qemu.set_parameters(parameters.collect()))
    }

    /// Stops the guest: afterwards no virtual CPU runs, and all its I/O has ended. From then on [`Vmm::ran`] is told if
    /// somebody lets it run.
    ///
    /// # Errors
    /// [`VmmError`]; [`VmmError::Silent`] also if the guest is said to run all the same.
    pub fn stop(&self) -> Result<Stopped, VmmError> {
        self.ask(Qemu::stop)?;
        self.watch_still();
        let status = self.ask(Qemu::status)?;
        if status.running {
            return Err(VmmError::Silent("the guest runs after stop".into()));
        }
        let by_migration = status.status == RunState::FINISH_MIGRATE;
        Ok(if by_migration { Stopped::ByMigration } else { Stopped::ForGood })
    }

    /// Source: lets a migration that stands before the switchover go on.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn switch_over(&self) -> Result<(), VmmError> {
        self.ask(Qemu::migrate_continue)
    }

    /// Source: asks for an end. It is over when [`Progress`] says so.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn cancel(&self) -> Result<(), VmmError> {
        self.ask(Qemu::migrate_cancel)
    }

    /// Lets the guest run. Only [`ownership`](crate::ownership) says when. At a destination that is still loading
    /// nothing is sent: QEMU would start the guest by itself later, when that may be wrong.
    ///
    /// # Errors
    /// [`VmmError`]; [`VmmError::Silent`] also if the guest does not run afterwards.
    pub fn cont(&self) -> Result<(), VmmError> {
        let status = self.status_after_migration()?;
        if [RunState::INMIGRATE, RunState::FINISH_MIGRATE].contains(&status.status) {
            return Err(VmmError::Unfit(format!(
                "the guest is {}: the migration is not over",
                status.status
            )));
        }
        self.ask(Qemu::cont)?;
        let status = self.ask(Qemu::status)?;
        if status.running {
            return Ok(());
        }
        Err(VmmError::Silent(format!("the guest is {} after cont", status.status)))
    }

    /// QEMU says that a migration is over a moment before the guest is out of finish-migrate.
    fn status_after_migration(&self) -> Result<Status, VmmError> {
        let end = Instant::now() + LEAVING;
        loop {
            let status = self.ask(Qemu::status)?;
            let may_leave = status.status == RunState::FINISH_MIGRATE && Instant::now() < end;
            if !may_leave || !self.progress()?.stage.is_over() {
                return Ok(status);
            }
            self.wait(Instant::now() + LEAVING / 100);
        }
    }
}

/// Ways between two QEMUs. `exec:` would run a command as QEMU's user.
const WAYS: [&str; 4] = ["tcp:", "unix:", "vsock:", "rdma:"];

/// Whether QEMU may listen on this, or connect to it, at the other host's word alone. With `unix:` it would remove the file that stands
/// where it is to listen, or connect to whichever socket is there.
///
/// # Errors
/// [`VmmError::Unfit`], which says what the operator can do.
pub fn travels(uri: &str) -> Result<(), VmmError> {
    if !uri.starts_with("unix:") {
        return Ok(());
    }
    Err(VmmError::Unfit(format!(
        "{} is a file of this host's, which the other host does not choose: `incoming` of the vm says the same at the destination, \
         and --uri at the source",
        Printable(uri)
    )))
}

/// A descriptor belongs to the QMP connection over which QEMU got it: another one's name means nothing over ours.
pub(crate) fn fits(uri: &str) -> Result<(), VmmError> {
    if uri.starts_with("fd:") {
        return Err(VmmError::Unfit(
            "fd: names a descriptor of another QMP connection: tenure migrate --fd gives the source's QEMU one, and the destination's \
             listens on tcp: or unix:"
                .into(),
        ));
    }
    if WAYS.iter().any(|way| uri.starts_with(way)) {
        return Ok(());
    }
    Err(VmmError::Unfit(format!("a guest moves over {}, not over {}", WAYS.join(", "), Printable(uri))))
}

/// Parameters that say what QEMU does at the migration's end, or runs then; the other host's word sets parameters here too.
fn foreign(parameters: &Object) -> Option<Finding> {
    let name = parameters.keys().find(|name| *name == "mode" || name.starts_with("cpr-"))?;
    Some(Finding::Setting(name.clone(), "a guest moves to another host, in QEMU's normal mode"))
}

/// Capabilities that change who runs the guest when.
fn unfit(capabilities: &Object) -> Option<Finding> {
    let about = |name: &str, on: &Value| match name {
        "postcopy-ram" if *on == Value::Bool(true) => {
            Some("with post-copy the destination runs before the source knows that it can")
        }
        _ if NEEDED.iter().any(|needed| needed.as_str() == name) && *on != Value::Bool(true) => {
            Some("every migration of reservations needs it")
        }
        "x-colo" if *on == Value::Bool(true) => Some("it was never tried with reservations"),
        _ if !on.is_boolean() => Some("a capability is on or off"),
        _ => None,
    };
    capabilities.iter().find_map(|(name, on)| about(name, on).map(|why| Finding::Setting(name.clone(), why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_nobody_knows_is_a_migration_under_way() {
        for state in ["setup", "active", "failing", "cancelling", "postcopy-active", "quantum", ""] {
            assert_eq!(Stage::of(&state.to_owned().into()), Stage::Active, "{state}");
        }
        assert_eq!(Stage::of(&MigrationStatus::PRE_SWITCHOVER), Stage::PreSwitchover);
    }

    #[test]
    fn a_rate_that_is_no_rate_is_none() {
        assert_eq!(bytes_per_second(8.0), 1_000_000);
        assert_eq!(bytes_per_second(f64::NAN), 0);
        assert_eq!(bytes_per_second(-1.0), 0);
        assert_eq!(bytes_per_second(f64::INFINITY), u64::MAX);
    }

    #[test]
    fn a_descriptor_that_nobody_passed_is_refused_with_what_to_do() {
        let refused = fits("fd:migration").unwrap_err().to_string();
        assert!(refused.contains("tenure migrate --fd"), "{refused}");
        assert_eq!(fits("tcp:127.0.0.1:0"), Ok(()));
    }

    #[test]
    fn a_uri_of_the_other_host_runs_no_command_and_writes_no_file() {
        for uri in ["exec:touch /tmp/x", "file:/etc/shadow", "", "EXEC:x", " exec:x", "tcp"] {
            assert!(fits(uri).is_err(), "{uri}");
        }
        assert_eq!(["unix:/run/m", "vsock:3:4444", "rdma:[::1]:4444"].map(fits), [const { Ok(()) }; 3]);
    }

    #[test]
    fn a_parameter_of_the_other_host_has_qemu_run_nothing_later() {
        let foreign = |name: &str| foreign(&[(name.to_owned(), Value::Null)].into_iter().collect()).is_some();
        assert!(foreign("mode") && foreign("cpr-exec-command"));
        assert!(!foreign("multifd-channels") && !foreign("tls-creds"));
    }

    #[test]
    fn capabilities_that_change_who_runs_the_guest_are_refused() {
        let unfit = |name: &str, on: Value| unfit(&[(name.to_owned(), on)].into_iter().collect());
        assert!(unfit("postcopy-ram", true.into()).is_some());
        assert!(unfit("return-path", false.into()).is_some());
        assert!(unfit("events", false.into()).is_some());
        assert!(unfit("multifd", 1.into()).is_some());
        assert!(unfit("postcopy-ram", false.into()).is_none());
        assert!(unfit("multifd", true.into()).is_none());
    }
}
