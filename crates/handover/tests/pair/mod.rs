//! Two hosts, one logical unit, two other nodes, and a shadow of the same logical unit without a handover: drives a
//! procedure action by action, with foreign commands and faults between any two.
#![allow(dead_code, reason = "each test file uses its own part of the harness")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness fails its test by panicking; it is not itself marked as a test"
)]

use handover::facts::{SameUnit, Survey};
use handover::journal::Entry;
use handover::known_targets::{Known, KnownTargets, TargetIdentity};
use handover::{
    Action, CommandId, Event, Method, Outcome, Path, Phase, Port, Procedure, Remains, Settings, Side, Step,
    Verdict,
};
use logical_unit::{Directory, ItNexus, NexusId, PrUnit, Profile};
use scsi::pr::{Key, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, Status, TransportId, opcode};

/// The guest's key.
pub(crate) const K: Key = Key(0x4b);
/// The nonce.
pub(crate) const N: Key = Key(0x4e);
/// The fencing node's key.
pub(crate) const A_KEY: Key = Key(0xaa);
/// The bystander's own key, where it does not share the guest's.
pub(crate) const C_KEY: Key = Key(0xcc);
/// The node that fences.
pub(crate) const A: NexusId = NexusId(16);
/// The bystander.
pub(crate) const C: NexusId = NexusId(17);

/// Handle of a path.
pub(crate) fn id(path: Path) -> NexusId {
    let base = if path.side == Side::Source { 0 } else { 8 };
    NexusId(base + u32::from(path.index))
}

/// Names: every handle has its own initiator port, all through target port 1.
#[derive(Clone)]
pub(crate) struct Names(Vec<ItNexus>);

impl Default for Names {
    fn default() -> Self {
        Self((0..18).map(nexus).collect())
    }
}

fn nexus(id: u8) -> ItNexus {
    let name = IscsiName::new(&format!("iqn.2026-01.test:{id}")).unwrap();
    ItNexus { initiator: TransportId::iscsi(name, Isid([0, 2, 3, 4, 5, id])), target_port: 1 }
}

impl Directory for Names {
    fn nexus(&self, id: NexusId) -> Option<&ItNexus> {
        self.0.get(usize::try_from(id.0).unwrap())
    }

    fn resolve(&mut self, nexus: &ItNexus) -> Option<NexusId> {
        let at = self.0.iter().position(|known| known == nexus)?;
        Some(NexusId(u32::try_from(at).unwrap()))
    }

    fn target_ports(&self) -> &[u16] {
        &[1]
    }

    fn ports_named(&mut self, id: &TransportId, _: u16) -> Vec<NexusId> {
        let all = (0u32..).zip(&self.0);
        all.filter(|(_, nexus)| id.names(&nexus.initiator)).map(|(at, _)| NexusId(at)).collect()
    }
}

/// What the guest is to the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Holder(u8),
    AloneInAll(u8),
    WithOthersInAll(u8),
    Member(u8),
    Registrant,
}

impl Role {
    pub(crate) const ALL: [Self; 11] = [
        Self::Holder(1),
        Self::Holder(3),
        Self::Holder(5),
        Self::Holder(6),
        Self::AloneInAll(7),
        Self::AloneInAll(8),
        Self::WithOthersInAll(7),
        Self::WithOthersInAll(8),
        Self::Member(5),
        Self::Member(6),
        Self::Registrant,
    ];
}

/// What another node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    PreemptGuest,
    Clear,
    Reserve,
    Release,
    Register,
    Unregister,
    ChangeAptpl,
}

