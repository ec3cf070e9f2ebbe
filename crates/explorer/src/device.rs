//! The logical unit under test: the device server's persistent reservation state with the cast as its
//! directory. A second one, without any handover, is the shadow's.

use crate::cast::{Cast, STRANGER};
use logical_unit::access::Route;
use logical_unit::attention::Attention;
use logical_unit::reservations::Holder;
use logical_unit::{NexusId, Outcome, PrUnit, Profile};
use scsi::pr::{Key, ReservationType};
use scsi::{AdditionalSense, Completion, DataPhase, Request, SenseKey, Status, opcode};

/// Most unit attentions that one nexus can have to take before a command is executed.
const ATTENTIONS: usize = 8;

/// A logical unit.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Device {
    unit: PrUnit,
}

impl Device {
    pub(crate) fn new(profile: &'static Profile) -> Self {
        let mut unit = PrUnit::new(profile);
        (0..=STRANGER.0).for_each(|nexus| unit.attach(NexusId(nexus)));
        Self { unit }
    }

    /// Executes one command.
    pub(crate) fn execute(&mut self, nexus: NexusId, request: &Request) -> Completion {
        match self.unit.execute(&mut Cast, nexus, request).0 {
            Outcome::Complete(completion) => completion,
            Outcome::Execute => Completion::good(Vec::new()),
        }
    }

    /// Executes a command of another node, which repeats it after every unit attention.
    pub(crate) fn execute_patiently(&mut self, nexus: NexusId, request: &Request) -> Completion {
        let mut completion = self.execute(nexus, request);
        for _ in 0..ATTENTIONS {
            if !is_attention(&completion) {
                break;
            }
            completion = self.execute(nexus, request);
        }
        completion
    }

    /// The key under which a nexus is registered.
    pub(crate) fn key(&self, nexus: NexusId) -> Option<Key> {
        Some(self.unit.reservations().key_of(nexus)).filter(|key| !key.is_none())
    }

    /// Type of the reservation and its holder, `None` where every registrant holds it.
    pub(crate) fn reservation(&self) -> Option<(ReservationType, Option<NexusId>)> {
        let held = self.unit.reservations().reservation()?;
        match held.holder {
            Holder::One(nexus) => Some((held.kind, Some(nexus))),
            Holder::All { .. } => Some((held.kind, None)),
        }
    }

    /// Whether registrations survive a power cycle.
    pub(crate) fn aptpl(&self) -> bool {
        self.unit.reservations().aptpl()
    }

    /// Everything registered, for traces.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (NexusId, Key)> {
        self.unit.reservations().registrations().iter().map(|one| (one.nexus, one.key))
    }

    /// The unit attentions of a nexus, which are taken away.
    pub(crate) fn take_attentions(&mut self, nexus: NexusId) -> Vec<AdditionalSense> {
        let waiting: Vec<_> = self.unit.attentions().pending(nexus).map(Attention::code).collect();
        self.forget_attentions(nexus);
        waiting
    }

    pub(crate) fn forget_attentions(&mut self, nexus: NexusId) {
        let ready = Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None };
        for _ in 0..ATTENTIONS {
            if self.unit.attentions().first(nexus).is_none() {
                break;
            }
            self.execute(nexus, &ready);
        }
    }

    /// Executes a command that sets the scene; whether it ended GOOD.
    pub(crate) fn prepare(&mut self, nexus: NexusId, request: &Request) -> bool {
        self.execute_patiently(nexus, request).status.is_good()
    }

    /// Power off and on.
    pub(crate) fn power_cycle(&mut self) {
        self.unit.power_cycle();
    }

    pub(crate) fn generation(&self) -> u32 {
        self.unit.reservations().generation()
    }

    /// Subtracts from PRGENERATION, which states keep relative.
    pub(crate) fn shift_generation(&mut self, by: u32) {
        self.unit.rebase_generation(by);
    }

    /// Whether the reservation lets a nexus read and write.
    pub(crate) fn access(&self, nexus: NexusId) -> (bool, bool) {
        let standing = self.unit.standing(nexus);
        let allows = |code: u8| match Route::of(self.unit.profile(), &[code, 0, 0, 0, 0, 0, 0, 0, 0, 0]) {
            Route::Plain(access) => access.permits(standing),
            _ => false,
        };
        (allows(opcode::READ_10), allows(opcode::WRITE_10))
    }
}

/// Whether a unit attention says that the target lost power.
pub(crate) fn tells_of_power(completion: &Completion) -> bool {
    let power = |code: AdditionalSense| code.asc == AdditionalSense::POWER_ON.asc && code.ascq <= 1;
    is_attention(completion) && completion.decoded_sense().is_some_and(|sense| power(sense.code))
}

/// Whether a command was not executed because of a unit attention.
pub(crate) fn is_attention(completion: &Completion) -> bool {
    completion.status == Status::CHECK_CONDITION
        && completion.decoded_sense().is_some_and(|sense| sense.key == SenseKey::UNIT_ATTENTION)
}
