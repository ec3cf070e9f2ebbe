//! Every message in its form of version 1 (the golden file), both ways, and what is refused.

use super::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::json;

/// One line for each message and form, as version 1 writes them. Never edited: a new version gets a file of its own.
const GOLDEN: &str = include_str!("../../tests/golden/messages-1.jsonl");

fn any_word() -> impl Strategy<Value = Word> {
    any::<u64>().prop_map(Word)
}

fn any_id() -> impl Strategy<Value = Id> {
    any::<u128>().prop_map(Id)
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes)
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z0-9 \"\\\\\u{e9}\n-]{1,20}"
}

fn any_guest() -> impl Strategy<Value = Guest> {
    (any_name(), any_name()).prop_map(|(vm, uuid)| Guest { vm, uuid })
}

fn any_ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (of(any_name()), of(any::<u16>()));
    vec(port.prop_map(|(initiator, target_port)| Port { initiator, target_port }), 0..=MOST_PORTS)
}

fn any_offer() -> impl Strategy<Value = Offer> {
    (any_name(), of(any_word()), any_word(), any_ports(), any::<bool>())
        .prop_map(|(lun, key, nonce, ports, ours)| Offer { lun, key, nonce, ports, identity_is_ours: ours })
}

/// Names of logical units that are all different.
fn numbered(mut offers: Vec<Offer>) -> Vec<Offer> {
    offers.iter_mut().enumerate().for_each(|(number, offer)| offer.lun.push_str(&number.to_string()));
    offers
}

fn any_open() -> impl Strategy<Value = Open> {
    let options = (of(any_name()), any::<[bool; 4]>()).prop_map(|(method, flags)| {
        let [allow_absence, stay_paused, plan_only, orchestrated] = flags;
        Options { method, allow_absence, stay_paused, plan_only, orchestrated }
    });
    (any_id(), any_guest(), vec(any_offer(), 0..5), options)
        .prop_map(|(handover, guest, luns, options)| Open { handover, guest, luns: numbered(luns), options })
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let completion = (any::<u8>(), any_bytes(), any_bytes()).prop_map(|(status, sense, data)| Completion {
        status,
        sense,
        data,
    });
    let others = [Outcome::NotSent, Outcome::Unknown, Outcome::Dangling].map(Just);
    prop_oneof![completion.prop_map(Outcome::Done), proptest::strategy::Union::new(others)]
}

fn any_reports() -> impl Strategy<Value = Vec<Report>> {
    let report = (any::<u16>(), any::<u8>(), any_outcome());
    vec(report.prop_map(|(unit, id, outcome)| Report { unit, id, outcome }), 0..8)
}

fn any_advance() -> impl Strategy<Value = Advance> {
    let decision = prop::sample::select(vec![
        Decision::Proceed,
        Decision::Refresh,
        Decision::Abort,
        Decision::JournalFailed,
    ]);
    (any_id(), any::<u64>(), any_word(), any_reports(), vec(decision, 0..=MOST_DECISIONS)).prop_map(
        |(handover, round, digest, outcomes, decisions)| Advance {
            handover,
            round,
            digest,
            outcomes,
            decisions,
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let marks =
        vec(prop::sample::select(vec![Mark::Taken, Mark::Go, Mark::Ran, Mark::Abort, Mark::Back]), 0..6);
    let entry = any::<u32>().prop_map(|generation| json!({ "stage": "take", "generation": generation }));
    let lun = (any_ports(), of(entry));
    (any_id(), any::<bool>(), marks, vec(lun, 0..4), of(any_name())).prop_map(
        |(handover, led, marks, luns, verdict)| {
            let remains = |(number, (ports, entry))| Remains { lun: format!("naa.{number}"), ports, entry };
            let luns = luns.into_iter().enumerate().map(remains).collect();
            Record { handover, led, marks, luns, verdict }
        },
    )
}

fn any_owed() -> impl Strategy<Value = Vec<Owed>> {
    vec((any::<u16>(), vec(any_bytes(), 0..3)).prop_map(|(unit, sense)| Owed { unit, sense }), 0..3)
}

fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any_name().prop_map(Value::from),
    ];
    vec((any_name(), value), 0..4).prop_map(Map::from_iter)
}

fn any_about() -> impl Strategy<Value = About> {
    any_id().prop_map(|handover| About { handover })
}

