//! The I_T nexuses that a logical unit knows: those with a session, and those that are registered or have a
//! unit attention waiting. The [`Directory`] of its reservations.
//!
//! The number is bounded: nexuses come by login, which the transport limits, or by name in a PERSISTENT
//! RESERVE OUT, which is refused beyond [`LIMIT`]; whatever is neither attached nor registered is forgotten.

use crate::access::{AccessGate, Standing};
use crate::profile::Identity;
use crate::task_set::TaskSet;
use crate::{Directory, ItNexus, NexusId, PrUnit};
use scsi::TransportId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most nexuses that commands may make known by name.
const LIMIT: usize = 1 << 16;

/// One session of a nexus with a logical unit: what its threads need without a lock.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: NexusId,
    pub(crate) nexus: ItNexus,
    pub(crate) gate: AccessGate,
    pub(crate) tasks: Arc<TaskSet>,
}

/// A nexus and its sessions: more than one only while a new login replaces an old one.
#[derive(Debug)]
struct Known {
    nexus: ItNexus,
    sessions: Vec<Arc<Session>>,
}

/// All nexuses of one logical unit.
#[derive(Debug)]
pub(crate) struct Nexuses {
    known: BTreeMap<NexusId, Known>,
    /// The handle that a name has now; in order, so that the ports of one iSCSI name stand together.
    names: BTreeMap<ItNexus, NexusId>,
    next: u32,
    target_ports: Vec<u16>,
    identity: Identity,
}

impl Nexuses {
    pub(crate) fn new(identity: Identity) -> Self {
        let (known, names) = (BTreeMap::new(), BTreeMap::new());
        Self { known, names, next: 0, target_ports: vec![1], identity }
    }

    pub(crate) fn set_target_ports(&mut self, ports: &[u16]) {
        self.target_ports = ports.to_vec();
    }

    /// A session begins; the same names are the same nexus, as far as the profile's identity goes.
    pub(crate) fn attach(&mut self, nexus: &ItNexus) -> Arc<Session> {
        let reused = self.names.get(nexus).copied();
        let reused = reused.filter(|id| self.identity == Identity::Nexus || self.is_attached(*id));
        let id = reused.unwrap_or_else(|| self.add(nexus));
        let session = Arc::new(Session {
            id,
            nexus: nexus.clone(),
            gate: AccessGate::new(Standing::FREE.consulting()),
            tasks: Arc::default(),
        });
        if let Some(known) = self.known.get_mut(&id) {
            known.sessions.push(Arc::clone(&session));
        }
        session
    }

    /// A session ends. `true` if its nexus has none left.
    pub(crate) fn detach(&mut self, session: &Arc<Session>) -> bool {
        let Some(known) = self.known.get_mut(&session.id) else { return false };
        let before = known.sessions.len();
        known.sessions.retain(|one| !Arc::ptr_eq(one, session));
        known.sessions.is_empty() && before > 0
    }

    pub(crate) fn is_attached(&self, id: NexusId) -> bool {
        self.known.get(&id).is_some_and(|known| !known.sessions.is_empty())
    }

    /// The sessions of one nexus.
    pub(crate) fn sessions_of(&self, id: NexusId) -> &[Arc<Session>] {
        self.known.get(&id).map_or(&[], |known| &known.sessions)
    }

    /// The sessions of all nexuses.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.known.values().flat_map(|known| &known.sessions)
    }

    /// Forgets every nexus that has no session, no registration and no unit attention.
    pub(crate) fn forget_strangers(&mut self, unit: &PrUnit) {
        let registrations = unit.reservations().registrations();
        let (known, names) = (&mut self.known, &mut self.names);
        known.retain(|id, known| {
            let needed = !known.sessions.is_empty()
                || registrations.get(*id).is_some()
                || unit.attentions().first(*id).is_some();
            if !needed && names.get(&known.nexus) == Some(id) {
                names.remove(&known.nexus);
            }
            needed
        });
    }

    /// How many nexuses are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn add(&mut self, nexus: &ItNexus) -> NexusId {
        while self.known.contains_key(&NexusId(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let id = NexusId(self.next);
        self.next = self.next.wrapping_add(1);
        self.known.insert(id, Known { nexus: nexus.clone(), sessions: Vec::new() });
        self.names.insert(nexus.clone(), id);
        id
    }
}

