//! The commands of one pass: every service action, good and bad, with one reservation type.
//!
//! It keeps to what both helpers can be compared by; PREEMPT of the sender's own key and PREEMPT AND ABORT that succeeds are
//! tested against `tenure target`.

use crate::lio;
use scsi::pr::request::{
    clear, out, preempt, preempt_and_abort, read, register, register_and_ignore, register_and_move, release,
    replace_lost, reserve,
};
use scsi::pr::{BasicParameters, InAction, Key, MoveParameters, OutAction, ReservationType};
use scsi::{DataPhase, Request, TransportId};

/// Who sends a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Through QEMU; PERSISTENT RESERVE goes through the helper.
    Guest,
    /// Directly.
    Peer,
}

/// One line of the script.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A command whose answer is recorded.
    Send {
        /// The sender.
        who: Who,
        /// What it shows.
        about: &'static str,
        /// The command.
        request: Request,
    },
    /// Leave nobody registered and nothing owed, whatever the last command did. Not recorded.
    Clean,
}

const GUEST: Key = Key(0xA1);
const OTHER: Key = Key(0xA2);
const PEER: Key = Key(0xB1);
const WRONG: Key = Key(0xBAD);
const NONE: Key = Key(0);
const KEYS: InAction = InAction::READ_KEYS;
const HOLDER: InAction = InAction::READ_RESERVATION;
const FULL: InAction = InAction::READ_FULL_STATUS;
const CAPABILITIES: InAction = InAction::REPORT_CAPABILITIES;

/// The whole pass.
pub(super) fn steps(kind: ReservationType) -> Vec<Step> {
    let parts =
        [unregistered(kind), malformed(kind), registering(), reserving(kind), removing(kind), removed(kind)];
    let mut steps: Vec<Step> = parts.into_iter().flatten().collect();
    steps.extend(power_loss());
    steps.extend(clearing(kind));
    for step in moving(kind).into_iter().chain(long(kind)) {
        steps.extend([step, Step::Clean]);
    }
    steps
}

fn guest(about: &'static str, request: Request) -> Step {
    Step::Send { who: Who::Guest, about, request }
}

fn peer(about: &'static str, request: Request) -> Step {
    Step::Send { who: Who::Peer, about, request }
}

fn ready() -> Request {
    Request { cdb: vec![0; 6], data: DataPhase::None }
}

/// WRITE(10) of the first block.
fn write() -> Request {
    Request { cdb: vec![0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![0x5A; 512]) }
}

/// READ(10) of the first block.
fn read_block() -> Request {
    Request { cdb: vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::In(512) }
}

fn unregistered(kind: ReservationType) -> Vec<Step> {
    vec![
        guest("nobody is registered", read(KEYS, 512)),
        guest("nobody holds", read(HOLDER, 512)),
        guest("what the target can do", read(CAPABILITIES, 8)),
        guest("nobody is registered", read(FULL, 512)),
        guest("without registration", reserve(GUEST, kind)),
        guest("without registration", release(GUEST, kind)),
        guest("without registration", clear(GUEST)),
        guest("without registration", preempt(GUEST, PEER, kind)),
        guest("without registration", preempt_and_abort(GUEST, PEER, kind)),
        guest("with a key that is not registered", register(WRONG, GUEST, false)),
        guest("nothing to nothing", register(NONE, NONE, false)),
        guest("nothing to nothing", register_and_ignore(NONE, false)),
        guest("no room", read(KEYS, 0)),
        guest("room for half a header", read(KEYS, 4)),
        guest("room for the header", read(KEYS, 8)),
        guest("all the room there is", read(KEYS, 8192)),
        guest("all the room there is", read(FULL, 8192)),
        guest("little room", read(CAPABILITIES, 3)),
    ]
}

fn malformed(kind: ReservationType) -> Vec<Step> {
    let good = register_and_ignore(GUEST, false);
    let length = |length: usize| resized(&good, length);
    vec![
        guest("service action 04h", read(InAction(4), 64)),
        guest("service action 1Fh", read(InAction(0x1F), 64)),
        guest("no parameter list", length(0)),
        guest("a parameter list of 8 bytes", length(8)),
        guest("a parameter list of 23 bytes", length(23)),
        guest("a parameter list of 25 bytes", length(25)),
        guest("a parameter list of 8192 bytes", length(8192)),
        guest("service action 08h", replace_lost(GUEST, kind)),
        guest("service action 1Fh", out(OutAction(0x1F), kind, &BasicParameters::default())),
        guest("after all these", read(KEYS, 512)),
    ]
}