fn any_request() -> impl Strategy<Value = Request> {
    let units = |nonces: Vec<Word>| (0..).zip(nonces).map(|(unit, nonce)| BackUnit { unit, nonce }).collect();
    let back = vec(any_word(), 0..4).prop_map(units);
    prop_oneof![
        Just(Request::Ping),
        any_open().prop_map(Request::Open),
        any_advance().prop_map(Request::Journal),
        any_advance().prop_map(Request::Round),
        any_advance().prop_map(Request::Settle),
        (any_id(), back).prop_map(|(handover, units)| Request::Back(Back { handover, units })),
        any_about().prop_map(Request::Freeze),
        (any_id(), any_owed())
            .prop_map(|(handover, owed)| Request::Attentions(Attentions { handover, owed })),
        (any_id(), of(any_name()), any_object(), any_object()).prop_map(
            |(handover, uri, capabilities, parameters)| {
                Request::Incoming(Incoming { handover, uri, capabilities, parameters })
            }
        ),
        any_about().prop_map(Request::Go),
        (any_id(), any_name()).prop_map(|(handover, why)| Request::Abort(Abort { handover, why })),
        (any_guest(), of(any_id())).prop_map(|(guest, handover)| Request::State(State { guest, handover })),
        (any_guest(), any_record(), any::<bool>(), any::<bool>()).prop_map(
            |(guest, record, prefer_destination, kept_at_source)| {
                Request::Recover(Recover { guest, record, prefer_destination, kept_at_source })
            }
        ),
        (any_id(), any_name()).prop_map(|(handover, verdict)| Request::Close(Close { handover, verdict })),
        any_guest().prop_map(|guest| Request::Take(Take { guest })),
    ]
}

/// A request and a reply to it.
fn any_exchange() -> impl Strategy<Value = (Request, Reply)> {
    let opened = (any_open(), of(any_record()), of(any_name())).prop_map(|(open, record, guest)| {
        let paths = |offer: &Offer| Paths { lun: offer.lun.clone(), ports: offer.ports.clone() };
        let luns = open.luns.iter().map(paths).collect();
        (Request::Open(open), Reply::Opened(Opened { luns, record, guest }))
    });
    let outcomes =
        (any_advance(), any_reports(), any::<bool>()).prop_map(|(advance, outcomes, wants_out)| {
            let reply = Reply::Outcomes(Outcomes { round: advance.round, outcomes, wants_out });
            (Request::Round(advance), reply)
        });
    let settled = (any_advance(), any_word())
        .prop_map(|(advance, digest)| (Request::Settle(advance), Reply::Standing(Standing { digest })));
    let ran =
        (any_about(), any_name()).prop_map(|(about, guest)| (Request::Go(about), Reply::Ran(Ran { guest })));
    let state = (any_guest(), of(any_record()), of(any_name())).prop_map(|(guest, record, run)| {
        let request = Request::State(State { guest, handover: None });
        (request, Reply::State(Records { record, guest: run }))
    });
    let done = any_advance().prop_map(|advance| (Request::Journal(advance), Reply::Done(Done {})));
    let steps = vec![DeviceStep::Look, DeviceStep::Give, DeviceStep::Check, DeviceStep::Commit];
    let device = (any_id(), any_name(), prop::sample::select(steps), any::<u16>(), any_given()).prop_map(
        |(handover, guest, step, format, given)| {
            (Request::Device(Device { handover, guest, step, format }), Reply::Device(given))
        },
    );
    prop_oneof![opened, outcomes, settled, ran, state, done, device]
}

fn any_given() -> impl Strategy<Value = DeviceState> {
    (any_bytes(), of(any_id()), any::<u64>(), of(any_name()))
        .prop_map(|(state, handover, epoch, elsewhere)| DeviceState { state, handover, epoch, elsewhere })
}

/// A request as the two members of a QMP command.
fn members(request: &Request) -> (String, Map<String, Value>) {
    let mut value = serde_json::to_value(request).unwrap();
    let execute = value["execute"].as_str().unwrap().to_owned();
    (execute, arguments(value.as_object_mut().unwrap().remove("arguments")))
}

fn arguments(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(arguments)) => arguments,
        None => Map::new(),
        Some(other) => panic!("{other} is no object"),
    }
}

fn parse(line: &str) -> Result<Request, Refusal> {
    let mut value: Map<String, Value> = serde_json::from_str(line).unwrap();
    let arguments = arguments(value.remove("arguments"));
    Request::parse(value["execute"].as_str().unwrap(), arguments)
}

