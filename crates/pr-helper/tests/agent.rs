//! A handover's commands from the agent's [`Client`] over the socket to a device server in process: what passes, what does not,
//! what hostile agents cost, and what the guest finds afterwards.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use handover::Tracked;
use ledger::{Change, HandoverId, State};
use nexus::{Nexus, TransportError};
use pr_helper::Client;
use pr_helper::agent::Answer;
use pr_helper::policy::Rules;
use pr_helper::server::Limits;
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Sense, SenseKey, Status};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::agent::*;
use support::{PATIENCE, wait_until};

#[test]
fn a_handovers_commands_reach_the_device_and_are_audited_as_its_own() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    assert_eq!(client.execute(&rekey()).unwrap().status, Status::GOOD);
    assert_eq!(client.execute(&rekey()).unwrap().status, Status::RESERVATION_CONFLICT);
    let keys = client.execute(&read_keys()).unwrap();
    assert_eq!((keys.status, &keys.data[8..16]), (Status::GOOD, &NONCE.0.to_be_bytes()[..]));
    let page = Request { cdb: vec![0x12, 1, 0x83, 4, 0, 0], data: DataPhase::In(1024) };
    assert_eq!(client.execute(&page).unwrap().data[1], 0x83);
    assert_eq!(bench.told(), ["REGISTER Some(7) GOOD None", "REGISTER Some(7) RESERVATION CONFLICT None"]);
}

#[test]
fn a_change_without_its_handover_in_the_record_reaches_no_device() {
    let bench = Bench::holder();
    let mut client = bench.client(ID);
    let sent = bench.reaching(|| {
        let why = refusal(client.execute(&rekey()));
        assert!(why.contains("the record says active"), "{why}");
        for state in [State::Moved, State::Fenced, State::Lost, State::Unverified] {
            bench.state(state, ID);
            let why = refusal(client.execute(&rekey()));
            assert!(why.contains(&format!("the record says {state}")), "{why}");
        }
        bench.state(State::Handover, HandoverId(8));
        let why = refusal(client.execute(&rekey()));
        assert!(why.contains("under way, not 00000000000000000000000000000007"), "{why}");
    });
    assert_eq!(sent, 0);
    let told = bench.told();
    assert_eq!(told.len(), 6);
    assert!(told.iter().all(|one| one.starts_with("REGISTER Some(7) CHECK CONDITION Some(")), "{told:?}");
}

#[test]
fn a_handover_that_ends_ends_the_agents_way_at_once() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    assert_eq!(client.execute(&request::register(KEY, KEY, false)).unwrap().status, Status::GOOD);
    bench.state(State::Active, ID);
    refusal(client.execute(&request::register(KEY, KEY, false)));
}

#[test]
fn a_query_needs_a_record_and_during_a_handover_its_id() {
    let bench = Bench::new();
    let mut client = bench.client(ID);
    let why = refusal(client.execute(&read_keys()));
    assert!(why.contains("no record of naa.6"), "{why}");
    bench.hold();
    assert_eq!(client.execute(&read_keys()).unwrap().status, Status::GOOD, "a plan while the guest runs");
    bench.state(State::Handover, HandoverId(8));
    let why = refusal(client.execute(&read_keys()));
    assert!(why.starts_with("handover 00000000000000000000000000000008 is under way"), "{why}");
}

#[test]
fn what_no_handover_sends_reaches_no_device() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    let block = Request { cdb: vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], data: DataPhase::In(512) };
    let sent = bench.reaching(|| {
        for request in [block, request::clear(KEY), request::reserve(KEY, KIND)] {
            assert_eq!(refusal(client.execute(&request)), "no handover sends this command");
        }
    });
    assert_eq!(sent, 0);
}

