//! PERSISTENT RESERVE IN (SPC-4 6.15): the four service actions, cut to the allocation length.

use super::{Holder, Reservations};
use crate::directory::Directory;
use crate::profile::{Profile, ShortAllocation, Truncation};
use scsi::FieldError;
use scsi::pr::{
    Capabilities, FullStatus, FullStatusDescriptor, InAction, PrInCdb, ReadKeys, ReadReservation,
    Reservation, Scope,
};

const HEADER: usize = 8;

/// The parameter data that answers `cdb`.
pub(crate) fn read(
    state: &Reservations,
    profile: &Profile,
    directory: &dyn Directory,
    cdb: PrInCdb,
) -> Result<Vec<u8>, FieldError> {
    let room = usize::from(cdb.allocation_length);
    let short = refuse_short(profile.short_allocation, cdb.action, room)?;
    let mut data = match cdb.action {
        InAction::READ_KEYS => read_keys(state, profile, room),
        InAction::READ_RESERVATION => read_reservation(state, profile).to_bytes(),
        InAction::REPORT_CAPABILITIES => capabilities(state, profile).to_bytes(),
        InAction::READ_FULL_STATUS if profile.support.read_full_status => {
            read_full_status(state, profile, directory, room)
        }
        _ => return Err(FieldError::cdb_bit(1, 4)),
    };
    data.truncate(if short { 0 } else { room });
    Ok(data)
}

/// `true`: answer without data.
const fn refuse_short(how: ShortAllocation, action: InAction, room: usize) -> Result<bool, FieldError> {
    let whole = match (how, action) {
        (ShortAllocation::RejectedWhole, InAction::READ_RESERVATION) => 24,
        _ => HEADER,
    };
    let lists = action.0 == InAction::READ_KEYS.0 || action.0 == InAction::READ_RESERVATION.0;
    match how {
        ShortAllocation::Empty => Ok(lists && room < HEADER),
        ShortAllocation::Rejected | ShortAllocation::RejectedWhole if lists && room < whole => {
            Err(FieldError::cdb(7))
        }
        _ => Ok(false),
    }
}

fn read_keys(state: &Reservations, profile: &Profile, room: usize) -> Vec<u8> {
    let fits = match profile.truncation {
        Truncation::AllShortened => room.saturating_sub(HEADER) / 8,
        _ => usize::MAX,
    };
    let keys = state.registrations().iter().map(|one| one.key).take(fits).collect();
    ReadKeys { generation: state.generation, keys, truncated: false }.to_bytes()
}

fn read_reservation(state: &Reservations, profile: &Profile) -> ReadReservation {
    let reservation = state.reservation.map(|held| {
        let key = match held.holder {
            Holder::All { marked: Some(nexus) } if profile.retype_keeps_key => state.key_of(nexus),
            _ => state.holder_key(),
        };
        Reservation { key, scope: Scope::LOGICAL_UNIT, kind: held.kind }
    });
    ReadReservation { generation: state.generation, reservation }
}

fn capabilities(state: &Reservations, profile: &Profile) -> Capabilities {
    let support = &profile.support;
    Capabilities {
        replace_lost: support.replace_lost,
        compatible_reservation_handling: support.compatible_reservation_handling,
        specify_initiator_ports: support.spec_i_pt,
        all_target_ports: support.all_target_ports,
        persist_capable: support.aptpl,
        type_mask_valid: true,
        allow_commands: support.allow_commands,
        persist_active: state.aptpl,
        type_mask: Capabilities::ALL_TYPES,
    }
}

fn read_full_status(
    state: &Reservations,
    profile: &Profile,
    directory: &dyn Directory,
    room: usize,
) -> Vec<u8> {
    let (generation, mut taken) = (state.generation, HEADER);
    let mut descriptors = Vec::new();
    for one in state.registrations().iter() {
        // A nexus that the directory does not know cannot be named; there is none by construction.
        let Some(nexus) = directory.nexus(one.nexus) else { continue };
        let descriptor = FullStatusDescriptor {
            key: one.key,
            all_target_ports: one.all_target_ports && profile.shows_all_target_ports,
            holds: state
                .reservation
                .filter(|_| state.is_holder(one.nexus))
                .map(|held| (Scope::LOGICAL_UNIT, held.kind)),
            relative_target_port: nexus.target_port,
            initiator_port: Ok(nexus.initiator.clone()),
        };
        taken += 24 + nexus.initiator.to_bytes().len();
        if !fits(profile.truncation, taken, room) {
            break;
        }
        descriptors.push(descriptor);
    }
    FullStatus { generation, descriptors, truncated: false }.to_bytes()
}

/// Whether a descriptor that ends at `end` is sent, for targets that leave out what does not fit.
const fn fits(how: Truncation, end: usize, room: usize) -> bool {
    match how {
        Truncation::LengthKept => true,
        Truncation::FullStatusShortened | Truncation::AllShortened => end <= room,
        Truncation::WholeDescriptors => end < room,
    }
}
