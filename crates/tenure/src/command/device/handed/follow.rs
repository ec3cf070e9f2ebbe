//! The part of the device whose nexuses have the registrations of a guest that went: it keeps what these need, and follows the handover
//! that the guest's new device leads.
//!
//! A session at a target stays logged in until the handover has ended, because registrations may end with it; a disk of this host is opened
//! when it is asked for. A device that was killed opens the way again. Nobody is followed but who names the custody's handover by which the
//! guest is away (its ticket), and one at a time: who opens another handover has the word from then on.

use super::diary::{self, Beginning, Diary, Unit};
use super::hands::{Line, Nexuses};
use super::probe::{Found, probe};
use super::{HandError, KEPT, settings, told};
use crate::command::device::host::Hosted;
use crate::command::device::lun::{Kind, Lun};
use crate::command::device::real::{Kept, RealUnit, Records, mark, owes};
use agent::conduct::{self, Follower, Order, Patience};
use agent::migrate::Leg;
use agent::recover::interrupted;
use handover::{Group, Side, UnitIndex, Verdict};
use ledger::{Change, LunId};
use peer::HostName;
use peer::message::{Close, Done, Offer, Open as Opening, Opened, Paths, Recover, Refusal, Reply, Request};
use scsi::AdditionalSense;
use scsi::pr::Key;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{iter, mem};
use vhost_user_scsi::unit::iscsi::Target;

/// What a device keeps for a guest that is elsewhere.
#[derive(Debug, Default)]
pub(in crate::command::device) struct Desk {
    /// Logical units at targets, whose sessions stay logged in, by their numbers.
    pub(in crate::command::device) kept: BTreeMap<u8, RealUnit>,
    open: Option<Open>,
}

/// A handover that is followed.
#[derive(Debug)]
struct Open {
    diary: Diary,
    units: Vec<Kept>,
    /// None where nothing was begun.
    follower: Option<Follower<Nexuses, diary::Pages>>,
}

impl Desk {
    /// Nobody is followed any more: the guest is to be here again, or somebody else asks.
    pub(in crate::command::device) fn evict(&mut self) {
        self.open = None;
    }

    /// Whether a handover that was begun has not come to its end.
    pub(in crate::command::device) fn is_following(&self) -> bool {
        let follower = self.open.as_ref().and_then(|open| open.follower.as_ref());
        follower.is_some_and(|follower| follower.group().verdicts().any(|(_, verdict)| is_open(verdict)))
    }

    /// Whether a session of this target is kept.
    pub(in crate::command::device) fn keeps(&self, target: &Target) -> bool {
        let is_it = |unit: &RealUnit| unit.target().is_some_and(|kept| std::ptr::eq(&**kept, target));
        self.kept.values().any(is_it)
    }
}

/// Who is asked, and by whom.
pub(in crate::command::device) struct Asked<'a> {
    /// The guest that is away.
    pub(in crate::command::device) hosted: &'a Hosted,
    /// Its logical units.
    pub(in crate::command::device) luns: Vec<(u8, Lun)>,
    /// This host.
    pub(in crate::command::device) own: &'a HostName,
    /// The custody's handover by which it is away.
    pub(in crate::command::device) ticket: u128,
    /// Who asks.
    pub(in crate::command::device) peer: &'a HostName,
    /// Whether it still does, and the guest is still away; asked when it is his turn.
    pub(in crate::command::device) still: &'a dyn Fn() -> Result<(), Refusal>,
    /// Nothing more is begun after this.
    pub(in crate::command::device) end: Instant,
}

/// How long after it was asked a device begins to answer: who asks gives up later than that (`lead`), and the guest's logical units are not
/// to be kept for somebody who has.
pub(in crate::command::device) const BEGINNING: Duration = Duration::from_secs(15);

impl From<HandError> for Refusal {
    fn from(error: HandError) -> Self {
        Self::new("Refused", error.to_string())
    }
}

fn refused(why: &(impl ToString + ?Sized)) -> Refusal {
    Refusal::new("Refused", why.to_string())
}

