//! The initiator against the target of this crate over loopback.

use super::{
    Chap, Credentials, DigestOffer, LoginError, Proposal, Session, SessionConfig, SessionError, TaskResponse,
    discover,
};
use crate::pdu::{LoginStatus, Opcode};
use crate::target::{Limits, Target, TargetConfig};
use ::nexus::{Nexus, TransportError};
use logical_unit::{Device, LogicalUnit};
use scsi::pr::request;
use scsi::pr::{InAction, Key};
use scsi::{AdditionalSense, DataPhase, IscsiName, Isid, Request, Status, TransportId, opcode};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.example:disk";

fn name(text: &str) -> IscsiName {
    IscsiName::new(text).unwrap()
}

fn device(luns: &[&str]) -> Device {
    Device::new(luns.iter().map(|lun| LogicalUnit::open(&lun.parse().unwrap()).unwrap()).collect())
}

fn bind(luns: &[&str]) -> Target {
    Target::bind(TargetConfig::new("127.0.0.1:0".parse().unwrap(), name(TARGET), device(luns))).unwrap()
}

fn config(target: &Target, host: &str) -> SessionConfig {
    let mut config = SessionConfig::new(
        target.local_addr().to_string(),
        name(TARGET),
        name(host),
        Isid([2, 0, 0, 0, 0, 1]),
    );
    config.timeouts.command = Duration::from_secs(20);
    config
}

fn login(target: &Target, host: &str) -> Session {
    Session::login(&config(target, host)).unwrap()
}

/// A nexus whose unit attentions of the login are behind it.
fn ready(session: &Session, lun: u64) -> impl Nexus + 'static {
    let mut nexus = session.nexus(lun);
    for _ in 0..8 {
        if nexus.execute(&test_unit_ready()).unwrap().status.is_good() {
            return nexus;
        }
    }
    panic!("the unit attentions do not end");
}

fn test_unit_ready() -> Request {
    Request { cdb: vec![0; 6], data: DataPhase::None }
}

fn transfer_cdb(code: u8, block: u32, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![code, 0];
    cdb.extend(u64::from(block).to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

fn write(block: u32, data: &[u8]) -> Request {
    let blocks = u32::try_from(data.len() / 512).unwrap();
    Request { cdb: transfer_cdb(opcode::WRITE_16, block, blocks), data: DataPhase::Out(data.to_vec()) }
}

fn read(block: u32, length: usize) -> Request {
    let blocks = u32::try_from(length / 512).unwrap();
    Request { cdb: transfer_cdb(opcode::READ_16, block, blocks), data: DataPhase::In(length) }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + i / 512 + seed) % 251).try_into().unwrap()).collect()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn data_arrives_whole_under_every_burst_rule_and_digest() {
    let target = bind(&["memory=16M"]);
    let data = pattern(1_200_128, 0);
    for case in 0..32u32 {
        let bit = |at: u32| case >> at & 1 == 1;
        let digest = if bit(2) { DigestOffer::Require } else { DigestOffer::None };
        let mut config = config(&target, "iqn.host");
        config.proposal = Proposal {
            initial_r2t: bit(0),
            immediate_data: bit(1),
            header_digest: digest,
            data_digest: digest,
            max_recv: if bit(3) { 1000 } else { 262_144 },
            max_burst: if bit(3) { 7000 } else { 1 << 20 },
            first_burst: if bit(3) { 3000 } else { 65536 },
            max_outstanding_r2t: if bit(4) { 1 } else { 8 },
        };
        let session = Session::login(&config).unwrap();
        let parameters = session.parameters();
        assert_eq!((parameters.initial_r2t, parameters.immediate_data), (bit(0), bit(1)));
        assert_eq!((parameters.digests.header, parameters.digests.data), (bit(2), bit(2)));
        let mut nexus = ready(&session, 0);
        for length in [512, 4096, data.len()] {
            let data = pattern(length, case.try_into().unwrap());
            assert_eq!(nexus.execute(&write(8, &data)).unwrap().status, Status::GOOD, "{case} {length}");
            let back = nexus.execute(&read(8, length)).unwrap();
            assert!(back.status.is_good() && back.data == data, "case {case}, {length} bytes");
        }
        session.logout().unwrap();
    }
}

