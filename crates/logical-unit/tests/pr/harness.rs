//! A logical unit with four nexuses on target port 1 (A to D, different initiators), A's initiator on
//! port 2 as well (A2), and the words in which the tests speak about it.

use logical_unit::access::{AccessGate, Decision};
use logical_unit::{Directory, Effect, ItNexus, NexusId, Outcome, PrUnit, Profile};
use scsi::pr::{
    BasicParameters, FullStatus, InAction, Key, OutAction, PrOutCdb, ReadKeys, ReadReservation,
    ReservationType, Scope, request,
};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, Sense, Status, TransportId};

pub(super) const A: NexusId = NexusId(0);
pub(super) const B: NexusId = NexusId(1);
pub(super) const C: NexusId = NexusId(2);
pub(super) const D: NexusId = NexusId(3);
pub(super) const A2: NexusId = NexusId(4);

pub(super) const K: Key = Key(0xA);
pub(super) const KB: Key = Key(0xB);
pub(super) const KC: Key = Key(0xC);
pub(super) const KD: Key = Key(0xD);
pub(super) const NONE: Key = Key::NONE;

pub(super) const WE: ReservationType = ReservationType::WRITE_EXCLUSIVE;
pub(super) const EA: ReservationType = ReservationType::EXCLUSIVE_ACCESS;
pub(super) const WE_RO: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
pub(super) const EA_RO: ReservationType = ReservationType::EXCLUSIVE_ACCESS_REGISTRANTS_ONLY;
pub(super) const WE_AR: ReservationType = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;
pub(super) const EA_AR: ReservationType = ReservationType::EXCLUSIVE_ACCESS_ALL_REGISTRANTS;

/// (ASC, ASCQ) of the unit attentions of reservations.
pub(super) const PREEMPTED: (u8, u8) = (0x2A, 0x03);
pub(super) const RELEASED: (u8, u8) = (0x2A, 0x04);
pub(super) const REGISTRATION_GONE: (u8, u8) = (0x2A, 0x05);

/// An iSCSI initiator port.
pub(super) fn port(name: &str) -> TransportId {
    TransportId::iscsi(IscsiName::new(&format!("iqn.2026-01.x:{name}")).unwrap(), Isid([0, 2, 0x3D, 0, 0, 1]))
}

/// The names behind the handles; grows like a target's directory, up to `room` nexuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Names {
    pub(super) nexuses: Vec<ItNexus>,
    pub(super) ports: Vec<u16>,
    pub(super) room: usize,
}

impl Default for Names {
    fn default() -> Self {
        let on = |name, target_port| ItNexus { initiator: port(name), target_port };
        let nexuses = vec![on("a", 1), on("b", 1), on("c", 1), on("d", 1), on("a", 2)];
        Self { nexuses, ports: vec![1, 2], room: usize::MAX }
    }
}

impl Directory for Names {
    fn nexus(&self, id: NexusId) -> Option<&ItNexus> {
        self.nexuses.get(id.0 as usize)
    }

    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId> {
        if let Some(at) = self.nexuses.iter().position(|known| known == nexus) {
            return Some(NexusId(at as u32));
        }
        let allowed = self.ports.contains(&nexus.target_port) && self.nexuses.len() < self.room;
        allowed.then(|| {
            self.nexuses.push(nexus.clone());
            NexusId(self.nexuses.len() as u32 - 1)
        })
    }

    fn target_ports(&self) -> &[u16] {
        &self.ports
    }

    fn ports_named(&mut self, id: &TransportId, target_port: u16) -> Vec<NexusId> {
        let named = |nexus: &ItNexus| nexus.target_port == target_port && id.names(&nexus.initiator);
        (0..self.nexuses.len()).filter(|at| named(&self.nexuses[*at])).map(|at| NexusId(at as u32)).collect()
    }
}

/// A logical unit under test.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lun {
    pub(super) unit: PrUnit,
    pub(super) names: Names,
    /// Effects of the last command.
    pub(super) effects: Vec<Effect>,
}

impl Lun {
    /// A to D and A2 have sessions.
    pub(super) fn new(profile: &'static Profile) -> Self {
        let mut unit = PrUnit::new(profile);
        [A, B, C, D, A2].into_iter().for_each(|nexus| unit.attach(nexus));
        Self { unit, names: Names::default(), effects: Vec::new() }
    }

    /// With registrations.
    pub(super) fn with(profile: &'static Profile, registered: &[(NexusId, Key)]) -> Self {
        let mut lun = Self::new(profile);
        for (nexus, key) in registered {
            lun.good(*nexus, &request::register(NONE, *key, false));
        }
        lun
    }

    pub(super) fn send(&mut self, nexus: NexusId, request: &Request) -> Completion {
        let (outcome, effects) = self.unit.execute(&mut self.names, nexus, request);
        self.effects = effects;
        match outcome {
            Outcome::Complete(completion) => completion,
            Outcome::Execute => Completion::good(Vec::new()),
        }
    }

    /// Expects GOOD; gives the data.
    pub(super) fn good(&mut self, nexus: NexusId, request: &Request) -> Vec<u8> {
        let completion = self.send(nexus, request);
        assert!(completion.status.is_good(), "{request:02x?} of {nexus:?}: {completion:02x?}\n{self:?}");
        completion.data
    }

    pub(super) fn conflict(&mut self, nexus: NexusId, request: &Request) {
        let before = self.clone();
        let completion = self.send(nexus, request);
        assert_eq!(completion.status, Status::RESERVATION_CONFLICT, "{request:02x?} of {nexus:?}\n{self:?}");
        assert_eq!(before.unit, self.unit, "a conflict changes nothing");
    }