impl Asked<'_> {
    /// Answers a request of the device that leads; `turn` is what its link has been given.
    ///
    /// # Errors
    /// What it is told.
    pub(in crate::command::device) fn answer(
        &self,
        request: &Request,
        turn: &mut Option<u64>,
    ) -> Result<Reply, Refusal> {
        if let Request::Open(_) | Request::Recover(_) = request {
            self.must_be_kept()?;
            // Who waits for the desk already comes too late.
            *turn = Some(self.hosted.real.take_turn());
        }
        let mut desk = self.hosted.real.desk();
        self.may_go_on(*turn)?;
        match request {
            Request::Ping => return Ok(Reply::Done(Done {})),
            Request::Open(_) | Request::Recover(_) => {
                desk.evict();
                let opened = match request {
                    Request::Open(opening) => self.open(&mut desk, opening),
                    Request::Recover(recover) => self.recover(&mut desk, recover),
                    _ => Err(refused("it is no beginning")),
                };
                return opened.map(Reply::Opened);
            }
            _ => {}
        }
        match (Order::from_request(request), request) {
            (Some(order), _) => {
                let none = || refused("no handover is under way");
                let Open { units, follower, .. } = desk.open.as_mut().ok_or_else(none)?;
                let follower = follower.as_mut().ok_or_else(none)?;
                let done = follower.handle(&order);
                // What was taken from the guest's nexus is durable before it is told: it is the guest's wherever that goes on.
                self.owe(units, follower.group())?;
                done?.into_answer(order.digest)
            }
            (None, Request::Close(close)) => self.close(&mut desk, close),
            _ => Err(Refusal::new("OutOfOrder", format!("{} does not belong here", request.name()))),
        }
    }

    /// Before anything is ended for who asks: with another ticket nothing is to be had here.
    fn must_be_kept(&self) -> Result<(), Refusal> {
        let is_real = |(_, lun): &(u8, Lun)| !matches!(lun.kind, Kind::Emulated(_));
        if self.luns.iter().any(is_real) && self.hosted.real.is_of(self.ticket)? {
            return Ok(());
        }
        Err(Refusal::new("NotHere", "by the record nothing is kept here for that handover of the guest"))
    }

    /// Under the desk's lock, for which it may have waited.
    fn may_go_on(&self, turn: Option<u64>) -> Result<(), Refusal> {
        (self.still)()?;
        if self.hosted.real.is_at_home() {
            return Err(Refusal::new(
                "NotHere",
                "the guest's logical units are open here, or are being opened",
            ));
        }
        if turn != Some(self.hosted.real.turn()) {
            return Err(Refusal::new("Stopped", "another handover of the guest was begun since"));
        }
        Ok(())
    }

    /// What commands took from the guest's nexuses here is owed to it.
    fn owe(&self, units: &[Kept], group: &Group) -> Result<(), HandError> {
        let records = self.records()?;
        let new = |(unit, codes): (UnitIndex, Vec<AdditionalSense>)| {
            let identity = &units.get(usize::from(unit.0))?.identity;
            Some(owes(records.book.record(&identity.lun).as_deref(), identity, &codes))
        };
        let changes: Vec<_> = group.attentions(Side::Source).filter_map(new).flatten().collect();
        if changes.is_empty() { Ok(()) } else { self.hosted.real.note(&changes) }
    }

    fn records(&self) -> Result<Records, HandError> {
        self.hosted.real.records().map_err(|failure| HandError::Ledger(failure.to_string()))
    }

    fn diary(&self) -> Result<Diary, HandError> {
        Diary::open(self.hosted.real.state(), self.own.as_str(), &self.hosted.guest.name)
    }

    fn has_gone(&self, lun: &str) -> bool {
        self.hosted.real.has_gone(&LunId(lun.to_owned()), self.ticket)
    }

    /// The way to a logical unit whose registration is this host's.
    fn reach(&self, desk: &mut Desk, lun: &str) -> Result<(Kept, Line), Refusal> {
        let lun = LunId(lun.to_owned());
        (self.still)()?;
        if Instant::now() >= self.end {
            return Err(refused("its target, or whoever asked before, was too slow"));
        }
        let (hosted, wanted) = (self.hosted, (&lun, self.ticket));
        let kept = hosted.real.reach_kept((hosted, &self.luns), &mut desk.kept, wanted, self.end);
        let (kept, waiting) = kept.map_err(|why| refused(&format!("{}: {why}", lun.0)))?;
        let line = Line::new(kept.unit.clone(), waiting);
        Ok((kept, line))
    }

    fn open(&self, desk: &mut Desk, opening: &Opening) -> Result<Opened, Refusal> {
        if opening.options != peer::message::Options::default() {
            return Err(refused("a device follows no such handover"));
        }
        let diary = self.diary()?;
        if let Some((other, left)) = diary.any_under_way(Side::Source)
            && self.hosted.real.keeps_for(other)?
            && !self.hosted.real.keeps_for(self.ticket)?
        {
            return Err(Refusal::new("NotHere", format!("handover {} is under way", left.begun.handover)));
        }
        diary.end_others(self.ticket, Side::Source)?;
        if let Some(left) = diary.under_way(self.ticket, Side::Source) {
            if !left.last.is_empty() {
                return Err(Refusal::new("Unfinished", format!("handover {} is", left.begun.handover)));
            }
            diary.end(diary::KEPT)?;
        }
        // What has gone already is not opened: that says so.
        let has_gone = |offer: &&Offer| self.has_gone(&offer.lun);
        let offers: Vec<Offer> = opening.luns.iter().filter(|offer| !has_gone(offer)).cloned().collect();
        if offers.is_empty() {
            desk.open = Some(follow(diary, Vec::new(), Vec::new(), None));
            return Ok(Opened { luns: Vec::new(), record: None, guest: None });
        }
        let (mut units, mut lines) = (Vec::new(), Vec::new());
        for offer in &offers {
            let (kept, line) = self.reach(desk, &offer.lun)?;
            if kept.key != offer.key.map(|key| Key(key.0)) {
                return Err(refused(&format!("{}: the guest has another key there", offer.lun)));
            }
            units.push(kept);
            lines.push(line);
        }
        let paths: Vec<_> = units.iter().map(paths).collect();
        let group = Group::new(settings(&offers, &paths)?).ok_or_else(|| refused("nothing moves"))?;
        let theirs = super::settings(&offers, &paths)?.into_iter().map(|one| one.destination);
        let begun = units.iter().zip(theirs).zip(&offers).map(|((kept, theirs), offer)| Unit {
            lun: kept.identity.lun.clone(),
            node: kept.identity.node.clone(),
            own: kept.identity.port.clone(),
            theirs,
            key: kept.key,
            nonce: Key(offer.nonce.0),
            target: kept.target,
        });
        diary.begin(&Beginning {
            handover: opening.handover.0,
            ticket: self.ticket,
            side: Side::Source,
            peer: self.peer.to_string(),
            units: begun.collect(),
        })?;
        desk.open = Some(follow(diary, units, lines, Some(group)));
        Ok(Opened { luns: paths, record: None, guest: None })
    }

    fn recover(&self, desk: &mut Desk, recover: &Recover) -> Result<Opened, Refusal> {
        let diary = self.diary()?;
        let unknown = || Refusal::new("UnknownHandover", "no such handover was begun here");
        let of = |id: u128| diary.of(id, self.ticket, Side::Source);
        let mut left = of(recover.record.handover.0).ok_or_else(unknown)?;
        let gone: Vec<_> = left.begun.luns.iter().map(|lun| self.has_gone(&lun.lun)).collect();
        if left.is_open() && gone.contains(&true) {
            // It was being closed: nothing of it is left to be done.
            diary.end(if gone.contains(&false) { diary::KEPT } else { diary::SETTLED })?;
            left = of(recover.record.handover.0).ok_or_else(unknown)?;
        }
        let own = diary::tell(&left);
        let opened = Opened { luns: Vec::new(), record: Some(own.clone()), guest: None };
        if !left.is_open() {
            desk.open = Some(follow(diary, Vec::new(), Vec::new(), None));
            return Ok(opened);
        }
        let reached = left.begun.luns.iter().map(|lun| self.reach(desk, &lun.lun));
        let (units, lines): (Vec<_>, Vec<_>) = reached.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let found = interrupted(
            &Recover {
                guest: recover.guest.clone(),
                record: own,
                prefer_destination: true,
                kept_at_source: false,
            },
            &recover.record,
            &[],
        )
        .map_err(|trouble| refused(&trouble))?;
        if found.leg != Leg::There || found.places.len() != units.len() {
            return Err(refused("the two hosts' journals are not of one handover"));
        }
        desk.open = Some(follow(diary, units, lines, found.group));
        Ok(opened)
    }

    /// The operator says that the guest is here, and that the host which was to have its registrations is gone for good: what was begun is
    /// ended by this host alone, before anybody is served by a nexus that may be registered under a nonce.
    ///
    /// # Errors
    /// It cannot be ended safely; it may be tried again.
    pub(in crate::command::device) fn end_alone(&self) -> Result<(), HandError> {
        let ended = self.end_what_was_begun();
        if ended.is_err() {
            self.hosted.real.set_at_home(false);
        }
        ended
    }

    fn end_what_was_begun(&self) -> Result<(), HandError> {
        let mut desk = self.hosted.real.desk_for_claim()?;
        desk.evict();
        let diary = self.diary()?;
        // The place may name another handover since, or none.
        let Some((ticket, left)) = diary.any_under_way(Side::Source) else { return Ok(()) };
        let own = Self { ticket, luns: self.luns.clone(), ..*self };
        let luns = &left.begun.luns;
        for lun in luns {
            if own.hosted.real.knows_nothing_of(&lun.lun)? {
                let why =
                    format!("{}: the ledger knows nothing of it, and its handover was not finished", lun.lun);
                return Err(HandError::Unfit(why));
            }
        }
        if luns.iter().any(|lun| own.has_gone(&lun.lun)) || !own.hosted.real.keeps_for(ticket)? {
            // It was being closed, or is of the past: nothing of it is left to be done.
            return diary.end(diary::SETTLED);
        }
        let unfit = |why: Refusal| HandError::Unfit(why.desc);
        let reached = luns.iter().map(|lun| own.reach(&mut desk, &lun.lun).map_err(unfit));
        let (units, lines): (Vec<_>, Vec<_>) = reached.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let one = |(last, lun): (Option<agent::migrate::Last>, &agent::journal::Lun)| {
            let own = lun.own.iter().map(|path| path.port.clone()).collect();
            agent::recover::alone(Side::Source, last, [own, lun.peer.clone()], lun.target)
        };
        let remains = diary::last(&left).into_iter().zip(luns).map(one).collect();
        if let Some(mut group) = Group::recover(remains) {
            let mut pages = diary.pages(units.len(), self.owed_here(units.clone()));
            let mut hands = Nexuses::new(Side::Source, lines);
            conduct::alone(&mut group, Side::Source, &mut hands, &mut pages, Patience::default());
            drop(pages);
            let mut owe = self.owed_here(units.clone());
            let aptpl = diary::last(&left).into_iter().map(|last| last.is_some_and(|last| last.entry.aptpl));
            for ((((unit, verdict), lun), kept), aptpl) in group.verdicts().zip(luns).zip(&units).zip(aptpl) {
                let told = may_serve(verdict, lun, kept, aptpl)?;
                owe(&[(unit, told)]);
            }
        }
        diary.end(diary::KEPT)
    }

    /// What commands take from the guest is owed to it here.
    fn owed_here(&self, units: Vec<Kept>) -> diary::Owe {
        let records = self.records().ok();
        Box::new(move |owed| {
            let Some(records) = &records else { return false };
            let new = |(unit, codes): &(UnitIndex, Vec<AdditionalSense>)| {
                let identity = &units.get(usize::from(unit.0))?.identity;
                Some(owes(records.book.record(&identity.lun).as_deref(), identity, codes))
            };
            let changes: Vec<_> = owed.iter().filter_map(new).flatten().collect();
            records.book.append(&changes).is_ok()
        })
    }

    /// The record first: where a crash leaves it at that, whoever leads asks again, and is told that it is over.
    fn close(&self, desk: &mut Desk, close: &Close) -> Result<Reply, Refusal> {
        if desk.is_following() {
            return Err(Refusal::new("OutOfOrder", "the handover has not come to its end"));
        }
        let Some(Open { diary, units, follower }) = desk.open.take() else {
            return Err(refused("no handover is under way"));
        };
        let verdicts: Vec<_> =
            follower.iter().flat_map(|follower| follower.group().verdicts()).map(|(_, it)| it).collect();
        let left = diary.under_way(self.ticket, Side::Source);
        let nonces = left.iter().flat_map(|left| &left.begun.luns).map(|lun| lun.nonce);
        let nonces = nonces.map(Some).chain(iter::repeat(None));
        let all = units.iter().zip(verdicts).zip(nonces);
        let gone: Vec<_> = all
            .filter_map(|((kept, verdict), nonce)| {
                let verdict = verdict.filter(diary::is_settled)?;
                Some((kept, nonce.filter(|_| verdict == Verdict::Fenced { nonce_left: true })))
            })
            .collect();
        let records = self.records()?;
        let departed = |(kept, nonce): &(&Kept, Option<Key>)| departed(&records, kept, (self.ticket, *nonce));
        let changes: Vec<_> = gone.iter().flat_map(departed).collect();
        self.hosted.real.note(&changes)?;
        if diary.under_way(self.ticket, Side::Source).is_some() {
            let settled = close.verdict == diary::SETTLED;
            diary.end(if settled { diary::SETTLED } else { diary::KEPT })?;
        }
        drop(follower);
        // With a session the nonce would end here and there, and with it the reservation that another node may rely on.
        for (kept, _) in gone.into_iter().filter(|(_, nonce)| nonce.is_none()) {
            self.let_go(desk, kept);
        }
        Ok(Reply::Done(Done {}))
    }

    /// The session of a registration that has gone is ended when no other one needs it.
    fn let_go(&self, desk: &mut Desk, kept: &Kept) {
        let unit = kept.number.and_then(|number| desk.kept.remove(&number));
        let Some(target) = unit.as_ref().and_then(RealUnit::target) else { return };
        if !desk.keeps(target)
            && let Err(error) = target.give_away()
        {
            tracing::debug!(%error, "a logout was not confirmed");
        }
    }
}

