//! The commands of a handover, exactly those that `handover` and its driver send: INQUIRY (standard data, VPD page 83h), REPORT
//! SUPPORTED OPERATION CODES for REGISTER AND MOVE, the four service actions of PERSISTENT RESERVE IN, and of PERSISTENT
//! RESERVE OUT REGISTER, PREEMPT, PREEMPT AND ABORT and REGISTER AND MOVE for the sender's own nexus. Whoever gets hold of
//! the agent's socket can neither read nor write data with it, nor CLEAR or RESERVE anything.
//!
//! Pure; used by `service` before it looks at the descriptor.

use super::frame::Role;
use scsi::pr::{MoveParameters, OutAction};
use scsi::{DataPhase, Request, opcode};

/// Bytes of a parameter list without TransportIDs (SPC-4 6.16.3).
const BASIC_LENGTH: usize = 24;
/// Its byte with SPEC_I_PT, ALL_TG_PT and APTPL, of which only the last concerns the sender's nexus alone.
const FLAGS: usize = 20;
const APTPL: u8 = 0x01;
/// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), and its form for one command with a service action.
const REPORT_SUPPORTED: u8 = 0x0C;
const ONE_ACTION: u8 = 0x02;

/// Why a command is none of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Another command, or one with bits that no handover sets.
    #[error("no handover sends this command")]
    Command,
    /// The agent takes it for another kind than it is.
    #[error("the command is not what the agent takes it for, a {0}")]
    Role(&'static str),
    /// The lengths beside the CDB and in it differ.
    #[error("the CDB speaks of {cdb} bytes, and the request of {request}")]
    Length {
        /// The CDB's.
        cdb: usize,
        /// The request's.
        request: usize,
    },
    /// A parameter list that registers other nexuses, or is none.
    #[error("no handover sends this parameter list")]
    Parameters,
}

/// The command, ready to be sent.
///
/// # Errors
/// [`NotAllowed`].
pub fn request(role: Role, cdb: &[u8], data_out: &[u8], allocation: usize) -> Result<Request, NotAllowed> {
    let (actual, length) = shape(cdb).ok_or(NotAllowed::Command)?;
    if role != actual {
        return Err(NotAllowed::Role(if role == Role::Query { "query" } else { "change" }));
    }
    let (out, incoming) = if actual == Role::Change { (length, 0) } else { (0, length) };
    for (cdb, request) in [(out, data_out.len()), (incoming, allocation)] {
        if cdb != request {
            return Err(NotAllowed::Length { cdb, request });
        }
    }
    let data = match actual {
        Role::Change => DataPhase::Out(parameters(cdb, data_out)?),
        Role::Query => DataPhase::In(allocation),
    };
    Ok(Request { cdb: cdb.to_vec(), data })
}

/// What a CDB does, and how much data it speaks of.
fn shape(cdb: &[u8]) -> Option<(Role, usize)> {
    const MOVE: u8 = OutAction::REGISTER_AND_MOVE.0;
    let (role, length) = match *cdb {
        [opcode::INQUIRY, 0, 0, high, low, 0] | [opcode::INQUIRY, 1, 0x83, high, low, 0] => {
            (Role::Query, [0, 0, high, low])
        }
        [
            opcode::MAINTENANCE_IN,
            REPORT_SUPPORTED,
            ONE_ACTION,
            opcode::PERSISTENT_RESERVE_OUT,
            0,
            MOVE,
            a,
            b,
            c,
            d,
            0,
            0,
        ] => (Role::Query, [a, b, c, d]),
        [opcode::PERSISTENT_RESERVE_IN, 0..=3, 0, 0, 0, 0, 0, high, low, 0] => {
            (Role::Query, [0, 0, high, low])
        }
        [opcode::PERSISTENT_RESERVE_OUT, action, 0..=0x0F, 0, 0, a, b, c, d, 0]
            if is_sent(OutAction(action)) =>
        {
            (Role::Change, [a, b, c, d])
        }
        _ => return None,
    };
    Some((role, usize::try_from(u32::from_be_bytes(length)).ok()?))
}

const fn is_sent(action: OutAction) -> bool {
    matches!(
        action,
        OutAction::REGISTER
            | OutAction::PREEMPT
            | OutAction::PREEMPT_AND_ABORT
            | OutAction::REGISTER_AND_MOVE
    )
}

