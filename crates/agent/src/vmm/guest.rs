//! How the guest stands in a QEMU: a few words for ownership out of QEMU's many.

use super::{Vmm, VmmError};
use crate::ownership::Guest;
use qmp::qemu::{MigrationInfo, MigrationStatus, Qemu, RunState, Status};
use std::path::Path;
use std::time::Duration;

/// How a guest stands in the QEMU that has sent it away whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// As it was sent.
    Still,
    /// It was let run since, whoever has stopped it again: what was sent is old.
    Ran,
}

impl Vmm {
    /// Source: how the guest stands after its migration; `None` where none was completed, or the guest runs. QEMU itself knows, also
    /// when nobody listened: what it has sent whole stands in `postmigrate`, and in `paused` once it was let run and stopped.
    ///
    /// # Errors
    /// [`VmmError`].
    pub fn left(&self) -> Result<Option<Left>, VmmError> {
        // In this order: a guest that is `paused` when the migration is over already is not on its way there.
        let migration = self.ask(Qemu::migration)?;
        let status = self.ask(Qemu::status)?;
        Ok(left(&status, &migration))
    }

    /// How the guest stands; [`Guest::Unknown`] where QEMU does not answer, or in words that nobody knows.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.told(&self.qemu)
    }

    /// The same for somebody who waits no longer than this for each of the two answers.
    #[must_use]
    pub fn guest_within(&self, patience: Duration) -> Guest {
        self.told(&self.qemu.within(patience))
    }

    fn told(&self, qemu: &Qemu) -> Guest {
        let asked = qemu.status().and_then(|status| Ok((status, qemu.migration()?)));
        match asked.map_err(|error| self.explain(&error)) {
            Ok((status, migration)) => standing(&status, &migration),
            Err(VmmError::Gone(_)) => Guest::Absent,
            Err(_) => Guest::Unknown,
        }
    }

    /// The same, of whatever QEMU listens at `path`, if any.
    #[must_use]
    pub fn guest_at(path: &Path, patience: Duration) -> Guest {
        match Self::connect(path, patience) {
            Ok(vmm) => vmm.guest(),
            Err(VmmError::Gone(_)) => Guest::Absent,
            Err(_) => Guest::Unknown,
        }
    }
}

fn left(status: &Status, migration: &MigrationInfo) -> Option<Left> {
    let over = migration.status() == MigrationStatus::COMPLETED && !status.running;
    match &status.status {
        _ if !over => None,
        state if *state == RunState::PAUSED => Some(Left::Ran),
        state if [RunState::POSTMIGRATE, RunState::FINISH_MIGRATE].contains(state) => Some(Left::Still),
        _ => None,
    }
}

/// `running` goes before every name of a state.
fn standing(status: &Status, migration: &MigrationInfo) -> Guest {
    /// Stopped, and whole. In finish-migrate QEMU may let it run again by itself, at this end.
    const PAUSED: [RunState; 3] = [RunState::PAUSED, RunState::POSTMIGRATE, RunState::FINISH_MIGRATE];
    /// Only a guest that ran gets there.
    const RAN: [RunState; 8] = [
        RunState::RUNNING,
        RunState::IO_ERROR,
        RunState::INTERNAL_ERROR,
        RunState::SHUTDOWN,
        RunState::SUSPENDED,
        RunState::GUEST_PANICKED,
        RunState::WATCHDOG,
        RunState::DEBUG,
    ];
    let failed = [MigrationStatus::FAILED, MigrationStatus::CANCELLED].contains(&migration.status());
    match &status.status {
        _ if status.running => Guest::Running,
        state if PAUSED.contains(state) => Guest::Paused,
        state if RAN.contains(state) => Guest::Running,
        // QEMU 9.1 and newer may stay after a load that failed.
        state if *state == RunState::INMIGRATE && failed => Guest::Absent,
        state if *state == RunState::INMIGRATE => Guest::Loading,
        // Just started, and not begun: what there was is gone.
        state if *state == RunState::PRELAUNCH => Guest::Absent,
        _ => Guest::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stands(running: bool, state: &str, migration: MigrationStatus) -> Guest {
        let status = Status { running, status: state.to_owned().into() };
        standing(&status, &MigrationInfo { status: Some(migration), ..MigrationInfo::default() })
    }

    #[test]
    fn a_guest_that_runs_runs_whatever_its_state_is_called() {
        for state in ["running", "paused", "inmigrate", "finish-migrate", "quantum"] {
            assert_eq!(stands(true, state, MigrationStatus::NONE), Guest::Running, "{state}");
        }
    }

    #[test]
    fn states_that_only_a_guest_that_ran_can_reach_count_as_running() {
        for state in ["io-error", "internal-error", "shutdown", "suspended", "guest-panicked", "watchdog"] {
            assert_eq!(stands(false, state, MigrationStatus::NONE), Guest::Running, "{state}");
        }
    }

    #[test]
    fn a_destination_loads_until_that_has_failed() {
        assert_eq!(stands(false, "inmigrate", MigrationStatus::NONE), Guest::Loading);
        assert_eq!(stands(false, "inmigrate", MigrationStatus::ACTIVE), Guest::Loading);
        assert_eq!(stands(false, "inmigrate", MigrationStatus::FAILED), Guest::Absent);
        assert_eq!(stands(false, "paused", MigrationStatus::COMPLETED), Guest::Paused);
    }

    /// As QEMU 7.2 tells it: before the switchover and at its end, after `cont`, and after `stop`.
    #[test]
    fn what_was_sent_is_old_once_the_guest_was_let_run_again() {
        let of = |running, state: &str, migration| {
            let status = Status { running, status: state.to_owned().into() };
            left(&status, &MigrationInfo { status: Some(migration), ..MigrationInfo::default() })
        };
        assert_eq!(of(false, "paused", MigrationStatus::ACTIVE), None);
        assert_eq!(of(false, "finish-migrate", MigrationStatus::PRE_SWITCHOVER), None);
        assert_eq!(of(false, "finish-migrate", MigrationStatus::COMPLETED), Some(Left::Still));
        assert_eq!(of(false, "postmigrate", MigrationStatus::COMPLETED), Some(Left::Still));
        assert_eq!(of(true, "running", MigrationStatus::COMPLETED), None);
        assert_eq!(of(false, "paused", MigrationStatus::COMPLETED), Some(Left::Ran));
        assert_eq!(of(false, "paused", MigrationStatus::CANCELLED), None);
    }

    #[test]
    fn words_that_nobody_knows_mean_nothing() {
        assert_eq!(stands(false, "quantum", MigrationStatus::NONE), Guest::Unknown);
        assert_eq!(stands(false, "", MigrationStatus::NONE), Guest::Unknown);
    }
}