#[test]
fn policy_and_multipath_are_asked() {
    let rules = |text: &str| -> Rules { toml::from_str(&format!("version = 1\n{text}")).unwrap() };
    let refused = [
        (rules("migrate = 'off'"), false, "`migrate` is off"),
        (rules("default = 'refuse'"), false, "policy, default"),
        (Rules::default(), true, "dm-multipath"),
    ];
    for (rules, multipath, expected) in refused {
        let bench = Bench::with(rules, multipath, Limits::default());
        bench.state(State::Handover, ID);
        let why = refusal(bench.client(ID).execute(&rekey()));
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_unit_attention_goes_to_the_agent_and_what_it_records_as_owed_to_the_guest_once() {
    let mut bench = Bench::holder();
    bench.state(State::Handover, ID);
    assert_eq!(bench.foreign(&request::register(Key::NONE, OTHER, false)), Status::GOOD);
    assert_eq!(bench.foreign(&request::preempt(OTHER, KEY, KIND)), Status::GOOD);
    let told = bench.client(ID).execute(&read_keys()).unwrap();
    assert_eq!(told.decoded_sense().map(|sense| sense.code), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    // The service has served this guest before: what it knew is not the last word.
    bench.change(Change::Owed { path: path(), sense: Some(told.sense.clone()) });
    bench.state(State::Active, ID);
    assert_eq!(bench.guest(&read_keys()).sense, told.sense);
    assert_eq!(bench.guest(&read_keys()).status, Status::GOOD);
    assert_eq!(
        bench.ledger.refresh().map(|()| bench.ledger.record(&lun())).unwrap().unwrap().paths[0].owed,
        [] as [Vec<u8>; 0]
    );
}

#[test]
fn a_unit_attention_that_a_question_about_the_devices_name_took_is_the_agents() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    let mut next = |ended: Completion| {
        *bench.unopened.lock().unwrap() = Some(ended);
        client.execute(&read_keys())
    };
    let told =
        Completion::check(&Sense::new(SenseKey::UNIT_ATTENTION, AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(next(told.clone()).unwrap(), told);
    let busy = next(Completion::status(Status::BUSY));
    assert!(
        matches!(busy, Err(TransportError::NotSent(why)) if why.to_string().ends_with("which it is: BUSY"))
    );
    assert_eq!(refusal(next(pr_helper::failure::not_a_device())), "no SCSI device");
    assert_eq!(refusal(next(pr_helper::failure::not_allowed())), "no SCSI device opened for writing");
}

/// The record says the same as before the handover and so does what the service remembers, but not the device.
#[test]
fn after_a_handover_the_device_is_asked_before_the_guests_next_command() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    assert_eq!(client.execute(&request::register(KEY, Key::NONE, false)).unwrap().status, Status::GOOD);
    bench.state(State::Active, ID);
    assert_eq!(bench.guest(&request::register(Key::NONE, OTHER, false)).status, Status::GOOD);
    bench.ledger.refresh().unwrap();
    let record = bench.ledger.record(&lun()).unwrap();
    let fenced = Change::State { state: State::Fenced, handover: Some(ID), why: None };
    let was = |past: &ledger::Past| matches!((&past.change, &fenced), (Change::State { state: a, .. }, Change::State { state: b, .. }) if a == b);
    assert!(
        record.history.iter().any(was),
        "the loss was found before the command, and not taken for its work"
    );
    assert_eq!(record.paths[0].tracked.key, Some(OTHER));
}

#[test]
fn after_a_rollback_with_its_commit_the_guest_goes_on_where_it_was() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    for request in [rekey(), request::register(NONCE, KEY, false)] {
        assert_eq!(client.execute(&request).unwrap().status, Status::GOOD);
    }
    let tracked = Tracked { key: Some(KEY), held: Some(KIND), ..Tracked::default() };
    bench.change(Change::Commit { path: path(), tracked, generation: None });
    bench.state(State::Active, ID);
    assert_eq!(bench.guest(&request::release(KEY, KIND)).status, Status::GOOD);
    bench.ledger.refresh().unwrap();
    assert_eq!(bench.ledger.record(&lun()).unwrap().standing(), State::Active);
}

#[test]
fn a_request_in_any_fragments_is_one_and_what_cannot_be_framed_closes_the_connection() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut raw = Raw::connect(&bench);
    let bytes = bytes();
    raw.send(&bytes[..1], 0).unwrap();
    raw.send(&bytes[1..50], 1).unwrap();
    raw.send(&bytes[50..], 0).unwrap();
    assert_eq!(raw.answer(), Answer::Completion(Completion::good(vec![])));
    let mut long = bytes.clone();
    long[22] = 0x20;
    let mut strange = bytes.clone();
    strange[16] = 9;
    let sent = bench.reaching(|| {
        for (what, bytes, fds) in [
            ("no descriptor", &bytes, 0),
            ("two descriptors", &bytes, 2),
            ("hundreds of descriptors", &bytes, 253),
            ("a list above the limit", &long, 1),
            ("no role", &strange, 1),
        ] {
            let mut raw = Raw::connect(&bench);
            raw.send(bytes, fds).unwrap();
            assert!(raw.is_closed(), "{what}");
        }
    });
    assert_eq!(sent, 0);
}

#[test]
fn another_protocol_or_version_closes_the_connection() {
    let bench = Bench::new();
    for hello in [*b"tenure\0\x02", *b"tenure\0\0", [0; 8]] {
        let mut stream = UnixStream::connect(&bench.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(&hello).unwrap();
        assert!(Raw(stream).is_closed());
    }
}

/// Users are per thread, for the kernel.
#[test]
fn another_user_gets_not_even_a_hello() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root, and so no other user can be become");
        return;
    }
    let bench = Bench::holder();
    let all = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(bench.socket.parent().unwrap(), all(0o755)).unwrap();
    std::fs::set_permissions(&bench.socket, all(0o777)).unwrap();
    let as_nobody = |mut client: Client| {
        let nobody = rustix::process::Uid::from_raw(65534);
        std::thread::spawn(move || {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            client.execute(&read_keys())
        })
    };
    let refused = as_nobody(bench.client(ID)).join().unwrap();
    assert!(
        matches!(refused, Err(TransportError::NotSent(error)) if error.to_string().contains("--agent-user"))
    );
    assert_eq!(bench.client(ID).execute(&read_keys()).unwrap().status, Status::GOOD);
}