fn follow(diary: Diary, units: Vec<Kept>, lines: Vec<Line>, group: Option<Group>) -> Open {
    let follower = group.map(|group| {
        // A follower does not say what it took: its group does (`Asked::owe`).
        let pages = diary.pages(units.len(), Box::new(|_| true));
        Follower::new(group, Side::Source, Nexuses::new(Side::Source, lines), pages, Patience::default())
    });
    Open { diary, units, follower }
}

/// Whether the guest may be served here after a handover that this host ended alone: not by a nexus that may be registered under a nonce,
/// nor by a key of which it is not known whether a node has removed it meanwhile. Where that is in doubt the nexus is asked: what has neither
/// can only be fenced. Gives what was told on the way.
fn may_serve(
    verdict: Option<Verdict>,
    lun: &agent::journal::Lun,
    kept: &Kept,
    aptpl: bool,
) -> Result<Vec<AdditionalSense>, HandError> {
    let registered = match verdict {
        None | Some(Verdict::InDoubt(_)) => "may be registered",
        Some(Verdict::Fenced { nonce_left: true }) => "is registered, and the guest was fenced:",
        Some(_) => return Ok(Vec::new()),
    };
    let (name, nonce) = (&lun.lun, lun.nonce);
    let (found, told) = probe(&kept.unit, [kept.key.unwrap_or(nonce), nonce], aptpl);
    let then = match found {
        Found::Neither => return Ok(told),
        Found::Has(key) if key == nonce => "claim the guest again when another node has preempted that key",
        Found::Has(_) => {
            "it has the guest's key, of which it is not known yet whether a node had removed it: claim the guest again"
        }
        Found::Unknown => "its nexus could not be asked: claim the guest again",
    };
    let nonce = nonce.0;
    Err(HandError::Unfit(format!(
        "{name}: this host's nexus {registered} under the key {nonce:#018x} of a handover that was not finished; {then}"
    )))
}

