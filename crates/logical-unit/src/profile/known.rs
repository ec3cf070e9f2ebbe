//! The profiles: the standard and the deviations of targets in the field, observed by their initiators.

use super::*;
use crate::access::table;

/// SPC-4, every feature.
pub static SPC: Profile = STANDARD;

/// The standard as a value that the other profiles start from.
const STANDARD: Profile = Profile {
    name: "spc",
    product: Product { vendor: "TENURE", product: "LOGICAL UNIT", revision: "0001" },
    support: Support {
        read_full_status: true,
        preempt_and_abort: true,
        register_and_move: true,
        replace_lost: true,
        compatible_reservation_handling: true,
        spec_i_pt: true,
        all_target_ports: true,
        aptpl: true,
        allow_commands: 3,
    },
    registration_limit: 4096,
    identity: Identity::Nexus,
    access: &table::STANDARD,
    spc2_excludes_pr: true,
    attentions: Attentions {
        reported: true,
        kept_without_session: true,
        report_clears_all: false,
        precedence: Precedence::Standard,
        audience: Audience::Registrants,
        preempted: Attention::RegistrationsPreempted,
        release: TypeSet::of(&[5, 6, 7, 8]),
        unregister: TypeSet::of(&[5, 6]),
        retype: TypeSet::of(&[0, 1, 3, 5, 6, 7, 8]),
    },
    generation: Generation {
        no_op: 1,
        unregister: 1,
        holder_unregister: 1,
        per_target_port: false,
        per_removal: false,
    },
    short_allocation: ShortAllocation::Partial,
    truncation: Truncation::LengthKept,
    shows_all_target_ports: true,
    list_length: ListLength::Exact,
    unsupported_bit: Rejection::Parameter,
    stray_all_target_ports_rejected: false,
    spec_i_pt_with_ignore: false,
    spec_i_pt_registered: Rejection::Parameter,
    named_registrant: NamedRegistrant::Untouched,
    all_target_ports: AllTargetPorts::EveryPort,
    no_room: NoRoom::Insufficient,
    unregistered: Unregistered::Conflict,
    reserve_checks_key: true,
    wrong_key_release: WrongKeyRelease::Conflict,
    wrong_type_release: WrongTypeRelease::InvalidRelease,
    wrong_scope: WrongScope::InvalidCdb,
    preempt_type: PreemptType::WhenTaking,
    own_key_removal: always(OwnKey::Removed),
    holder_preempt: HolderPreempt::Takes,
    zero_preempt: ZeroPreempt::Invalid,
    unmatched_preempt_good: false,
    marked_holder: false,
    retype_keeps_key: false,
    move_zero_key: Rejection::Parameter,
    move_without_reservation_conflicts: false,
};

const fn always(own: OwnKey) -> OwnKeyRemoval {
    OwnKeyRemoval { none: own, all_registrants: own, other_holder: own }
}

/// A target that never lets a PREEMPT remove its sender's registration, as SPC-2 devices and HPE 3PAR do.
pub static KEEP_SELF: Profile = Profile {
    name: "keep-self",
    product: Product { vendor: "3PARdata", product: "VV", revision: "3310" },
    own_key_removal: always(OwnKey::Kept),
    ..STANDARD
};

/// The Linux kernel target (6.1).
pub static LIO: Profile = Profile {
    name: "lio",
    product: Product { vendor: "LIO-ORG", product: "FILEIO", revision: "4.0" },
    support: Support { replace_lost: false, allow_commands: 1, ..STANDARD.support },
    access: &table::LIO,
    attentions: Attentions {
        report_clears_all: true,
        precedence: Precedence::AttentionFirst,
        ..STANDARD.attentions
    },
    generation: Generation {
        no_op: 0,
        unregister: 0,
        holder_unregister: 0,
        per_target_port: true,
        ..STANDARD.generation
    },
    short_allocation: ShortAllocation::Rejected,
    truncation: Truncation::FullStatusShortened,
    all_target_ports: AllTargetPorts::MustRepeat,
    unregistered: Unregistered::CommunicationFailure,
    wrong_key_release: WrongKeyRelease::Good,
    wrong_type_release: WrongTypeRelease::Conflict,
    wrong_scope: WrongScope::InvalidParameter,
    preempt_type: PreemptType::Always,
    own_key_removal: OwnKeyRemoval { all_registrants: OwnKey::Kept, ..always(OwnKey::Removed) },
    marked_holder: true,
    ..STANDARD
};