#[test]
fn chap_is_asked_for_and_checked() {
    let credentials = |secret: &str| Credentials { user: "alice".into(), secret: secret.into() };
    let mutual = |own: &str, theirs: &str| {
        Some(Chap { initiator: credentials(own), target: Some(credentials(theirs)) })
    };
    let mut served = TargetConfig::new("127.0.0.1:0".parse().unwrap(), name(TARGET), device(&["memory=1M"]));
    served.chap = mutual("right horse", "proper disk");
    let target = Target::bind(served).unwrap();
    let attempt = |chap| Session::login(&SessionConfig { chap, ..config(&target, "iqn.host") });
    assert!(attempt(mutual("right horse", "proper disk")).is_ok());
    for chap in [None, mutual("wrong horse", "proper disk")] {
        let error = attempt(chap).unwrap_err();
        let refused = LoginStatus::AUTHENTICATION_FAILURE;
        assert!(
            matches!(&error, SessionError::Login(LoginError::Refused(status)) if *status == refused),
            "{error:?}"
        );
    }
    let error = attempt(mutual("right horse", "another disk")).unwrap_err();
    assert!(matches!(error, SessionError::Login(LoginError::Authentication(_))), "{error:?}");
}

#[test]
fn login_to_another_target_is_refused() {
    let target = bind(&["memory=1M"]);
    let error = Session::login(&SessionConfig { target: name("iqn.other"), ..config(&target, "iqn.host") })
        .unwrap_err();
    assert!(
        matches!(error, SessionError::Login(LoginError::Refused(LoginStatus::TARGET_NOT_FOUND))),
        "{error:?}"
    );
}

#[test]
fn discovery_tells_name_and_address() {
    let target = bind(&["memory=1M"]);
    let found = discover(&config(&target, "iqn.host")).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].name.as_str(), &found[0].addresses),
        (TARGET, &vec![format!("{},1", target.local_addr())])
    );
}

#[test]
fn logout_and_reconnection_keep_a_registration_and_the_nexus() {
    let target = bind(&["memory=1M"]);
    let session = login(&target, "iqn.a");
    let key = Key(0xA);
    assert!(ready(&session, 0).execute(&request::register(Key::NONE, key, false)).unwrap().status.is_good());
    session.logout().unwrap();
    assert!(!session.is_open());
    drop(login(&target, "iqn.a"));
    let session = login(&target, "iqn.a");
    let mut nexus = ready(&session, 0);
    assert!(nexus.execute(&request::register(key, key, false)).unwrap().status.is_good(), "the same nexus");
    let port = TransportId::iscsi(name("iqn.a"), Isid([2, 0, 0, 0, 0, 1]));
    assert_eq!(nexus.initiator_port(), Some(port.clone()));
    let status = nexus.execute(&request::read(InAction::READ_FULL_STATUS, 4096)).unwrap().data;
    assert!(status.windows(port.to_bytes().len()).any(|window| window == port.to_bytes()));
    let mut other = config(&target, "iqn.a");
    other.isid = Isid([2, 0, 0, 0, 0, 2]);
    let stranger = Session::login(&other).unwrap();
    let conflict = ready(&stranger, 0).execute(&request::register(key, key, false)).unwrap().status;
    assert_eq!(conflict, Status::RESERVATION_CONFLICT, "another ISID is another nexus");
}

#[test]
fn a_second_login_with_the_same_port_ends_the_first_session() {
    let target = bind(&["memory=1M,delay=30s"]);
    let first = login(&target, "iqn.a");
    let mut waiting = first.nexus(0);
    let stuck = std::thread::spawn(move || waiting.execute(&write(0, &pattern(4096, 0))));
    wait_for("the first command's arrival", || target.memory_in_use() >= 4096);
    let second = login(&target, "iqn.a");
    assert_eq!(target.connections(), 1, "the first session goes on after the login of the second");
    assert!(target.memory_in_use() < 4096, "and so does its command");
    assert!(matches!(stuck.join().unwrap(), Err(TransportError::OutcomeUnknown(_))));
    wait_for("the end of the first session", || !first.is_open());
    assert!(matches!(first.nexus(0).execute(&test_unit_ready()), Err(TransportError::NotSent(_))));
    assert!(second.is_open());
}

#[test]
fn a_login_with_another_name_or_isid_ends_no_session() {
    let target = bind(&["memory=1M"]);
    let first = login(&target, "iqn.a");
    let isid = Isid([2, 0, 0, 0, 0, 2]);
    let sibling = Session::login(&SessionConfig { isid, ..config(&target, "iqn.a") }).unwrap();
    let namesake = login(&target, "iqn.b");
    assert_eq!(target.connections(), 3);
    for session in [first, sibling, namesake] {
        ready(&session, 0);
    }
}

