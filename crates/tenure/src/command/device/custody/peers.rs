//! The other devices: who they are, what they ask, and what they are asked.

use super::{Custody, FORMAT};
use crate::cli::DeviceArgs;
use crate::exit::Failure;
use anyhow::Context;
use handover::ENGINE_REVISION;
use ledger::HandoverId;
use peer::listener::{LinkEnd, TurnedAway};
use peer::message::{Device as Question, DeviceState, DeviceStep, Id};
use peer::{
    Address, Agreed, CallError, ConnectError, Credentials, Files, HostName, Link, Listener, Local, Patience,
    Peer, Refusal, Reply, Request, Service, Session, SharedTerms, Terms,
};
use qmp::CodecError;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a host may need for one step.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a device that is started again may not answer.
const SILENCE: Duration = Duration::from_secs(3);

/// Why a question has no answer.
#[derive(Debug, Error)]
pub(in crate::command::device) enum Asked {
    /// The other host says no.
    #[error("{0}")]
    Refused(Refusal),
    /// It did not say anything; it may have done what it was asked for.
    #[error("{0}")]
    Lost(String),
}

impl Asked {
    /// Nobody is there, or nobody who has to do with the guest.
    pub(super) fn knows_nothing(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Refused(refusal) => refusal.class == "UnknownGuest",
        }
    }
}

/// This host among its peers.
#[derive(Debug)]
pub(in crate::command::device) struct Peering {
    own: HostName,
    terms: Arc<SharedTerms>,
}

impl Peering {
    /// What the command line says; none if it names no peer.
    ///
    /// # Errors
    /// Names without addresses, addresses without certificates, certificates of another name.
    pub(in crate::command::device) fn new(args: &DeviceArgs) -> Result<Option<Self>, Failure> {
        let given = &args.peering;
        let Some(host) = &given.host else { return Ok(None) };
        if let Some(from) = &given.incoming
            && given.peers.iter().all(|peer| peer.name != *from)
        {
            return Err(Failure::usage(format!("--incoming {from}: there is no --peer {from}=ADDRESS")));
        }
        let is_tcp = |address: &Address| matches!(address, Address::Tcp(_));
        let needed =
            given.peers.iter().any(|peer| is_tcp(&peer.address)) || given.listen.as_ref().is_some_and(is_tcp);
        let credentials = needed.then(|| credentials(args, host)).transpose()?;
        let local = Local {
            host: host.clone(),
            program: env!("CARGO_PKG_VERSION").into(),
            engine: ENGINE_REVISION,
            capabilities: Vec::new(),
        };
        let terms = Terms { local, credentials, peers: given.peers.clone(), patience: Patience::default() };
        Ok(Some(Self { own: host.clone(), terms: Arc::new(SharedTerms::new(terms)) }))
    }

    /// This host.
    pub(in crate::command::device) const fn own(&self) -> &HostName {
        &self.own
    }

    /// Whether there is a peer of that name.
    pub(in crate::command::device) fn knows(&self, name: &HostName) -> bool {
        self.terms.get().peer(name).is_some()
    }

