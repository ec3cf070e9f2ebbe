//! QMP lines of any other end: bounded, and the same however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qmp::{Decoder, Limits, Message};
use serde_json::Value;

/// Small, so that a fuzzer reaches them.
const LIMITS: Limits = Limits { line: 512, depth: 8, values: 32, ..Limits::TENURE };

/// All messages of these pieces, and whether they end without an error.
fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, bool) {
    let (mut decoder, mut messages) = (Decoder::new(LIMITS), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    (messages, true)
}

/// Whether a value has a number with a fraction: that one may come back as its neighbour.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(object) => object.values().any(has_fraction),
        _ => false,
    }
}

fn survives(message: &Message) {
    let line = message.to_line();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let again = Message::parse(&line).expect("what was understood is understood again");
    let value = serde_json::from_slice(&line).expect("a line is JSON");
    assert!(again == *message || has_fraction(&value));
}

fuzz_target!(|bytes: &[u8]| {
    let whole = messages(std::iter::once(bytes));
    let cut = bytes.first().map_or(1, |byte| usize::from(*byte) + 1);
    assert_eq!(messages(bytes.chunks(cut)), whole);
    whole.0.iter().for_each(survives);
});