/// Something of it is left to be done.
const fn is_open(verdict: Option<Verdict>) -> bool {
    matches!(verdict, None | Some(Verdict::InDoubt(_) | Verdict::KeptAtSource { leftover: true, .. }))
}

fn paths(kept: &Kept) -> Paths {
    Paths { lun: kept.identity.lun.0.clone(), ports: vec![told(&kept.identity.port)] }
}

/// Nothing of the guest's is registered by this nexus any more, but for a `nonce` that is left; and what it was owed here has gone with that:
/// the host that has it was told.
fn departed(records: &Records, kept: &Kept, (ticket, nonce): (u128, Option<Key>)) -> Vec<(LunId, Change)> {
    let path = kept.identity.path.clone();
    let why = nonce.map(|nonce| super::nonce_is_left("this host's nexus", nonce));
    let why = why.unwrap_or_else(|| "the guest's registration went to another host's nexus".to_owned());
    let why = Some(mark(ticket, &why));
    let owed = records.book.record(&kept.identity.lun);
    let owed = owed.and_then(|record| Some(record.path(&path)?.owed.len())).unwrap_or_default();
    let gone = Change::Commit { path: path.clone(), tracked: handover::Tracked::default(), generation: None };
    let given = vec![Change::Owed { path, sense: None }; owed];
    let moved = Change::State { state: ledger::State::Moved, handover: Some(KEPT), why };
    let changes = given.into_iter().chain([gone, moved]);
    changes.map(|change| (kept.identity.lun.clone(), change)).collect()
}

impl Drop for Desk {
    /// The targets hear that this host goes; whether a registration outlives that is theirs to say.
    fn drop(&mut self) {
        self.open = None;
        for unit in mem::take(&mut self.kept).values() {
            if let Some(Err(error)) = unit.target().map(|target| target.give_away()) {
                tracing::debug!(%error, "a logout was not confirmed");
            }
        }
    }
}