    /// A link to a peer.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::command::device) fn link(&self, host: &HostName) -> Result<Link, String> {
        Link::connect(&self.terms.get(), host).map_err(|error| chain(&error))
    }

    /// Whether nobody answers there, for some seconds: who turns this host away, or is not believed, does.
    pub(in crate::command::device) fn is_silent(&self, host: &HostName) -> bool {
        let end = Instant::now() + SILENCE;
        loop {
            if !matches!(Link::connect(&self.terms.get(), host), Err(ConnectError::Connect { .. })) {
                return false;
            }
            if Instant::now() >= end {
                return true;
            }
            thread::sleep(SILENCE / 15);
        }
    }

    /// Asks a peer.
    pub(super) fn ask(&self, host: &HostName, question: Question) -> Result<DeviceState, Asked> {
        let link = self.link(host).map_err(Asked::Lost)?;
        match link.call(&Request::Device(question), ANSWER) {
            Ok(Reply::Device(answer)) => Ok(answer),
            Ok(_) => Err(Asked::Lost("an answer to something else".into())),
            Err(CallError::Refused(refusal)) => Err(Asked::Refused(refusal)),
            Err(error) => Err(Asked::Lost(chain(&error))),
        }
    }

    /// Whether `guest` is new, as far as the peers say that answer.
    ///
    /// # Errors
    /// What the first of them says that has had it, or knows that it is elsewhere.
    pub(in crate::command::device) fn has_never_seen(
        &self,
        peers: &[Peer],
        guest: &str,
    ) -> Result<(), String> {
        let question =
            || Question { handover: Id(0), guest: guest.into(), step: DeviceStep::Look, format: FORMAT };
        for Peer { name, .. } in peers {
            match self.ask(name, question()) {
                Ok(DeviceState { elsewhere: None, epoch: 0, .. }) => {}
                Ok(DeviceState { elsewhere: Some(there), .. }) => {
                    return Err(format!("{name} knows it: it is at {there}"));
                }
                Ok(_) => return Err(format!("{name} knows it: it is there, or was")),
                Err(Asked::Refused(refusal)) if refusal.class == "UnknownGuest" => {}
                Err(Asked::Refused(refusal)) => return Err(format!("{name} knows it: {refusal}")),
                Err(Asked::Lost(why)) => {
                    tracing::warn!(guest, peer = %name, why, "not asked about the guest")
                }
            }
        }
        Ok(())
    }

    /// Answers peers, until the listener is dropped.
    ///
    /// # Errors
    /// Nobody can listen there.
    pub(in crate::command::device) fn listen(
        &self,
        address: &Address,
        guests: &[Arc<Custody>],
    ) -> Result<Listener, Failure> {
        let service = Arc::new(Answering(guests.to_vec()));
        Ok(Listener::bind(address, Arc::clone(&self.terms), service).context("--peer-listen")?)
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn credentials(args: &DeviceArgs, host: &HostName) -> Result<Credentials, Failure> {
    let file = |name: &str| args.peering.certificates.join(name);
    let files = Files { authority: file("ca.pem"), certificate: file("host.pem"), key: file("host-key.pem") };
    let credentials = Credentials::load(&files).context("--certificates")?;
    if credentials.names().iter().any(|name| name == host.as_str()) {
        return Ok(credentials);
    }
    let path = files.certificate.display();
    Err(Failure::usage(format!(
        "--host {host}: {path} is the certificate of {}",
        credentials.names().join(", ")
    )))
}

/// Answers for the guests of this process.
struct Answering(Vec<Arc<Custody>>);

impl Service for Answering {
    fn session(&self, peer: &Agreed, link: LinkEnd) -> Box<dyn Session> {
        Box::new(Answers { guests: self.0.clone(), peer: peer.host.clone(), link, follows: None })
    }

    fn turned_away(&self, from: &str, why: &TurnedAway) {
        tracing::warn!(from, %why, "turned away");
    }
}

struct Answers {
    guests: Vec<Arc<Custody>>,
    peer: HostName,
    link: LinkEnd,
    /// Whose registrations are handed over on this link, for which ticket, and the turn in which they are.
    follows: Option<(Arc<Custody>, HandoverId, Option<u64>)>,
}

impl Answers {
    /// A request of a device that leads a handover.
    fn follow(&mut self, request: &Request) -> Result<Reply, Refusal> {
        let guest = match request {
            Request::Open(open) => Some(&open.guest),
            Request::Recover(recover) => Some(&recover.guest),
            Request::Journal(_) | Request::Round(_) | Request::Settle(_) | Request::Close(_) => None,
            _ => {
                let why = format!("{}: this is a device, and no agent", request.name());
                return Err(Refusal::new("CommandNotFound", why));
            }
        };
        if let Some(guest) = guest {
            let custody = self.guests.iter().find(|custody| custody.guest() == guest.vm).cloned();
            let ticket = HandoverId::from_hex(&guest.uuid);
            self.follows = custody.zip(ticket).map(|(custody, ticket)| (custody, ticket, None));
        }
        let unknown = || Refusal::new("UnknownGuest", "there is no such guest");
        let (custody, ticket, turn) = self.follows.as_mut().ok_or_else(unknown)?;
        custody.follow((&self.peer, &self.link), *ticket, request, turn)
    }
}

impl Session for Answers {
    fn handle(&mut self, request: Request) -> Result<Reply, Refusal> {
        let Request::Device(question) = request else {
            let answer = self.follow(&request);
            if let Err(refusal) = &answer {
                tracing::warn!(peer = %self.peer, request = request.name(), why = refusal.desc, "refused");
            }
            return answer;
        };
        let guest = self.guests.iter().find(|custody| custody.guest() == question.guest);
        let answer = match guest {
            Some(custody) => custody.answer(&self.peer, &question),
            None => Err(Refusal::new("UnknownGuest", format!("there is no guest {}", question.guest))),
        };
        if let Err(refusal) = &answer {
            tracing::warn!(peer = %self.peer, step = ?question.step, why = refusal.desc, "refused");
        }
        answer.map(Reply::Device)
    }

    fn ended(&mut self, why: Option<&CodecError>) {
        if let Some((custody, _, Some(turn))) = &self.follows {
            custody.stop_following(*turn);
        }
        if let Some(why) = why {
            tracing::warn!(peer = %self.peer, %why, "link lost");
        }
    }
}