    /// Expects CHECK CONDITION with key/ASC/ASCQ and nothing changed; gives the sense data.
    pub(super) fn check(&mut self, nexus: NexusId, request: &Request, expected: (u8, u8, u8)) -> Sense {
        let before = self.clone();
        let completion = self.send(nexus, request);
        let sense = completion.decoded_sense();
        let seen = sense.as_ref().map(|sense| (sense.key.0, sense.code.asc, sense.code.ascq));
        assert_eq!(seen, Some(expected), "{request:02x?} of {nexus:?}: {completion:02x?}\n{self:?}");
        if expected.0 != 6 {
            assert_eq!(before.unit, self.unit, "an error changes nothing");
        }
        sense.unwrap()
    }

    /// The field that a rejected command points at: (in the CDB, byte).
    pub(super) fn pointer(
        &mut self,
        nexus: NexusId,
        request: &Request,
        expected: (u8, u8, u8),
    ) -> (bool, u16) {
        let at = self.check(nexus, request, expected).field_pointer.expect("a field pointer");
        (at.in_cdb, at.byte)
    }

    /// Takes every unit attention of a nexus by TEST UNIT READY.
    pub(super) fn drain(&mut self, nexus: NexusId) -> Vec<(u8, u8)> {
        let mut seen = Vec::new();
        while let Some(sense) = self.send(nexus, &test_unit_ready()).decoded_sense() {
            assert_eq!(sense.key.0, 6);
            seen.push((sense.code.asc, sense.code.ascq));
        }
        seen
    }

    /// What waits for each of A to D, nothing taken.
    pub(super) fn waiting(&self) -> [Vec<(u8, u8)>; 4] {
        [A, B, C, D].map(|nexus| {
            let codes = self.unit.attentions().pending(nexus).map(|one| one.code());
            codes.map(|code| (code.asc, code.ascq)).collect()
        })
    }

    pub(super) fn drain_all(&mut self) {
        let nexuses: Vec<_> = self.unit.attentions().nexuses().collect();
        for nexus in nexuses {
            while !self.unit.attentions().pending(nexus).count().eq(&0) {
                self.send(nexus, &request_sense());
            }
        }
    }

    /// Keys of A to D; zero for who is not registered.
    pub(super) fn keys(&self) -> [Key; 4] {
        [A, B, C, D].map(|nexus| self.unit.reservations().key_of(nexus))
    }

    /// Which of A to D hold the reservation, and its type.
    pub(super) fn held(&self) -> Option<(ReservationType, Vec<NexusId>)> {
        let held = self.unit.reservations().reservation()?;
        let holders = [A, B, C, D].into_iter().filter(|nexus| self.unit.reservations().is_holder(*nexus));
        Some((held.kind, holders.collect()))
    }

    pub(super) fn generation(&self) -> u32 {
        self.unit.reservations().generation()
    }

    pub(super) fn listed(&mut self, nexus: NexusId) -> Vec<Key> {
        let data = self.good(nexus, &request::read(InAction::READ_KEYS, u16::MAX));
        ReadKeys::parse(&data).unwrap().keys
    }

    pub(super) fn shown(&mut self, nexus: NexusId) -> Option<(Key, ReservationType)> {
        let data = self.good(nexus, &request::read(InAction::READ_RESERVATION, 255));
        ReadReservation::parse(&data).unwrap().reservation.map(|held| (held.key, held.kind))
    }

    pub(super) fn full_status(&mut self, nexus: NexusId) -> FullStatus {
        let data = self.good(nexus, &request::read(InAction::READ_FULL_STATUS, u16::MAX));
        FullStatus::parse(&data).unwrap()
    }

    /// Whether the lock-free gate lets a command through; checks that the slow path agrees.
    pub(super) fn may(&self, nexus: NexusId, request: &Request) -> bool {
        let mut copy = self.clone();
        let slow = copy.send(nexus, request).status.is_good();
        let gate = AccessGate::new(self.unit.standing(nexus));
        match gate.decide(self.unit.profile(), &request.cdb) {
            Decision::Execute => assert!(slow, "the gate admits what the machine refuses"),
            Decision::Conflict => assert!(!slow, "the gate refuses what the machine admits"),
            Decision::Consult => {}
        }
        slow
    }

    pub(super) fn reads(&self, nexus: NexusId) -> bool {
        self.may(nexus, &command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
    }

    pub(super) fn writes(&self, nexus: NexusId) -> bool {
        self.may(nexus, &command(&[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
    }
}

/// A command without data.
pub(super) fn command(cdb: &[u8]) -> Request {
    Request { cdb: cdb.to_vec(), data: DataPhase::None }
}

pub(super) fn test_unit_ready() -> Request {
    command(&[0; 6])
}

pub(super) fn request_sense() -> Request {
    command(&[3, 0, 0, 0, 252, 0])
}

/// PR OUT with any scope and type.
pub(super) fn order(action: OutAction, scope: u8, kind: u8, key: Key, service_action_key: Key) -> Request {
    let parameters = BasicParameters { reservation_key: key, service_action_key, ..Default::default() };
    raw_out(action, scope, kind, &parameters.to_bytes())
}

/// PR OUT with any parameter list.
pub(super) fn raw_out(action: OutAction, scope: u8, kind: u8, list: &[u8]) -> Request {
    let cdb = PrOutCdb {
        action,
        scope: Scope(scope),
        kind: ReservationType(kind),
        parameter_list_length: list.len() as u32,
        control: 0,
    };
    Request { cdb: cdb.to_bytes().to_vec(), data: DataPhase::Out(list.to_vec()) }
}

/// REGISTER with all its bits.
pub(super) fn register_with(parameters: &BasicParameters) -> Request {
    request::out(OutAction::REGISTER, ReservationType(0), parameters)
}
