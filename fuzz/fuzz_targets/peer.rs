//! What a peer may send: any bytes, and the messages of the golden file with bytes changed. What was understood survives
//! emitting and a second parse, and the order of requests lets no round be run twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer::sequence::Sequence;
use peer::{Address, HostName, Request};
use qmp::{Command, Decoder, Limits, Message};
use serde_json::Value;

/// One line for each request, and one for a reply to it.
const GOLDEN: &str = include_str!("../../crates/peer/tests/golden/messages-1.jsonl");

fn commands(bytes: &[u8]) -> Vec<Command> {
    let mut decoder = Decoder::new(Limits::TENURE);
    decoder.push(bytes);
    let mut commands = Vec::new();
    while let Ok(Some(message)) = decoder.next() {
        if let Message::Command(command) = message {
            commands.push(command);
        }
    }
    commands
}

/// A request that was understood is emitted as itself.
fn check_request(command: Command) -> Option<Request> {
    let request = Request::parse(&command.execute, command.arguments).ok()?;
    let mut value = serde_json::to_value(&request).expect("a form in JSON");
    assert_eq!(value["execute"], request.name());
    let arguments = match value["arguments"].take() {
        Value::Object(arguments) => arguments,
        _ => qmp::Object::new(),
    };
    assert_eq!(Request::parse(request.name(), arguments).as_ref(), Ok(&request));
    Some(request)
}

fn check_reply(request: &Request, value: Value) {
    let Ok(reply) = request.parse_reply(value) else { return };
    let emitted = serde_json::to_value(&reply).expect("a form in JSON");
    assert_eq!(request.parse_reply(emitted).as_ref(), Ok(&reply));
}

/// A refused request changes nothing; a round is run once, in order.
fn check_order(requests: &[Request]) {
    let (mut sequence, mut run) = (Sequence::new(), 0);
    for request in requests {
        let before = sequence;
        if sequence.admit(request).is_err() {
            assert_eq!(sequence, before);
            continue;
        }
        match request {
            Request::Open(_) | Request::Recover(_) | Request::Back(_) => run = 0,
            Request::Round(advance) => {
                assert!(advance.round > run && request.handover() == before.handover());
                run = advance.round;
            }
            _ => {}
        }
    }
}

fn check(bytes: &[u8]) {
    let requests: Vec<Request> = commands(bytes).into_iter().filter_map(check_request).collect();
    check_order(&requests);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(address) = text.parse::<Address>() {
            assert_eq!(address.to_string(), text);
        }
        if let Ok(name) = text.parse::<HostName>() {
            assert_eq!(name.as_str().parse().as_ref(), Ok(&name));
        }
    }
}

/// Two lines of the golden file, the second with bytes changed as the input says.
fn check_changed(input: &[u8]) {
    let Some((&pick, changes)) = input.split_first() else { return };
    let lines: Vec<&str> = GOLDEN.lines().collect();
    let at = usize::from(pick) % (lines.len() / 2) * 2;
    let request = commands(format!("{}\n", lines[at]).as_bytes()).into_iter().find_map(check_request);
    let request = request.expect("the golden file is understood");
    let changed = |line: &str| {
        let mut bytes = line.as_bytes().to_vec();
        for change in changes.chunks_exact(3) {
            let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
            bytes[place] = change[2];
        }
        bytes.push(b'\n');
        bytes
    };
    check(&changed(lines[at]));
    if let Ok(answer) = serde_json::from_slice::<Value>(&changed(lines[at + 1])) {
        check_reply(&request, answer["return"].clone());
    }
}

fuzz_target!(|input: &[u8]| {
    check(input);
    check_changed(input);
});
