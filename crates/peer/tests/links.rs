//! What a certified peer may do on its link, and what becomes of one that lies, stalls or sends megabytes. On a Unix
//! socket, where a test can be any peer it likes.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common;

use common::*;
use peer::message::{Abort, About, Advance, Guest, Id, Open, Options, Word};
use peer::{Address, CallError, ConnectError, Link, Listener, Patience, Request, Terms};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SHORT: Duration = Duration::from_millis(200);

/// Two hosts on one, by their sockets.
struct Pair {
    _directory: TempDir,
    a: Address,
    b: Address,
}

impl Pair {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (a, b) = (unix(directory.path(), "a"), unix(directory.path(), "b"));
        Self { _directory: directory, a, b }
    }

    fn terms_of_a(&self) -> Terms {
        terms("a", None, &[("b", &self.b)])
    }

    fn listen(&self, patience: Patience) -> Host {
        let terms = terms("b", None, &[("a", &self.a)]);
        Host::listen(&self.b, Terms { patience, ..terms })
    }

    fn connect(&self) -> Result<Link, ConnectError> {
        Link::connect(&self.terms_of_a(), &name("b"))
    }

    fn path_of_b(&self) -> &PathBuf {
        let Address::Unix(path) = &self.b else { panic!("a socket") };
        path
    }

    fn raw(&self) -> Raw {
        Raw::new(UnixStream::connect(self.path_of_b()).unwrap())
    }

    /// A listener that says these lines, each after a line of the caller but the first.
    fn liar(&self, lines: Vec<String>) -> thread::JoinHandle<Vec<Value>> {
        let listener = UnixListener::bind(self.path_of_b()).unwrap();
        thread::spawn(move || {
            let mut raw = Raw::new(listener.accept().unwrap().0);
            let mut heard = Vec::new();
            for line in lines {
                raw.say_line(&line);
                heard.extend(raw.hear());
            }
            heard
        })
    }
}

