//! The destination's part of a migration: answers the source's agent, one [`Incoming`] for each handover that is open on a link.
//!
//! It begins nothing by itself. It lets the guest run only after the source said `go` and its own journal says so too, and
//! once it has journalled `abort` it never does ([`ownership`](crate::ownership)). When the link breaks it is dropped:
//! journal, record and QEMU stay as they are, and the guest stays paused until the two hosts have spoken again.

mod left;

pub use left::{Word, give_up, resume};

use crate::conduct::{Ask, Follower, NotDurable, Order, Patience};
use crate::migrate::leg::{self, Agreed, Entries, SharedHands, Turned};
use crate::migrate::{
    Begin, End, Ground, Leg, Log, Lun, MachineError, Settings, Site, Trouble, UnitEnd, remains, talk, units,
};
use crate::ownership::{Forbidden, Guest, Mark, Marks, Standing, View};
use handover::{Group, Phase, Side, Verdict};
use peer::message::{
    Aborted, Back, Done, Id, Incoming as Listen, Listening, Open, Opened, Owed, Ran, Records, Recover,
    Refusal, Reply, Request,
};
use scsi::pr::Key;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The class of the refusal that promises that this host never runs the guest.
pub const GIVEN_UP: &str = "GivenUp";

/// How long the guest may take from the source's end of the migration to being here.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(20);
/// Between looks at QEMU while something is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A handover that the source's agent opened.
pub struct Incoming {
    site: Arc<dyn Site>,
    handover: Id,
    ground: Arc<dyn Ground>,
    hands: SharedHands,
    agreed: Agreed,
    /// None for a plan.
    log: Option<Arc<dyn Log>>,
    /// None where no logical unit has anything to move.
    follower: Option<Follower<Turned, Entries>>,
    /// The place in the handover of each unit of the follower's group.
    places: Vec<u16>,
    stay_paused: bool,
    /// The operator said that the guest is gone at the source and does not start there again.
    vouched: bool,
    cont_refused: bool,
    /// The record says `handover` and is locked.
    frozen: bool,
    /// The source said that the guest stands still.
    still: bool,
    owed: Vec<Owed>,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("handover", &self.handover).finish_non_exhaustive()
    }
}

impl Drop for Incoming {
    /// What was heard over this link's connection to QEMU is not told again over another.
    fn drop(&mut self) {
        let open = self.log.as_ref().filter(|log| !log.marks().has(Mark::Go));
        open.filter(|_| self.site.machine().ran()).into_iter().for_each(|log| remember_ran_there(&**log));
    }
}

impl From<Trouble> for Refusal {
    fn from(Trouble(why): Trouble) -> Self {
        Self::new("Refused", why)
    }
}

impl From<MachineError> for Refusal {
    fn from(error: MachineError) -> Self {
        Self::new("Refused", error.to_string())
    }
}

impl From<NotDurable> for Refusal {
    fn from(error: NotDurable) -> Self {
        Self::new("NotDurable", error.to_string())
    }
}

impl From<Forbidden> for Refusal {
    fn from(error: Forbidden) -> Self {
        Self::new("Forbidden", error.to_string())
    }
}

impl Incoming {
    /// A handover begins: looks whether the guest can come here. That this peer may ask for this guest was checked before.
    ///
    /// # Errors
    /// Why it cannot; nothing was changed, or it was given back.
    pub fn open(site: Arc<dyn Site>, peer: &str, open: &Open) -> Result<(Self, Reply), Refusal> {
        let guest = welcome(&*site, open)?;
        let ground = site.ground(open.handover.0, Side::Destination)?;
        let names: Vec<_> = open.luns.iter().map(|offer| offer.lun.clone()).collect();
        let luns = ground.arrange(&names)?;
        let paths = units::paths(&luns);
        let (offers, options) = (open.luns.clone(), open.options.clone());
        let agreed = Agreed { offers, paths: paths.clone(), options, luns: luns.clone() };
        let group = Group::new(agreed.there()?);
        let log = match open.options.plan_only {
            true => None,
            false => Some(site.begin(&begin(open, peer, luns)?)?),
        };
        let mut incoming = Self::new(site, ground, open.handover, agreed, log);
        incoming.stay_paused = open.options.stay_paused;
        let places = leg::all(open.luns.len());
        incoming.follow(group, Leg::There, places);
        incoming.enter()?;
        let guest = talk::word(guest).map(str::to_owned);
        Ok((incoming, Reply::Opened(Opened { luns: paths, record: None, guest })))
    }

