//! The part of the device that has got a guest whose registrations are still at another host's nexus: it leads their handover to its own
//! nexuses, all of them or none, puts an interrupted one in order, or, where the operator says that the other host is gone for good, does
//! what can be done alone. The guest's gate is shut meanwhile.

mod alone;

use super::diary::{self, Beginning, Diary, Unit};
use super::hands::{Line, Nexuses};
use super::state::Handed;
use super::{HandError, nonce_is_left, settings, told};
use crate::command::device::custody::Peering;
use crate::command::device::host::Hosted;
use crate::command::device::real::{LOOKING, RealUnit, Records, owes, target_of};
use agent::conduct::{Leader, Patience, Pause, PeerExchange, Stop};
use agent::ground::Fate;
use agent::migrate::Leg;
use agent::recover::interrupted;
use guard::Identity;
use handover::known_targets::TargetIdentity;
use handover::verdict::Doubt;
use handover::{Group, Port, Settings, Side, Tracked, UnitIndex, Verdict};
use ledger::{Change, HandoverId, LunId, PathId, Record, State, read_carried};
use peer::message::{Close, Guest, Id, Offer, Open, Opened, Options, Recover, Refusal, Reply, Request, Word};
use peer::{CallError, HostName, Link};
use scsi::AdditionalSense;
use scsi::pr::Key;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost_user_scsi::saved::{Kind, SavedLun};

/// How long the other device may need to open its ways.
const OPENING: Duration = Duration::from_secs(60);
/// How long it may need to end it.
const CLOSING: Duration = Duration::from_secs(10);

/// A registration that is to come.
#[derive(Debug)]
struct Coming {
    number: u8,
    unit: RealUnit,
    identity: Identity,
    /// What the bearer's nexus has.
    record: Record,
    /// That nexus.
    path: PathId,
    key: Key,
    from: Port,
    target: Option<TargetIdentity>,
}

/// A device that leads.
#[derive(Debug)]
pub(in crate::command::device) struct Lead<'a> {
    /// The guest that is here.
    pub(in crate::command::device) hosted: &'a Hosted,
    /// This host among its peers.
    pub(in crate::command::device) peering: &'a Peering,
    /// The custody's handover in which the bearer gave the guest away.
    pub(in crate::command::device) ticket: u128,
    /// The operator says that the bearer is gone for good.
    pub(in crate::command::device) alone: bool,
}

/// How a unit ends, and what the guest is owed of it.
type End = (Option<Fate>, Vec<AdditionalSense>, Verdict);