/// An end of a link that says whatever it likes.
struct Raw {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Raw {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    fn say_line(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn say(&mut self, value: &Value) {
        self.say_line(&value.to_string());
    }

    /// The next message; none at the end.
    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).unwrap_or_default();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn negotiate_as(&mut self, host: &str) -> Option<Value> {
        assert!(self.hear().unwrap()["QMP"]["version"]["messages"].is_array());
        self.say(&json!({ "execute": "negotiate", "id": 0, "arguments":
            { "tenure": "9", "host": host, "messages": 1, "engine": 1 } }));
        self.hear()
    }
}

const GREETING: &str =
    r#"{"QMP":{"version":{"tenure":"9","host":"b","messages":[1],"engine":7},"capabilities":[]}}"#;
const AGREED: &str = r#"{"return":{},"id":0}"#;

fn open() -> Request {
    let guest = Guest { vm: "web".into(), uuid: "u".into() };
    Request::Open(Open { handover: Id(7), guest, luns: Vec::new(), options: Options::default() })
}

fn round(handover: u128, round: u64, digest: u64) -> Request {
    let (handover, digest) = (Id(handover), Word(digest));
    Request::Round(Advance { handover, round, digest, outcomes: Vec::new(), decisions: Vec::new() })
}

fn refused(link: &Link, request: &Request) -> (String, String) {
    match link.call(request, LONG) {
        Err(CallError::Refused(refusal)) => (refusal.class, refusal.desc),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_in_order_reach_the_service_and_others_do_not() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let link = pair.connect().unwrap();
    assert_eq!(refused(&link, &round(7, 1, 1)).0, "UnknownHandover");
    link.call(&open(), LONG).unwrap();
    link.call(&round(7, 1, 1), LONG).unwrap();
    assert_eq!(refused(&link, &round(7, 1, 1)).0, "OutOfOrder", "a replay");
    assert_eq!(refused(&link, &round(7, 3, 1)).0, "OutOfOrder", "a gap");
    assert_eq!(refused(&link, &round(8, 2, 1)).0, "UnknownHandover", "another handover");
    drop(link);
    let mut heard: Vec<String> = Vec::new();
    loop {
        match host.next() {
            Heard::Session(agreed) => assert_eq!(agreed.host, name("a")),
            Heard::Request(request) => heard.push(request.name().to_owned()),
            Heard::Ended(why) => break assert_eq!(why, ""),
            Heard::TurnedAway(why) => panic!("{why}"),
        }
    }
    assert_eq!(heard, ["open", "round"]);
}

#[test]
fn a_refused_step_of_the_replicas_counts_and_any_other_request_does_not() {
    let pair = Pair::new();
    let _host = pair.listen(Patience::default());
    let link = pair.connect().unwrap();
    link.call(&open(), LONG).unwrap();
    assert_eq!(refused(&link, &round(7, 1, 0)).1, "the digests differ");
    assert_eq!(refused(&link, &round(7, 1, 1)).0, "OutOfOrder");
    link.call(&round(7, 2, 1), LONG).unwrap();
    let abort = || Request::Abort(Abort { handover: Id(7), why: String::new() });
    assert_eq!(refused(&link, &abort()).1, "not now");
    link.call(&Request::Freeze(About { handover: Id(7) }), LONG).unwrap();
}

#[test]
fn a_message_of_megabytes_ends_the_link() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let mut raw = pair.raw();
    raw.negotiate_as("a").unwrap();
    // The listener stops reading somewhere in the middle.
    let _ = raw.stream.write_all(&vec![b'x'; 9 << 20]);
    assert_eq!(raw.hear(), None);
    assert!(matches!(host.next(), Heard::Session(_)));
    assert!(matches!(host.next(), Heard::Ended(why) if why == "a message longer than 8388608 bytes"));
}

#[test]
fn a_message_nested_or_full_beyond_reason_ends_the_link() {
    let deep = "[".repeat(100_000);
    let full = format!("{{\"execute\":\"ping\",\"id\":[{}0]}}", "0,".repeat(300_000));
    for line in [deep, full] {
        let pair = Pair::new();
        let host = pair.listen(Patience::default());
        let mut raw = pair.raw();
        raw.negotiate_as("a").unwrap();
        let _ = raw.stream.write_all(format!("{line}\n").as_bytes());
        assert!(matches!(host.next(), Heard::Session(_)));
        assert!(matches!(host.next(), Heard::Ended(why) if why.contains("a message ")));
    }
}

#[test]
fn a_caller_that_says_nothing_is_turned_away_in_time() {
    let pair = Pair::new();
    let host = pair.listen(Patience { hello: SHORT, ..Patience::default() });
    let _silent = pair.raw();
    assert_eq!(host.turned_away(), "the other end is too slow");
}

#[test]
fn a_caller_whose_bytes_drip_is_turned_away_in_time() {
    let pair = Pair::new();
    let host = pair.listen(Patience { hello: SHORT, ..Patience::default() });
    let mut raw = pair.raw();
    let drip = thread::spawn(move || while raw.stream.write_all(b" ").is_ok() {});
    assert_eq!(host.turned_away(), "the other end is too slow");
    drop(host);
    drip.join().unwrap();
}

#[test]
fn a_link_without_a_sign_of_life_is_given_up() {
    let pair = Pair::new();
    let host = pair.listen(Patience { idle: SHORT, ..Patience::default() });
    let mut raw = pair.raw();
    raw.negotiate_as("a").unwrap();
    assert!(matches!(host.next(), Heard::Session(_)));
    assert!(matches!(host.next(), Heard::Ended(why) if why == "the other end is too slow"));
    assert_eq!(raw.hear(), None);
}

#[test]
fn an_idle_link_is_kept_alive() {
    let pair = Pair::new();
    let patience = Patience { idle: 5 * SHORT, ping: SHORT, ..Patience::default() };
    let host = pair.listen(patience);
    let link = Link::connect(&Terms { patience, ..pair.terms_of_a() }, &name("b")).unwrap();
    assert!(matches!(host.next(), Heard::Session(_)));
    // Nothing may happen for longer than an idle link lives.
    assert!(host.heard.recv_timeout(2 * patience.idle).is_err());
    link.call(&Request::Ping, LONG).unwrap();
}

#[test]
fn a_listener_that_says_nothing_is_given_up_in_time() {
    let pair = Pair::new();
    let _listener = UnixListener::bind(pair.path_of_b()).unwrap();
    let patience = Patience { hello: SHORT, ..Patience::default() };
    let begun = Instant::now();
    let error = Link::connect(&Terms { patience, ..pair.terms_of_a() }, &name("b")).unwrap_err();
    assert!(error.to_string().ends_with("the other end is too slow"), "{error}");
    assert!(begun.elapsed() < LONG);
}

#[test]
fn a_peer_that_does_not_answer_costs_no_more_than_the_deadline() {
    let pair = Pair::new();
    let liar = pair.liar(vec![GREETING.into(), AGREED.into(), String::new()]);
    let link = pair.connect().unwrap();
    assert_eq!(link.agreed().engine, 7);
    let error = link.call(&open(), SHORT).unwrap_err();
    assert_eq!(error.to_string(), "no answer: the other end is too slow");
    assert!(link.is_lost());
    let error = link.call(&Request::Ping, LONG).unwrap_err();
    assert_eq!(error.to_string(), "nothing was sent: the link is lost");
    drop(link);
    liar.join().unwrap();
}

/// How a call ends that gets this answer.
fn answered(line: &str) -> String {
    let pair = Pair::new();
    let liar = pair.liar(vec![GREETING.into(), AGREED.into(), line.into()]);
    let link = pair.connect().unwrap();
    let go = Request::Go(About { handover: Id(7) });
    let error = link.call(&go, LONG).unwrap_err();
    assert_eq!(link.is_lost(), !matches!(error, CallError::Refused(_)));
    drop(link);
    assert_eq!(liar.join().unwrap()[1]["execute"], "go");
    error.to_string()
}

#[test]
fn an_answer_to_another_request_is_none() {
    for line in [r#"{"return":{"guest":"running"},"id":2}"#, r#"{"return":{"guest":"running"}}"#] {
        assert!(answered(line).ends_with("an answer that nobody asked for"), "{line}");
    }
}

#[test]
fn an_answer_of_another_form_is_none() {
    assert!(answered(r#"{"return":{},"id":1}"#).contains("the reply to go: missing field `guest`"));
    assert!(answered(r#"{"return":{"guest":"running","more":1},"id":1}"#).contains("unknown field `more`"));
    assert!(answered(r#"{"execute":"go","id":1}"#).ends_with("a message that is no answer"));
    assert!(answered("go").contains("not JSON"));
}

#[test]
fn a_refusal_is_told_without_control_characters() {
    let line = r#"{"error":{"class":"Refused","desc":"no\u001b[2J"},"id":1}"#;
    assert_eq!(answered(line), "no\u{fffd}[2J");
}

#[test]
fn another_program_at_the_address_is_told_apart() {
    let pair = Pair::new();
    let qemu = r#"{"QMP":{"version":{"qemu":{"major":7}},"capabilities":["oob"]}}"#;
    let liar = pair.liar(vec![qemu.into()]);
    let error = pair.connect().unwrap_err().to_string();
    assert!(error.ends_with("it is no agent of Tenure"), "{error}");
    liar.join().unwrap();
}

#[test]
fn an_agent_of_another_name_is_refused() {
    let pair = Pair::new();
    let liar = pair.liar(vec![GREETING.replace("\"b\"", "\"c\"")]);
    let error = pair.connect().unwrap_err().to_string();
    assert!(error.ends_with("it calls itself c"), "{error}");
    liar.join().unwrap();
}

#[test]
fn an_unknown_peer_on_this_host_is_turned_away() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let answer = pair.raw().negotiate_as("c").unwrap();
    let desc = answer["error"]["desc"].as_str().unwrap();
    assert!(desc.starts_with("it calls itself c, which it is not"), "{desc}");
    assert!(host.turned_away().contains("it calls itself c"));
}

#[test]
fn a_peer_that_is_reached_over_tcp_cannot_come_by_the_socket() {
    let pair = Pair::new();
    let host = Host::listen(&pair.b, terms("b", None, &[("a", &any_port())]));
    assert!(pair.raw().negotiate_as("a").unwrap()["error"].is_object());
    host.turned_away();
}

#[test]
fn a_peer_has_no_more_than_eight_links() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let links: Vec<Link> = (0..8).map(|_| pair.connect().unwrap()).collect();
    for _ in &links {
        assert!(matches!(host.next(), Heard::Session(_)));
    }
    let _ninth = pair.connect();
    assert_eq!(host.turned_away(), "too many links");
    links[7].call(&Request::Ping, LONG).unwrap();
}

#[test]
fn strangers_do_not_fill_the_house() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let _strangers: Vec<Raw> = (0..33).map(|_| pair.raw()).collect();
    assert_eq!(host.turned_away(), "too many links");
}

#[test]
fn when_the_agent_ends_so_do_its_links_and_its_socket() {
    let pair = Pair::new();
    let host = pair.listen(Patience::default());
    let link = pair.connect().unwrap();
    drop(host);
    assert!(link.call(&Request::Ping, LONG).is_err());
    assert!(!pair.path_of_b().exists());
}

#[test]
fn the_socket_of_a_killed_agent_is_replaced_and_that_of_a_living_one_is_not() {
    let pair = Pair::new();
    drop(UnixListener::bind(pair.path_of_b()).unwrap());
    let _host = pair.listen(Patience::default());
    let terms = std::sync::Arc::new(peer::SharedTerms::new(pair.terms_of_a()));
    struct Nobody;
    impl peer::Service for Nobody {
        fn session(&self, _: &peer::Agreed, _: peer::LinkEnd) -> Box<dyn peer::Session> {
            unreachable!("it is not served")
        }
        fn turned_away(&self, _: &str, _: &peer::TurnedAway) {}
    }
    let error = Listener::bind(&pair.b, terms, std::sync::Arc::new(Nobody)).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
}