#[test]
fn several_units_and_threads_share_a_session() {
    let target = bind(&["memory=4M", "memory=4M"]);
    let session = login(&target, "iqn.a");
    std::thread::scope(|scope| {
        for worker in 0..4usize {
            let mut nexus = ready(&session, (worker % 2).try_into().unwrap());
            scope.spawn(move || {
                for round in 0..50 {
                    let (data, block) =
                        (pattern(8192, worker * 50 + round), u32::try_from(worker * 16).unwrap());
                    let batch = [write(block, &data), test_unit_ready()];
                    assert!(
                        nexus.execute_all(&batch).iter().all(|done| done.as_ref().unwrap().status.is_good())
                    );
                    assert_eq!(nexus.execute(&read(block, 8192)).unwrap().data, data);
                }
            });
        }
    });
}

#[test]
fn a_pipeline_longer_than_the_command_window_completes_in_order() {
    let target = bind(&["memory=1M"]);
    let session = login(&target, "iqn.a");
    let mut nexus = ready(&session, 0);
    let writes: Vec<_> = (0..600u32).map(|i| write(i, &pattern(512, i.try_into().unwrap()))).collect();
    assert!(nexus.execute_all(&writes).into_iter().all(|done| done.unwrap().status.is_good()));
    let reads: Vec<_> = (0..600u32).map(|i| read(i, 512)).collect();
    for (i, done) in nexus.execute_all(&reads).into_iter().enumerate() {
        assert_eq!(done.unwrap().data, pattern(512, i));
    }
}

#[test]
fn pipelined_commands_share_one_delay() {
    let delay = Duration::from_millis(60);
    let target = bind(&["memory=1M,delay=60ms"]);
    let session = login(&target, "iqn.a");
    let mut nexus = ready(&session, 0);
    let batch: Vec<_> =
        (0..20).map(|i| if i % 2 == 0 { read(i, 512) } else { write(i, &pattern(512, 1)) }).collect();
    let start = Instant::now();
    assert!(nexus.execute_all(&batch).into_iter().all(|done| done.unwrap().status.is_good()));
    let took = start.elapsed();
    assert!(took >= delay && took < 10 * delay, "{took:?}");
}

#[test]
fn sense_residuals_and_missing_units_are_told() {
    let target = bind(&["memory=1M"]);
    let session = login(&target, "iqn.a");
    let mut nexus = ready(&session, 0);
    let beyond = nexus.execute(&read(1 << 20, 512)).unwrap();
    assert_eq!(beyond.decoded_sense().unwrap().code, AdditionalSense::LBA_OUT_OF_RANGE);
    let short = Request { cdb: transfer_cdb(opcode::READ_16, 0, 1), data: DataPhase::In(4096) };
    assert_eq!(nexus.execute(&short).unwrap().data.len(), 512, "underflow");
    let long = Request { cdb: transfer_cdb(opcode::READ_16, 0, 8), data: DataPhase::In(512) };
    assert_eq!(nexus.execute(&long).unwrap().data.len(), 512, "overflow");
    for lun in [1, 300, 20_000, 1 << 40] {
        let missing = session.nexus(lun).execute(&test_unit_ready()).unwrap();
        assert_eq!(missing.decoded_sense().unwrap().code, AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    }
}

#[test]
fn task_management_ends_delayed_commands_and_their_callers() {
    type Function = fn(&Session) -> Result<TaskResponse, SessionError>;
    let functions: [(&str, Function); 4] = [
        ("abort task set", |session| session.abort_task_set(0)),
        ("clear task set", |session| session.clear_task_set(0)),
        ("logical unit reset", |session| session.reset_logical_unit(0)),
        ("warm reset", |session| session.warm_reset()),
    ];
    let target = bind(&["memory=1M,delay=100ms"]);
    for (seed, (what, function)) in functions.into_iter().enumerate() {
        let session = login(&target, "iqn.a");
        drop(ready(&session, 0));
        let mut nexus = session.nexus(0);
        let data = pattern(512, seed + 1);
        let start = Instant::now();
        let stuck = std::thread::spawn(move || nexus.execute(&write(0, &data)));
        // Until the command has gone out the function finds nothing to end and the write succeeds.
        let response = std::iter::repeat_with(|| function(&session).unwrap())
            .find(|_| stuck.is_finished() || start.elapsed() > Duration::from_secs(10));
        assert_eq!(response, Some(TaskResponse::FUNCTION_COMPLETE));
        let outcome = stuck.join().unwrap();
        assert!(matches!(outcome, Err(TransportError::OutcomeUnknown(_))), "{what}: {outcome:?}");
        assert_ne!(
            ready(&session, 0).execute(&read(0, 512)).unwrap().data,
            pattern(512, what.len()),
            "{what}"
        );
    }
    let session = login(&target, "iqn.a");
    assert_eq!(session.abort_task_set(9).unwrap(), TaskResponse::LUN_DOES_NOT_EXIST);
}

#[test]
fn a_timed_out_command_is_aborted_and_never_executed_later() {
    let target = bind(&["memory=1M,delay=300ms", "memory=1M"]);
    let mut patient = config(&target, "iqn.patient");
    patient.timeouts.command = Duration::from_secs(5);
    let observer = Session::login(&patient).unwrap();
    let mut observer = ready(&observer, 0);
    let mut hasty = config(&target, "iqn.hasty");
    hasty.timeouts.command = Duration::from_millis(100);
    let session = Session::login(&hasty).unwrap();
    let outcome = session.nexus(0).execute(&write(0, &pattern(512, 5)));
    assert!(matches!(outcome, Err(TransportError::OutcomeUnknown(_))), "{outcome:?}");
    assert!(session.is_open(), "the abort was answered, so the session is sound");
    assert!(ready(&session, 1).execute(&read(0, 512)).is_ok());
    // Reading takes the delay too, so the write's time is over when the answer comes.
    assert_ne!(observer.execute(&read(0, 512)).unwrap().data, pattern(512, 5));
}

/// A way to the target on which every task management function is refused.
fn refusing_aborts(target: &Target) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, upstream) = (listener.local_addr().unwrap(), target.local_addr());
    std::thread::spawn(move || {
        let (mut initiator, _) = listener.accept().unwrap();
        let mut target = TcpStream::connect(upstream).unwrap();
        let (mut from, mut to) = (initiator.try_clone().unwrap(), target.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
        let mut pdu = [0; 1 << 12];
        // There is one answer at a time.
        while let Ok(length @ 1..) = target.read(&mut pdu) {
            if Opcode::of(pdu.first_chunk().unwrap()) == Opcode::TASK_MANAGEMENT_RESPONSE {
                pdu[2] = 255;
            }
            let _ = initiator.write_all(&pdu[..length]);
        }
    });
    address
}

