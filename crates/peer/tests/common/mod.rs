//! Two hosts for the tests: their certificates, a service that records what it hears, a raw end of a link.
#![allow(dead_code, reason = "each test program uses a part of it")]

use peer::certs::{self, Issued};
use peer::message::{Done, Outcomes};
use peer::{
    Address, Agreed, Credentials, Files, HostName, Link, Listener, Local, Patience, Peer, Refusal, Reply,
    Request, Service, Session, SharedTerms, Terms, TurnedAway,
};
use qmp::CodecError;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// Writes what a host has into files and loads it.
pub(crate) fn credentials(authority: &str, issued: &Issued) -> Credentials {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let files = Files {
        authority: file("ca.pem", authority),
        certificate: file("host.pem", &issued.certificate),
        key: file("host-key.pem", &issued.key),
    };
    Credentials::load(&files).unwrap()
}

/// An authority and what it issues.
pub(crate) struct Authority(pub(crate) Issued);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(certs::authority(2).unwrap())
    }

    pub(crate) fn host(&self, host: &str) -> Credentials {
        credentials(&self.0.certificate, &certs::host(&self.0, &name(host), 1).unwrap())
    }
}

pub(crate) fn terms(host: &str, credentials: Option<Credentials>, peers: &[(&str, &Address)]) -> Terms {
    let local = Local { host: name(host), program: "0.1.0".into(), engine: 1, capabilities: Vec::new() };
    let peers =
        peers.iter().map(|(peer, address)| Peer { name: name(peer), address: (*address).clone() }).collect();
    Terms { local, credentials, peers, patience: Patience::default() }
}

/// What a service saw.
#[derive(Debug)]
pub(crate) enum Heard {
    Session(Agreed),
    Request(Request),
    TurnedAway(TurnedAway),
    Ended(String),
}

pub(crate) struct Recorder(Sender<Heard>);

impl Service for Recorder {
    fn session(&self, peer: &Agreed, _: peer::LinkEnd) -> Box<dyn Session> {
        self.0.send(Heard::Session(peer.clone())).unwrap();
        Box::new(Recorded(self.0.clone()))
    }

    fn turned_away(&self, _: &str, why: &TurnedAway) {
        // The text is what counts; errors cannot be cloned.
        let why = TurnedAway::System(std::io::Error::other(why.to_string()));
        let _ = self.0.send(Heard::TurnedAway(why));
    }
}

struct Recorded(Sender<Heard>);

impl Session for Recorded {
    fn handle(&mut self, request: Request) -> Result<Reply, Refusal> {
        let reply = match &request {
            Request::Round(advance) if advance.digest.0 == 0 => {
                Err(Refusal::new("Refused", "the digests differ"))
            }
            Request::Abort(_) => Err(Refusal::new("Refused", "not now")),
            Request::Round(advance) => {
                Ok(Reply::Outcomes(Outcomes { round: advance.round, outcomes: Vec::new(), wants_out: false }))
            }
            Request::Open(_) => {
                Ok(Reply::Opened(peer::message::Opened { luns: Vec::new(), record: None, guest: None }))
            }
            _ => Ok(Reply::Done(Done {})),
        };
        self.0.send(Heard::Request(request)).unwrap();
        reply
    }

    fn ended(&mut self, why: Option<&CodecError>) {
        let _ = self.0.send(Heard::Ended(why.map(ToString::to_string).unwrap_or_default()));
    }
}

/// A host that listens, and what it heard.
pub(crate) struct Host {
    pub(crate) listener: Listener,
    pub(crate) heard: Receiver<Heard>,
}

impl Host {
    pub(crate) fn listen(address: &Address, terms: Terms) -> Self {
        let (sender, heard) = channel();
        let listener =
            Listener::bind(address, Arc::new(SharedTerms::new(terms)), Arc::new(Recorder(sender))).unwrap();
        Self { listener, heard }
    }

    pub(crate) fn next(&self) -> Heard {
        self.heard.recv_timeout(LONG).expect("something happens")
    }

    /// Why it turned somebody away.
    pub(crate) fn turned_away(&self) -> String {
        match self.next() {
            Heard::TurnedAway(TurnedAway::System(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn any_port() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

/// Listens as `b` for `a` with these credentials.
pub(crate) fn listen(credentials: Credentials) -> Host {
    let nowhere = any_port();
    Host::listen(&any_port(), terms("b", Some(credentials), &[("a", &nowhere)]))
}

/// Connects to `host` as `a`, expecting `b`.
pub(crate) fn connect(host: &Host, credentials: Option<Credentials>) -> Result<Link, peer::ConnectError> {
    let address = host.listener.address();
    Link::connect(&terms("a", credentials, &[("b", address)]), &name("b"))
}

pub(crate) fn unix(directory: &Path, name: &str) -> Address {
    Address::Unix(directory.join(name))
}