    /// An interrupted handover is put in order together with the source: `log` is what this host has of it.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn recover(
        site: Arc<dyn Site>,
        log: Arc<dyn Log>,
        recover: &Recover,
    ) -> Result<(Self, Reply), Refusal> {
        let handover = recover.record.handover;
        let ground = site.ground(handover.0, Side::Destination)?;
        let names: Vec<_> = log.begun().luns.iter().map(|lun| lun.name.clone()).collect();
        let luns = ground.arrange(&names)?;
        let own = remains::record(&*log, &luns);
        let found = remains::interrupted(recover, &own, &luns)?;
        let guest = talk::word(site.machine().guest()).map(str::to_owned);
        let opened = Opened { luns: found.agreed.paths.clone(), record: Some(own), guest };
        let stay_paused = !log.begun().was_running;
        let marks = log.marks();
        let here = marks.has(Mark::Go) && !marks.has(Mark::Abort);
        let runs = marks.has(Mark::Ran) || (here && site.machine().guest() != Guest::Paused);
        let mut incoming = Self::new(site, ground, handover, found.agreed, Some(log));
        incoming.stay_paused = stay_paused;
        // A guest that runs here, or may, is not frozen under its feet: the record that is answered says that it is over.
        if !runs {
            incoming.freeze_ground()?;
            incoming.still = true;
            incoming.follow(found.group, found.leg, found.places);
        }
        Ok((incoming, Reply::Opened(opened)))
    }

    fn new(
        site: Arc<dyn Site>,
        ground: Arc<dyn Ground>,
        handover: Id,
        agreed: Agreed,
        log: Option<Arc<dyn Log>>,
    ) -> Self {
        let hands = Arc::new(Mutex::new(ground.hands()));
        let (follower, places, owed) = (None, Vec::new(), Vec::new());
        let (stay_paused, vouched, cont_refused, frozen, still) = (false, false, false, false, false);
        Self {
            site,
            handover,
            ground,
            hands,
            agreed,
            log,
            follower,
            places,
            stay_paused,
            vouched,
            cont_refused,
            frozen,
            still,
            owed,
        }
    }

    fn follow(&mut self, group: Option<Group>, leg: Leg, places: Vec<u16>) {
        let side = match leg {
            Leg::There => Side::Destination,
            Leg::Back => Side::Source,
        };
        self.places.clone_from(&places);
        let hands = Turned::new(Arc::clone(&self.hands), leg, places.clone());
        let entries = Entries::new(self.log.clone(), Arc::clone(&self.ground), leg, places);
        self.follower = group.map(|group| Follower::new(group, side, hands, entries, Patience::default()));
    }

    /// Does what is asked. The order of requests was checked before ([`peer::sequence`]).
    ///
    /// # Errors
    /// Why not; it says so too where something was begun.
    pub fn handle(&mut self, request: &Request) -> Result<Reply, Refusal> {
        if let Some(order) = Order::from_request(request) {
            return self.obey(&order);
        }
        match request {
            Request::Ping => Ok(Reply::Done(Done {})),
            Request::Freeze(_) => self.freeze(),
            Request::Attentions(attentions) => {
                self.owe(&attentions.owed)?;
                Ok(Reply::Done(Done {}))
            }
            Request::Incoming(incoming) => self.listen(incoming),
            Request::Go(_) => self.go(),
            Request::Abort(_) => self.abort(),
            Request::Back(back) => self.back(back),
            Request::State(_) => self.state(),
            Request::Close(close) => self.close(&close.verdict),
            _ => Err(Refusal::new("OutOfOrder", format!("{} does not belong here", request.name()))),
        }
    }

    fn obey(&mut self, order: &Order) -> Result<Reply, Refusal> {
        if order.ask == Ask::Journal && !self.still {
            return Err(Refusal::new("OutOfOrder", "nothing is changed before freeze was said"));
        }
        let follower = self.follower.as_mut().ok_or_else(|| Trouble("no handover is under way".into()))?;
        let reply = follower.handle(order)?.into_answer(order.digest)?;
        if matches!(reply, Reply::Standing(_)) && is_taken(follower.group()) && !self.marks().has(Mark::Abort)
        {
            self.mark(Mark::Taken, None)?;
        }
        Ok(reply)
    }

    fn marks(&self) -> Marks {
        self.log.as_ref().map(|log| log.marks()).unwrap_or_default()
    }

    fn standing(&self, source: Option<Marks>) -> Standing {
        let own = View { marks: self.marks(), guest: self.own_guest() };
        let peer = source.map(|marks| View { marks, guest: Guest::Paused });
        let alone = Standing::alone(Side::Destination, own);
        let (vouched, cont_refused, stays_paused) = (self.vouched, self.cont_refused, self.stay_paused);
        Standing { peer, vouched, cont_refused, stays_paused, ..alone }
    }

    fn own_guest(&self) -> Guest {
        match &self.log {
            Some(log) => own_guest(&*self.site, &**log),
            None => self.site.machine().guest(),
        }
    }

    fn mark(&self, mark: Mark, source: Option<Marks>) -> Result<(), Refusal> {
        let log = self.log.as_ref().ok_or_else(|| Trouble("this is only a plan".into()))?;
        self.standing(source).allows(mark)?;
        if !log.marks().has(mark) {
            log.mark(mark)?;
        }
        Ok(())
    }

    /// Nobody runs here, so the record says `handover` as long as the handover is open: the helper sends nothing that changes
    /// the device before, and to look whether this host's nexuses have the key already is such a command.
    fn enter(&mut self) -> Result<(), Refusal> {
        if self.log.is_none() {
            return Ok(());
        }
        self.freeze_ground().or_else(|trouble| {
            self.close("refused")?;
            Err(trouble.into())
        })
    }

    fn freeze(&mut self) -> Result<Reply, Refusal> {
        self.ground.freeze()?;
        self.still = true;
        if self.follower.is_none() {
            self.mark(Mark::Taken, None)?;
        }
        Ok(Reply::Done(Done {}))
    }

    /// Once: the locks are this process's own already then.
    fn freeze_ground(&mut self) -> Result<(), Trouble> {
        if !self.frozen {
            self.ground.freeze()?;
            self.frozen = true;
        }
        Ok(())
    }

    fn listen(&self, incoming: &Listen) -> Result<Reply, Refusal> {
        let machine = self.site.machine();
        let settings =
            Settings { capabilities: incoming.capabilities.clone(), parameters: incoming.parameters.clone() };
        machine.configure(&settings)?;
        let uri = machine.listen(incoming.uri.as_deref())?;
        Ok(Reply::Listening(Listening { uri }))
    }

    /// The source has journalled `go`.
    fn go(&mut self) -> Result<Reply, Refusal> {
        let released: Marks = [Mark::Taken, Mark::Go].into_iter().collect();
        let first = !self.marks().has(Mark::Go);
        if first {
            if self.wait_for(Guest::Paused, ARRIVAL) != Guest::Paused {
                return Err(self.give_up("the guest did not arrive here"));
            }
            self.mark(Mark::Go, Some(released))?;
        }
        let guest = match self.run(first) {
            Ok(guest) => guest,
            Err(why) if self.site.machine().guest() == Guest::Absent => return Err(self.died(&why, released)),
            Err(why) => return Err(self.give_up(&why)),
        };
        self.mark(Mark::Ran, Some(released))?;
        Ok(Reply::Ran(Ran { guest: guest.to_owned() }))
    }

    /// The guest was this host's when its QEMU went. It may have run before, so nobody else gets it, and the source hears that it
    /// is over; whoever starts the guest again here finds its record.
    fn died(&mut self, why: &str, source: Marks) -> Refusal {
        let over = self
            .settle(End::Arrived)
            .map_err(Refusal::from)
            .and_then(|()| self.mark(Mark::Ran, Some(source)));
        over.err().unwrap_or_else(|| Refusal::new("Refused", format!("{why}; the guest is this host's")))
    }

    /// The guest is this host's: record, then `cont`. `first`: no `cont` can have been sent before.
    fn run(&mut self, first: bool) -> Result<&'static str, String> {
        if self.marks().has(Mark::Abort) {
            return Err("this host has promised not to run the guest".into());
        }
        let site = Arc::clone(&self.site);
        let machine = site.machine();
        if let Err(trouble) = self.settle(End::Arrived) {
            self.cont_refused = first && !self.ran_by_hand();
            return Err(trouble.to_string());
        }
        if self.stay_paused {
            return Ok("paused");
        }
        if machine.guest() == Guest::Running {
            return Ok("running");
        }
        match machine.cont() {
            Ok(()) => {}
            Err(error @ MachineError::Refused(_)) => {
                self.cont_refused = first && machine.guest() == Guest::Paused && !self.ran_by_hand();
                return Err(error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
        match self.wait_for(Guest::Running, ARRIVAL) {
            Guest::Running => Ok("running"),
            guest => Err(format!("cont was accepted, and the guest is {guest:?}")),
        }
    }

    /// Whether somebody let the guest run here, as far as anybody has heard.
    fn ran_by_hand(&self) -> bool {
        self.site.machine().ran() || self.log.as_ref().is_some_and(|log| log.ran_there())
    }

    /// Promises never to run the guest, where that can still be promised.
    fn give_up(&self, why: &str) -> Refusal {
        match self.mark(Mark::Abort, None) {
            Ok(()) => Refusal::new(GIVEN_UP, why),
            Err(_) => Refusal::new("Refused", format!("{why}; whether the guest ran here is not known")),
        }
    }

    fn wait_for(&self, wanted: Guest, patience: Duration) -> Guest {
        let (machine, end) = (self.site.machine(), Instant::now() + patience);
        loop {
            let guest = machine.guest();
            if guest == wanted || guest == Guest::Absent || Instant::now() >= end {
                return guest;
            }
            machine.wait(Instant::now() + LOOK);
        }
    }

    fn abort(&self) -> Result<Reply, Refusal> {
        let given_up = match &self.log {
            None => true,
            Some(_) => self.mark(Mark::Abort, None).is_ok(),
        };
        Ok(Reply::Aborted(Aborted { given_up }))
    }

    fn back(&mut self, back: &Back) -> Result<Reply, Refusal> {
        let log = self.log.clone().ok_or_else(|| Trouble("this is only a plan".into()))?;
        if !log.marks().has(Mark::Abort) {
            return Err(Refusal::new("OutOfOrder", "nothing goes back before abort was said"));
        }
        // Where the guest had arrived the record was ended already.
        self.freeze_ground()?;
        self.still = true;
        let group = Group::new(self.agreed.back(&*log, &back.units)?);
        self.follow(group, Leg::Back, back.units.iter().map(|unit| unit.unit).collect());
        Ok(Reply::Done(Done {}))
    }

    fn state(&self) -> Result<Reply, Refusal> {
        let record = self.log.as_ref().map(|log| remains::record(&**log, &self.agreed.luns));
        let guest = self.own_guest();
        let ran_there = self.log.as_ref().is_some_and(|log| log.ran_there() && !log.marks().has(Mark::Go));
        let guest = talk::word_there(guest, ran_there).map(str::to_owned);
        Ok(Reply::State(Records { record, guest }))
    }

    fn close(&mut self, verdict: &str) -> Result<Reply, Refusal> {
        let Some(log) = self.log.clone() else { return Ok(Reply::Done(Done {})) };
        let marks = log.marks();
        if marks.has(Mark::Go) && !marks.has(Mark::Abort) && !marks.has(Mark::Ran) {
            return Err(Refusal::new(
                "OutOfOrder",
                "the guest was given to this host, which has not ended it",
            ));
        }
        if !marks.has(Mark::Ran) {
            self.settle(End::Refused)?;
            if log.marks().has(Mark::Abort) {
                let back = Marks::new().with(Mark::Abort).with(Mark::Back);
                self.mark(Mark::Back, Some(back))?;
            }
        }
        log.end(verdict)?;
        self.follower = None;
        Ok(Reply::Done(Done {}))
    }

    fn settle(&mut self, end: End) -> Result<(), Trouble> {
        self.ground.settle(end, &self.ends())?;
        self.frozen = false;
        Ok(())
    }

    fn ends(&self) -> Vec<UnitEnd> {
        let verdicts: Vec<_> =
            self.follower.iter().flat_map(|follower| follower.group().verdicts()).collect();
        let last = self.log.as_ref().map(|log| log.last()).unwrap_or_default();
        let one = |(place, lun): (usize, &Lun)| {
            let (lun, owed, last) =
                (lun.name.clone(), self.owed_to(place), last.get(place).copied().flatten());
            let told = self.unit(place).and_then(|unit| verdicts.get(unit)).and_then(|(_, verdict)| *verdict);
            // After a restart there is no group: a unit that was fenced is not one that came.
            let verdict = told.or_else(|| last.and_then(|last| last.entry.stage.verdict()));
            UnitEnd { lun, verdict, last, owed }
        };
        self.agreed.luns.iter().enumerate().map(one).collect()
    }

    /// What the guest is owed is recorded here before the source hears that it is: the link, and either agent, may be lost
    /// before the guest runs.
    fn owe(&mut self, owed: &[Owed]) -> Result<(), Trouble> {
        self.owed = owed.to_vec();
        let sense = |owed: &Owed| owed.sense.iter().map(|sense| sense.0.clone()).collect();
        let placed: Vec<_> = owed.iter().map(|owed| (owed.unit, sense(owed))).collect();
        self.ground.owe(&placed)
    }

    fn unit(&self, place: usize) -> Option<usize> {
        self.places.iter().position(|other| usize::from(*other) == place)
    }

    fn owed_to(&self, place: usize) -> Vec<Vec<u8>> {
        let of = |owed: &&Owed| usize::from(owed.unit) == place;
        self.owed.iter().filter(of).flat_map(|owed| owed.sense.iter().map(|sense| sense.0.clone())).collect()
    }
}

/// How the guest stands here. One that somebody let run before this host was given it is no more one that never ran, whoever has
/// stopped it again: QEMU does not tell it afterwards, only whoever listened, or wrote it down.
pub(crate) fn own_guest(site: &dyn Site, log: &dyn Log) -> Guest {
    let guest = site.machine().guest();
    if log.marks().has(Mark::Go) {
        return guest;
    }
    if guest == Guest::Running || site.machine().ran() {
        remember_ran_there(log);
    }
    match guest {
        Guest::Paused if log.ran_there() || site.machine().ran() => Guest::Ran,
        guest => guest,
    }
}

/// For whoever comes after this link, or this agent.
fn remember_ran_there(log: &dyn Log) {
    let known = log.ran_there() || log.marks().has(Mark::Abort);
    // Where it cannot be written (the handover has ended, the disk is full) it is told as long as it is heard.
    let _ = (!known).then(|| log.saw_ran_there());
}

/// Whether the guest that is offered is the one that QEMU here waits for.
fn welcome(site: &dyn Site, open: &Open) -> Result<Guest, Refusal> {
    let identity = site.machine().identity()?;
    if !identity.uuid.eq_ignore_ascii_case(&open.guest.uuid) {
        return Err(Refusal::new(
            "WrongGuest",
            format!(
                "{} has UUID {} here and {} at the source: start the destination's QEMU for this guest",
                site.vm(),
                identity.uuid,
                open.guest.uuid
            ),
        ));
    }
    if let Some(obstacle) = identity.obstacles.first() {
        return Err(Refusal::new("Refused", obstacle.clone()));
    }
    match site.machine().guest() {
        Guest::Loading => Ok(Guest::Loading),
        guest => Err(Refusal::new(
            "Refused",
            format!(
                "QEMU at the destination does not wait for a guest (it is {}): start it with -incoming defer -S",
                talk::word(guest).unwrap_or("gone")
            ),
        )),
    }
}

fn begin(open: &Open, peer: &str, luns: Vec<Lun>) -> Result<Begin, Trouble> {
    let theirs = open.luns.iter().map(|offer| units::ports(&offer.ports)).collect::<Result<_, _>>()?;
    Ok(Begin {
        handover: open.handover.0,
        uuid: open.guest.uuid.clone(),
        side: Side::Destination,
        peer: peer.to_owned(),
        luns,
        theirs,
        options: open.options.clone(),
        nonces: open.luns.iter().map(|offer| Key(offer.nonce.0)).collect(),
        was_running: !open.options.stay_paused,
    })
}

/// Every unit is here, or nobody's.
fn is_taken(group: &Group) -> bool {
    let fits = |verdict: Option<Verdict>| {
        verdict
            .is_none_or(|verdict| matches!(verdict, Verdict::Moved | Verdict::Fenced { .. } | Verdict::Lost))
    };
    let ended = group.verdicts().all(|(_, verdict)| verdict.is_some());
    // Where all was fenced before the pause nothing was touched, and nothing is left to take.
    let stands = group.phase() == Some(Phase::Verify) || ended;
    stands && group.verdicts().all(|(_, verdict)| fits(verdict))
}
