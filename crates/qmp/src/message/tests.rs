//! Golden bytes of every message, and what is none.

use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn parse(line: &str) -> Result<Message, MessageError> {
    Message::parse(line.as_bytes())
}

fn object(value: &Value) -> Object {
    value.as_object().unwrap().clone()
}

/// What QEMU 7.2 says on its socket, and what it is.
#[test]
fn what_qemu_says_is_read() {
    let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;
    let version = json!({ "qemu": { "micro": 22, "minor": 2, "major": 7 }, "package": "Debian" });
    let expected = Greeting { version: object(&version), capabilities: vec!["oob".into()] };
    assert_eq!(parse(greeting).unwrap(), Message::Greeting(expected));

    let reply = Reply { id: Some(json!(3)), result: Ok(json!({})) };
    assert_eq!(parse(r#"{"return": {}, "id": 3}"#).unwrap(), Message::Reply(reply));

    let error = r#"{"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#;
    let reply = Reply { id: None, result: Err(CommandError::not_found("x")) };
    assert_eq!(parse(error).unwrap(), Message::Reply(reply));

    let event = r#"{"timestamp": {"seconds": 1732200000, "microseconds": 25}, "event": "STOP"}"#;
    let timestamp = Timestamp { seconds: 1_732_200_000, microseconds: 25 };
    let stop = Event { event: "STOP".into(), data: Object::new(), timestamp };
    assert_eq!(parse(event).unwrap(), Message::Event(stop));
}

#[test]
fn what_is_sent_has_these_bytes() {
    let lines = [
        r#"{"QMP":{"capabilities":[],"version":{"tenure":{"major":0}}}}"#,
        r#"{"execute":"stop"}"#,
        r#"{"arguments":{"uri":"tcp:[::1]:4444"},"execute":"migrate","id":7}"#,
        r#"{"id":7,"return":{}}"#,
        r#"{"error":{"class":"GenericError","desc":"no"},"id":"a"}"#,
        r#"{"event":"STOP","timestamp":{"microseconds":2,"seconds":1}}"#,
        r#"{"data":{"status":"active"},"event":"MIGRATION","timestamp":{"microseconds":-1,"seconds":-1}}"#,
    ];
    for line in lines {
        let sent = parse(line).unwrap().to_line();
        assert_eq!(String::from_utf8(sent).unwrap(), format!("{line}\n"));
    }
}

#[test]
fn a_command_with_a_member_of_no_protocol_is_refused() {
    let unexpected = parse(r#"{"execute": "stop", "control": 1}"#);
    assert_eq!(unexpected.unwrap_err().to_string(), "unexpected member \"control\"");
    assert!(parse(r#"{"execute": "stop", "return": {}}"#).is_err());
    assert!(parse(r#"{"return": {}, "later": 1}"#).is_ok(), "a server may say more than is known");
}

#[test]
fn members_of_another_type_are_refused() {
    let refused = [
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        r#"{"exec-oob": "stop"}"#,
        r#"{"execute": 7}"#,
        r#"{"execute": "stop", "arguments": []}"#,
        r#"{"error": "no"}"#,
        r#"{"error": {"class": "GenericError"}}"#,
        r#"{"error": {"class": 1, "desc": "no"}}"#,
        r#"{"event": "STOP"}"#,
        r#"{"event": "STOP", "timestamp": {"seconds": 1}}"#,
        r#"{"event": "STOP", "timestamp": {"seconds": 1.5, "microseconds": 1}}"#,
        r#"{"event": "STOP", "data": 1, "timestamp": {"seconds": 1, "microseconds": 1}}"#,
        r#"{"QMP": {}}"#,
        r#"{"QMP": {"version": {}, "capabilities": [1]}}"#,
        "{\"execute\": \"\u{0}\"}",
        r#"{"execute": "stop"} {"execute": "cont"}"#,
    ];
    for line in refused {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(Message::parse(b"{\"execute\": \"\xFF\"}").is_err());
}

#[test]
fn the_other_ends_words_do_no_harm_to_a_terminal() {
    assert_eq!(Printable("a\u{1b}[2Jb\n").to_string(), "a\u{FFFD}[2Jb\u{FFFD}");
    assert_eq!(Printable(&"x".repeat(10_000)).to_string().chars().count(), 401);
    let error = CommandError { class: ErrorClass("\u{7}".into()), desc: "\r".into() };
    assert_eq!(error.to_string(), "\u{FFFD} (\u{FFFD})");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn members() -> impl Strategy<Value = Object> {
    btree_map(any::<String>(), value(), 0..4).prop_map(|map| map.into_iter().collect())
}

/// An id may be any value, and is there or not.
fn id() -> impl Strategy<Value = Option<Value>> {
    proptest::option::of(value())
}

/// Any message.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let error = (any::<String>(), any::<String>())
        .prop_map(|(class, desc)| CommandError { class: class.into(), desc });
    let result = prop_oneof![value().prop_map(Ok), error.prop_map(Err)];
    let timestamp =
        any::<(i64, i64)>().prop_map(|(seconds, microseconds)| Timestamp { seconds, microseconds });
    prop_oneof![
        (members(), vec(any::<String>(), 0..3))
            .prop_map(|(version, capabilities)| Message::Greeting(Greeting { version, capabilities })),
        (any::<String>(), members(), id()).prop_map(|(execute, arguments, id)| Message::Command(Command {
            execute,
            arguments,
            id
        })),
        (id(), result).prop_map(|(id, result)| Message::Reply(Reply { id, result })),
        (any::<String>(), members(), timestamp).prop_map(|(event, data, timestamp)| Message::Event(Event {
            event,
            data,
            timestamp
        })),
    ]
}

proptest! {
    #[test]
    fn every_message_survives_its_line(message in message()) {
        let line = message.to_line();
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        prop_assert_eq!(Message::parse(&line).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(Message::parse(&message.to_line()).unwrap(), message);
        }
    }
}
