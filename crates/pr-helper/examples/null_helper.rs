//! The helper over devices that answer at once, so that the helper itself can be measured: no part of the program.
//!
//! `null_helper serve SOCKET [STATE]` serves QEMU's protocol on SOCKET; every file that a client sends is a logical unit of
//! its own. `null_helper measure STATE` prints requests per second of the service alone, without a socket.
//! STATE is a directory for the ledger; without one nothing is recorded.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a tool for developers"
)]

use handover::Port;
use ledger::{Change, Error, Guest, Ledger, Lock, LunId, Owner, PathId, Record};
use nexus::{Nexus, TransportError};
use pr_helper::opening::{Identity, OpenLun, Opened};
use pr_helper::policy::Rules;
use pr_helper::server::{Limits, Server};
use pr_helper::service::{Book, Service};
use pr_helper::{Caller, Command, Serve};
use rustix::fd::OwnedFd;
use scsi::pr::{InAction, Key, OutAction, ReservationType, request};
use scsi::{Completion, DataPhase, Request};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// GOOD to everything; READ KEYS lists the key that was registered last.
#[derive(Clone, Default)]
struct NullNexus(Arc<AtomicU64>);

impl Nexus for NullNexus {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let action = request.cdb.get(1).map_or(0, |byte| byte & 0x1F);
        let data = match &request.data {
            DataPhase::Out(list) if action == OutAction::REGISTER.0 => {
                let key = list.get(8..16).and_then(|key| key.try_into().ok()).unwrap_or_default();
                self.0.store(u64::from_be_bytes(key), Relaxed);
                Vec::new()
            }
            DataPhase::In(_) if action == InAction::READ_KEYS.0 => self.keys(),
            DataPhase::In(length) => vec![0; (*length).min(8)],
            _ => Vec::new(),
        };
        Ok(Completion::good(data))
    }
}

impl NullNexus {
    fn keys(&self) -> Vec<u8> {
        let mut data = vec![0; 16];
        data[7] = 8;
        data[8..].copy_from_slice(&self.0.load(Relaxed).to_be_bytes());
        data
    }
}

/// Any file is a logical unit.
#[derive(Default)]
struct NullDevices(Mutex<HashMap<u64, (Arc<Identity>, NullNexus)>>);

impl OpenLun for NullDevices {
    fn open(&self, fd: OwnedFd, _: bool) -> Result<Opened, Completion> {
        let number = rustix::fs::fstat(&fd).unwrap().st_ino;
        let mut units = self.0.lock().unwrap();
        let (identity, nexus) = units.entry(number).or_insert_with(|| {
            let (lun, path) = (LunId(format!("naa.{number:016x}")), PathId("null".into()));
            let identity = Identity { lun, path, node: "/dev/null".into(), port: Port::default() };
            (Arc::new(identity), NullNexus::default())
        });
        Ok(Opened { identity: Some(Arc::clone(identity)), nexus: Box::new(nexus.clone()), multipath: false })
    }
}

/// A ledger that forgets: what the helper costs without a disk.
struct Nothing {
    locks: Guest,
    _directory: tempfile::TempDir,
}

impl Book for Nothing {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, Error> {
        Book::share(&self.locks, lun, wait)
    }
    fn read(&self, _: &LunId) -> Result<Option<Arc<Record>>, Error> {
        Ok(None)
    }
    fn append(&self, _: &[(LunId, Change)]) -> Result<(), Error> {
        Ok(())
    }
}

fn guest(state: &Path) -> Guest {
    Ledger::open(state).unwrap().guest(&Owner("null".into())).unwrap()
}

fn service(state: Option<&Path>) -> Service {
    let book: Box<dyn Book> = match state {
        Some(state) => Box::new(guest(state)),
        None => {
            let directory = tempfile::tempdir().unwrap();
            let locks = guest(directory.path());
            Box::new(Nothing { locks, _directory: directory })
        }
    };
    Service::new("null", Rules::default(), Box::new(NullDevices::default()), book, Box::new(()))
}

fn serve(socket: &Path, state: Option<&Path>) {
    let listener = UnixListener::bind(socket).unwrap();
    let (_running, stop) = UnixStream::pair().unwrap();
    Server::new(Arc::new(service(state)), Limits::default()).run(&listener, stop).unwrap();
}

fn command(request: &Request, file: &File) -> Command {
    let mut cdb = [0; 16];
    cdb[..request.cdb.len()].copy_from_slice(&request.cdb);
    let data_out = if let DataPhase::Out(list) = &request.data { list.clone() } else { Vec::new() };
    Command { cdb, data_out, fd: file.try_clone().unwrap().into() }
}

/// Requests per second of so many clients, each with a logical unit of its own, sending `requests` in turn.
fn rate(service: &Service, clients: usize, requests: &[Request]) -> f64 {
    let (length, done) = (Duration::from_secs(1), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let (file, caller) = (tempfile::tempfile().unwrap(), Caller::default());
                let key = Key(1);
                for setup in
                    [request::register(Key::NONE, key, false), request::reserve(key, ReservationType(5))]
                {
                    assert!(service.serve(&caller, command(&setup, &file)).status.is_good());
                }
                for request in requests.iter().cycle() {
                    if begun.elapsed() > length {
                        break;
                    }
                    assert!(service.serve(&caller, command(request, &file)).status.is_good());
                    done.fetch_add(1, Relaxed);
                }
            });
        }
    });
    done.load(Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn measure(state: &Path) {
    let register = |aptpl| request::register(Key(1), Key(1), aptpl);
    let commands = [
        ("READ KEYS", vec![request::read(InAction::READ_KEYS, 8192)]),
        ("RESERVE again", vec![request::reserve(Key(1), ReservationType(5))]),
        ("REGISTER, each a change", vec![register(true), register(false)]),
    ];
    for (ledger, state) in [("no ledger", None), ("durable ledger", Some(state))] {
        for (name, requests) in &commands {
            for clients in [1, 16] {
                let rate = rate(&service(state), clients, requests);
                println!("{ledger:<15} {name:<24} {clients:>3} clients {rate:>10.0}/s");
            }
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", socket] => serve(Path::new(socket), None),
        ["serve", socket, state] => serve(Path::new(socket), Some(Path::new(state))),
        ["measure", state] => measure(Path::new(state)),
        _ => panic!("usage: null_helper serve SOCKET [STATE] | null_helper measure STATE"),
    }
}