impl Lead<'_> {
    /// Brings every registration of `luns` that another host's nexus has to this one's.
    ///
    /// # Errors
    /// What is in the way; it may be tried again.
    pub(in crate::command::device) fn settle(&self, luns: &[SavedLun]) -> Result<(), HandError> {
        let (mut bearers, mut coming) = (Vec::new(), Vec::new());
        for lun in luns.iter().filter(|lun| lun.kind == Kind::Handed) {
            if let Some((bearer, one)) = self.look(lun)? {
                bearers.push(bearer);
                coming.push(one);
            }
        }
        let Some(bearer): Option<HostName> = bearers.first().cloned() else { return Ok(()) };
        if bearers.iter().any(|other| *other != bearer) {
            return Err(HandError::Unfit("its registrations are at nexuses of several hosts".to_owned()));
        }
        self.hosted.real.desk().evict();
        let (diary, records) = (self.diary()?, self.records()?);
        diary.end_others(self.ticket, Side::Destination)?;
        let mut run = Run { lead: self, diary, bearer, coming, records };
        run.pass_over_settled()?;
        match run.together() {
            // The operator's word counts of a host that says nothing itself, and of what this host began without it.
            Err(HandError::Unheard { .. }) if self.alone => run.end_own().and_then(|()| run.together()),
            Err(error) if self.alone && run.is_gone(&error) => run.without_bearer(),
            done => done,
        }
    }

    /// Whether a handover with this ticket was begun here, so that the state with which the guest came is not true any more.
    pub(in crate::command::device) fn was_begun(&self, luns: &[SavedLun]) -> Result<bool, HandError> {
        if luns.iter().all(|lun| lun.kind != Kind::Handed) {
            return Ok(false);
        }
        let (diary, records) = (self.diary()?, self.records()?);
        let settled = settled(&records, self.ticket)?;
        let under_way = diary.under_way(self.ticket, Side::Destination).is_some();
        Ok(under_way || luns.iter().any(|lun| settled.iter().any(|one| one.0 == lun.name)))
    }

    fn diary(&self) -> Result<Diary, HandError> {
        Diary::open(self.hosted.real.state(), self.peering.own().as_str(), &self.hosted.guest.name)
    }

    fn records(&self) -> Result<Records, HandError> {
        self.hosted.real.records().map_err(|failure| HandError::Ledger(failure.to_string()))
    }

    /// A registration that is to come; one that is this host's already, or that there is not, is taken up at once.
    fn look(&self, lun: &SavedLun) -> Result<Option<(HostName, Coming)>, HandError> {
        let wrong = |why: String| HandError::Unit(lun.number, why);
        let handed = Handed::parse(&lun.state).ok_or_else(|| wrong("its state is cut short".to_owned()))?;
        let (record, path) = read_carried(&handed.record).map_err(|error| wrong(error.to_string()))?;
        let unit = self.hosted.real.unit(lun.number);
        let unit = unit.ok_or_else(|| wrong("it is not open here".to_owned()))?;
        let identity = unit.keeper().map(|keeper| keeper.identity().clone());
        let identity = identity.ok_or_else(|| wrong("nobody keeps account of it".to_owned()))?;
        let key = record.path(&path).and_then(|known| known.tracked.key);
        let is_own = handed.bearer == *self.peering.own() || handed.is_of_this_boot();
        let same = is_own && identity.path == path;
        let Some(key) = key.filter(|_| !same) else {
            let taken = self.hosted.real.take_up(lun.number, &record, &path);
            taken.map_err(|why| wrong(why.to_string()))?;
            return Ok(None);
        };
        let from = Port {
            initiator: path.0.split(' ').next().and_then(|port| port.parse().ok()),
            target_port: None,
        };
        let target = unit.nexus_until(Instant::now() + LOOKING).and_then(|mut nexus| target_of(&mut *nexus));
        let number = lun.number;
        Ok(Some((handed.bearer, Coming { number, unit, identity, record, path, key, from, target })))
    }
}

/// One attempt.
#[derive(Debug)]
struct Run<'a> {
    lead: &'a Lead<'a>,
    diary: Diary,
    bearer: HostName,
    coming: Vec<Coming>,
    records: Records,
}

