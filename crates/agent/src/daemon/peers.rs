//! Peers at the door: a certified peer may act only for guests that list it, and only in a handover that it opened.

use super::{Claim, Host};
use crate::config::Vm;
use handover::ENGINE_REVISION;
use peer::message::{Guest, Id, Open, Records, Recover, Taken};
use peer::{Agreed, HostName, LinkEnd, Refusal, Reply, Request, Service, Session, TurnedAway};
use qmp::{CodecError, CommandError, Object};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long commands under way on a link that its peer has given up may take to end.
pub(crate) const TAKE_OVER: Duration = Duration::from_secs(8);

/// What becomes of this host's guests. Whoever is named here was found to be allowed to ask.
pub trait Guests: Send + Sync {
    /// What this host's journal has on the guest's last handover, and how the guest stands: for the operator.
    ///
    /// # Errors
    /// What the operator is told.
    fn own(&self, vm: &Vm) -> Result<Records, Refusal>;

    /// A command of the operator's on the control socket; `None` if it is not one of the guests'.
    fn command(
        &self,
        _session: &qmp::server::Session,
        _command: &str,
        _arguments: Object,
    ) -> Option<Result<Value, CommandError>> {
        None
    }

    /// What this host's journal has on a guest, of one handover or of the last one with this peer, and how the guest stands.
    ///
    /// # Errors
    /// What the peer is told.
    fn records(&self, vm: &Vm, peer: &HostName, handover: Option<Id>) -> Result<Records, Refusal>;

    /// A guest that was frozen for this peer is handed over to it, led by this host.
    ///
    /// # Errors
    /// What the peer is told: it was not frozen, or not for this peer.
    fn take(&self, _vm: &Vm, _peer: &HostName) -> Result<Taken, Refusal> {
        Err(Refusal::new("Refused", "nothing is handed over here"))
    }

    /// A handover to this host begins.
    ///
    /// # Errors
    /// What the peer is told; nothing was changed.
    fn open(&self, vm: &Vm, peer: &HostName, open: &Open) -> Result<(Box<dyn Part>, Reply), Refusal>;

    /// An interrupted handover with this peer is put in order.
    ///
    /// # Errors
    /// What the peer is told; nothing was changed.
    fn recover(&self, vm: &Vm, peer: &HostName, recover: &Recover)
    -> Result<(Box<dyn Part>, Reply), Refusal>;
}

/// This host's part in a handover that a peer leads. Dropped when the link is lost, which decides nothing.
pub trait Part: Send {
    /// Does what is asked, in the order of [`peer::sequence`].
    ///
    /// # Errors
    /// What the peer is told.
    fn handle(&mut self, request: &Request) -> Result<Reply, Refusal>;
}

/// The door.
#[derive(Clone)]
pub(super) struct Welcome {
    host: Arc<Host>,
    guests: Arc<dyn Guests>,
    held: Arc<Mutex<HashMap<String, Held>>>,
}

/// The link on which a handover of a guest is open.
struct Held {
    peer: HostName,
    handover: Id,
    link: LinkEnd,
}

impl Welcome {
    pub(super) fn new(host: Arc<Host>, guests: Arc<dyn Guests>) -> Self {
        Self { host, guests, held: Arc::default() }
    }
}

impl Service for Welcome {
    fn session(&self, peer: &Agreed, link: LinkEnd) -> Box<dyn Session> {
        tracing::info!(peer = %peer.host, version = peer.program, "link");
        Box::new(PeerSession { door: self.clone(), peer: peer.clone(), link, part: None })
    }

    fn turned_away(&self, from: &str, why: &TurnedAway) {
        tracing::warn!(from, %why, "turned away");
    }
}

/// One link.
struct PeerSession {
    door: Welcome,
    peer: Agreed,
    link: LinkEnd,
    part: Option<Opened>,
}

/// The handover that is open on a link.
struct Opened {
    part: Box<dyn Part>,
    vm: String,
    handover: Id,
    _claim: Claim,
}