impl Foreign {
    pub(crate) const ALL: [Self; 7] = [
        Self::PreemptGuest,
        Self::Clear,
        Self::Reserve,
        Self::Release,
        Self::Register,
        Self::Unregister,
        Self::ChangeAptpl,
    ];
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Executed, but the reply is lost.
    LostReply,
    /// Lost before it was executed, which nobody knows.
    LostRequest,
    /// The side of this action is out of reach from now on.
    LinkDown,
    /// The target loses power before this action.
    PowerCycle,
    /// The procedure's process ends before this action.
    Crash,
    /// The journal cannot be written any more.
    DiskFull,
    /// The logical unit is reset before this action.
    Reset,
}

/// When something happens: before the action of this number.
pub(crate) type Script<T> = Vec<(usize, T)>;

/// A world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) unit: PrUnit,
    pub(crate) shadow: PrUnit,
    pub(crate) names: Names,
    pub(crate) shared: bool,
    pub(crate) kind: u8,
    pub(crate) foreign: Script<Foreign>,
    pub(crate) faults: Script<Fault>,
    pub(crate) actions: usize,
    pub(crate) batches: Vec<(Phase, usize)>,
    pub(crate) phase: Phase,
    pub(crate) entries: [Option<Entry>; 2],
    pub(crate) down: [bool; 2],
    pub(crate) disk_full: bool,
    /// Under *identity*: the destination has the source's name.
    pub(crate) renamed: bool,
    pub(crate) log: Vec<String>,
    pub(crate) foreign_mismatch: Option<String>,
    pub(crate) powered: bool,
    /// The first instant at which the LUN was without the guest's key or its reservation.
    pub(crate) gap: Option<String>,
    /// Paths on each side.
    pub(crate) paths: u8,
    /// A foreign command met the LUN while the guest's key was not listed.
    pub(crate) absent: bool,
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Verdict(Verdict),
    Crashed,
}

impl World {
    pub(crate) fn new(profile: &'static Profile, role: Role, shared: bool, aptpl: bool) -> Self {
        let unit = PrUnit::new(profile);
        let mut world = Self {
            shadow: unit.clone(),
            unit,
            names: Names::default(),
            shared,
            kind: 5,
            foreign: Vec::new(),
            faults: Vec::new(),
            actions: 0,
            batches: Vec::new(),
            phase: Phase::Plan,
            entries: [None, None],
            down: [false, false],
            disk_full: false,
            renamed: false,
            log: Vec::new(),
            foreign_mismatch: None,
            powered: false,
            gap: None,
            paths: 1,
            absent: false,
        };
        for index in 0..18 {
            world.unit.attach(NexusId(index));
        }
        world.arrange(role, aptpl && profile.support.aptpl);
        world.shadow = world.unit.clone();
        world
    }

    fn arrange(&mut self, role: Role, aptpl: bool) {
        let source = id(Path::source(0));
        let c_key = if self.shared { K } else { C_KEY };
        let alone = matches!(role, Role::AloneInAll(_));
        self.good(source, &request::register(Key::NONE, K, aptpl));
        if !alone {
            self.good(A, &request::register(Key::NONE, A_KEY, aptpl));
        }
        if self.shared || !alone {
            self.good(C, &request::register(Key::NONE, c_key, aptpl));
        }
        let (who, key, kind) = match role {
            Role::Registrant => return,
            Role::Member(kind) => (A, A_KEY, kind),
            Role::Holder(kind) | Role::AloneInAll(kind) | Role::WithOthersInAll(kind) => (source, K, kind),
        };
        self.kind = kind;
        self.good(who, &request::reserve(key, ReservationType(kind)));
    }

    /// A command on the unit alone.
    pub(crate) fn send(&mut self, nexus: NexusId, request: &Request) -> Completion {
        execute(&mut self.unit, &mut self.names, nexus, request)
    }

    pub(crate) fn good(&mut self, nexus: NexusId, request: &Request) {
        for _ in 0..4 {
            let completion = self.send(nexus, request);
            if completion.decoded_sense().is_none() {
                assert_eq!(completion.status, Status::GOOD, "{request:?}");
                return;
            }
        }
        panic!("unit attentions do not end");
    }

