//! What keeps a guest from being moved, found while it runs: typed reasons, each with what to do about it.

use super::disks::{Backing, Disk, MigratePr};
use super::{Vmm, VmmError};
use qmp::message::Printable;
use qmp::qemu::{Capability, MigrationStatus, Qemu, RunState, Version};

/// Older ones were never tried.
const OLDEST: Version = Version { major: 7, minor: 2, micro: 0 };
/// What every migration of ours needs.
pub(super) const NEEDED: [Capability; 3] =
    [Capability::EVENTS, Capability::RETURN_PATH, Capability::PAUSE_BEFORE_SWITCHOVER];
/// Where QEMU keeps its devices: those with an id, and the others.
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
/// Front ends whose reservation commands pass QEMU by.
const AROUND: [&str; 4] = ["vhost-scsi", "vhost-scsi-pci", "vhost-user-scsi", "vhost-user-scsi-pci"];

/// Which end of a migration a QEMU is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has the guest.
    Source,
    /// It waits for the guest, started with `-incoming defer`.
    Destination,
}

/// Why a guest cannot be moved, or not as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Another guest than the configuration says.
    #[error(
        "the QEMU on this socket has UUID {found}, not {expected}: correct `uuid` or `qmp` in the configuration"
    )]
    AnotherGuest {
        /// Of the configuration.
        expected: String,
        /// QEMU's.
        found: String,
    },
    /// It does not say which QEMU it is, or one that is too old.
    #[error("QEMU {} is too old: 7.2 is the oldest that is known to work", .0.map_or_else(|| "of an unknown version".to_owned(), |version| version.to_string()))]
    TooOld(Option<Version>),
    /// It cannot migrate as every migration of ours needs it.
    #[error("this QEMU has no migration capability {0}")]
    NoCapability(String),
    /// Devices that cannot be migrated, in QEMU's words.
    #[error("QEMU cannot migrate this guest: {}", Printable(.0))]
    Blocked(String),
    /// One is under way that is not ours.
    #[error("a migration is under way already ({0}): wait for its end, or cancel it")]
    UnderWay(MigrationStatus),
    /// The source's guest is in a state that cannot be moved.
    #[error("the guest is {0}: it can be moved while it runs or is paused")]
    State(RunState),
    /// After a migration that failed QEMU refuses another one until the guest has run.
    #[error("the guest is stopped after an earlier migration: let it run once (cont), then move it")]
    Postmigrate,
    /// The destination's does not wait for a guest.
    #[error("the destination's QEMU is {0}: start it with -incoming defer and -S")]
    NotWaiting(RunState),
    /// The destination's waits for a guest from somewhere else, or its load has failed.
    #[error(
        "the destination's QEMU listens for a migration already ({0}): start it anew with -incoming defer and -S"
    )]
    Taken(MigrationStatus),
    /// QEMU moves reservations itself and cannot be kept from it.
    #[error(
        "{device}: QEMU migrates reservations itself and cannot be kept from it while it runs: start it with migrate-pr=off on this device"
    )]
    MigratePr {
        /// The device.
        device: String,
    },
    /// The nexus is QEMU's own.
    #[error(
        "{device}: QEMU's own initiator ({}) has a new ISID at each start, so its nexus cannot be addressed: attach the LUN to the host, and give QEMU the device",
        Printable(url)
    )]
    OwnInitiator {
        /// The device.
        device: String,
        /// Where it is connected to.
        url: String,
    },
    /// The commands go past the helper.
    #[error(
        "{device}: no pr-manager-helper: the guest's reservation commands do not pass through tenure-pr-helper, so nothing is known of them"
    )]
    NoHelper {
        /// The device.
        device: String,
    },
    /// The commands go past QEMU.
    #[error(
        "{device} ({kind}): reservation commands pass QEMU by, and belong to a nexus that stays on this host"
    )]
    Around {
        /// The device.
        device: String,
        /// Its type.
        kind: String,
    },
    /// Settings that a migration of ours cannot have.
    #[error("{0} cannot be set: {1}")]
    Setting(String, &'static str),
}