impl Session for PeerSession {
    fn handle(&mut self, request: Request) -> Result<Reply, Refusal> {
        let peer = &self.peer.host;
        let result = match &request {
            Request::State(state) => {
                let vm = self.guest(&state.guest)?;
                // Its part has QEMU's socket, which serves one program at a time.
                let open = self.part.as_mut().filter(|open| {
                    open.vm == vm.name && state.handover.is_none_or(|wanted| wanted == open.handover)
                });
                match open {
                    Some(open) => open.part.handle(&request),
                    None => self.door.guests.records(&vm, peer, state.handover).map(Reply::State),
                }
            }
            Request::Take(take) => {
                let vm = self.guest(&take.guest)?;
                vm.may_move(peer).map_err(|why| Refusal::new("Refused", why))?;
                self.same_engine()?;
                self.door.guests.take(&vm, peer).map(Reply::Taken)
            }
            Request::Open(open) => self.open(open),
            Request::Recover(recover) => self.recover(recover),
            request => match &mut self.part {
                Some(open) => open.part.handle(request),
                None => Err(Refusal::new("UnknownHandover", "no handover is open on this link")),
            },
        };
        if matches!((&request, &result), (Request::Close(_), Ok(_))) {
            self.part = None;
        }
        if let Err(refusal) = &result {
            tracing::warn!(peer = %self.peer.host, request = request.name(), why = refusal.desc, "refused");
        }
        result
    }

    fn ended(&mut self, why: Option<&CodecError>) {
        match why {
            Some(why) => tracing::warn!(peer = %self.peer.host, %why, "link lost"),
            None => tracing::info!(peer = %self.peer.host, "link closed"),
        }
    }
}

impl PeerSession {
    /// The guest, if this peer may speak of it. Others are told the same whether there is such a guest or not.
    fn guest(&self, guest: &Guest) -> Result<Vm, Refusal> {
        let config = self.door.host.config();
        let vm = config.vm(&guest.vm).filter(|vm| vm.peers.contains(&self.peer.host));
        let vm = vm.ok_or_else(|| {
            let (here, there) = (&config.agent.name, &self.peer.host);
            Refusal::new("UnknownGuest", format!("{here} has no vm {} that lists {there}", guest.vm))
        })?;
        if !vm.uuid.as_str().eq_ignore_ascii_case(&guest.uuid) {
            let why = format!("vm {} has another UUID here ({})", vm.name, vm.uuid);
            return Err(Refusal::new("UnknownGuest", why));
        }
        Ok(vm.clone())
    }

    fn open(&mut self, open: &Open) -> Result<Reply, Refusal> {
        let vm = self.guest(&open.guest)?;
        vm.may_move(&self.peer.host).map_err(|why| Refusal::new("Refused", why))?;
        self.same_engine()?;
        let claim = self.claim(&vm)?;
        let (part, reply) = self.door.guests.open(&vm, &self.peer.host, open)?;
        self.hold(&vm, open.handover);
        self.part = Some(Opened { part, vm: vm.name, handover: open.handover, _claim: claim });
        Ok(reply)
    }

    /// Also where the guest may not move any more: what was begun must be put in order.
    fn recover(&mut self, recover: &Recover) -> Result<Reply, Refusal> {
        let vm = self.guest(&recover.guest)?;
        self.same_engine()?;
        let handover = recover.record.handover;
        let claim = self.claim(&vm).or_else(|refusal| self.take_over(&vm, handover).ok_or(refusal))?;
        let (part, reply) = self.door.guests.recover(&vm, &self.peer.host, recover)?;
        self.hold(&vm, handover);
        self.part = Some(Opened { part, vm: vm.name, handover, _claim: claim });
        Ok(reply)
    }

    /// Remembers on which link the guest's handover is open now.
    fn hold(&self, vm: &Vm, handover: Id) {
        let held = Held { peer: self.peer.host.clone(), handover, link: self.link.clone() };
        self.door.held.lock().unwrap_or_else(PoisonError::into_inner).insert(vm.name.clone(), held);
    }

    /// The peer puts in order what it had open on a link that it has lost, which this end may not know yet: ends that one, and
    /// waits until what was under way on it has ended.
    fn take_over(&self, vm: &Vm, handover: Id) -> Option<Claim> {
        let held = self.door.held.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |held: &&Held| held.peer == self.peer.host && held.handover == handover;
        let link = held.get(&vm.name).filter(same).map(|held| held.link.clone());
        drop(held);
        link?.end();
        self.door.host.busy.claim_within(&vm.name, TAKE_OVER)
    }

    fn same_engine(&self) -> Result<(), Refusal> {
        match self.peer.engine {
            ENGINE_REVISION => Ok(()),
            theirs => Err(Refusal::new(
                "Engine",
                format!(
                    "tenure {} there has revision {theirs} of the procedure, this host {ENGINE_REVISION}: both hosts need \
                     the same; update the older one",
                    self.peer.program
                ),
            )),
        }
    }

    fn claim(&self, vm: &Vm) -> Result<Claim, Refusal> {
        let busy = || Refusal::new("Busy", format!("a handover of vm {} is under way", vm.name));
        self.door.host.busy.claim(&vm.name).ok_or_else(busy)
    }
}