    /// A second path on each side; the source's has the guest's key.
    pub(crate) fn add_paths(&mut self) {
        self.paths = 2;
        self.good(id(Path::source(1)), &request::register(Key::NONE, K, self.aptpl()));
        self.shadow = self.unit.clone();
    }

    /// A foreign command on the unit and its shadow; both must answer alike.
    pub(crate) fn intervene(&mut self, foreign: Foreign) {
        let key = self.unit.reservations().key_of(A);
        let shadow_key = self.shadow.reservations().key_of(A);
        let guest = self.shadow.reservations().key_of(id(Path::source(0)));
        let ours = [Path::source(0), Path::destination(0)].map(|path| self.key_of(path));
        self.absent |= guest == K && !ours.contains(&K);
        let kind = ReservationType(self.kind);
        let requests: Vec<Request> = match foreign {
            Foreign::PreemptGuest => {
                vec![request::register_and_ignore(A_KEY, self.aptpl()), request::preempt(A_KEY, K, kind)]
            }
            Foreign::Clear => vec![request::register_and_ignore(A_KEY, self.aptpl()), request::clear(A_KEY)],
            Foreign::Reserve => vec![request::reserve(A_KEY, kind)],
            Foreign::Release => vec![request::release(A_KEY, kind)],
            Foreign::Register => vec![request::register(Key::NONE, A_KEY, self.aptpl())],
            Foreign::Unregister => vec![request::register(A_KEY, Key::NONE, self.aptpl())],
            Foreign::ChangeAptpl => vec![request::register_and_ignore(A_KEY, !self.aptpl())],
        };
        self.log.push(format!("    A: {foreign:?} (key {key:?}, shadow {shadow_key:?})"));
        for request in requests {
            let real = drained(&mut self.unit, &mut self.names, A, &request);
            let shadow = drained(&mut self.shadow, &mut self.names, A, &request);
            if real != shadow && self.foreign_mismatch.is_none() {
                self.foreign_mismatch = Some(format!("{foreign:?}: {real:?} instead of {shadow:?}"));
            }
        }
    }

    fn aptpl(&self) -> bool {
        self.unit.reservations().aptpl()
    }

    /// Runs a procedure to its end or crash.
    pub(crate) fn run(&mut self, procedure: &mut dyn Procedure) -> End {
        for _ in 0..500 {
            match procedure.poll() {
                Step::Run(actions) => {
                    self.batches.push((self.phase, actions.len()));
                    if !self.act(procedure, actions) {
                        self.log.push("    crash".into());
                        return End::Crashed;
                    }
                }
                Step::Wait => panic!("waits for nothing\n{}", self.log.join("\n")),
                Step::PhaseDone(phase) => {
                    self.log.push(format!("  {phase} done"));
                    self.phase = next(phase);
                    procedure.handle(Event::Proceed);
                }
                Step::Finished(verdict) => {
                    self.log.push(format!("{verdict:?}"));
                    return End::Verdict(verdict);
                }
            }
        }
        panic!("does not end\n{}", self.log.join("\n"));
    }

    fn act(&mut self, procedure: &mut dyn Procedure, actions: Vec<Action>) -> bool {
        for action in actions {
            let now = self.actions;
            self.actions += 1;
            for (_, foreign) in self.foreign.clone().into_iter().filter(|(at, _)| *at == now) {
                self.intervene(foreign);
            }
            let faults: Vec<Fault> =
                self.faults.iter().filter(|(at, _)| *at == now).map(|(_, fault)| *fault).collect();
            if faults.contains(&Fault::Crash) {
                return false;
            }
            self.strike(&faults, &action);
            match action {
                Action::Journal(_) if self.disk_full => {
                    procedure.handle(Event::JournalFailed);
                    return true;
                }
                Action::Journal(entry) => {
                    self.log.push(format!("{now}: journal {:?} {:?}", entry.stage, entry.method));
                    self.entries = [Some(entry); 2];
                }
                Action::Execute { id, path, request } => {
                    let outcome = self.execute(now, path, &request, &faults);
                    procedure.handle(Event::Completed { id, outcome });
                }
                Action::CloseSession { id, path } => self.session(procedure, id, path, false),
                Action::OpenSession { id, path } => self.session(procedure, id, path, true),
            }
        }
        true
    }