#[test]
fn an_agent_that_stalls_at_any_byte_is_closed_and_nothing_of_its_request_is_sent() {
    let limits = Limits { deadline: Duration::from_millis(100), ..Limits::default() };
    let bench = Bench::with(Rules::default(), false, limits);
    bench.hold();
    bench.state(State::Handover, ID);
    let bytes = bytes();
    let sent = bench.reaching(|| {
        let stalled = (1..bytes.len()).map(|at| {
            let raw = Raw::connect(&bench);
            raw.send(&bytes[..at], 1).unwrap();
            raw
        });
        stalled.collect::<Vec<_>>().iter_mut().for_each(|raw| assert!(raw.is_closed()));
    });
    assert_eq!(sent, 0);
}

#[test]
fn an_agent_that_disconnects_does_not_stop_its_command_which_is_over_before_the_next_and_audited() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let (begun, end) = gate(&bench);
    let raw = Raw::connect(&bench);
    raw.send(&bytes(), 1).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    drop(raw);
    let mut again = bench.client(ID);
    let next = std::thread::spawn(move || again.execute(&read_keys()));
    // The next one waits for the first, whoever sent it; only then does it begin.
    assert!(begun.recv_timeout(Duration::from_millis(50)).is_err());
    end.send(()).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    end.send(()).unwrap();
    let keys = next.join().unwrap().unwrap();
    assert_eq!(keys.data[8..16], NONCE.0.to_be_bytes());
    // Its own thread tells it, when the next one may be under way.
    wait_until("it is audited", || !bench.told.0.lock().unwrap().is_empty());
    assert_eq!(bench.told(), ["REGISTER Some(7) GOOD None"]);
}

#[test]
fn a_client_that_waited_long_enough_has_an_unknown_outcome() {
    let bench = Bench::holder();
    bench.state(State::Handover, ID);
    let mut client = bench.client(ID);
    client.execute(&read_keys()).unwrap();
    let mut client = client.with_timeout(Duration::from_millis(50));
    let (begun, end) = gate(&bench);
    let begin = Instant::now();
    assert!(matches!(client.execute(&rekey()), Err(TransportError::OutcomeUnknown(_))));
    assert!(begin.elapsed() < PATIENCE);
    begun.recv_timeout(PATIENCE).unwrap();
    end.send(()).unwrap();
    wait_until("the command is over", || !bench.told.0.lock().unwrap().is_empty());
}
