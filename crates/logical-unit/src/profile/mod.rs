//! Profiles: where the device servers of the field deviate from SPC-4, as data on one mechanism.
//!
//! [`SPC`] is the standard; every other profile names its deviations and takes the rest from it. The
//! reservation machine, the conflict table and the unit attentions ask these fields, so that a handover
//! is proved against each kind of target. Profiles describe what an initiator observes and nothing else.

mod known;

pub use known::{COMSTAR, CTL, KEEP_SELF, LIO, SCST, SPC, SPDK, TGT};

use crate::access::AccessTable;
use crate::attention::Attention;
use scsi::pr::ReservationType;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A set of reservation types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSet(u16);

impl TypeSet {
    /// The types with these codes (0 to 15).
    #[must_use]
    pub const fn of(codes: &[u8]) -> Self {
        let (mut set, mut rest) = (0, codes);
        while let [code, more @ ..] = rest {
            set |= 1 << (*code & 0x0F);
            rest = more;
        }
        Self(set)
    }

    /// Whether `kind` is in the set.
    #[must_use]
    pub const fn contains(self, kind: ReservationType) -> bool {
        self.0 >> (kind.0 & 0x0F) & 1 != 0
    }
}

/// What INQUIRY says about the product; shorter than the field means padded with spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// T10 VENDOR IDENTIFICATION, at most 8 ASCII bytes.
    pub vendor: &'static str,
    /// PRODUCT IDENTIFICATION, at most 16 ASCII bytes.
    pub product: &'static str,
    /// PRODUCT REVISION LEVEL, at most 4 ASCII bytes.
    pub revision: &'static str,
}

/// What a registration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The I_T nexus: initiator port name, including the ISID, and target port.
    Nexus,
    /// The session: after a new login the same names are another nexus, and the old registration stays
    /// listed without an owner.
    SessionInstance,
}

/// The static part of REPORT CAPABILITIES, and what is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// READ FULL STATUS.
    pub read_full_status: bool,
    /// PREEMPT AND ABORT.
    pub preempt_and_abort: bool,
    /// REGISTER AND MOVE.
    pub register_and_move: bool,
    /// REPLACE LOST RESERVATION (RLR_C).
    pub replace_lost: bool,
    /// RESERVE and RELEASE of a holder succeed without effect (CRH).
    pub compatible_reservation_handling: bool,
    /// SPEC_I_PT (SIP_C).
    pub spec_i_pt: bool,
    /// ALL_TG_PT (ATP_C).
    pub all_target_ports: bool,
    /// APTPL (PTPL_C).
    pub aptpl: bool,
    /// ALLOW COMMANDS, 3 bits.
    pub allow_commands: u8,
}

/// Which sense code rejects a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// INVALID FIELD IN CDB.
    Cdb,
    /// INVALID FIELD IN PARAMETER LIST.
    Parameter,
}

/// Which parameter list lengths PERSISTENT RESERVE OUT takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListLength {
    /// Exactly 24 without SPEC_I_PT; else PARAMETER LIST LENGTH ERROR.
    Exact,
    /// Exactly 24; else INVALID FIELD IN CDB.
    ExactInvalidField,
    /// 24 and more.
    AtLeast,
}

/// How PR IN answers an allocation length below the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortAllocation {
    /// GOOD with as many bytes as fit.
    Partial,
    /// GOOD without data.
    Empty,
    /// INVALID FIELD IN CDB below 8 bytes.
    Rejected,
    /// The same, and READ RESERVATION below 24 bytes.
    RejectedWhole,
}

/// How data that does not fit is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// The length fields keep telling the whole.
    LengthKept,
    /// READ FULL STATUS tells only the descriptors that fit.
    FullStatusShortened,
    /// READ KEYS and READ FULL STATUS tell only what fits.
    AllShortened,
    /// READ FULL STATUS sends whole descriptors, the last only if a byte is left behind it.
    WholeDescriptors,
}

/// How RESERVE, RELEASE, CLEAR and REGISTER AND MOVE of an unregistered nexus end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unregistered {
    /// RESERVATION CONFLICT.
    Conflict,
    /// NOT READY, LOGICAL UNIT COMMUNICATION FAILURE, where no reservation forbids the command anyway.
    CommunicationFailure,
    /// RESERVE: RESERVATION CONFLICT; RELEASE and CLEAR: NOT READY without further information.
    NotReady,
}