    fn session(&mut self, procedure: &mut dyn Procedure, id: CommandId, path: Path, open: bool) {
        let side = usize::from(path.side == Side::Destination);
        self.log.push(format!("{path}: {}", if open { "log in" } else { "log out" }));
        let outcome = if self.down[side] {
            Outcome::NotSent
        } else {
            if open {
                self.renamed = path.side == Side::Destination;
            }
            Outcome::Done(Completion::good(Vec::new()))
        };
        procedure.handle(Event::Completed { id, outcome });
    }

    pub(crate) fn strike(&mut self, faults: &[Fault], action: &Action) {
        for fault in faults {
            self.log.push(format!("    {fault:?}"));
            match fault {
                Fault::PowerCycle => self.power_cycle(),
                Fault::Reset => {
                    self.unit.logical_unit_reset();
                    self.shadow.logical_unit_reset();
                }
                Fault::DiskFull => self.disk_full = true,
                Fault::LinkDown => {
                    if let Action::Execute { path, .. } = action {
                        self.down[usize::from(path.side == Side::Destination)] = true;
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn power_cycle(&mut self) {
        self.powered = true;
        self.unit.power_cycle();
        self.shadow.power_cycle();
        for index in 0..18 {
            self.unit.attach(NexusId(index));
            self.shadow.attach(NexusId(index));
        }
    }

    pub(crate) fn execute(&mut self, now: usize, path: Path, request: &Request, faults: &[Fault]) -> Outcome {
        let nexus = if self.renamed { id(Path { side: Side::Source, ..path }) } else { id(path) };
        let down = self.down[usize::from(path.side == Side::Destination)];
        let lost = faults.contains(&Fault::LostRequest);
        let outcome = if down {
            Outcome::NotSent
        } else if lost {
            Outcome::Unknown
        } else {
            let completion = self.send(nexus, request);
            self.log.push(format!(
                "{now}: {path}: {} -> {:?} {:?}",
                words(request),
                completion.status,
                completion.decoded_sense().map(|sense| sense.code)
            ));
            self.look_for_gap();
            if faults.contains(&Fault::LostReply) { Outcome::Unknown } else { Outcome::Done(completion) }
        };
        if down || lost {
            self.log.push(format!("{now}: {path}: {} -> {outcome:?}", words(request)));
        }
        outcome
    }

    /// While the shadow's guest is registered, its key and the reservation must be there.
    fn look_for_gap(&mut self) {
        let shadow = self.shadow.reservations();
        if shadow.key_of(id(Path::source(0))) != K || self.gap.is_some() {
            return;
        }
        let ours = (0..self.paths).flat_map(|index| [Path::source(index), Path::destination(index)]);
        let kind = |unit: &PrUnit| unit.reservations().reservation().map(|held| held.kind);
        if !ours.clone().any(|path| self.key_of(path) == K) {
            self.gap = Some("the key was not listed".into());
        }
        if kind(&self.unit) != kind(&self.shadow) {
            self.gap = Some(format!("the reservation was {:?}", kind(&self.unit)));
        }
    }

    /// The guest's registration and standing in the unit, by the nexus that has it.
    pub(crate) fn key_of(&self, path: Path) -> Key {
        self.unit.reservations().key_of(id(path))
    }

    pub(crate) fn holds(&self, path: Path) -> bool {
        self.unit.reservations().is_holder(id(path))
    }
}

impl World {
    /// What is left of a handover when these sides are alive.
    pub(crate) fn remains(&self, alive: [bool; 2]) -> Remains {
        Remains {
            source_entry: self.entries[0],
            destination_entry: self.entries[1],
            source: (0..self.paths).map(|index| port(Path::source(index))).collect(),
            destination: (0..self.paths).map(|index| port(Path::destination(index))).collect(),
            source_alive: alive[0],
            destination_alive: alive[1],
            prefer_destination: false,
            kept_at_source: false,
            traits: settings(self.unit.profile(), None).targets.traits(&survey(self.unit.profile()).target),
        }
    }
}

fn next(phase: Phase) -> Phase {
    match phase {
        Phase::Plan => Phase::Prepare,
        Phase::Prepare => Phase::Freeze,
        Phase::Freeze => Phase::Take,
        Phase::Take => Phase::Verify,
        Phase::Verify | Phase::Release => Phase::Release,
    }
}

fn drained(unit: &mut PrUnit, names: &mut Names, nexus: NexusId, request: &Request) -> Status {
    for _ in 0..6 {
        let completion = execute(unit, names, nexus, request);
        let attention = completion.decoded_sense().is_some_and(|sense| sense.key.0 == 6);
        if !attention {
            return completion.status;
        }
    }
    Status::BUSY
}

/// One command on a unit; what the block device server would answer is GOOD.
pub(crate) fn execute(unit: &mut PrUnit, names: &mut Names, nexus: NexusId, request: &Request) -> Completion {
    match unit.execute(names, nexus, request).0 {
        logical_unit::Outcome::Complete(completion) => completion,
        logical_unit::Outcome::Execute => Completion::good(Vec::new()),
    }
}

/// A command in short.
pub(crate) fn words(request: &Request) -> String {
    let action = request.cdb.get(1).copied().unwrap_or(0);
    match (request.cdb.first(), &request.data) {
        (Some(&opcode::PERSISTENT_RESERVE_OUT), DataPhase::Out(list)) => {
            let key = |at: usize| list.get(at + 7).copied().unwrap_or(0);
            format!("OUT {action} {:x}->{:x} kind {}", key(0), key(8), request.cdb[2])
        }
        (Some(&opcode::PERSISTENT_RESERVE_IN), _) => format!("IN {action}"),
        _ => format!("{:x?}", request.cdb),
    }
}

/// The survey of a profile.
pub(crate) fn survey(profile: &'static Profile) -> Survey {
    let mut inquiry = vec![b' '; 36];
    let product = profile.product;
    inquiry.splice(8..8 + product.vendor.len(), product.vendor.bytes());
    inquiry.splice(16..16 + product.product.len(), product.product.bytes());
    inquiry.splice(32..32 + product.revision.len(), product.revision.bytes());
    let move_reported = if profile.support.register_and_move { Known::Yes } else { Known::No };
    let target = TargetIdentity::from_inquiry(&inquiry).unwrap();
    Survey { same_unit: SameUnit::Same, target, move_reported }
}

/// A path's port.
pub(crate) fn port(path: Path) -> Port {
    port_of(id(path))
}

/// A port by its handle.
pub(crate) fn port_of(handle: NexusId) -> Port {
    Port { initiator: Some(nexus(u8::try_from(handle.0).unwrap()).initiator), target_port: Some(1) }
}

/// The order for a handover of `K` on `profile`.
pub(crate) fn settings(profile: &'static Profile, method: Option<Method>) -> Settings {
    let mut settings = Settings::new(Some(K), N, port(Path::source(0)), port(Path::destination(0)));
    settings.method = method;
    settings.survey = Some(survey(profile));
    settings.identity_is_ours = method == Some(Method::Identity);
    settings.allow_absence = method == Some(Method::DestinationNonce);
    settings
}

/// The same target, of which nobody knows anything.
pub(crate) fn unknown_target(mut settings: Settings) -> Settings {
    settings.targets = KnownTargets::none();
    settings
}
