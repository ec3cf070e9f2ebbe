//! One logical unit of the guest: its paths, its record, and the changes that the end of a handover makes to it.

use super::place::Found;
use super::{Error, Fate};
use crate::drive::Link;
use handover::action::MAX_PATHS;
use handover::known_targets::TargetIdentity;
use handover::{Port, Side, Tracked};
use ledger::{Change, Guest, HandoverId, LunId, PathId, Record, State};
use scsi::pr::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the record says the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A registration.
    Registered,
    /// Nothing.
    Unregistered,
    /// Nothing any more: another nexus removed it.
    Fenced,
    /// Nothing any more: the target forgot it.
    Lost,
    /// It must be asked.
    Unknown,
}

/// An I_T nexus of this host to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitPath {
    /// The nexus as the record knows it.
    pub path: PathId,
    /// The device node or URL.
    pub node: String,
    /// How the target names it.
    pub port: Port,
}

/// A logical unit of the guest.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Which.
    pub lun: LunId,
    /// The ways to it, the one that acts first.
    pub paths: Vec<UnitPath>,
    /// Initiator name and ISID go with the guest.
    pub follows: bool,
    /// What the target calls itself, as far as a path was open to ask it.
    pub target: Option<TargetIdentity>,
    /// The key of the configuration.
    configured: Option<Key>,
    record: Option<Arc<Record>>,
    /// Sense data of unit attentions that opening it took.
    taken: Vec<Vec<u8>>,
}

/// What a record says that matters to a handover.
pub(super) type Content = Vec<(PathId, Tracked, bool)>;

/// The places of one logical unit together, in the order of its name, and the links with their places among its paths.
#[expect(clippy::type_complexity, reason = "units, and their links with unit and place")]
pub(super) fn group(found: Vec<Found>) -> Result<(Vec<Unit>, Vec<(LunId, usize, Link)>), Error> {
    let (mut units, mut links) = (BTreeMap::<LunId, Unit>::new(), Vec::new());
    for Found { identity, key, follows, link, target, taken } in found {
        let lun = identity.lun.clone();
        let unit = units.entry(lun.clone()).or_insert_with(|| Unit::new(lun.clone(), follows));
        let path = UnitPath { path: identity.path, node: identity.node, port: identity.port };
        if let Some(same) = unit.paths.iter().find(|known| known.path == path.path) {
            return Err(Error::Twice { lun, first: same.node.clone(), second: path.node });
        }
        if unit.paths.len() >= MAX_PATHS {
            return Err(Error::TooManyPaths(lun));
        }
        links.push((lun, unit.paths.len(), link));
        unit.configured = unit.configured.or(key);
        unit.follows &= follows;
        unit.target = unit.target.or(target);
        unit.taken.extend(taken);
        unit.paths.push(path);
    }
    Ok((units.into_values().collect(), links))
}