impl Directory for Nexuses {
    fn nexus(&self, id: NexusId) -> Option<&ItNexus> {
        self.known.get(&id).map(|known| &known.nexus)
    }

    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId> {
        if let Some(id) = self.names.get(nexus) {
            return Some(*id);
        }
        let room = self.known.len() < LIMIT && self.target_ports.contains(&nexus.target_port);
        room.then(|| self.add(nexus))
    }

    fn target_ports(&self) -> &[u16] {
        &self.target_ports
    }

    fn ports_named(&mut self, id: &TransportId, target_port: u16) -> Vec<NexusId> {
        let first = ItNexus { initiator: id.clone(), target_port: 0 };
        let mut named: Vec<_> = self
            .names
            .range(first..)
            .take_while(|(nexus, _)| id.names(&nexus.initiator))
            .filter(|(nexus, _)| nexus.target_port == target_port)
            .map(|(_, id)| *id)
            .collect();
        named.sort_unstable();
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::SPC;
    use scsi::{IscsiName, Isid};

    fn port(number: u8, target_port: u16) -> ItNexus {
        let name = IscsiName::new("iqn.2026-01.x:a").unwrap();
        ItNexus { initiator: TransportId::iscsi(name, Isid([0, 0, 0, 0, 0, number])), target_port }
    }

    #[test]
    fn the_same_names_are_the_same_nexus_unless_it_belongs_to_its_session() {
        let mut nexuses = Nexuses::new(Identity::Nexus);
        let first = nexuses.attach(&port(1, 1));
        assert!(nexuses.detach(&first));
        assert_eq!(nexuses.attach(&port(1, 1)).id, first.id);
        assert_ne!(nexuses.attach(&port(1, 2)).id, first.id);

        let mut nexuses = Nexuses::new(Identity::SessionInstance);
        let first = nexuses.attach(&port(1, 1));
        assert!(nexuses.detach(&first));
        let second = nexuses.attach(&port(1, 1));
        assert_ne!(second.id, first.id);
        assert_eq!(nexuses.resolve(&port(1, 1)), Some(second.id));
    }

    #[test]
    fn a_nexus_is_lost_with_its_last_session_and_only_once() {
        let mut nexuses = Nexuses::new(Identity::Nexus);
        let (old, new) = (nexuses.attach(&port(1, 1)), nexuses.attach(&port(1, 1)));
        assert!(!nexuses.detach(&old));
        assert!(nexuses.is_attached(new.id));
        assert!(nexuses.detach(&new));
        assert!(!nexuses.detach(&new));
    }

    #[test]
    fn strangers_are_forgotten_and_names_through_unknown_ports_refused() {
        let mut nexuses = Nexuses::new(Identity::Nexus);
        let session = nexuses.attach(&port(0, 1));
        for number in 1..=100 {
            assert!(nexuses.resolve(&port(number, 1)).is_some());
        }
        assert_eq!(nexuses.resolve(&port(1, 9)), None);
        nexuses.forget_strangers(&PrUnit::new(&SPC));
        assert_eq!(nexuses.len(), 1);
        assert_eq!(nexuses.nexus(session.id), Some(&port(0, 1)));
        assert_eq!(nexuses.nexus(NexusId(5)), None);
    }

    #[test]
    fn a_name_without_isid_means_every_port_of_it_through_one_target_port() {
        let mut nexuses = Nexuses::new(Identity::Nexus);
        let ids = [port(1, 1), port(2, 1), port(3, 2)].map(|nexus| nexuses.attach(&nexus).id);
        let wildcard = TransportId::Iscsi { name: IscsiName::new("iqn.2026-01.x:a").unwrap(), isid: None };
        assert_eq!(nexuses.ports_named(&wildcard, 1), ids[..2]);
        assert_eq!(nexuses.ports_named(&port(3, 2).initiator, 2), ids[2..]);
    }
}
