//! A client against servers that lie, stall and flood.

use super::*;
use crate::message::{ErrorClass, Event};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}"#;
const STOP: &str = r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#;
const MOMENT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

fn soon() -> Instant {
    Instant::now() + MOMENT
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

/// The other end of a connection, with a script in place of a mind.
struct Server {
    lines: BufReader<UnixStream>,
}

impl Server {
    fn say(&mut self, line: &str) {
        // The client may have hung up already: that is for the test to find out.
        let _ = writeln!(self.lines.get_mut(), "{line}");
    }

    fn command(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The next command's id.
    fn hear(&mut self) -> u64 {
        self.command()["id"].as_u64().unwrap()
    }

    fn reply(&mut self) {
        let id = self.hear();
        self.say(&json!({ "return": { "id": id }, "id": id }).to_string());
    }
}

/// A client past its negotiation, and its server.
fn pair_with(limits: Limits) -> (Client, Server) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Server { lines: BufReader::new(theirs) };
    thread::scope(|scope| {
        let connected = scope.spawn(move || {
            let opening = Opening { limits, ..Opening::default() };
            Client::over(ours, &opening, later())
        });
        server.say(GREETING);
        server.reply();
        (connected.join().unwrap().unwrap(), server)
    })
}

fn pair() -> (Client, Server) {
    pair_with(Limits::QEMU)
}

fn stop(client: &Client, deadline: Instant) -> Result<Value, CallError> {
    client.execute("stop", Object::new(), deadline)
}

/// What becomes of a connection attempt when the server's first words are these.
fn greeted_with(words: &str) -> ConnectError {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(words.as_bytes()).unwrap();
    if words.is_empty() {
        theirs.shutdown(Shutdown::Both).unwrap();
    }
    Client::over(ours, &Opening::default(), soon()).unwrap_err()
}

#[test]
fn what_is_no_greeting_is_refused_and_silence_is_not_waited_for_for_ever() {
    assert!(matches!(greeted_with(""), ConnectError::Closed));
    assert!(matches!(greeted_with(" "), ConnectError::NoGreeting));
    assert!(matches!(greeted_with("{\"return\": {}}\n"), ConnectError::NoQmp));
    assert!(matches!(greeted_with("SSH-2.0-OpenSSH\n"), ConnectError::Codec(_)));
    let silent_afterwards = greeted_with(&format!("{GREETING}\n"));
    assert!(matches!(silent_afterwards, ConnectError::Negotiation(CallError::Overdue { .. })));
}

#[test]
fn answers_find_their_commands_in_any_order() {
    let (client, mut server) = pair();
    let ask = &|number: u64| {
        let arguments = Object::from_iter([("number".to_owned(), json!(number))]);
        client.execute("ask", arguments, later()).unwrap()
    };
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|number| scope.spawn(move || (number, ask(number)))).collect();
        let commands: Vec<_> = calls.iter().map(|_| server.command()).collect();
        for command in commands.iter().rev() {
            let answer = json!({ "return": command["arguments"]["number"], "id": command["id"] });
            server.say(&answer.to_string());
        }
        for call in calls {
            let (number, answer) = call.join().unwrap();
            assert_eq!(answer, number);
        }
    });
}

#[test]
fn a_refusal_keeps_its_class_and_words() {
    let (client, mut server) = pair();
    thread::scope(|scope| {
        let call = scope.spawn(|| stop(&client, later()).unwrap_err());
        let id = server.hear();
        server.say(&json!({ "error": { "class": "CommandNotFound", "desc": "no" }, "id": id }).to_string());
        let error = call.join().unwrap();
        assert_eq!(error.refusal().unwrap().class, ErrorClass::COMMAND_NOT_FOUND);
        assert!(!error.is_in_doubt());
    });
}

#[test]
fn an_answer_that_comes_late_is_passed_over_and_the_connection_lives() {
    let (client, mut server) = pair();
    let late = stop(&client, soon()).unwrap_err();
    assert!(matches!(late, CallError::Overdue { .. }) && late.is_in_doubt());
    server.reply();
    thread::scope(|scope| {
        scope.spawn(|| server.reply());
        assert_eq!(stop(&client, later()).unwrap()["id"], 2);
    });
}

#[test]
fn answers_that_nobody_asked_for_end_the_connection() {
    let lies = [
        r#"{"return": {}, "id": 77}"#,
        r#"{"return": {}, "id": 0}"#,
        r#"{"return": {}, "id": "1"}"#,
        r#"{"return": {}}"#,
        r#"{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}"#,
        r#"{"execute": "stop"}"#,
        r#"{"half": "#,
        GREETING,
    ];
    for lie in lies {
        let (client, mut server) = pair();
        let events = client.events();
        server.say(lie);
        let error = stop(&client, later()).unwrap_err();
        assert!(matches!(error, CallError::Lost { .. } | CallError::NotSent { .. }), "{lie}: {error}");
        assert_eq!(events.next(later()), Heard::Closed, "{lie}");
        assert!(client.closed().is_some(), "{lie}");
        assert!(matches!(stop(&client, later()), Err(CallError::NotSent { .. })), "{lie}");
    }
}