impl Unit {
    const fn new(lun: LunId, follows: bool) -> Self {
        Self {
            lun,
            paths: Vec::new(),
            follows,
            target: None,
            configured: None,
            record: None,
            taken: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, guest: &Guest) {
        self.record = guest.record(&self.lun);
    }

    /// The guest's key: what the record says it has, or, if it was fenced or lost, had; else the configuration's. `None`: it
    /// must be learnt from the device.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let of = |standing| match standing {
            Standing::Registered => self.tracked().find_map(|tracked| tracked.key),
            Standing::Fenced | Standing::Lost => self.last_key(),
            Standing::Unregistered | Standing::Unknown => None,
        };
        of(self.standing()).or(self.configured)
    }

    /// What the record says the guest has, whether a handover is under way or not.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Some(record) = &self.record else { return Standing::Unknown };
        let under_way = record.paths.iter().any(|path| path.intent.is_some());
        let told = record.paths.iter().any(|path| path.tracked.key.is_some());
        // Of a nexus that only was seen nobody knows what it has.
        let asked = record.history.iter().any(|past| matches!(past.change, Change::Commit { .. }));
        match record.found {
            _ if under_way => Standing::Unknown,
            State::Fenced => Standing::Fenced,
            State::Lost => Standing::Lost,
            State::Unverified => Standing::Unknown,
            _ if told => Standing::Registered,
            _ if asked && self.configured.is_none() => Standing::Unregistered,
            _ => Standing::Unknown,
        }
    }

    /// How the target names this host's paths.
    #[must_use]
    pub fn ports(&self) -> Vec<Port> {
        self.paths.iter().map(|path| path.port.clone()).collect()
    }

    fn tracked(&self) -> impl Iterator<Item = Tracked> {
        self.record.iter().flat_map(|record| record.paths.iter().map(|path| path.tracked))
    }

    fn last_key(&self) -> Option<Key> {
        let key = |change: &Change| match change {
            Change::Commit { tracked, .. } => tracked.key,
            _ => None,
        };
        self.record.iter().flat_map(|record| record.history.iter().rev()).find_map(|past| key(&past.change))
    }

    /// What must not change between plan and freeze without being looked at again.
    pub(super) fn content(&self) -> Content {
        let paths = self.record.iter().flat_map(|record| &record.paths);
        paths.map(|path| (path.path.clone(), path.tracked, path.intent.is_some())).collect()
    }

    /// That it is seen here.
    pub(super) fn seen(&self) -> impl Iterator<Item = (LunId, Change)> {
        let seen = |path: &UnitPath| Change::Seen { path: path.path.clone(), node: path.node.clone() };
        self.paths.iter().map(move |path| (self.lun.clone(), seen(path)))
    }

    /// Sense data that the guest is owed here, oldest first.
    pub(super) fn owed(&self) -> Vec<Vec<u8>> {
        self.record.iter().flat_map(|record| &record.paths).flat_map(|path| path.owed.clone()).collect()
    }

    /// What opening it took of the guest's is owed from then on.
    pub(super) fn owe_taken(&self, changes: &mut Vec<(LunId, Change)>) {
        self.owe(&self.taken, changes);
    }

    pub(super) fn forget_owed(&self, changes: &mut Vec<(LunId, Change)>) {
        for path in self.record.iter().flat_map(|record| &record.paths) {
            let given = Change::Owed { path: path.path.clone(), sense: None };
            changes.extend(path.owed.iter().map(|_| (self.lun.clone(), given.clone())));
        }
    }

    /// The record says that this handover is under way.
    pub(super) fn is_in(&self, handover: HandoverId) -> bool {
        let open = self.record.as_ref().filter(|record| record.state == State::Handover);
        open.is_some_and(|record| record.handover == Some(handover))
    }

    /// Its record, as it is `now`, is another handover's; or, at the source, was taken away by one since this was read.
    pub(super) fn is_anothers(&self, now: &Record, side: Side, handover: HandoverId) -> bool {
        let before = self.record.as_deref().filter(|before| before.state == State::Moved);
        let since = before.is_none_or(|before| before.handover != now.handover);
        let other = now.handover != Some(handover);
        match now.state {
            State::Handover => other,
            State::Moved => other && since && side == Side::Source,
            _ => false,
        }
    }

    /// Each is owed once, on the path that acts.
    pub(super) fn owe(&self, owed: &[Vec<u8>], changes: &mut Vec<(LunId, Change)>) {
        let Some(path) = self.paths.first() else { return };
        let mut told = self.owed();
        for sense in owed.iter().take(ledger::MOST_OWED) {
            if !told.contains(sense) {
                told.push(sense.clone());
                let owed = Change::Owed { path: path.path.clone(), sense: Some(sense.clone()) };
                changes.push((self.lun.clone(), owed));
            }
        }
    }

    /// What the guest has here when the handover has ended.
    pub(super) fn settle(&self, fate: Fate, handover: HandoverId, changes: &mut Vec<(LunId, Change)>) {
        let before = self.record.as_ref().map_or(State::Active, |record| record.found);
        let (tracked, state, why) = match fate {
            Fate::Has(tracked) => (Some(tracked), State::Active, None),
            Fate::AsBefore => (None, before, None),
            Fate::Fenced => (Some(Tracked::default()), State::Fenced, Some("another nexus removed it")),
            Fate::Lost => (Some(Tracked::default()), State::Lost, Some("the target forgot it")),
        };
        if let Some(tracked) = tracked {
            changes.extend(self.seen());
            self.commit(tracked, changes);
        }
        self.enter(state, handover, why, changes);
    }

    /// `had`: what goes with the guest, as far as it is known.
    pub(super) fn leave(
        &self,
        had: Option<Tracked>,
        handover: HandoverId,
        changes: &mut Vec<(LunId, Change)>,
    ) {
        if let Some((path, tracked)) = self.paths.first().zip(had) {
            let path = path.path.clone();
            changes.push((self.lun.clone(), Change::Commit { path, tracked, generation: None }));
        }
        self.commit(Tracked::default(), changes);
        self.enter(State::Moved, handover, None, changes);
    }

    /// Paths that the record knows and this host has no more have nothing.
    fn commit(&self, tracked: Tracked, changes: &mut Vec<(LunId, Change)>) {
        let own = self.paths.iter().map(|path| (path.path.clone(), tracked));
        let gone = self.unknown_paths().map(|path| (path.clone(), Tracked::default()));
        changes.extend(
            own.chain(gone).map(|(path, tracked)| {
                (self.lun.clone(), Change::Commit { path, tracked, generation: None })
            }),
        );
    }

    /// Registered as far as the record knows, and not among the ways that were given.
    fn unknown_paths(&self) -> impl Iterator<Item = &PathId> {
        let registered =
            self.record.iter().flat_map(|record| &record.paths).filter(|path| path.tracked.key.is_some());
        registered.map(|path| &path.path).filter(|path| self.paths.iter().all(|known| known.path != **path))
    }

    /// A registration that no way leads to would stay behind.
    pub(super) fn check_paths(&self) -> Result<(), Error> {
        match self.unknown_paths().next() {
            Some(path) => Err(Error::Unreachable { lun: self.lun.clone(), path: path.clone() }),
            None => Ok(()),
        }
    }

    fn enter(
        &self,
        state: State,
        handover: HandoverId,
        why: Option<&str>,
        changes: &mut Vec<(LunId, Change)>,
    ) {
        let why = why.map(str::to_owned);
        changes.push((self.lun.clone(), Change::State { state, handover: Some(handover), why }));
    }
}