/// The same command with another PARAMETER LIST LENGTH, and as many bytes.
fn resized(request: &Request, length: usize) -> Request {
    let mut request = request.clone();
    if let (DataPhase::Out(list), Ok(announced)) = (&mut request.data, u32::try_from(length)) {
        list.resize(length, 0);
        request.cdb.splice(5..9, announced.to_be_bytes());
    }
    request
}

fn registering() -> Vec<Step> {
    vec![
        guest("a first key", register(NONE, GUEST, false)),
        guest("one key", read(KEYS, 512)),
        guest("one registrant", read(FULL, 512)),
        guest("a key to itself", register(GUEST, GUEST, false)),
        guest("a registrant with the wrong key", register(WRONG, OTHER, false)),
        guest("another key", register(GUEST, OTHER, false)),
        guest("the first key again", register_and_ignore(GUEST, false)),
        guest("one key, three changes", read(KEYS, 512)),
    ]
}

fn reserving(kind: ReservationType) -> Vec<Step> {
    let other = if kind == ReservationType::EXCLUSIVE_ACCESS { 1 } else { 3 };
    let other = ReservationType(other);
    let mut elsewhere = reserve(GUEST, kind);
    elsewhere.cdb.splice(2..3, [0x10 | kind.0]);
    vec![
        guest("type 0", reserve(GUEST, ReservationType(0))),
        guest("type 2", reserve(GUEST, ReservationType(2))),
        guest("type 4", reserve(GUEST, ReservationType(4))),
        guest("type 9", reserve(GUEST, ReservationType(9))),
        guest("type Fh", reserve(GUEST, ReservationType(15))),
        guest("scope 1", elsewhere),
        guest("the wrong key", reserve(WRONG, kind)),
        guest("free", reserve(GUEST, kind)),
        guest("the guest holds", read(HOLDER, 512)),
        guest("held already", reserve(GUEST, kind)),
        guest("held with another type", reserve(GUEST, other)),
        guest("the wrong type", release(GUEST, other)),
        guest("the wrong key", release(WRONG, kind)),
        guest("the guest still holds", read(FULL, 512)),
        guest("the holder writes", write()),
        peer("an outsider writes", write()),
        peer("an outsider reads", read_block()),
    ]
}

fn removing(kind: ReservationType) -> Vec<Step> {
    vec![
        peer("beside the holder", register(NONE, PEER, false)),
        peer("a registrant writes", write()),
        guest("two registrants", read(FULL, 512)),
        guest("two keys in room for one", read(KEYS, 16)),
        guest("a key that nobody has", preempt(GUEST, WRONG, kind)),
        guest("with the wrong key", preempt(WRONG, PEER, kind)),
        guest("the peer", preempt(GUEST, PEER, kind)),
        peer("was preempted", ready()),
        guest("the guest alone", read(KEYS, 512)),
        peer("again", register(NONE, PEER, false)),
        guest("with the wrong key", preempt_and_abort(WRONG, PEER, kind)),
        guest("a key that nobody has", preempt_and_abort(GUEST, WRONG, kind)),
        guest("the guest alone", read(HOLDER, 512)),
    ]
}

fn removed(kind: ReservationType) -> Vec<Step> {
    vec![
        guest("held", release(GUEST, kind)),
        peer("was the reservation released?", ready()),
        guest("free already", release(GUEST, kind)),
        guest("nobody holds", read(HOLDER, 512)),
        peer("free", reserve(PEER, kind)),
        guest("the peer holds", reserve(GUEST, kind)),
        guest("a registrant writes", write()),
        guest("the holder, taking its place", preempt(GUEST, PEER, kind)),
        peer("was preempted", ready()),
        guest("who holds now", read(HOLDER, 512)),
        peer("again", register(NONE, PEER, false)),
        peer("the guest", preempt(PEER, GUEST, kind)),
        guest("its attention first", read(KEYS, 512)),
        guest("no longer listed", read(KEYS, 512)),
        guest("no longer registered", reserve(GUEST, kind)),
        guest("no longer registered", release(GUEST, kind)),
        guest("fenced, writing", write()),
        guest("back in the cluster", register(NONE, GUEST, false)),
        guest("both", read(FULL, 512)),
    ]
}

fn power_loss() -> Vec<Step> {
    vec![
        guest("with APTPL", register(GUEST, GUEST, true)),
        guest("with APTPL active", read(CAPABILITIES, 8)),
        guest("without APTPL", register(GUEST, GUEST, false)),
        guest("without APTPL", read(CAPABILITIES, 8)),
    ]
}