proptest! {
    #[test]
    fn every_request_reads_as_what_was_written(request in any_request()) {
        let (execute, arguments) = members(&request);
        prop_assert_eq!(&execute, request.name());
        prop_assert_eq!(Request::parse(&execute, arguments), Ok(request));
    }

    #[test]
    fn every_reply_reads_as_what_was_written((request, reply) in any_exchange()) {
        let value = serde_json::to_value(&reply).unwrap();
        prop_assert_eq!(request.parse_reply(value).unwrap(), reply);
    }

    #[test]
    fn every_unknown_field_is_refused(request in any_request()) {
        let (execute, arguments) = members(&request);
        let mut arguments = arguments;
        arguments.insert("from-the-future".into(), Value::Bool(true));
        let refusal = Request::parse(&execute, arguments).unwrap_err();
        let ping = request == Request::Ping;
        prop_assert!(ping || refusal.desc.contains("unknown field `from-the-future`"), "{}", refusal.desc);
    }
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    let mut seen = std::collections::BTreeSet::new();
    let mut lines = GOLDEN.lines();
    while let (Some(command), Some(answer)) = (lines.next(), lines.next()) {
        let request = parse(command).unwrap();
        assert_eq!(serde_json::to_value(&request).unwrap(), serde_json::from_str::<Value>(command).unwrap());
        let answer: Value = serde_json::from_str(answer).unwrap();
        let reply = request.parse_reply(answer["return"].clone()).unwrap();
        assert_eq!(serde_json::to_value(&reply).unwrap(), answer["return"], "{command}");
        seen.insert(request.name());
    }
    assert_eq!(seen, NAMES.into_iter().collect(), "every message is in the golden file");
}

fn desc(execute: &str, value: Value) -> String {
    Request::parse(execute, arguments(Some(value))).unwrap_err().desc
}

#[test]
fn an_unknown_command_is_refused_by_its_name() {
    let refusal = Request::parse("execute-cdb", Map::new()).unwrap_err();
    assert_eq!(refusal.class, "CommandNotFound");
    assert_eq!(refusal.desc, "the command execute-cdb is not known");
    assert!(Request::parse(&"x".repeat(1 << 20), Map::new()).unwrap_err().desc.len() < 100);
}

#[test]
fn a_key_that_is_a_number_or_of_another_length_is_refused() {
    let id = "0".repeat(32);
    let digest = |digest: Value| desc("round", json!({ "handover": id, "round": 1, "digest": digest }));
    assert!(digest(json!(5)).contains("invalid type"));
    for wrong in ["0x5", "0x+000000000000005", "0X0000000000000005", "00000000000000000005"] {
        assert!(digest(json!(wrong)).contains("16 hexadecimal digits"), "{wrong}");
    }
    assert!(desc("go", json!({ "handover": "5" })).contains("32 hexadecimal digits"));
}

#[test]
fn bytes_with_half_a_byte_or_no_digits_are_refused() {
    for wrong in ["abc", "zz", "+1", "é"] {
        assert_eq!(Bytes::try_from(wrong.to_owned()), Err(HexError::Bytes), "{wrong}");
    }
    assert_eq!(Bytes::try_from("00fF".to_owned()), Ok(Bytes(vec![0, 255])));
}

#[test]
fn more_than_the_limit_is_refused() {
    let luns = |count: usize| {
        let lun = |number| json!({ "lun": format!("naa.{number}"), "nonce": Word(1), "ports": [] });
        let guest = json!({ "vm": "web", "uuid": "u" });
        json!({ "handover": Id(1), "guest": guest, "luns": (0..count).map(lun).collect::<Vec<_>>() })
    };
    assert!(Request::parse("open", arguments(Some(luns(MOST_LUNS)))).is_ok());
    assert_eq!(desc("open", luns(MOST_LUNS + 1)), "open: luns: at most 256");
}

#[test]
fn one_logical_unit_twice_is_refused() {
    let lun = json!({ "lun": "naa.1", "nonce": Word(1), "ports": [] });
    let guest = json!({ "vm": "web", "uuid": "u" });
    let open = json!({ "handover": Id(1), "guest": guest, "luns": [lun, lun] });
    assert_eq!(desc("open", open), "open: a logical unit is named twice");
}

#[test]
fn one_unit_handed_back_twice_is_refused() {
    let unit = |unit: u16| json!({ "unit": unit, "nonce": Word(u64::from(unit)) });
    let back = |units: Value| json!({ "handover": Id(1), "units": units });
    assert!(Request::parse("back", arguments(Some(back(json!([unit(1), unit(2)]))))).is_ok());
    assert_eq!(desc("back", back(json!([unit(1), unit(2), unit(1)]))), "back: a logical unit is named twice");
}

#[test]
fn a_guest_without_a_name_is_refused() {
    let state = json!({ "guest": { "vm": "", "uuid": "u" } });
    assert_eq!(desc("state", state), "state: vm: it is empty");
}

#[test]
fn a_reply_of_another_form_is_none() {
    let go = Request::Go(About { handover: Id(1) });
    assert!(go.parse_reply(json!({})).is_err());
    assert!(go.parse_reply(json!({ "guest": "running", "more": 1 })).is_err());
    assert!(Request::Ping.parse_reply(json!({ "guest": "running" })).is_err());
}
