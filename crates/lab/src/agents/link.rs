//! The destination's half, as a service of its listener, and the link to it.

use super::NONCE;
use super::log::Log;
use super::site::{PATIENCE, Site};
use agent::conduct::{Follower, Order, Patience};
use agent::drive::Lines;
use agent::ground::{End, Fate, Ground, Unit};
use agent::journal::Entries;
use agent::ownership::Mark;
use anyhow::{Context, Result};
use handover::{ENGINE_REVISION, Group, Side};
use peer::certs::{self, Issued};
use peer::message::{Done, Offer, Opened, Paths, Port, Ran, Word};
use peer::{
    Address, Agreed, Credentials, Files, HostName, Link, LinkEnd, Listener, Local, Peer, Refusal, Reply,
    Request, Service, Session, SharedTerms, Terms, TurnedAway,
};
use qmp::CodecError;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tempfile::TempDir;

const SOURCE: &str = "alpha.example";
const DESTINATION: &str = "beta.example";

/// The destination, waiting for its peer.
pub(super) struct Follows(Mutex<Option<Following>>);

/// The destination in the course of the handover.
struct Following {
    ground: Ground,
    log: Log,
    follower: Follower<Lines, Entries>,
}

impl Follows {
    pub(super) fn new(mut destination: Site, group: Group, entries: Entries) -> Self {
        let lines = destination.ground.lines();
        let follower = Follower::new(group, Side::Destination, lines, entries, Patience::default());
        let Site { ground, log, .. } = destination;
        Self(Mutex::new(Some(Following { ground, log, follower })))
    }
}

impl Service for Follows {
    fn session(&self, _: &Agreed, _: LinkEnd) -> Box<dyn Session> {
        let following = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        following.map_or_else(|| Box::new(Nobody) as Box<dyn Session>, |following| Box::new(following))
    }

    fn turned_away(&self, _: &str, _: &TurnedAway) {}
}

impl Session for Following {
    fn handle(&mut self, request: Request) -> Result<Reply, Refusal> {
        if let Some(order) = Order::from_request(&request) {
            let reply = self.follower.handle(&order)?;
            return reply.into_answer(self.follower.group().digest());
        }
        let done = match request {
            Request::Open(_) => Ok(self.opened()),
            Request::Go(_) => self.arrive().map(|()| Reply::Ran(Ran { guest: "running".into() })),
            Request::Freeze(_) => self.freeze().map(|()| Reply::Done(Done {})),
            _ => Ok(Reply::Done(Done {})),
        };
        done.map_err(|error| Refusal::new("Refused", format!("{error:#}")))
    }

    fn ended(&mut self, _: Option<&CodecError>) {}
}

impl Following {
    fn opened(&self) -> Reply {
        let luns =
            self.ground.units().iter().map(|unit| Paths { lun: unit.lun.0.clone(), ports: ports(unit) });
        Reply::Opened(Opened { luns: luns.collect(), record: None, guest: None })
    }

    fn freeze(&mut self) -> Result<()> {
        self.ground.freeze(Instant::now() + PATIENCE)?;
        Ok(())
    }

    fn arrive(&mut self) -> Result<()> {
        self.log.mark(Mark::Go)?;
        let verdicts = self.follower.group().verdicts();
        let ends = verdicts.map(|(unit, verdict)| {
            let entry = self.log.last(unit);
            // Before the release no verdict is told yet: what is verified has moved.
            let verdict = verdict.unwrap_or(handover::Verdict::Moved);
            let fate = Fate::of(&verdict, entry.as_ref()).context("nobody knows what the guest has")?;
            Ok(End { unit, fate, owed: Vec::new() })
        });
        Ok(self.ground.arrive(&ends.collect::<Result<Vec<_>>>()?)?)
    }
}

/// A logical unit as the source offers it.
pub(super) fn offer(unit: &Unit) -> Offer {
    let (lun, key) = (unit.lun.0.clone(), unit.key().map(|key| Word(key.0)));
    Offer { lun, key, nonce: Word(NONCE.0), ports: ports(unit), identity_is_ours: false }
}

fn ports(unit: &Unit) -> Vec<Port> {
    let port = |port: handover::Port| {
        let initiator = port.initiator.as_ref().map(ToString::to_string);
        Port { initiator, target_port: port.target_port }
    };
    unit.ports().into_iter().map(port).collect()
}

/// There is one guest, and one handover of it.
struct Nobody;

impl Session for Nobody {
    fn handle(&mut self, _: Request) -> Result<Reply, Refusal> {
        Err(Refusal::new("Refused", "the guest is gone"))
    }

    fn ended(&mut self, _: Option<&CodecError>) {}
}

/// Serves `follows` on loopback, and connects to it. Both have certificates of an authority made for it.
pub(super) fn open(follows: Follows) -> Result<(Listener, Link)> {
    let authority = certs::authority(1)?;
    let anywhere = Address::Tcp("127.0.0.1:0".into());
    let here = terms(&authority, DESTINATION, SOURCE, anywhere.clone())?;
    let listener = Listener::bind(&anywhere, Arc::new(SharedTerms::new(here)), Arc::new(follows))?;
    let there = terms(&authority, SOURCE, DESTINATION, listener.address().clone())?;
    let link = Link::connect(&there, &DESTINATION.parse()?)?;
    Ok((listener, link))
}

fn terms(authority: &Issued, host: &str, peer: &str, address: Address) -> Result<Terms> {
    let (host, peer): (HostName, HostName) = (host.parse()?, peer.parse()?);
    let credentials = credentials(authority, &certs::host(authority, &host, 1)?)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let local = Local { host, program: version, engine: ENGINE_REVISION, capabilities: Vec::new() };
    let peers = vec![Peer { name: peer, address }];
    Ok(Terms { local, credentials: Some(credentials), peers, patience: peer::Patience::default() })
}

fn credentials(authority: &Issued, host: &Issued) -> Result<Credentials> {
    let directory = TempDir::new()?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    };
    let files = Files {
        authority: file("authority.pem", &authority.certificate)?,
        certificate: file("host.pem", &host.certificate)?,
        key: file("key.pem", &host.key)?,
    };
    Ok(Credentials::load(&files)?)
}