impl Run<'_> {
    fn lost(&self, why: &(impl ToString + ?Sized)) -> HandError {
        HandError::Lost { host: self.bearer.to_string(), why: why.to_string() }
    }

    fn refused(&self, why: &(impl ToString + ?Sized)) -> HandError {
        HandError::Refused { host: self.bearer.to_string(), why: why.to_string() }
    }

    fn kept(&self, why: &(impl ToString + ?Sized)) -> HandError {
        HandError::Kept { host: self.bearer.to_string(), why: why.to_string() }
    }

    fn link(&self) -> Result<Link, HandError> {
        self.lead.peering.link(&self.bearer).map_err(|why| self.lost(&why))
    }

    fn guest(&self) -> Guest {
        Guest { vm: self.lead.hosted.guest.name.clone(), uuid: diary::ticket_words(self.lead.ticket) }
    }

    /// Opens a handover on a link; the inner error is what the other device says.
    fn call(&self, link: &Link, request: &Request) -> Result<Result<Opened, Refusal>, HandError> {
        match link.call(request, OPENING) {
            Ok(Reply::Opened(opened)) => Ok(Ok(opened)),
            Ok(_) => Err(self.lost("an answer to something else")),
            Err(CallError::Refused(refusal)) if refusal.class == NO_GUEST => {
                Err(HandError::Forgot { host: self.bearer.to_string() })
            }
            Err(CallError::Refused(refusal)) => Ok(Err(refusal)),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// What has its place by this host's record needs no handover; of one that is under way it is told as it ended.
    fn pass_over_settled(&mut self) -> Result<(), HandError> {
        let left = self.under_way();
        let is_left = |lun: &LunId| left.iter().flat_map(|left| &left.begun.luns).any(|one| one.lun == lun.0);
        let settled = settled(&self.records, self.lead.ticket)?;
        self.coming.retain(|one| is_left(&one.identity.lun) || !settled.contains(&one.identity.lun));
        Ok(())
    }

    /// With the bearer.
    fn together(&mut self) -> Result<(), HandError> {
        if let Some(left) = self.under_way() {
            let others = self.set_aside(&left);
            let done = self.recover(&left.begun.handover);
            self.take_back(others)?;
            done?;
        }
        if self.coming.is_empty() { Ok(()) } else { self.move_all() }
    }

    /// What is to come and no part of what is under way.
    fn set_aside(&mut self, left: &diary::Under) -> Vec<Coming> {
        let is_part = |one: &Coming| left.begun.luns.iter().any(|lun| lun.lun == one.identity.lun.0);
        let (part, others) = mem::take(&mut self.coming).into_iter().partition(is_part);
        self.coming = part;
        others
    }

    fn take_back(&mut self, others: Vec<Coming>) -> Result<(), HandError> {
        self.coming.extend(others);
        self.coming.sort_by_key(|one| one.number);
        self.pass_over_settled()
    }

    fn beginning(&self, handover: Id, settings: &[Settings]) -> Beginning {
        let unit = |(one, settings): (&Coming, &Settings)| Unit {
            lun: one.identity.lun.clone(),
            node: one.identity.node.clone(),
            own: one.identity.port.clone(),
            theirs: settings.source.clone(),
            key: Some(one.key),
            nonce: settings.nonce,
            target: one.target,
        };
        Beginning {
            handover: handover.0,
            ticket: self.lead.ticket,
            side: Side::Destination,
            peer: self.bearer.to_string(),
            units: self.coming.iter().zip(settings).map(unit).collect(),
        }
    }

    fn offers(&self) -> Result<Vec<Offer>, HandError> {
        let one = |one: &Coming| {
            Ok(Offer {
                lun: one.identity.lun.0.clone(),
                key: Some(Word(one.key.0)),
                nonce: Word(diary::fresh()?),
                ports: vec![told(&one.identity.port)],
                identity_is_ours: false,
            })
        };
        self.coming.iter().map(one).collect()
    }

    fn move_all(&mut self) -> Result<(), HandError> {
        let link = self.link()?;
        let (handover, mut offers) = (fresh_id()?, self.offers()?);
        let open = Open { handover, guest: self.guest(), luns: offers.clone(), options: Options::default() };
        let opened = self.call(&link, &Request::Open(open))?.map_err(|refusal| self.refused(&refusal))?;
        let is_open = |lun: &str| opened.luns.iter().any(|paths| paths.lun == lun);
        offers.retain(|offer| is_open(&offer.lun));
        self.take_up_gone(is_open)?;
        if self.coming.is_empty() {
            return Ok(());
        }
        let settings = settings(&offers, &opened.luns)?;
        self.diary.begin(&self.beginning(handover, &settings))?;
        let group = Group::new(settings).ok_or_else(|| HandError::Unfit("nothing moves".to_owned()))?;
        self.enter()?;
        self.lead(&link, handover, group)
    }

    /// What the bearer has let go of by its record has a place in another handover of this ticket, which this host's record does not know of
    /// any more: the device is asked what the guest has here.
    fn take_up_gone(&mut self, is_open: impl Fn(&str) -> bool) -> Result<(), HandError> {
        let (stays, gone): (Vec<_>, Vec<_>) =
            mem::take(&mut self.coming).into_iter().partition(|one| is_open(&one.identity.lun.0));
        self.coming = stays;
        let ledger = |error: ledger::Error| HandError::Ledger(error.to_string());
        for Coming { number, identity, record, path, .. } in gone {
            let taken = self.lead.hosted.real.take_up(number, &record, &path);
            taken.map_err(|why| HandError::Unit(number, why.to_string()))?;
            self.records.book.refresh().map_err(ledger)?;
            let found = self.records.book.record(&identity.lun);
            let (state, why) = found.map(|found| (found.found, found.doubt.clone())).unwrap_or_default();
            let settled = Change::State { state, handover: Some(HandoverId(self.lead.ticket)), why };
            self.records.book.append(&[(identity.lun, settled)]).map_err(ledger)?;
        }
        Ok(())
    }

    fn lead(&self, link: &Link, handover: Id, group: Group) -> Result<(), HandError> {
        let exchange = PeerExchange { link, handover };
        let (hands, pages) = (self.hands(), self.pages());
        let mut leader = Leader::new(group, Side::Destination, exchange, hands, pages, Patience::default());
        loop {
            match leader.advance() {
                Ok(Pause::Phase(_)) => leader.proceed(),
                Ok(Pause::Finished(_)) => break,
                Err(Stop::Lost(lost)) => return Err(self.lost(&lost)),
                Err(stop) => return Err(self.refused(&stop)),
            }
        }
        let owed = leader.owed(Side::Destination);
        let ends = self.ends(leader.group(), &owed);
        self.finish(&ends, Some((link, handover)))
    }

    fn hands(&self) -> Nexuses {
        let lines = self.coming.iter().map(|one| Line::new(one.unit.clone(), Vec::new()));
        Nexuses::new(Side::Destination, lines.collect())
    }

    fn pages(&self) -> diary::Pages {
        let book = Arc::clone(&self.records.book);
        let units: Vec<_> = self.coming.iter().map(|one| one.identity.clone()).collect();
        let owe = move |owed: &[(UnitIndex, Vec<AdditionalSense>)]| {
            let changes = owed.iter().filter_map(|(unit, codes)| {
                let identity = units.get(usize::from(unit.0))?;
                // The bearer tells all that the guest is owed in every attempt, what came with the guest too.
                Some(owes(book.record(&identity.lun).as_deref(), identity, codes))
            });
            book.append(&changes.flatten().collect::<Vec<_>>()).is_ok()
        };
        self.diary.pages(self.coming.len(), Box::new(owe))
    }

    /// What the record says while the registration is on its way: nobody changes anything of it. What the guest is owed comes along.
    fn enter(&self) -> Result<(), HandError> {
        let ledger = |error: ledger::Error| HandError::Ledger(error.to_string());
        self.records.book.refresh().map_err(ledger)?;
        let ticket = HandoverId(self.lead.ticket);
        let mut changes = Vec::new();
        for one in &self.coming {
            let (lun, path) = (&one.identity.lun, &one.identity.path);
            let before = self.records.book.record(lun);
            let mut push = |change| changes.push((lun.clone(), change));
            push(Change::Seen { path: path.clone(), node: one.identity.node.clone() });
            if before.as_ref().is_none_or(|before| before.handover != Some(ticket)) {
                // What whoever was here before was owed is nobody's now.
                for known in before.iter().flat_map(|before| &before.paths) {
                    known
                        .owed
                        .iter()
                        .for_each(|_| push(Change::Owed { path: known.path.clone(), sense: None }));
                }
                for sense in one.record.paths.iter().flat_map(|known| &known.owed) {
                    push(Change::Owed { path: path.clone(), sense: Some(sense.clone()) });
                }
            }
            let why = Some(format!("its registration comes from the nexus of {}", self.bearer));
            push(Change::State { state: State::Handover, handover: Some(ticket), why });
        }
        self.records.book.append(&changes).map_err(ledger)
    }

    fn recover(&mut self, handover: &HandoverId) -> Result<(), HandError> {
        let link = self.link()?;
        let left = self.left()?;
        let (id, own) = (Id(handover.0), diary::tell(&left));
        let recover =
            |record| Recover { guest: self.guest(), record, prefer_destination: true, kept_at_source: false };
        let opened = match self.call(&link, &Request::Recover(recover(own.clone())))? {
            // It never heard of it, so nothing was begun.
            Err(refusal) if left.last.is_empty() && refusal.class == UNKNOWN => {
                self.diary.end(diary::KEPT)?;
                return self.move_all();
            }
            Err(refusal) if refusal.class == UNKNOWN => {
                return Err(HandError::Unheard { host: self.bearer.to_string() });
            }
            opened => opened.map_err(|refusal| self.refused(&refusal))?,
        };
        let theirs = opened.record.ok_or_else(|| self.refused("it tells of no journal"))?;
        if let Some(verdict) = theirs.verdict {
            // It was closed there, which comes after the record here, and before the end of this journal.
            let verdict = if verdict == diary::SETTLED { diary::SETTLED } else { diary::KEPT };
            self.diary.end(verdict)?;
            self.pass_over_settled()?;
            return if self.coming.is_empty() { Ok(()) } else { Err(self.kept("it was turned back")) };
        }
        let found = interrupted(&recover(theirs), &own, &[]).map_err(|trouble| self.refused(&trouble))?;
        if found.leg != Leg::There {
            return Err(self.refused("its journal is not of this handover"));
        }
        match found.group {
            Some(group) => self.lead(&link, id, group),
            None => {
                self.close(&link, id, diary::KEPT)?;
                self.diary.end(diary::KEPT)?;
                self.move_all()
            }
        }
    }

    /// What is under way, of the logical units that are to come.
    fn left(&self) -> Result<diary::Under, HandError> {
        let unfit = |why: &str| HandError::Unfit(format!("the journal of handovers: {why}"));
        let left = self.under_way().ok_or_else(|| unfit("none is under way"))?;
        let own = self.coming.iter().map(|one| &one.identity.lun.0);
        let same = left.begun.luns.iter().map(|lun| &lun.lun).eq(own);
        if same { Ok(left) } else { Err(unfit("a handover of other logical units is under way")) }
    }

    fn under_way(&self) -> Option<diary::Under> {
        self.diary.under_way(self.lead.ticket, Side::Destination)
    }

    fn ends(&self, group: &Group, owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> Vec<End> {
        let verdicts: Vec<_> = group.verdicts().map(|(_, verdict)| verdict).collect();
        self.ends_of(&verdicts, owed)
    }

    fn ends_of(&self, verdicts: &[Option<Verdict>], owed: &[(UnitIndex, Vec<AdditionalSense>)]) -> Vec<End> {
        let last = self.under_way().map(|left| diary::last(&left)).unwrap_or_default();
        let end = |(place, verdict): (usize, &Option<Verdict>)| {
            let verdict = verdict.unwrap_or(Verdict::InDoubt(Doubt::Mismatch));
            let entry = last.get(place).copied().flatten().map(|last| last.entry);
            let of = |(unit, _): &&(UnitIndex, Vec<AdditionalSense>)| usize::from(unit.0) == place;
            let owed = owed.iter().find(of).map(|(_, codes)| codes.clone()).unwrap_or_default();
            (Fate::of(&verdict, entry.as_ref()), owed, verdict)
        };
        verdicts.iter().enumerate().map(end).collect()
    }

    /// Writes down what came of it: the record first, then the other host's journal, and this one's last.
    fn finish(&self, ends: &[End], link: Option<(&Link, Id)>) -> Result<(), HandError> {
        let left = self.left()?;
        let mut changes = Vec::new();
        let mut why = Vec::new();
        let (mut settled, mut doubtful) = (!ends.is_empty(), false);
        for (lun, (fate, owed, verdict)) in left.begun.luns.iter().zip(ends) {
            let one = self.coming.iter().find(|one| one.identity.lun.0 == lun.lun);
            match (fate, one) {
                (Some(fate), Some(one)) if *fate != Fate::AsBefore => {
                    let why = self.why(verdict, lun.nonce);
                    changes.extend(self.arrived(one, *fate, owed, why));
                    tracing::info!(lun = lun.lun, %verdict, from = %self.bearer, "the guest's registration");
                }
                _ => {
                    settled = false;
                    // A key that is left at this host's nexus is for a recovery to remove.
                    doubtful |= fate.is_none() || is_left(verdict);
                    why.push(format!("{}: {verdict}", lun.lun));
                }
            }
        }
        let append = self.records.book.append(&changes);
        append.map_err(|error| HandError::Ledger(error.to_string()))?;
        let kept = self.kept(&why.join("; "));
        if doubtful {
            return Err(kept);
        }
        let verdict = if settled { diary::SETTLED } else { diary::KEPT };
        if let Some((link, handover)) = link {
            self.close(link, handover, verdict)?;
        }
        self.diary.end(verdict)?;
        if settled { Ok(()) } else { Err(kept) }
    }

    fn close(&self, link: &Link, handover: Id, verdict: &str) -> Result<(), HandError> {
        let close = Close { handover, verdict: verdict.to_owned() };
        match link.call(&Request::Close(close), CLOSING) {
            Ok(_) => Ok(()),
            Err(CallError::Refused(refusal)) => Err(self.refused(&refusal)),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Why a guest counts as fenced.
    fn why(&self, verdict: &Verdict, nonce: Key) -> String {
        match verdict {
            Verdict::Fenced { nonce_left: true } => {
                nonce_is_left(&format!("the nexus of {}", self.bearer), nonce)
            }
            Verdict::Fenced { .. } => "another nexus removed it".to_owned(),
            verdict => format!("it could not be taken over from the nexus of {}: {verdict}", self.bearer),
        }
    }

    /// `why`: the reason of a fencing.
    fn arrived(
        &self,
        one: &Coming,
        fate: Fate,
        owed: &[AdditionalSense],
        why: String,
    ) -> Vec<(LunId, Change)> {
        let own = &one.identity.path;
        let (tracked, state, why) = match fate {
            Fate::Has(tracked) => (tracked, State::Active, None),
            Fate::Lost => (Tracked::default(), State::Lost, Some("the target forgot it".to_owned())),
            Fate::Fenced | Fate::AsBefore => (Tracked::default(), State::Fenced, Some(why)),
        };
        let before = self.records.book.record(&one.identity.lun);
        let others = before.iter().flat_map(|before| &before.paths).filter(|path| path.path != *own);
        let commit = |path, tracked| Change::Commit { path, tracked, generation: None };
        let others = others
            .filter(|path| path.tracked.key.is_some())
            .map(|path| commit(path.path.clone(), Tracked::default()));
        let owed = owes(before.as_deref(), &one.identity, owed).into_iter().map(|(_, change)| change);
        let handover = Some(HandoverId(self.lead.ticket));
        let end = Change::State { state, handover, why };
        let changes = others.chain([commit(own.clone(), tracked)]).chain(owed).chain([end]);
        changes.map(|change| (one.identity.lun.clone(), change)).collect()
    }
}

/// The guest's key may be at this host's nexus, though the guest stayed.
const fn is_left(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::KeptAtSource { leftover: true, .. })
}

/// What the device that follows says of a handover that it has no journal of.
const UNKNOWN: &str = "UnknownHandover";
/// What a device says that does not serve the guest.
const NO_GUEST: &str = "UnknownGuest";

fn fresh_id() -> Result<Id, HandError> {
    let [high, low] = [diary::fresh()?, diary::fresh()?];
    Ok(Id(u128::from(high) << 64 | u128::from(low)))
}

/// The logical units whose registration has its place at this host by this ticket, be it none: the record says so, and nothing else does.
fn settled(records: &Records, ticket: u128) -> Result<Vec<LunId>, HandError> {
    records.book.refresh().map_err(|error| HandError::Ledger(error.to_string()))?;
    let is_it = |record: &Record| record.handover == Some(HandoverId(ticket)) && !record.state.is_away();
    let all = records.book.records();
    Ok(all.iter().filter(|record| is_it(record)).map(|record| record.lun.clone()).collect())
}