#[test]
fn a_second_answer_to_one_command_is_a_lie() {
    let (client, mut server) = pair();
    thread::scope(|scope| {
        let call = scope.spawn(|| stop(&client, later()));
        let id = server.hear();
        let answer = json!({ "return": {}, "id": id }).to_string();
        server.say(&answer);
        assert!(call.join().unwrap().is_ok());
        server.say(&answer);
    });
    assert_eq!(client.events().next(later()), Heard::Closed);
}

#[test]
fn a_connection_that_ends_ends_every_wait() {
    let (client, server) = pair();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| stop(&client, later()))).collect();
        drop(server);
        for call in calls {
            assert!(matches!(call.join().unwrap(), Err(CallError::Lost { .. } | CallError::NotSent { .. })));
        }
    });
}

#[test]
fn commands_without_an_answer_are_bounded_those_given_up_too() {
    let (client, _server) = pair_with(Limits { outstanding: 2, ..Limits::QEMU });
    for _ in 0..2 {
        assert!(matches!(stop(&client, soon()), Err(CallError::Overdue { .. })));
    }
    let error = stop(&client, later()).unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
}

#[test]
fn a_server_that_does_not_read_stalls_nobody_for_ever() {
    let (client, _server) = pair();
    let large = json!({ "uri": "x".repeat(8 << 20) }).as_object().unwrap().clone();
    let error = client.execute("migrate", large, soon()).unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "half a command was sent: {error}");
    assert!(matches!(stop(&client, later()), Err(CallError::NotSent { .. })));
}

#[test]
fn a_line_that_never_ends_ends_the_connection() {
    let (client, mut server) = pair_with(Limits { line: 4096, ..Limits::QEMU });
    let _ = server.lines.get_mut().write_all(&[b' '; 64 * 1024]);
    let events = client.events();
    assert_eq!(events.next(later()), Heard::Closed);
    assert!(client.closed().unwrap().contains("longer than 4096 bytes"), "{:?}", client.closed());
}

fn say_stop(server: &mut Server, times: usize) {
    (0..times).for_each(|_| server.say(STOP));
}

#[test]
fn a_flood_of_events_costs_the_oldest_and_is_said() {
    let (client, mut server) = pair_with(Limits { events: 3, ..Limits::QEMU });
    let events = client.events();
    thread::scope(|scope| {
        scope.spawn(|| {
            say_stop(&mut server, 10);
            server.reply();
        });
        stop(&client, later()).unwrap();
    });
    assert_eq!(events.next(soon()), Heard::Missed(7));
    for _ in 0..3 {
        assert!(matches!(events.next(soon()), Heard::Event(Event { .. })));
    }
    assert_eq!(events.next(soon()), Heard::Silence);
}

#[test]
fn large_events_are_bounded_by_what_they_take() {
    let (client, mut server) = pair_with(Limits { line: 4096, ..Limits::QEMU });
    let events = client.events();
    let large = json!({ "event": "X", "data": { "a": "x".repeat(3000) }, "timestamp": { "seconds": 1, "microseconds": 1 } });
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..5).for_each(|_| server.say(&large.to_string()));
            server.reply();
        });
        stop(&client, later()).unwrap();
    });
    assert_eq!(events.next(soon()), Heard::Missed(4));
}

#[test]
fn one_who_listens_no_more_is_forgotten() {
    let (client, mut server) = pair();
    drop(client.events());
    let events = client.events();
    say_stop(&mut server, 1);
    assert!(matches!(events.next(later()), Heard::Event(_)));
}

#[test]
fn a_descriptor_goes_along_with_its_command() {
    let (client, server) = pair();
    let file = File::open("/dev/null").unwrap();
    let stream = server.lines.into_inner();
    thread::scope(|scope| {
        let call = scope.spawn(|| client.execute_with_fd("getfd", Object::new(), &file, later()));
        let mut socket = Socket::new(Arc::new(stream), 8);
        let mut line = [0; 200];
        let length = socket.read(&mut line).unwrap();
        assert!(line[..length].ends_with(b"\n"));
        let received = File::from(socket.take_descriptor().unwrap());
        assert_eq!(received.metadata().unwrap().rdev(), file.metadata().unwrap().rdev());
        socket.write_all(b"{\"return\": {}, \"id\": 1}\n").unwrap();
        call.join().unwrap().unwrap();
    });
}

#[test]
fn descriptors_that_nobody_asked_for_end_the_connection() {
    let (client, server) = pair_with(Limits { descriptors: 2, ..Limits::QEMU });
    let file = File::open("/dev/null").unwrap();
    let stream = server.lines.into_inner();
    for _ in 0..3 {
        let _ = socket::send(&stream, b"\n", Some(file.as_fd()), later());
    }
    assert_eq!(client.events().next(later()), Heard::Closed);
}