/// SCST.
pub static SCST: Profile = Profile {
    name: "scst",
    product: Product { vendor: "SCST_FIO", product: "TENURE", revision: "370" },
    support: Support { replace_lost: false, allow_commands: 4, ..STANDARD.support },
    attentions: Attentions {
        kept_without_session: false,
        precedence: Precedence::ConflictFirst,
        ..STANDARD.attentions
    },
    short_allocation: ShortAllocation::Empty,
    truncation: Truncation::WholeDescriptors,
    shows_all_target_ports: false,
    stray_all_target_ports_rejected: true,
    named_registrant: NamedRegistrant::Rekeyed,
    all_target_ports: AllTargetPorts::RegisterOnly,
    no_room: NoRoom::Busy,
    wrong_key_release: WrongKeyRelease::GoodWithoutReservation,
    preempt_type: PreemptType::Always,
    own_key_removal: OwnKeyRemoval { other_holder: OwnKey::Removed, ..always(OwnKey::Kept) },
    zero_preempt: ZeroPreempt::Conflict,
    retype_keeps_key: true,
    move_zero_key: Rejection::Cdb,
    ..STANDARD
};

/// The user space target tgt.
pub static TGT: Profile = Profile {
    name: "tgt",
    product: Product { vendor: "IET", product: "VIRTUAL-DISK", revision: "0001" },
    support: Support {
        read_full_status: false,
        allow_commands: 0,
        compatible_reservation_handling: false,
        ..REDUCED_SUPPORT
    },
    identity: Identity::SessionInstance,
    access: &table::TGT,
    spc2_excludes_pr: false,
    attentions: Attentions {
        kept_without_session: false,
        precedence: Precedence::AttentionFirst,
        preempted: Attention::ReservationsPreempted,
        release: TypeSet::of(&[1, 3]),
        unregister: TypeSet::of(&[0, 1, 3, 5, 6, 7, 8]),
        ..STANDARD.attentions
    },
    generation: Generation { holder_unregister: 2, ..STANDARD.generation },
    short_allocation: ShortAllocation::Rejected,
    list_length: ListLength::ExactInvalidField,
    unsupported_bit: Rejection::Cdb,
    reserve_checks_key: false,
    wrong_key_release: WrongKeyRelease::Good,
    wrong_scope: WrongScope::PreemptUnchecked,
    preempt_type: PreemptType::Never,
    own_key_removal: always(OwnKey::Kept),
    zero_preempt: ZeroPreempt::Good,
    ..STANDARD
};

/// What tgt and SPDK have in common: the basic service actions alone.
const REDUCED_SUPPORT: Support = Support {
    preempt_and_abort: false,
    register_and_move: false,
    replace_lost: false,
    spec_i_pt: false,
    all_target_ports: false,
    aptpl: false,
    allow_commands: 0,
    ..STANDARD.support
};

/// The SPDK iSCSI target.
pub static SPDK: Profile = Profile {
    name: "spdk",
    product: Product { vendor: "INTEL", product: "SPDK", revision: "0001" },
    support: REDUCED_SUPPORT,
    identity: Identity::SessionInstance,
    access: &table::SPDK,
    attentions: Attentions { reported: false, kept_without_session: false, ..STANDARD.attentions },
    generation: Generation { per_removal: true, ..STANDARD.generation },
    short_allocation: ShortAllocation::RejectedWhole,
    truncation: Truncation::AllShortened,
    list_length: ListLength::AtLeast,
    unsupported_bit: Rejection::Cdb,
    unregistered: Unregistered::NotReady,
    wrong_key_release: WrongKeyRelease::InvalidField,
    wrong_type_release: WrongTypeRelease::InvalidField,
    preempt_type: PreemptType::Never,
    holder_preempt: HolderPreempt::RemovesSenderFirst,
    zero_preempt: ZeroPreempt::Good,
    unmatched_preempt_good: true,
    ..STANDARD
};

/// illumos COMSTAR.
pub static COMSTAR: Profile = Profile {
    name: "comstar",
    product: Product { vendor: "SUN", product: "COMSTAR", revision: "1.0" },
    support: Support {
        replace_lost: false,
        compatible_reservation_handling: false,
        allow_commands: 0,
        ..STANDARD.support
    },
    attentions: Attentions { audience: Audience::EveryNexus, ..STANDARD.attentions },
    spec_i_pt_registered: Rejection::Cdb,
    named_registrant: NamedRegistrant::Rejected,
    own_key_removal: always(OwnKey::Kept),
    holder_preempt: HolderPreempt::HolderSparesSharers,
    zero_preempt: ZeroPreempt::Conflict,
    move_zero_key: Rejection::Cdb,
    move_without_reservation_conflicts: true,
    ..STANDARD
};

/// FreeBSD CTL.
pub static CTL: Profile = Profile {
    name: "ctl",
    product: Product { vendor: "FREEBSD", product: "CTLDISK", revision: "0001" },
    support: Support { replace_lost: false, ..STANDARD.support },
    attentions: Attentions { retype: TypeSet::of(&[5, 6]), ..STANDARD.attentions },
    own_key_removal: OwnKeyRemoval { other_holder: OwnKey::Removed, ..always(OwnKey::Refused) },
    ..STANDARD
};
