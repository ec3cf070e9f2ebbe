//! Which commands conflict with a reservation (SPC-4 5.13.1 and the command sets' tables), and the
//! lock-free check of the fast path.
//!
//! A command's [`Access`] is the set of standings in which it may run; a nexus's [`Standing`] is one of
//! them. The check is one AND, whatever the number of registrants. [`AccessGate`] publishes a nexus's
//! standing to the threads that execute its commands; the logical unit renews it after every change.

pub mod table;

use crate::profile::Profile;
use scsi::opcode;
use scsi::pr::{OutAction, ReservationType};
use std::sync::atomic::{AtomicU16, Ordering};
pub use table::AccessTable;

/// How a nexus stands towards the persistent reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// It holds the reservation.
    Holder,
    /// It is registered and does not hold the reservation.
    Registrant,
    /// It is not registered.
    Unregistered,
}

/// What a nexus may do now: exactly one column of the conflict table, and whether the lock-free check is
/// enough to decide.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing(u16);

impl Standing {
    /// No reservation forbids anything.
    pub const FREE: Self = Self(1 << 0);
    /// Write Exclusive of another nexus; registered.
    pub const WRITE_EXCLUSIVE_REGISTRANT: Self = Self(1 << 1);
    /// Write Exclusive of another nexus; not registered.
    pub const WRITE_EXCLUSIVE_STRANGER: Self = Self(1 << 2);
    /// Exclusive Access of another nexus; registered.
    pub const EXCLUSIVE_ACCESS_REGISTRANT: Self = Self(1 << 3);
    /// Exclusive Access of another nexus; not registered.
    pub const EXCLUSIVE_ACCESS_STRANGER: Self = Self(1 << 4);
    /// A registrants only type of another nexus; registered.
    pub const SHARED_REGISTRANT: Self = Self(1 << 5);
    /// Write Exclusive for registrants; not registered.
    pub const SHARED_WRITE_STRANGER: Self = Self(1 << 6);
    /// Exclusive Access for registrants; not registered.
    pub const SHARED_ACCESS_STRANGER: Self = Self(1 << 7);
    /// RESERVE(6) or RESERVE(10) of another nexus.
    pub const SPC2_STRANGER: Self = Self(1 << 8);

    const CONSULT: u16 = 1 << 15;

    /// The column for a persistent reservation of `kind`. An undefined type forbids nothing.
    #[must_use]
    pub const fn of(kind: ReservationType, relation: Relation) -> Self {
        match (kind.0, relation) {
            (_, Relation::Holder) => Self::FREE,
            (1, Relation::Registrant) => Self::WRITE_EXCLUSIVE_REGISTRANT,
            (1, Relation::Unregistered) => Self::WRITE_EXCLUSIVE_STRANGER,
            (3, Relation::Registrant) => Self::EXCLUSIVE_ACCESS_REGISTRANT,
            (3, Relation::Unregistered) => Self::EXCLUSIVE_ACCESS_STRANGER,
            (5..=8, Relation::Registrant) => Self::SHARED_REGISTRANT,
            (5 | 7, Relation::Unregistered) => Self::SHARED_WRITE_STRANGER,
            (6 | 8, Relation::Unregistered) => Self::SHARED_ACCESS_STRANGER,
            _ => Self::FREE,
        }
    }

    /// The same column, with every command to be decided by [`PrUnit`](crate::PrUnit): a unit attention
    /// waits, or the reservation information is lost.
    #[must_use]
    pub const fn consulting(self) -> Self {
        Self(self.0 | Self::CONSULT)
    }

