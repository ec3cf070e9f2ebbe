//! A server against its own client, and against clients that do as they like.

use super::*;
use crate::message::{ErrorClass, Reply};
use crate::{CallError, Channel, Client, Heard, Message, Opening};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Instant;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

fn later() -> Instant {
    Instant::now() + PATIENCE
}

fn object(value: &Value) -> Object {
    value.as_object().unwrap().clone()
}

struct Echo {
    descriptors: bool,
}

impl Service for Echo {
    fn greeting(&self) -> Greeting {
        Greeting { version: object(&json!({ "tenure": { "major": 0 } })), capabilities: Vec::new() }
    }

    fn takes_descriptors(&self) -> bool {
        self.descriptors
    }

    fn execute(&self, session: &Session, command: &str, arguments: Object) -> Result<Value, CommandError> {
        match command {
            "echo" => Ok(arguments.into()),
            "who" => Ok(session.caller().uid.into()),
            "progress" => {
                Ok((0..3).all(|step| session.emit("STEP", object(&json!({ "step": step })))).into())
            }
            "inode" => {
                let descriptor =
                    session.take_descriptor("fd").ok_or_else(|| CommandError::generic("none"))?;
                Ok(File::from(descriptor).metadata().unwrap().rdev().into())
            }
            "large" => Ok("x".repeat(2 << 20).into()),
            "fill" => Ok("x".repeat(1 << 19).into()),
            _ => Err(CommandError::not_found(command)),
        }
    }
}

struct Running {
    _directory: TempDir,
    path: PathBuf,
    emitter: Emitter,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Running {
    fn start(limits: ServerLimits) -> Self {
        Self::with(Echo { descriptors: false }, limits)
    }

    fn with(service: Echo, limits: ServerLimits) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let bound = bind(&path, 0o600).unwrap();
        let server = Server::new(Arc::new(service), limits);
        let (stop, stopped) = UnixStream::pair().unwrap();
        let emitter = server.emitter();
        let thread = thread::spawn(move || server.run(bound.listener(), stopped));
        Self { _directory: directory, path, emitter, stop: Some(stop), thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, &Opening::default(), later()).unwrap()
    }

    /// A connection that says these bytes, and what it is told to its end.
    fn told(&self, bytes: &[u8]) -> Vec<Message> {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        // The server may have closed before it had read everything; what it said is there all the same.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut channel = Channel::new(stream, Limits::QEMU);
        std::iter::from_fn(|| channel.receive(Some(later())).ok().flatten()).collect()
    }

    fn stop(&mut self) -> io::Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn error_of(message: &Message) -> &CommandError {
    let Message::Reply(Reply { result: Err(error), .. }) = message else { panic!("{message:?}") };
    error
}

const NEGOTIATED: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

#[test]
fn commands_are_carried_out_and_unknown_ones_refused() {
    let running = Running::start(ServerLimits::default());
    let client = running.client();
    let arguments = object(&json!({ "a": [1, "two"] }));
    assert_eq!(client.execute("echo", arguments.clone(), later()).unwrap(), Value::Object(arguments));
    let error = client.execute("sing", Object::new(), later()).unwrap_err();
    assert_eq!(error.refusal().unwrap().class, ErrorClass::COMMAND_NOT_FOUND);
    let uid = client.execute("who", Object::new(), later()).unwrap();
    assert_eq!(uid, own_uid());
}

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[test]
fn before_the_negotiation_every_command_is_unknown_and_afterwards_it_is_over() {
    let running = Running::start(ServerLimits::default());
    let script = b"{\"execute\":\"who\",\"id\":1}\n{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"qmp_capabilities\"}\n";
    let told = running.told(script);
    assert!(matches!(&told[0], Message::Greeting(_)));
    assert_eq!(error_of(&told[1]).class, ErrorClass::COMMAND_NOT_FOUND);
    assert!(matches!(&told[2], Message::Reply(Reply { result: Ok(_), .. })));
    assert_eq!(error_of(&told[3]).class, ErrorClass::COMMAND_NOT_FOUND);
    let told = running.told(b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}\n");
    assert!(error_of(&told[1]).desc.contains("no such capability"));
}

#[test]
fn whoever_does_not_speak_the_protocol_is_told_so_and_loses_the_connection() {
    let running = Running::start(ServerLimits::default());
    let deep = [vec![b'['; 100], b"\n".to_vec()].concat();
    let long = vec![b'x'; (1 << 20) + 100_000];
    let wide = [b"[".to_vec(), b"1,".repeat(70_000), b"1]\n".to_vec()].concat();
    let strays: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\n", "JSON"),
        (b"{\"return\": {}}\n", "only commands"),
        (b"{\"execute\": \"who\", \"now\": 1}\n", "unexpected member"),
        (&deep, "nested deeper than 64"),
        (&long, "longer than"),
        (&wide, "more than 65536 values"),
    ];
    for (bytes, why) in strays {
        let told = running.told(&[NEGOTIATED, bytes].concat());
        assert!(error_of(told.last().unwrap()).desc.contains(why), "{told:?}");
    }
    assert!(running.client().execute("who", Object::new(), later()).is_ok(), "others are served on");
}

#[test]
fn one_that_never_negotiates_is_let_go() {
    let limits = ServerLimits { deadline: Duration::from_millis(50), ..ServerLimits::default() };
    let running = Running::start(limits);
    let mut stream = UnixStream::connect(&running.path).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.contains("the negotiation took too long"), "{told}");
}