fn clearing(kind: ReservationType) -> Vec<Step> {
    vec![
        peer("held", release(PEER, kind)),
        guest("after a release, perhaps an attention", ready()),
        guest("the wrong key", clear(WRONG)),
        guest("everybody", clear(GUEST)),
        peer("was cleared", ready()),
        guest("nobody", read(FULL, 512)),
        guest("for a moment", register(NONE, GUEST, false)),
        guest("and back", register(GUEST, NONE, false)),
        guest("nobody", read(KEYS, 512)),
        Step::Clean,
    ]
}

/// Commands that name other ports. A policy may forbid them, so each stands alone.
fn moving(kind: ReservationType) -> Vec<Step> {
    let peer_port = peer_port();
    let ports = |ports: Option<Vec<TransportId>>, all_target_ports| BasicParameters {
        service_action_key: GUEST,
        initiator_ports: ports,
        all_target_ports,
        ..Default::default()
    };
    let named = ports(peer_port.clone().map(|port| vec![port]), false);
    let no_room = BasicParameters { initiator_ports: Some(Vec::new()), ..ports(None, false) };
    let zero = ReservationType(0);
    let mut steps = vec![
        guest("ALL_TG_PT", out(OutAction::REGISTER, zero, &ports(None, true))),
        guest("ALL_TG_PT", out(OutAction::REGISTER_AND_IGNORE, zero, &ports(None, true))),
        guest("SPEC_I_PT", out(OutAction::REGISTER, zero, &named)),
        guest("SPEC_I_PT", out(OutAction::REGISTER_AND_IGNORE, zero, &named)),
        guest("SPEC_I_PT, but no port", out(OutAction::REGISTER, zero, &no_room)),
        guest("SPEC_I_PT", out(OutAction::RESERVE, kind, &named)),
    ];
    for port in [2, 999] {
        let to = |initiator_port| MoveParameters {
            reservation_key: GUEST,
            service_action_key: PEER,
            unregister: true,
            aptpl: false,
            relative_target_port: port,
            initiator_port,
        };
        steps.extend(peer_port.clone().map(|id| guest("without registration", register_and_move(&to(id)))));
    }
    steps
}

fn peer_port() -> Option<TransportId> {
    let name = lio::initiator(2);
    u64::from_str_radix(name.trim_start_matches("naa."), 16).ok().map(TransportId::Sas)
}

/// Parameter lists of 64 KiB and more.
fn long(kind: ReservationType) -> Vec<Step> {
    vec![
        guest("64 KiB and 24 bytes", resized(&register_and_ignore(GUEST, false), 0x1_0018)),
        guest("64 KiB", resized(&reserve(GUEST, kind), 0x1_0000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sent(kind: ReservationType) -> Vec<(Who, Request)> {
        let send = |step| match step {
            Step::Send { who, request, .. } => Some((who, request)),
            Step::Clean => None,
        };
        steps(kind).into_iter().filter_map(send).collect()
    }

    #[test]
    fn at_least_sixty_reservation_commands_of_the_guest_for_each_type() {
        for kind in ReservationType::ALL {
            let of_guest =
                |(who, request): &(Who, Request)| *who == Who::Guest && request.cdb[0] >> 1 == 0x2F;
            assert!(sent(kind).iter().filter(|sent| of_guest(sent)).count() >= 60, "{kind}");
        }
    }

    #[test]
    fn every_service_action_is_sent() {
        let actions: HashSet<(u8, u8)> =
            sent(ReservationType(1)).iter().map(|(_, request)| (request.cdb[0], request.cdb[1])).collect();
        let all = (0..4).map(|action| (0x5E, action)).chain((0..9).map(|action| (0x5F, action)));
        all.for_each(|action| assert!(actions.contains(&action), "{action:02x?}"));
    }

    #[test]
    fn nobody_preempts_its_own_key() {
        for (_, request) in sent(ReservationType(7)) {
            if let (0x5F, 4 | 5, DataPhase::Out(list)) = (request.cdb[0], request.cdb[1], &request.data) {
                assert_ne!(list[..8], list[8..16], "{request:?}");
                assert_ne!(list[8..16], [0; 8], "{request:?}");
            }
        }
    }

    #[test]
    fn announced_lengths_are_the_lists_lengths() {
        for (_, request) in sent(ReservationType(3)) {
            if let (0x5F, DataPhase::Out(list)) = (request.cdb[0], &request.data) {
                let announced = u32::from_be_bytes(request.cdb[5..9].try_into().unwrap());
                assert_eq!(announced as usize, list.len());
            }
        }
    }
}