/// How RELEASE with a wrong key ends for a registrant that does not hold the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongKeyRelease {
    /// RESERVATION CONFLICT.
    Conflict,
    /// GOOD.
    Good,
    /// GOOD without a reservation, else RESERVATION CONFLICT.
    GoodWithoutReservation,
    /// INVALID FIELD IN CDB.
    InvalidField,
}

/// How RELEASE with another type ends for the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongTypeRelease {
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    InvalidRelease,
    /// RESERVATION CONFLICT.
    Conflict,
    /// INVALID FIELD IN CDB.
    InvalidField,
}

/// How a SCOPE other than LU_SCOPE ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongScope {
    /// INVALID FIELD IN CDB, wherever SCOPE counts.
    InvalidCdb,
    /// INVALID FIELD IN PARAMETER LIST.
    InvalidParameter,
    /// INVALID FIELD IN CDB for RESERVE and RELEASE; PREEMPT does not look.
    PreemptUnchecked,
}

/// When PREEMPT looks at TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreemptType {
    /// When it takes a reservation.
    WhenTaking,
    /// Always, also when it only removes registrations.
    Always,
    /// Never; an undefined type becomes the reservation's.
    Never,
}

/// What PREEMPT does to its sender when it removes the registrations of the sender's own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKey {
    /// The sender's registration is removed like the others.
    Removed,
    /// The sender's registration stays.
    Kept,
    /// INVALID FIELD IN PARAMETER LIST.
    Refused,
}

/// [`OwnKey`] by what the PREEMPT meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnKeyRemoval {
    /// No reservation.
    pub none: OwnKey,
    /// An all registrants reservation.
    pub all_registrants: OwnKey,
    /// A single holder with another key.
    pub other_holder: OwnKey,
}

/// PREEMPT whose key is that of the single holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderPreempt {
    /// The sender keeps its registration and takes the reservation; everybody else with the key goes.
    Takes,
    /// The same, but a holder that preempts its own key removes nobody.
    HolderSparesSharers,
    /// Every registration with the key goes first, the sender's too; if that was the sender's key, the
    /// reservation is gone and the command ends with RESERVATION CONFLICT.
    RemovesSenderFirst,
}

/// How PREEMPT with a zero key ends unless an all registrants reservation exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroPreempt {
    /// INVALID FIELD IN PARAMETER LIST.
    Invalid,
    /// RESERVATION CONFLICT without a reservation, else as above.
    Conflict,
    /// GOOD without effect and without a reservation, else as above.
    Good,
}

/// Who hears of a lost or changed reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The registrants that the standard names.
    Registrants,
    /// Every nexus of the logical unit but the sender; for CLEAR the sender too.
    EveryNexus,
}

/// Which of a unit attention and a reservation conflict is reported first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// A conflict outranks the 2Ah family, other unit attentions outrank a conflict.
    Standard,
    /// The unit attention.
    AttentionFirst,
    /// The conflict.
    ConflictFirst,
}

/// Unit attentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attentions {
    /// Whether there are any.
    pub reported: bool,
    /// Whether they wait for a nexus that has no session.
    pub kept_without_session: bool,
    /// Whether reporting one clears all others of the nexus.
    pub report_clears_all: bool,
    /// Order against reservation conflicts.
    pub precedence: Precedence,
    /// Who hears of changes.
    pub audience: Audience,
    /// What a nexus hears whose registration was preempted.
    pub preempted: Attention,
    /// Types whose RELEASE is announced to the other registrants.
    pub release: TypeSet,
    /// Types whose end by the holder's unregistration is announced.
    pub unregister: TypeSet,
    /// Types for which a changed type is announced to the remaining registrants (the old type counts).
    pub retype: TypeSet,
}

/// How PRGENERATION counts beside one for each command of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Steps for a REGISTER of no key by an unregistered nexus.
    pub no_op: u32,
    /// Steps for unregistering.
    pub unregister: u32,
    /// Steps for unregistering the holder.
    pub holder_unregister: u32,
    /// One more step for every further nexus that ALL_TG_PT registers.
    pub per_target_port: bool,
    /// One more step for every registration removed.
    pub per_removal: bool,
}

