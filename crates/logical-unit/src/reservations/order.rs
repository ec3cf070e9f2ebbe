//! One PERSISTENT RESERVE OUT command: the checks that all service actions share, in one fixed order
//! (SPC-4 5.13, 6.16), and the steps from which each service action is made.
//!
//! Order of the checks: service action, list length, list, unsupported bits, SCOPE and TYPE,
//! registration, key, then what the service action itself asks for.

use super::{Holder, Registration, Reservation, Reservations};
use super::{clear, preempt, register, register_and_move, replace_lost, reserve};
use crate::NexusId;
use crate::access::{Relation, pr_out_verdict};
use crate::attention::Attention;
use crate::directory::Directory;
use crate::profile::{Audience, ListLength, Profile, Rejection, Unregistered, WrongKeyRelease, WrongScope};
use scsi::pr::{BasicParameters, Key, OutAction, PrOutCdb, ReservationType, Scope};
use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey, Status};

/// The longest parameter list taken: SPEC_I_PT with as many TransportIDs as registrations fit.
const LONGEST_LIST: usize = 24 + 4 + 4096 * scsi::transport_id::MAX_LENGTH;

/// Why a PERSISTENT RESERVE OUT does not end GOOD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// BUSY.
    Busy,
    /// CHECK CONDITION.
    Check(Sense),
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::Check(error.sense())
    }
}

impl Refusal {
    fn not_ready(code: AdditionalSense) -> Self {
        Self::Check(Sense::new(SenseKey::NOT_READY, code))
    }

    pub(crate) fn completion(&self) -> Completion {
        match self {
            Self::Conflict => Completion::status(Status::RESERVATION_CONFLICT),
            Self::Busy => Completion::status(Status::BUSY),
            Self::Check(sense) => Completion::check(sense),
        }
    }
}

/// Whom a unit attention is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// These nexuses.
    Nexuses(Vec<NexusId>),
    /// Every nexus of the logical unit, but for this one.
    EveryoneBut(Option<NexusId>),
}

/// A PERSISTENT RESERVE OUT under way.
pub(crate) struct Order<'a> {
    pub(crate) profile: &'static Profile,
    pub(crate) directory: &'a mut dyn Directory,
    pub(crate) sender: NexusId,
    pub(crate) cdb: PrOutCdb,
    pub(crate) state: &'a mut Reservations,
    pub(crate) outcome: Consequences,
}

/// What follows from the command beside the new state.
#[derive(Default)]
pub(crate) struct Consequences {
    /// Something but PRGENERATION changed.
    pub(crate) touched: bool,
    /// Unit attentions, in the order in which they arise.
    pub(crate) notices: Vec<(Whom, Attention)>,
    /// PREEMPT AND ABORT: whose commands are aborted.
    pub(crate) abort: Option<Vec<NexusId>>,
}

