//! How the guest stands in a QEMU: a few words for ownership out of QEMU's many.

use super::{Vmm, VmmError};
use crate::ownership::Guest;
use qmp::qemu::{MigrationInfo, MigrationStatus, Qemu, RunState, Status};
use std::path::Path;
use std::time::Duration;

impl Vmm {
    /// How the guest stands; [`Guest::Unknown`] where QEMU does not answer, or in words that nobody knows.
    #[must_use]
    pub fn guest(&self) -> Guest {
        let asked = self.ask(Qemu::status).and_then(|status| Ok((status, self.ask(Qemu::migration)?)));
        match asked {
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

    #[test]
    fn words_that_nobody_knows_mean_nothing() {
        assert_eq!(stands(false, "quantum", MigrationStatus::NONE), Guest::Unknown);
        assert_eq!(stands(false, "", MigrationStatus::NONE), Guest::Unknown);
    }
}