/// ALL_TG_PT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllTargetPorts {
    /// As if the command had been received on every target port.
    EveryPort,
    /// Once registered so, every later registration must repeat the bit (else INVALID FIELD IN CDB);
    /// REGISTER AND IGNORE EXISTING KEY unregisters its own nexus alone.
    MustRepeat,
    /// Registers and unregisters on every port; a new key is for one nexus.
    RegisterOnly,
}

/// What SPEC_I_PT does to a named nexus that is registered already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedRegistrant {
    /// Nothing.
    Untouched,
    /// It gets the new key.
    Rekeyed,
    /// The command is rejected.
    Rejected,
}

/// How a missing place for a registration is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// INSUFFICIENT REGISTRATION RESOURCES.
    Insufficient,
    /// BUSY.
    Busy,
}

/// One kind of target. The standard is [`SPC`]; a test checks that every other names what it deviates in.
#[derive(Clone, Copy)]
pub struct Profile {
    /// Name on the command line.
    pub name: &'static str,
    /// INQUIRY strings.
    pub product: Product,
    /// What is supported.
    pub support: Support,
    /// Most registrations of the logical unit.
    pub registration_limit: usize,
    /// What a registration belongs to.
    pub identity: Identity,
    /// Command/reservation conflicts.
    pub access: &'static AccessTable,
    /// PR IN and OUT conflict with an SPC-2 reservation.
    pub spc2_excludes_pr: bool,
    /// Unit attentions.
    pub attentions: Attentions,
    /// PRGENERATION.
    pub generation: Generation,
    /// Short allocation lengths.
    pub short_allocation: ShortAllocation,
    /// Cut parameter data.
    pub truncation: Truncation,
    /// Whether READ FULL STATUS shows ALL_TG_PT.
    pub shows_all_target_ports: bool,
    /// Parameter list lengths.
    pub list_length: ListLength,
    /// Sense of SPEC_I_PT, ALL_TG_PT and APTPL where they are not supported.
    pub unsupported_bit: Rejection,
    /// ALL_TG_PT with a service action that does not register is rejected.
    pub stray_all_target_ports_rejected: bool,
    /// SPEC_I_PT with REGISTER AND IGNORE EXISTING KEY is legal (SPC-3) instead of rejected (SPC-4).
    pub spec_i_pt_with_ignore: bool,
    /// Sense of SPEC_I_PT from a registered nexus.
    pub spec_i_pt_registered: Rejection,
    /// SPEC_I_PT naming a registrant.
    pub named_registrant: NamedRegistrant,
    /// ALL_TG_PT.
    pub all_target_ports: AllTargetPorts,
    /// No room for a registration.
    pub no_room: NoRoom,
    /// Unregistered senders.
    pub unregistered: Unregistered,
    /// Whether RESERVE verifies RESERVATION KEY.
    pub reserve_checks_key: bool,
    /// RELEASE with a wrong key.
    pub wrong_key_release: WrongKeyRelease,
    /// RELEASE with a wrong type.
    pub wrong_type_release: WrongTypeRelease,
    /// SCOPE.
    pub wrong_scope: WrongScope,
    /// TYPE of PREEMPT.
    pub preempt_type: PreemptType,
    /// PREEMPT of the sender's own key, where it only removes registrations.
    pub own_key_removal: OwnKeyRemoval,
    /// PREEMPT of the holder's key.
    pub holder_preempt: HolderPreempt,
    /// PREEMPT of no key.
    pub zero_preempt: ZeroPreempt,
    /// PREEMPT of a key nobody has ends GOOD instead of RESERVATION CONFLICT.
    pub unmatched_preempt_good: bool,
    /// Under an all registrants type one registrant is marked as the holder, and a PREEMPT of its key
    /// takes the reservation with the TYPE sent.
    pub marked_holder: bool,
    /// A holder that changes its reservation to an all registrants type stays visible with its key.
    pub retype_keeps_key: bool,
    /// Sense of REGISTER AND MOVE with a zero key.
    pub move_zero_key: Rejection,
    /// REGISTER AND MOVE of a registrant without a reservation ends with RESERVATION CONFLICT.
    pub move_without_reservation_conflicts: bool,
}

impl Profile {
    /// Every profile.
    pub const ALL: [&'static Self; 8] = [&SPC, &KEEP_SELF, &LIO, &SCST, &TGT, &SPDK, &COMSTAR, &CTL];

    /// The profile of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile {}", self.name)
    }
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Profile {}

impl Hash for Profile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

#[cfg(test)]
mod tests;