#[test]
fn a_session_whose_target_refuses_to_abort_a_command_is_given_up() {
    let target = bind(&["memory=1M,delay=300ms"]);
    let mut hasty = config(&target, "iqn.hasty");
    hasty.portal = refusing_aborts(&target).to_string();
    hasty.timeouts.command = Duration::from_millis(100);
    let session = Session::login(&hasty).unwrap();
    let outcome = session.nexus(0).execute(&write(0, &pattern(512, 5)));
    assert!(matches!(outcome, Err(TransportError::OutcomeUnknown(_))), "{outcome:?}");
    assert!(!session.is_open(), "the command may still be executed");
}

#[test]
fn cold_reset_drops_every_session() {
    let target = bind(&["memory=1M"]);
    let (one, other) = (login(&target, "iqn.a"), login(&target, "iqn.b"));
    assert_eq!(one.cold_reset().unwrap(), TaskResponse::FUNCTION_COMPLETE);
    wait_for("the end of both sessions", || !one.is_open() && !other.is_open());
    assert!(login(&target, "iqn.a").is_open());
}

#[test]
fn a_lost_target_makes_commands_not_sent() {
    let target = bind(&["memory=1M"]);
    let session = login(&target, "iqn.a");
    let mut nexus = ready(&session, 0);
    target.shutdown();
    wait_for("the end of the session", || !session.is_open());
    let outcomes = nexus.execute_all(&[test_unit_ready(), test_unit_ready()]);
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, Err(TransportError::NotSent(_)))),
        "{outcomes:?}"
    );
}

#[test]
fn a_ping_of_the_target_is_answered_by_an_idle_session() {
    let mut served = TargetConfig::new("127.0.0.1:0".parse().unwrap(), name(TARGET), device(&["memory=1M"]));
    served.limits = Limits { ping: Duration::from_millis(50), ..Limits::default() };
    let target = Target::bind(served).unwrap();
    let session = login(&target, "iqn.a");
    let idle_until = Instant::now() + Duration::from_millis(400);
    wait_for("the idle time's end", || Instant::now() > idle_until);
    assert!(session.is_open());
    assert_eq!(target.connections(), 1);
}

#[test]
fn nobody_listening_is_a_connect_error() {
    let target = bind(&["memory=1M"]);
    let config = config(&target, "iqn.a");
    target.shutdown();
    assert!(matches!(Session::login(&config), Err(SessionError::Connect(_))));
}
