//! The transition table of the PERSISTENT RESERVE OUT service actions (SPC-4 5.13), row by row.
//! Nexuses in the rows: A sends nothing but what sets the stage unless it is the sender.

use super::harness::*;
use logical_unit::NexusId;
use logical_unit::profile::SPC;
use scsi::pr::request::*;
use scsi::pr::{Key, MoveParameters, ReservationType};
use scsi::{Request, Status};

type Told = (u8, u8);
type Stage = (&'static [(NexusId, Key)], Option<(NexusId, ReservationType)>);

/// One row: a state, a command, and everything that follows from it.
struct Row {
    what: &'static str,
    registered: &'static [(NexusId, Key)],
    held: Option<(NexusId, ReservationType)>,
    sender: NexusId,
    request: Request,
    status: Status,
    keys: [Key; 4],
    holds: Option<(ReservationType, &'static [NexusId])>,
    told: &'static [(NexusId, Told)],
    counts: u32,
}

const GOOD: Status = Status::GOOD;
const CONFLICT: Status = Status::RESERVATION_CONFLICT;
const CHECK: Status = Status::CHECK_CONDITION;
const THREE: &[(NexusId, Key)] = &[(A, K), (B, KB), (C, KC)];

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
fn row(
    what: &'static str,
    (registered, held): Stage,
    (sender, request): (NexusId, Request),
    status: Status,
    keys: [Key; 4],
    holds: Option<(ReservationType, &'static [NexusId])>,
    told: &'static [(NexusId, Told)],
    counts: u32,
) -> Row {
    Row { what, registered, held, sender, request, status, keys, holds, told, counts }
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let mut lun = Lun::with(&SPC, row.registered);
        if let Some((holder, kind)) = row.held {
            let key = lun.unit.reservations().key_of(holder);
            lun.good(holder, &reserve(key, kind));
        }
        let generation = lun.generation();
        let status = lun.send(row.sender, &row.request).status;
        let mut told: [Vec<Told>; 4] = Default::default();
        row.told.iter().for_each(|(nexus, code)| told[nexus.0 as usize].push(*code));
        let holds = row.holds.map(|(kind, holders)| (kind, holders.to_vec()));
        assert_eq!(status, row.status, "{}", row.what);
        assert_eq!((lun.keys(), lun.held()), (row.keys, holds), "{}", row.what);
        assert_eq!(lun.waiting(), told, "{}", row.what);
        assert_eq!(lun.generation() - generation, row.counts, "{}: PRGENERATION", row.what);
    }
}

#[test]
#[rustfmt::skip]
fn register_rows() {
    let all = [K, KB, KC, NONE];
    let ignore = register_and_ignore;
    check(vec![
        row("no-op", (THREE, None), (D, register(NONE, NONE, false)), GOOD, all, None, &[], 1),
        row("no-op, ignoring", (THREE, None), (D, ignore(NONE, false)), GOOD, all, None, &[], 1),
        row("new", (THREE, None), (D, register(NONE, KD, false)), GOOD, [K, KB, KC, KD], None, &[], 1),
        row("new, a shared key", (THREE, None), (D, ignore(K, false)), GOOD, [K, KB, KC, K], None, &[], 1),
        row("new with a key to verify", (THREE, None), (D, register(KD, KD, false)), CONFLICT, all, None, &[], 0),
        row("wrong key", (THREE, None), (A, register(KB, KD, false)), CONFLICT, all, None, &[], 0),
        row("no key though registered", (THREE, None), (A, register(NONE, KD, false)), CONFLICT, all, None, &[], 0),
        row("another key, holding", (THREE, Some((A, EA))), (A, register(K, KD, false)),
            GOOD, [KD, KB, KC, NONE], Some((EA, &[A])), &[], 1),
        row("another key, ignoring", (THREE, Some((A, WE_RO))), (A, ignore(KD, false)),
            GOOD, [KD, KB, KC, NONE], Some((WE_RO, &[A])), &[], 1),
        row("unregister the holder, WE", (THREE, Some((A, WE))), (A, register(K, NONE, false)),
            GOOD, [NONE, KB, KC, NONE], None, &[], 1),
        row("unregister the holder, EA-RO", (THREE, Some((A, EA_RO))), (A, ignore(NONE, false)),
            GOOD, [NONE, KB, KC, NONE], None, &[(B, RELEASED), (C, RELEASED)], 1),
        row("unregister a bystander", (THREE, Some((A, WE_RO))), (B, register(KB, NONE, false)),
            GOOD, [K, NONE, KC, NONE], Some((WE_RO, &[A])), &[], 1),
        row("unregister one of all", (THREE, Some((A, WE_AR))), (A, register(K, NONE, false)),
            GOOD, [NONE, KB, KC, NONE], Some((WE_AR, &[B, C])), &[], 1),
        row("unregister the last of all", (&[(A, K)], Some((A, EA_AR))), (A, register(K, NONE, false)),
            GOOD, [NONE; 4], None, &[], 1),
    ]);
}

#[test]
#[rustfmt::skip]
fn reserve_and_release_rows() {
    let all = [K, KB, KC, NONE];
    check(vec![
        row("reserve", (THREE, None), (B, reserve(KB, EA)), GOOD, all, Some((EA, &[B])), &[], 0),
        row("reserve for all", (THREE, None), (B, reserve(KB, WE_AR)), GOOD, all, Some((WE_AR, &[A, B, C])), &[], 0),
        row("reserve again", (THREE, Some((B, EA))), (B, reserve(KB, EA)), GOOD, all, Some((EA, &[B])), &[], 0),
        row("reserve another type", (THREE, Some((B, EA))), (B, reserve(KB, WE)),
            CONFLICT, all, Some((EA, &[B])), &[], 0),
        row("reserve what is held", (THREE, Some((B, WE_RO))), (A, reserve(K, WE_RO)),
            CONFLICT, all, Some((WE_RO, &[B])), &[], 0),
        row("reserve unregistered", (THREE, None), (D, reserve(KD, WE)), CONFLICT, all, None, &[], 0),
        row("reserve with a wrong key", (THREE, None), (A, reserve(KB, WE)), CONFLICT, all, None, &[], 0),
        row("release nothing", (THREE, None), (A, release(K, WE)), GOOD, all, None, &[], 0),
        row("release another's", (THREE, Some((B, EA))), (A, release(K, EA)), GOOD, all, Some((EA, &[B])), &[], 0),
        row("release EA", (THREE, Some((B, EA))), (B, release(KB, EA)), GOOD, all, None, &[], 0),
        row("release WE-RO", (THREE, Some((B, WE_RO))), (B, release(KB, WE_RO)),
            GOOD, all, None, &[(A, RELEASED), (C, RELEASED)], 0),
        row("release EA-AR", (THREE, Some((B, EA_AR))), (A, release(K, EA_AR)),
            GOOD, all, None, &[(B, RELEASED), (C, RELEASED)], 0),
        row("release another type", (THREE, Some((B, EA))), (B, release(KB, WE)),
            CHECK, all, Some((EA, &[B])), &[], 0),
        row("clear", (THREE, Some((B, EA))), (A, clear(K)),
            GOOD, [NONE; 4], None, &[(B, PREEMPTED), (C, PREEMPTED)], 1),
        row("clear with a wrong key", (THREE, Some((B, EA))), (A, clear(KB)), CONFLICT, all, Some((EA, &[B])), &[], 0),
    ]);
}

#[test]
#[rustfmt::skip]
fn preempt_rows() {
    const SHARED: &[(NexusId, Key)] = &[(A, K), (B, K), (C, KC)];
    let all = [K, KB, KC, NONE];
    check(vec![
        row("all, no key", (THREE, Some((A, WE_AR))), (B, preempt(KB, NONE, EA)),
            GOOD, [NONE, KB, NONE, NONE], Some((EA, &[B])), &[(A, REGISTRATION_GONE), (C, REGISTRATION_GONE)], 1),
        row("all, a key", (THREE, Some((A, WE_AR))), (B, preempt(KB, KC, EA)),
            GOOD, [K, KB, NONE, NONE], Some((WE_AR, &[A, B])), &[(C, REGISTRATION_GONE)], 1),
        row("the holder's key", (THREE, Some((A, EA))), (B, preempt(KB, K, EA)),
            GOOD, [NONE, KB, KC, NONE], Some((EA, &[B])), &[(A, REGISTRATION_GONE)], 1),
        row("the holder's key, another type", (THREE, Some((A, EA))), (B, preempt(KB, K, WE_RO)),
            GOOD, [NONE, KB, KC, NONE], Some((WE_RO, &[B])), &[(A, REGISTRATION_GONE), (C, RELEASED)], 1),
        row("the holder's key, for all", (THREE, Some((A, EA))), (B, preempt(KB, K, EA_AR)),
            GOOD, [NONE, KB, KC, NONE], Some((EA_AR, &[B, C])), &[(A, REGISTRATION_GONE), (C, RELEASED)], 1),
        row("the holder's key is the sender's", (SHARED, Some((A, EA))), (B, preempt(K, K, EA)),
            GOOD, [NONE, K, KC, NONE], Some((EA, &[B])), &[(A, REGISTRATION_GONE)], 1),
        row("a bystander's key", (THREE, Some((A, EA))), (B, preempt(KB, KC, WE)),
            GOOD, [K, KB, NONE, NONE], Some((EA, &[A])), &[(C, REGISTRATION_GONE)], 1),
        row("a key without reservation", (SHARED, None), (C, preempt(KC, K, WE)),
            GOOD, [NONE, NONE, KC, NONE], None, &[(A, REGISTRATION_GONE), (B, REGISTRATION_GONE)], 1),
        row("own key without reservation", (SHARED, None), (A, preempt(K, K, WE)),
            GOOD, [NONE, NONE, KC, NONE], None, &[(B, REGISTRATION_GONE)], 1),
        row("no key, single holder", (THREE, Some((A, EA))), (B, preempt(KB, NONE, EA)),
            CHECK, all, Some((EA, &[A])), &[], 0),
        row("no key, no reservation", (THREE, None), (B, preempt(KB, NONE, EA)), CHECK, all, None, &[], 0),
        row("unknown key", (THREE, Some((A, EA))), (B, preempt(KB, KD, EA)),
            CONFLICT, all, Some((EA, &[A])), &[], 0),
        row("abort as well", (THREE, Some((A, EA))), (B, preempt_and_abort(KB, K, EA)),
            GOOD, [NONE, KB, KC, NONE], Some((EA, &[B])), &[(A, REGISTRATION_GONE)], 1),
    ]);
}

#[test]
#[rustfmt::skip]
fn move_and_replace_rows() {
    let to_d = |unregister| register_and_move(&MoveParameters {
        reservation_key: K, service_action_key: KD, unregister, aptpl: false,
        relative_target_port: 1, initiator_port: port("d"),
    });
    let all = [K, KB, KC, NONE];
    check(vec![
        row("move", (THREE, Some((A, EA))), (A, to_d(false)), GOOD, [K, KB, KC, KD], Some((EA, &[D])), &[], 1),
        row("move and go", (THREE, Some((A, WE_RO))), (A, to_d(true)),
            GOOD, [NONE, KB, KC, KD], Some((WE_RO, &[D])), &[], 1),
        row("move one of all", (THREE, Some((A, WE_AR))), (A, to_d(true)),
            CONFLICT, all, Some((WE_AR, &[A, B, C])), &[], 0),
        row("move another's", (THREE, Some((B, EA))), (A, to_d(true)), CONFLICT, all, Some((EA, &[B])), &[], 0),
        row("move nothing", (THREE, None), (A, to_d(true)), CHECK, all, None, &[], 0),
        row("replace what is not lost", (THREE, None), (D, replace_lost(KD, EA)), CONFLICT, all, None, &[], 0),
    ]);
}