    /// Whether every command is to be decided by [`PrUnit`](crate::PrUnit).
    #[must_use]
    pub const fn must_consult(self) -> bool {
        self.0 & Self::CONSULT != 0
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Standing({:#x})", self.0)
    }
}

/// The standings in which a command may run.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u16);

impl Access {
    /// May run in these standings and, as every command, without a reservation.
    #[must_use]
    pub const fn within(standings: &[Standing]) -> Self {
        let (mut set, mut rest) = (Standing::FREE.0, standings);
        while let [one, more @ ..] = rest {
            set |= one.0;
            rest = more;
        }
        Self(set)
    }

    /// Runs beside every persistent reservation.
    pub const ALWAYS: Self = Self(0xFF);
    /// Runs beside every reservation, RESERVE(6/10) of another nexus included.
    pub const EVEN_RESERVED: Self = Self(0x1FF);
    /// Read-like: excluded by the Exclusive Access types.
    pub const READ: Self = Self::within(&[
        Standing::WRITE_EXCLUSIVE_REGISTRANT,
        Standing::WRITE_EXCLUSIVE_STRANGER,
        Standing::SHARED_REGISTRANT,
        Standing::SHARED_WRITE_STRANGER,
    ]);
    /// Write-like: excluded by every type, but for the registrants that share it.
    pub const WRITE: Self = Self::within(&[Standing::SHARED_REGISTRANT]);
    /// Only the holder.
    pub const HOLDER: Self = Self::within(&[]);

    /// Whether a command with this access may run for a nexus of this standing: O(1), no memory touched.
    #[must_use]
    pub const fn permits(self, standing: Standing) -> bool {
        self.0 & standing.0 & 0x1FF != 0
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access({:#x})", self.0)
    }
}

/// Whether a command of class `access` runs beside a reservation of `kind` (SPC-4 tables 44 and 45).
#[must_use]
pub const fn verdict(access: Access, kind: ReservationType, relation: Relation) -> bool {
    access.permits(Standing::of(kind, relation))
}

/// Whether PERSISTENT RESERVE OUT runs beside a persistent reservation (SPC-4 table 46).
/// Undefined service actions pass: they are rejected for what they are.
#[must_use]
pub const fn pr_out_verdict(action: OutAction, kind: ReservationType, relation: Relation) -> bool {
    match relation {
        Relation::Holder => true,
        Relation::Registrant => match action {
            OutAction::RESERVE => kind.is_all_registrants(),
            OutAction::REGISTER_AND_MOVE | OutAction::REPLACE_LOST => false,
            _ => true,
        },
        Relation::Unregistered => action.is_register() || action.0 > OutAction::REPLACE_LOST.0,
    }
}

/// What a command is to the reservation machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Neither reports nor clears a unit attention and never conflicts (INQUIRY, REPORT LUNS).
    Exempt,
    /// REQUEST SENSE: takes a unit attention as data.
    RequestSense,
    /// PERSISTENT RESERVE IN.
    PersistentReserveIn,
    /// PERSISTENT RESERVE OUT.
    PersistentReserveOut,
    /// RESERVE(6) and RESERVE(10).
    Reserve,
    /// RELEASE(6) and RELEASE(10).
    Release,
    /// Any other command.
    Plain(Access),
}

impl Route {
    /// What `cdb` is on a target of this profile.
    #[must_use]
    pub fn of(profile: &Profile, cdb: &[u8]) -> Self {
        match cdb.first().copied() {
            Some(opcode::INQUIRY | opcode::REPORT_LUNS) => Self::Exempt,
            Some(opcode::REQUEST_SENSE) => Self::RequestSense,
            Some(opcode::PERSISTENT_RESERVE_IN) => Self::PersistentReserveIn,
            Some(opcode::PERSISTENT_RESERVE_OUT) => Self::PersistentReserveOut,
            Some(opcode::RESERVE_6 | opcode::RESERVE_10) => Self::Reserve,
            Some(opcode::RELEASE_6 | opcode::RELEASE_10) => Self::Release,
            _ => Self::Plain(profile.access.access(cdb)),
        }
    }
}

/// What the lock-free check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The command may run.
    Execute,
    /// RESERVATION CONFLICT.
    Conflict,
    /// [`PrUnit::execute`](crate::PrUnit::execute) decides, under the logical unit's lock.
    Consult,
}

/// The published standing of one nexus. Readers never lock; the logical unit stores a new standing
/// before the status of the command that changed it leaves, so that every later command is bound by it.
#[derive(Debug)]
pub struct AccessGate(AtomicU16);

impl AccessGate {
    /// A gate for a nexus of this standing.
    #[must_use]
    pub const fn new(standing: Standing) -> Self {
        Self(AtomicU16::new(standing.0))
    }

    /// Publishes a new standing.
    pub fn set(&self, standing: Standing) {
        self.0.store(standing.0, Ordering::Release);
    }

    /// Decides a command without a lock, if a reservation alone decides it.
    #[must_use]
    pub fn decide(&self, profile: &Profile, cdb: &[u8]) -> Decision {
        let access = match Route::of(profile, cdb) {
            Route::Exempt => return Decision::Execute,
            Route::Plain(access) => access,
            _ => return Decision::Consult,
        };
        let standing = Standing(self.0.load(Ordering::Acquire));
        match (standing.must_consult(), access.permits(standing)) {
            (true, _) => Decision::Consult,
            (false, true) => Decision::Execute,
            (false, false) => Decision::Conflict,
        }
    }
}

#[cfg(test)]
mod tests;