#[test]
fn one_connection_above_the_limit_is_closed() {
    let running = Running::start(ServerLimits { connections: 1, ..ServerLimits::default() });
    let _first = running.client();
    let second = Client::connect(&running.path, &Opening::default(), later());
    assert!(matches!(second, Err(crate::ConnectError::Closed)), "{second:?}");
}

#[test]
fn one_connection_above_the_limit_has_its_turn_when_another_one_is_over() {
    let running = Running::start(ServerLimits { connections: 1, in_turn: true, ..ServerLimits::default() });
    let first = running.client();
    let soon = Instant::now() + Duration::from_millis(100);
    let second = Client::connect(&running.path, &Opening::default(), soon);
    assert!(matches!(second, Err(crate::ConnectError::NoGreeting)), "{second:?}");
    drop(first);
    let third = running.client();
    assert_eq!(third.execute("echo", Object::new(), later()).unwrap(), json!({}));
    let path = running.path.clone();
    let fourth = thread::spawn(move || Client::connect(&path, &Opening::default(), later()));
    assert!(!fourth.is_finished());
    drop(third);
    assert!(fourth.join().unwrap().is_ok());
}

#[test]
fn progress_comes_before_the_answer_and_to_its_client_alone() {
    let running = Running::start(ServerLimits::default());
    let (client, other) = (running.client(), running.client());
    let (events, silent) = (client.events(), other.events());
    assert_eq!(client.execute("progress", Object::new(), later()).unwrap(), true);
    for step in 0..3 {
        let Heard::Event(event) = events.next(Instant::now()) else { panic!("no event {step}") };
        assert_eq!(event.data, object(&json!({ "step": step })));
        assert!(event.timestamp.seconds > 0);
    }
    assert_eq!(silent.next(Instant::now() + Duration::from_millis(20)), Heard::Silence);
}

#[test]
fn events_reach_all_who_have_negotiated() {
    let running = Running::start(ServerLimits::default());
    let clients = [running.client(), running.client()];
    let mut fresh = UnixStream::connect(&running.path).unwrap();
    let events: Vec<_> = clients.iter().map(Client::events).collect();
    running.emitter.emit("STOP", Object::new());
    for listener in &events {
        assert!(matches!(listener.next(later()), Heard::Event(event) if event.event == "STOP"));
    }
    fresh.write_all(NEGOTIATED).unwrap();
    fresh.shutdown(std::net::Shutdown::Write).unwrap();
    let mut told = String::new();
    fresh.read_to_string(&mut told).unwrap();
    assert!(!told.contains("STOP"), "{told}");
}

#[test]
fn one_that_does_not_read_is_dropped_and_keeps_nobody_waiting() {
    let running = Running::start(ServerLimits::default());
    let client = running.client();
    let stream = UnixStream::connect(&running.path).unwrap();
    (&stream).write_all(NEGOTIATED).unwrap();
    // Answers of half a mebibyte each, and nobody who reads them.
    let ended = (0..1000).any(|_| (&stream).write_all(b"{\"execute\":\"fill\"}\n").is_err());
    let limit = later();
    let mut told = Vec::new();
    let _ = (&stream).read_to_end(&mut told);
    assert!(ended || told.len() < 1000 << 19, "it was answered {} bytes", told.len());
    assert!(Instant::now() < limit);
    assert!(client.execute("who", Object::new(), later()).is_ok());
}

#[test]
fn a_result_that_the_client_would_refuse_is_an_error() {
    let running = Running::start(ServerLimits::default());
    let client = running.client();
    let error = client.execute("large", Object::new(), later()).unwrap_err();
    assert!(error.refusal().unwrap().desc.contains("too long"), "{error}");
    assert!(client.execute("who", Object::new(), later()).is_ok());
}

#[test]
fn a_descriptor_is_kept_under_its_name_where_the_service_takes_any() {
    let running = Running::with(Echo { descriptors: true }, ServerLimits::default());
    let client = running.client();
    let file = File::open("/dev/null").unwrap();
    let name = object(&json!({ "fdname": "fd" }));
    client.execute_with_fd("getfd", name.clone(), &file, later()).unwrap();
    let inode = client.execute("inode", Object::new(), later()).unwrap();
    assert_eq!(inode, file.metadata().unwrap().rdev());
    assert!(client.execute("inode", Object::new(), later()).is_err(), "it was taken");
    let without = client.execute("getfd", name, later()).unwrap_err();
    assert!(without.refusal().unwrap().desc.contains("No file descriptor"));
}

#[test]
fn descriptors_are_refused_where_the_service_takes_none() {
    let running = Running::start(ServerLimits::default());
    let client = running.client();
    let file = File::open("/dev/null").unwrap();
    let sent = client.execute_with_fd("echo", Object::new(), &file, later());
    assert!(matches!(sent, Err(CallError::Lost { .. })), "{sent:?}");
}

#[test]
fn a_server_that_stops_answers_what_is_under_way() {
    let mut running = Running::start(ServerLimits::default());
    let client = running.client();
    running.stop().unwrap();
    assert!(client.execute("who", Object::new(), later()).is_err());
    assert!(!running.path.exists(), "its name is gone");
}

#[test]
fn a_socket_has_its_mode_and_is_taken_from_the_dead_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let first = bind(&path, 0o640).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    let second = bind(&path, 0o600).unwrap();
    std::fs::remove_file(&path).unwrap();
    File::create(&path).unwrap();
    drop(second);
    assert!(path.exists(), "somebody else's by now");
    assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing else is left");
}
