//! Lines in pieces, lines without an end, and streams that stall.

use super::*;
use crate::message::tests::message;
use proptest::collection::vec;
use proptest::prelude::*;
use std::thread;

const MOMENT: Duration = Duration::from_millis(50);
const SMALL: Limits = Limits { line: 64, depth: 4, values: 8, ..Limits::TENURE };

fn soon() -> Option<Instant> {
    Some(Instant::now() + MOMENT)
}

fn all(decoder: &mut Decoder) -> Vec<Message> {
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

fn refusal(bytes: &[u8]) -> CodecError {
    let mut decoder = Decoder::new(SMALL);
    decoder.push(bytes);
    decoder.next().unwrap_err()
}

proptest! {
    #[test]
    fn messages_are_the_same_however_they_are_cut(
        messages in vec(message(), 0..6),
        cuts in vec(1usize..40, 1..60),
        carriage_return in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            let line = message.to_line();
            bytes.extend_from_slice(line.trim_ascii_end());
            // QEMU ends its lines so.
            bytes.extend_from_slice(if carriage_return { b"\r\n" } else { b"\n" });
        }
        let (mut decoder, mut read, mut rest) = (Decoder::new(Limits::TENURE), Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            decoder.push(piece);
            read.extend(all(&mut decoder));
            rest = tail;
        }
        prop_assert!(decoder.is_between_messages());
        prop_assert_eq!(read, messages);
    }
}

#[test]
fn a_line_without_an_end_is_refused_at_the_limit_and_not_kept() {
    assert!(matches!(refusal(&[b' '; 65]), CodecError::TooLong(64)));
    let mut decoder = Decoder::new(SMALL);
    decoder.push(&[b' '; 64]);
    assert!(decoder.next().unwrap().is_none());
    let long = format!("{{\"execute\": \"{}\"}}\n", "x".repeat(60));
    assert!(matches!(refusal(long.as_bytes()), CodecError::TooLong(64)));
}

#[test]
fn deep_and_wide_messages_are_refused_before_they_are_built() {
    assert!(matches!(refusal(b"{\"return\": [[[[]]]]}\n"), CodecError::TooDeep(4)));
    assert!(matches!(refusal(b"{\"return\": [1,2,3,4,5,6,7,8,9]}\n"), CodecError::TooManyValues(8)));
    let mut decoder = Decoder::new(Limits::QEMU);
    decoder.push(&vec![b'['; 1 << 20]);
    decoder.push(b"\n");
    assert!(matches!(decoder.next(), Err(CodecError::TooDeep(64))));
}

#[test]
fn a_long_message_does_not_keep_its_memory() {
    let mut decoder = Decoder::new(Limits::QEMU);
    let long = format!("{{\"return\": \"{}\"}}\n", "x".repeat(8 << 20));
    decoder.push(long.as_bytes());
    assert_eq!(all(&mut decoder).len(), 1);
    assert!(decoder.buffer.capacity() <= KEPT, "{}", decoder.buffer.capacity());
}

#[test]
fn blank_lines_are_nothing() {
    let mut decoder = Decoder::new(SMALL);
    decoder.push(b"\r\n\n  \n{\"execute\":\"stop\"}\n \t");
    assert_eq!(all(&mut decoder).len(), 1);
    assert!(decoder.is_between_messages());
}

#[test]
fn the_end_of_a_stream_is_an_end_between_messages_only() {
    for (bytes, whole) in [(&b"{\"execute\":\"stop\"}\n"[..], true), (b"{\"execute\":\"sto", false)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        let mut channel = Channel::new(ours, SMALL);
        if whole {
            assert!(matches!(channel.receive(None), Ok(Some(Message::Command(_)))));
            assert!(matches!(channel.receive(None), Ok(None)));
        } else {
            assert!(matches!(channel.receive(None), Err(CodecError::Cut)));
        }
    }
}

#[test]
fn one_who_sends_byte_by_byte_is_late_and_can_be_waited_for_again() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(ours, SMALL);
    let line = b"{\"execute\":\"stop\"}\n";
    thread::scope(|scope| {
        scope.spawn(move || {
            for byte in line {
                theirs.write_all(&[*byte]).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        assert!(matches!(channel.receive(soon()), Err(CodecError::Stalled)));
        assert!(matches!(channel.receive(None), Ok(Some(Message::Command(_)))));
    });
}

#[test]
fn one_who_does_not_read_is_given_up() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(ours, Limits::QEMU);
    let long = Message::Reply(crate::Reply { id: None, result: Ok("x".repeat(8 << 20).into()) });
    assert!(matches!(channel.send(&long, soon()), Err(CodecError::Stalled)));
}

#[test]
fn what_the_other_end_would_refuse_is_not_sent() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let long = Message::Reply(crate::Reply { id: None, result: Ok("x".repeat(64).into()) });
    assert!(matches!(Channel::new(ours, SMALL).send(&long, soon()), Err(CodecError::TooLong(64))));
    assert!(matches!(Channel::new(theirs, SMALL).receive(None), Ok(None)));
}
