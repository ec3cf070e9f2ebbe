//! What a lost connection means, with a helper of which every byte is the test's.

use super::*;
use crate::agent::frame::encode_reply;
use rustix::net::listen;
use scsi::Status;
use scsi::pr::{InAction, Key, request};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::{JoinHandle, spawn};

const PATIENCE: Duration = Duration::from_secs(20);
const BRIEF: Duration = Duration::from_millis(50);

/// A helper whose first connections are these stories.
fn helper(stories: Vec<fn(&mut UnixStream)>) -> (Client, JoinHandle<()>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = spawn(move || {
        for story in stories {
            story(&mut listener.accept().unwrap().0);
        }
    });
    (client(path), thread, directory)
}

fn client(path: impl Into<PathBuf>) -> Client {
    let device = std::fs::File::open("/dev/null").unwrap().into();
    Client::new(path, device, HandoverId(7)).with_timeout(PATIENCE)
}

fn greet(stream: &mut UnixStream) {
    stream.write_all(&Hello { version: 9 }.to_bytes()).unwrap();
    let mut hello = [0; HELLO_LENGTH];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(Hello::parse(&hello), Ok(Hello::OWN), "the version that both speak");
}

fn take(stream: &mut UnixStream) {
    let mut header = [0; REQUEST_LENGTH];
    stream.read_exact(&mut header).unwrap();
    let header = RequestHeader::parse(&header).unwrap();
    assert_eq!(header.handover, HandoverId(7));
    stream.read_exact(&mut vec![0; header.data_out as usize]).unwrap();
}

fn give(stream: &mut UnixStream, answer: &Answer) {
    stream.write_all(&encode_reply(answer, 8)).unwrap();
}

fn serve_one(stream: &mut UnixStream) {
    greet(stream);
    take(stream);
    give(stream, &Answer::Completion(Completion::good(vec![1; 8])));
}

fn read() -> Request {
    request::read(InAction::READ_KEYS, 8)
}

fn not_sent(result: Result<Completion, TransportError>) -> io::Error {
    match result {
        Err(TransportError::NotSent(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_unknown(result: &Result<Completion, TransportError>) -> bool {
    matches!(result, Err(TransportError::OutcomeUnknown(_)))
}

#[test]
fn without_a_helper_nothing_was_sent() {
    let error = not_sent(client("/no/such/socket").execute(&read()));
    assert!(error.to_string().contains("/no/such/socket"), "{error}");
}

#[test]
fn a_helper_that_closes_at_once_got_nothing_and_the_error_says_what_to_do() {
    let (mut client, helper, _directory) = helper(vec![|_| ()]);
    let error = not_sent(client.execute(&read()));
    assert!(error.to_string().contains("--agent-user"), "{error}");
    helper.join().unwrap();
}

#[test]
fn a_helper_that_is_none_or_of_another_age_got_nothing() {
    let (mut client, helper, _directory) =
        helper(vec![|stream| stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 0]).unwrap(), |stream| {
            stream.write_all(&Hello { version: 0 }.to_bytes()).unwrap()
        }]);
    assert!(not_sent(client.execute(&read())).to_string().contains("does not speak"));
    assert!(not_sent(client.execute(&read())).to_string().contains("version 0"));
    helper.join().unwrap();
}

#[test]
fn a_connection_that_is_lost_after_the_request_leaves_the_outcome_unknown_and_the_next_command_connects() {
    let lost = |stream: &mut UnixStream| {
        greet(stream);
        take(stream);
    };
    let inside_a_reply = |stream: &mut UnixStream| {
        greet(stream);
        take(stream);
        stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 8, 1]).unwrap();
    };
    let (mut client, helper, _directory) = helper(vec![lost, inside_a_reply, serve_one]);
    assert!(is_unknown(&client.execute(&request::register(Key(1), Key(2), false))));
    assert!(is_unknown(&client.execute(&read())));
    assert_eq!(client.execute(&read()).unwrap().data, [1; 8]);
    helper.join().unwrap();
}

#[test]
fn a_helper_that_started_again_between_two_commands_is_not_noticed() {
    let (mut client, helper, _directory) = helper(vec![serve_one, serve_one]);
    for _ in 0..2 {
        assert_eq!(client.execute(&read()).unwrap().status, Status::GOOD);
        // The helper closes after its one answer; wait for that, as a restart takes time too.
        let stream = client.stream.as_ref().unwrap();
        poll(&mut [PollFd::new(stream, PollFlags::IN)], None).unwrap();
    }
    helper.join().unwrap();
}

#[test]
fn a_refusal_has_a_reason_and_no_status_and_keeps_the_connection() {
    let (mut client, helper, _directory) = helper(vec![|stream| {
        greet(stream);
        for answer in [Answer::Refused("wrong id".into()), Answer::NotSent("gone".into())] {
            take(stream);
            give(stream, &answer);
        }
        take(stream);
        give(stream, &Answer::OutcomeUnknown("timeout".into()));
    }]);
    let error = not_sent(client.execute(&read()));
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>());
    assert_eq!(refused, Some(&Refused("wrong id".into())));
    assert_eq!(not_sent(client.execute(&read())).to_string(), "gone");
    assert!(is_unknown(&client.execute(&read())));
    helper.join().unwrap();
}

#[test]
fn a_helper_that_does_not_answer_is_waited_for_as_long_as_was_said() {
    let (mut client, helper, _directory) = helper(vec![|stream| {
        serve_one(stream);
        take(stream);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the client hangs up");
    }]);
    client.execute(&read()).unwrap();
    let mut client = client.with_timeout(BRIEF);
    assert!(is_unknown(&client.execute(&read())));
    assert!(client.stream.is_none(), "a late answer must not be taken for the next command's");
    helper.join().unwrap();
}

#[test]
fn a_helper_that_neither_accepts_nor_greets_is_waited_for_as_long_as_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, 0).unwrap();
    // The first waits for a greeting; what is left of it fills the queue, so that the second waits to be accepted.
    let error = not_sent(client(&path).with_timeout(BRIEF).execute(&read()));
    assert!(error.to_string().contains("stalled"), "{error}");
    let error = not_sent(client(&path).with_timeout(BRIEF).execute(&read()));
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[test]
fn any_timeout_is_one() {
    let (client, helper, _directory) = helper(vec![|stream| {
        greet(stream);
        take(stream);
    }]);
    assert!(is_unknown(&client.with_timeout(Duration::MAX).execute(&read())));
    helper.join().unwrap();
    let hasty = self::client("/no/such/socket").with_timeout(Duration::ZERO);
    assert_eq!(hasty.timeout, SHORTEST, "to the kernel none is for ever");
}

#[test]
fn more_data_than_was_asked_for_is_no_answer() {
    let (mut client, helper, _directory) = helper(vec![|stream| {
        greet(stream);
        take(stream);
        stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 9]).unwrap();
    }]);
    assert!(is_unknown(&client.execute(&read())));
    helper.join().unwrap();
}

#[test]
fn what_the_protocol_cannot_carry_is_not_sent() {
    let mut client = client("/no/such/socket");
    let long = Request { cdb: vec![0; 17], data: DataPhase::None };
    assert!(not_sent(client.execute(&long)).to_string().contains("a CDB of 17 bytes"));
}