impl Vmm {
    /// What keeps this QEMU from its part in a migration, everything at once; empty if nothing. Changes nothing.
    ///
    /// # Errors
    /// [`VmmError`]: then nothing is known.
    pub fn findings(&self, role: Role, uuid: &str) -> Result<Vec<Finding>, VmmError> {
        let mut findings = self.identity(uuid)?;
        findings.extend(self.abilities()?);
        findings.extend(self.readiness(role)?);
        findings.extend(self.devices()?);
        Ok(findings)
    }

    fn identity(&self, expected: &str) -> Result<Vec<Finding>, VmmError> {
        let found = self.uuid()?;
        let another = !found.eq_ignore_ascii_case(expected);
        let another = another.then(|| Finding::AnotherGuest { expected: expected.to_owned(), found });
        let version = self.qemu().version();
        let old = version.is_none_or(|version| version < OLDEST).then_some(Finding::TooOld(version));
        Ok(another.into_iter().chain(old).collect())
    }

    fn abilities(&self) -> Result<Vec<Finding>, VmmError> {
        let known = self.ask(Qemu::capabilities)?;
        let has = |needed: &Capability| known.iter().any(|(name, _)| name == needed.as_str());
        let missing = NEEDED.iter().filter(|needed| !has(needed));
        Ok(missing.map(|needed| Finding::NoCapability(needed.to_string())).collect())
    }

    fn readiness(&self, role: Role) -> Result<Vec<Finding>, VmmError> {
        let (status, migration) = (self.ask(Qemu::status)?, self.ask(Qemu::migration)?);
        let stage = migration.status();
        let mut findings: Vec<_> = migration.blocked_reasons.into_iter().map(Finding::Blocked).collect();
        match role {
            Role::Source if !stage.is_over() => findings.push(Finding::UnderWay(stage)),
            Role::Source if status.status == RunState::POSTMIGRATE => findings.push(Finding::Postmigrate),
            Role::Source if ![RunState::RUNNING, RunState::PAUSED].contains(&status.status) => {
                findings.push(Finding::State(status.status));
            }
            Role::Destination if status.status != RunState::INMIGRATE => {
                findings.push(Finding::NotWaiting(status.status));
            }
            Role::Destination if !migration.socket_address.is_empty() || migration.status.is_some() => {
                findings.push(Finding::Taken(stage));
            }
            Role::Source | Role::Destination => {}
        }
        Ok(findings)
    }

    fn devices(&self) -> Result<Vec<Finding>, VmmError> {
        let disks = self.disks()?;
        let helpers = self.ask(Qemu::pr_managers)?;
        let mut findings = self.around()?;
        findings.extend(disks.iter().flat_map(|disk| about(disk, !helpers.is_empty())));
        Ok(findings)
    }

    /// Devices of which QEMU has no block node.
    fn around(&self) -> Result<Vec<Finding>, VmmError> {
        let mut findings = Vec::new();
        for place in DEVICES {
            let listed = match self.ask(|qemu| qemu.qom_list(place)) {
                Err(VmmError::Refused(_)) => continue,
                listed => listed?,
            };
            for property in listed {
                if let Some(kind) = property.child().filter(|kind| AROUND.contains(kind)) {
                    let (device, kind) = (format!("{place}/{}", property.name), kind.to_owned());
                    findings.push(Finding::Around { device, kind });
                }
            }
        }
        Ok(findings)
    }
}

fn about(disk: &Disk, helped: bool) -> Vec<Finding> {
    let device = || disk.device.clone();
    let own = (disk.migrate_pr == MigratePr::Fixed).then(|| Finding::MigratePr { device: device() });
    let nexus = match &disk.backing {
        Backing::Iscsi(url) => Some(Finding::OwnInitiator { device: device(), url: url.clone() }),
        Backing::HostDevice(_) if !helped => Some(Finding::NoHelper { device: device() }),
        Backing::HostDevice(_) | Backing::Other { .. } => None,
    };
    own.into_iter().chain(nexus).collect()
}