impl Order<'_> {
    /// Executes the command. `data` is the data-out that arrived.
    pub(crate) fn run(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.check_action()?;
        let list = self.list(data)?;
        let steps = if self.cdb.action == OutAction::REGISTER_AND_MOVE {
            register_and_move::run(self, list)?
        } else {
            let parameters = self.parse(list)?;
            self.check_scope_and_type(&parameters)?;
            if self.check_sender(&parameters)? { self.dispatch(&parameters, list)? } else { 0 }
        };
        self.count(steps);
        Ok(())
    }

    /// Runs a service action whose common checks passed; gives the steps of PRGENERATION.
    fn dispatch(&mut self, parameters: &BasicParameters, list: &[u8]) -> Result<u32, Refusal> {
        match self.cdb.action {
            OutAction::RESERVE => reserve::reserve(self),
            OutAction::RELEASE => reserve::release(self),
            OutAction::CLEAR => Ok(clear::run(self)),
            OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => {
                preempt::run(self, parameters.service_action_key)
            }
            OutAction::REPLACE_LOST => replace_lost::run(self, parameters),
            _ => register::run(self, parameters, list),
        }
    }

    fn check_action(&self) -> Result<(), Refusal> {
        let support = &self.profile.support;
        let supported = match self.cdb.action {
            OutAction::PREEMPT_AND_ABORT => support.preempt_and_abort,
            OutAction::REGISTER_AND_MOVE => support.register_and_move,
            OutAction::REPLACE_LOST => support.replace_lost,
            action => action.0 <= OutAction::REPLACE_LOST.0,
        };
        if supported { Ok(()) } else { Err(FieldError::cdb_bit(1, 4).into()) }
    }

    /// The parameter list that the CDB announces.
    fn list<'d>(&self, data: &'d [u8]) -> Result<&'d [u8], Refusal> {
        let announced = usize::try_from(self.cdb.parameter_list_length).unwrap_or(usize::MAX);
        let list = data.get(..announced).filter(|list| list.len() <= LONGEST_LIST);
        let list = list.ok_or(FieldError::list_length())?;
        let exempt = self.cdb.action == OutAction::REGISTER_AND_MOVE
            || BasicParameters::specifies_initiator_ports(list);
        match self.profile.list_length {
            ListLength::ExactInvalidField if announced != 24 => Err(FieldError::cdb(5).into()),
            ListLength::Exact if announced != 24 && !exempt => Err(FieldError::list_length().into()),
            _ if announced < 24 => Err(FieldError::list_length().into()),
            _ => Ok(list),
        }
    }

    fn parse(&self, list: &[u8]) -> Result<BasicParameters, Refusal> {
        let action = self.cdb.action;
        let may_name_ports = action == OutAction::REGISTER
            || action == OutAction::REGISTER_AND_IGNORE && self.profile.spec_i_pt_with_ignore;
        if BasicParameters::specifies_initiator_ports(list) {
            if !self.profile.support.spec_i_pt {
                return Err(self.unsupported(FieldError::parameter_bit(20, 3)));
            }
            if !may_name_ports {
                return Err(FieldError::parameter_bit(20, 3).into());
            }
        }
        let parameters = BasicParameters::parse(list)?;
        self.check_bits(&parameters)?;
        Ok(parameters)
    }

    fn check_bits(&self, parameters: &BasicParameters) -> Result<(), Refusal> {
        let (support, registers) = (&self.profile.support, self.cdb.action.is_register());
        let all_ports = FieldError::parameter_bit(20, 2);
        if registers && parameters.all_target_ports && !support.all_target_ports {
            return Err(self.unsupported(all_ports));
        }
        if registers && parameters.aptpl && !support.aptpl {
            return Err(self.unsupported(FieldError::parameter_bit(20, 0)));
        }
        if !registers && parameters.all_target_ports && self.profile.stray_all_target_ports_rejected {
            return Err(all_ports.into());
        }
        Ok(())
    }

    /// A bit of the parameter list that this target does not support.
    pub(super) fn unsupported(&self, error: FieldError) -> Refusal {
        rejected(self.profile.unsupported_bit, error).into()
    }

    fn check_scope_and_type(&self, parameters: &BasicParameters) -> Result<(), Refusal> {
        let action = self.cdb.action;
        let takes =
            action.is_preempt() && preempt::takes(self.state, self.profile, parameters.service_action_key);
        let scope_counts = if action.is_preempt() { takes } else { action.uses_type() };
        if scope_counts && self.cdb.scope != Scope::LOGICAL_UNIT {
            match self.profile.wrong_scope {
                WrongScope::PreemptUnchecked if action.is_preempt() => {}
                WrongScope::InvalidParameter => return Err(FieldError::parameter(0).into()),
                _ => return Err(FieldError::cdb_bit(2, 7).into()),
            }
        }
        let type_counts = match action {
            OutAction::RESERVE | OutAction::REPLACE_LOST => true,
            _ => action.is_preempt() && preempt::checks_type(self.profile, takes),
        };
        if type_counts && !self.cdb.kind.is_valid() {
            return Err(FieldError::cdb_bit(2, 3).into());
        }
        Ok(())
    }

    /// Registration and key. `false`: the command ends GOOD without effect.
    fn check_sender(&self, parameters: &BasicParameters) -> Result<bool, Refusal> {
        let (action, key) = (self.cdb.action, self.state.key_of(self.sender));
        match action {
            OutAction::REGISTER_AND_IGNORE | OutAction::REPLACE_LOST => return Ok(true),
            OutAction::REGISTER => {}
            _ if key.is_none() => return Err(self.unregistered()),
            OutAction::RESERVE if !self.profile.reserve_checks_key => return Ok(true),
            _ => {}
        }
        if parameters.reservation_key == key {
            return Ok(true);
        }
        let bystander = action == OutAction::RELEASE && !self.state.is_holder(self.sender);
        match self.profile.wrong_key_release {
            WrongKeyRelease::Good if bystander => Ok(false),
            WrongKeyRelease::GoodWithoutReservation if bystander && self.state.reservation.is_none() => {
                Ok(false)
            }
            WrongKeyRelease::InvalidField if bystander => Err(FieldError::cdb_bit(1, 4).into()),
            _ => Err(Refusal::Conflict),
        }
    }

    /// How a command of an unregistered sender ends that needs a registration.
    pub(super) fn unregistered(&self) -> Refusal {
        let action = self.cdb.action;
        let admitted = self
            .state
            .reservation
            .is_none_or(|held| pr_out_verdict(action, held.kind, Relation::Unregistered));
        match self.profile.unregistered {
            Unregistered::CommunicationFailure if admitted && !action.is_preempt() => {
                Refusal::not_ready(AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE)
            }
            Unregistered::NotReady if matches!(action, OutAction::RELEASE | OutAction::CLEAR) => {
                Refusal::not_ready(AdditionalSense::NONE)
            }
            _ => Refusal::Conflict,
        }
    }

    /// Advances PRGENERATION.
    pub(super) const fn count(&mut self, steps: u32) {
        self.state.generation = self.state.generation.wrapping_add(steps);
    }

    pub(super) fn register(&mut self, nexus: NexusId, key: Key, all_target_ports: bool) {
        self.outcome.touched = true;
        self.state.registrations.put(Registration { nexus, key, all_target_ports });
    }

    pub(super) fn set_aptpl(&mut self, aptpl: bool) {
        self.outcome.touched |= self.state.aptpl != aptpl;
        self.state.aptpl = aptpl;
    }

    /// Gives the reservation to `nexus`.
    pub(super) fn hold(&mut self, kind: ReservationType, nexus: NexusId) {
        let marked = self.profile.marked_holder.then_some(nexus);
        let holder = if kind.is_all_registrants() { Holder::All { marked } } else { Holder::One(nexus) };
        self.set_reservation(Some(Reservation { kind, holder }));
    }

    pub(super) const fn set_reservation(&mut self, reservation: Option<Reservation>) {
        self.outcome.touched = true;
        self.state.reservation = reservation;
    }

    /// Removes registrations (`gone` is sorted) and whatever reservation ends with them.
    /// Gives the type that a single holder held, if it was among them.
    pub(super) fn remove(&mut self, gone: &[NexusId]) -> Option<ReservationType> {
        self.outcome.touched |= !gone.is_empty();
        match gone {
            [one] => drop(self.state.registrations.remove(*one)),
            many => self.state.registrations.retain(|nexus, _| many.binary_search(&nexus).is_err()),
        }
        let held = self.state.reservation?;
        match held.holder {
            Holder::One(holder) if gone.binary_search(&holder).is_ok() => {
                self.state.reservation = None;
                return Some(held.kind);
            }
            Holder::One(_) => {}
            Holder::All { marked } => {
                let next = self.state.registrations.iter().next().map(|one| one.nexus);
                let marked = marked.filter(|nexus| gone.binary_search(nexus).is_err()).or(marked.and(next));
                self.state.reservation = next.map(|_| Reservation { holder: Holder::All { marked }, ..held });
            }
        }
        None
    }

    /// The registrants beside the sender, in order.
    pub(super) fn others(&self) -> Vec<NexusId> {
        self.state.registrations.iter().map(|one| one.nexus).filter(|nexus| *nexus != self.sender).collect()
    }

    /// Establishes a unit attention for `nexuses`, or for everyone where the profile tells everyone.
    pub(super) fn tell(&mut self, nexuses: Vec<NexusId>, attention: Attention) {
        let whom = match self.profile.attentions.audience {
            Audience::EveryNexus => Whom::EveryoneBut(Some(self.sender)),
            Audience::Registrants => Whom::Nexuses(nexuses),
        };
        self.outcome.notices.push((whom, attention));
    }
}

/// `error` under the sense code that a profile uses for it.
pub(super) const fn rejected(by: Rejection, error: FieldError) -> FieldError {
    match by {
        Rejection::Cdb => error.with_code(AdditionalSense::INVALID_FIELD_IN_CDB),
        Rejection::Parameter => error.with_code(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST),
    }
}