fn parameters(cdb: &[u8], list: &[u8]) -> Result<Vec<u8>, NotAllowed> {
    let fits = if cdb.get(1) == Some(&OutAction::REGISTER_AND_MOVE.0) {
        MoveParameters::parse(list).is_ok()
    } else {
        list.len() == BASIC_LENGTH && list.get(FLAGS).is_some_and(|flags| flags & !APTPL == 0)
    };
    if fits { Ok(list.to_vec()) } else { Err(NotAllowed::Parameters) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use scsi::pr::{self, BasicParameters, InAction, Key, ReservationType};
    use scsi::{IscsiName, Isid, TransportId};

    const KIND: ReservationType = ReservationType(5);

    fn role(request: &Request) -> Role {
        if matches!(request.data, DataPhase::Out(_)) { Role::Change } else { Role::Query }
    }

    fn judged(wanted: &Request) -> Result<Request, NotAllowed> {
        match &wanted.data {
            DataPhase::Out(list) => request(role(wanted), &wanted.cdb, list, 0),
            DataPhase::In(length) => request(role(wanted), &wanted.cdb, &[], *length),
            DataPhase::None => request(role(wanted), &wanted.cdb, &[], 0),
        }
    }

    fn data_in(cdb: &[u8], length: usize) -> Request {
        Request { cdb: cdb.to_vec(), data: DataPhase::In(length) }
    }

    fn port() -> TransportId {
        TransportId::iscsi(IscsiName::new("iqn.2026-11.test:d").unwrap(), Isid([0x80, 0, 0, 0, 0, 1]))
    }

    /// What the engine's orders and the driver's own INQUIRY look like.
    fn sent() -> Vec<Request> {
        let parameters = pr::MoveParameters {
            reservation_key: Key(1),
            service_action_key: Key(1),
            unregister: true,
            aptpl: true,
            relative_target_port: 1,
            initiator_port: port(),
        };
        vec![
            data_in(&[0x12, 0, 0, 0, 96, 0], 96),
            data_in(&[0x12, 0, 0, 0, 36, 0], 36),
            data_in(&[0x12, 1, 0x83, 4, 0, 0], 1024),
            data_in(&[0xA3, 0x0C, 2, 0x5F, 0, 7, 0, 0, 0, 64, 0, 0], 64),
            pr::request::read(InAction::READ_KEYS, u16::MAX),
            pr::request::read(InAction::READ_RESERVATION, 24),
            pr::request::read(InAction::REPORT_CAPABILITIES, 8),
            pr::request::read(InAction::READ_FULL_STATUS, u16::MAX),
            pr::request::register(Key(1), Key(2), true),
            pr::request::preempt(Key(1), Key(2), KIND),
            pr::request::preempt_and_abort(Key(1), Key(2), KIND),
            pr::request::register_and_move(&parameters),
        ]
    }

    #[test]
    fn all_that_a_handover_sends_passes_as_it_is() {
        for wanted in sent() {
            assert_eq!(judged(&wanted).as_ref(), Ok(&wanted));
        }
    }

    #[test]
    fn other_commands_do_not_pass() {
        for cdb in [
            &[0x00, 0, 0, 0, 0, 0][..],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x12, 1, 0x80, 0, 64, 0],
            &[0x12, 0, 0x83, 0, 64, 0],
            &[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
            &[0xA3, 0x0C, 2, 0x2A, 0, 7, 0, 0, 0, 64, 0, 0],
            &[0x5E, 4, 0, 0, 0, 0, 0, 0, 8, 0],
            &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
            &[],
        ] {
            assert_eq!(request(Role::Query, cdb, &[], 64), Err(NotAllowed::Command), "{cdb:02x?}");
        }
        for wanted in [
            pr::request::reserve(Key(1), KIND),
            pr::request::release(Key(1), KIND),
            pr::request::clear(Key(1)),
            pr::request::register_and_ignore(Key(1), false),
            pr::request::replace_lost(Key(1), KIND),
        ] {
            assert_eq!(judged(&wanted), Err(NotAllowed::Command));
        }
    }

    #[test]
    fn a_change_under_the_name_of_a_query_does_not_pass_nor_the_other_way_round() {
        let change = pr::request::register(Key(1), Key(2), false);
        let DataPhase::Out(list) = &change.data else { panic!("a list") };
        assert_eq!(request(Role::Query, &change.cdb, list, 0), Err(NotAllowed::Role("query")));
        let query = pr::request::read(InAction::READ_KEYS, 8);
        assert_eq!(request(Role::Change, &query.cdb, &[], 8), Err(NotAllowed::Role("change")));
    }

    #[test]
    fn nobody_elses_nexus_is_registered() {
        for bit in 1..8 {
            let mut list = BasicParameters { service_action_key: Key(2), ..Default::default() }.to_bytes();
            list[FLAGS] = 1 << bit;
            let cdb = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
            assert_eq!(request(Role::Change, &cdb, &list, 0), Err(NotAllowed::Parameters));
        }
        let longer = [0x5F, 0, 0, 0, 0, 0, 0, 0, 25, 0];
        assert_eq!(request(Role::Change, &longer, &[0; 25], 0), Err(NotAllowed::Parameters));
    }

    #[test]
    fn lengths_that_differ_do_not_pass() {
        let query = pr::request::read(InAction::READ_KEYS, 8);
        let length = NotAllowed::Length { cdb: 8, request: 9 };
        assert_eq!(request(Role::Query, &query.cdb, &[], 9), Err(length));
        let with_data = NotAllowed::Length { cdb: 0, request: 1 };
        assert_eq!(request(Role::Query, &query.cdb, &[0], 8), Err(with_data));
        let change = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        assert_eq!(
            request(Role::Change, &change, &[0; 23], 0),
            Err(NotAllowed::Length { cdb: 24, request: 23 })
        );
    }

    proptest! {
        /// One bit off, and it is no command of a handover, or another one that is.
        #[test]
        fn only_lengths_keys_actions_and_types_of_a_cdb_may_differ(which in 0..12_usize, byte in 0..12_usize, bit in 0..8_u8) {
            let mut wanted = sent().swap_remove(which);
            prop_assume!(byte < wanted.cdb.len());
            wanted.cdb[byte] ^= 1 << bit;
            if let Ok(request) = judged(&wanted) {
                let is_pr = matches!(request.cdb[0], 0x5E | 0x5F);
                prop_assert!(is_pr && byte == 1 || request.cdb[0] == 0x5F && byte == 2, "{:02x?}", request.cdb);
            }
        }
    }
}
