//! From a verb to the command it sends, and to the question that must be answered before.

use super::answer::Reads;
use crate::cli::{PrVerb, PreemptArgs, ReadArgs, RegisterArgs};
use agent::drive::Device;
use scsi::Request;
use scsi::pr::{BasicParameters, InAction, MoveParameters, OutAction, ReservationType, request};

/// One command of `tenure pr`.
pub(super) struct Command<'a> {
    /// Where it goes.
    pub(super) device: &'a Device,
    /// The service action's name.
    pub(super) name: String,
    /// The command itself.
    pub(super) request: Request,
    /// How to read its data.
    pub(super) reads: Reads,
    /// Whether a longer allocation length can bring more data.
    pub(super) grows: bool,
    /// What to ask first; `None` if it harms nobody or the operator already agreed.
    pub(super) question: Option<String>,
}

/// Enough for 127 keys, or about 60 registrations of READ FULL STATUS; longer answers are read again.
const ALLOCATION: u16 = 1024 * 8;

impl<'a> Command<'a> {
    /// The command that `verb` asks for.
    pub(super) fn from_verb(verb: &'a PrVerb) -> Self {
        match verb {
            PrVerb::ReadKeys(args) => Self::read(args, InAction::READ_KEYS, Reads::Keys),
            PrVerb::ReadReservation(args) => Self::read(args, InAction::READ_RESERVATION, Reads::Reservation),
            PrVerb::ReportCapabilities(args) => {
                Self::read(args, InAction::REPORT_CAPABILITIES, Reads::Capabilities)
            }
            PrVerb::ReadFullStatus(args) => Self::read(args, InAction::READ_FULL_STATUS, Reads::FullStatus),
            PrVerb::Register(args) => Self::register(args, OutAction::REGISTER),
            PrVerb::RegisterIgnore(args) => Self::register(args, OutAction::REGISTER_AND_IGNORE),
            PrVerb::Reserve(args) => {
                Self::out(&args.device, OutAction::RESERVE, request::reserve(args.key, args.kind))
            }
            PrVerb::Release(args) => {
                Self::out(&args.device, OutAction::RELEASE, request::release(args.key, args.kind))
            }
            PrVerb::Clear(args) => {
                let question = format!(
                    "CLEAR on {} removes every registration and the reservation, also those of other nodes.",
                    args.device
                );
                Self::out(&args.device, OutAction::CLEAR, request::clear(args.key))
                    .asking(!args.confirm.yes, question)
            }
            PrVerb::Preempt(args) => Self::preempt(args, OutAction::PREEMPT),
            PrVerb::PreemptAbort(args) => Self::preempt(args, OutAction::PREEMPT_AND_ABORT),
            PrVerb::RegisterMove(args) => {
                let parameters = MoveParameters {
                    reservation_key: args.key,
                    service_action_key: args.new_key,
                    unregister: args.unregister,
                    aptpl: args.aptpl,
                    relative_target_port: args.relative_target_port,
                    initiator_port: args.initiator_port.clone(),
                };
                let request = request::register_and_move(&parameters);
                Self::out(&args.device, OutAction::REGISTER_AND_MOVE, request)
            }
            PrVerb::ReplaceLost(args) => {
                let request = request::replace_lost(args.new_key, args.kind);
                Self::out(&args.device, OutAction::REPLACE_LOST, request)
            }
        }
    }

    fn read(args: &'a ReadArgs, action: InAction, reads: Reads) -> Self {
        let request = request::read(action, ALLOCATION);
        let grows = action != InAction::REPORT_CAPABILITIES;
        Self { device: &args.device, name: action.to_string(), request, reads, grows, question: None }
    }

    fn out(device: &'a Device, action: OutAction, request: Request) -> Self {
        let name = action.to_string();
        Self { device, name, request, reads: Reads::Nothing, grows: false, question: None }
    }

    fn register(args: &'a RegisterArgs, action: OutAction) -> Self {
        let parameters = BasicParameters {
            reservation_key: args.key,
            service_action_key: args.new_key,
            initiator_ports: Some(args.initiator_port.clone()).filter(|ports| !ports.is_empty()),
            all_target_ports: args.all_target_ports,
            aptpl: args.aptpl,
        };
        Self::out(&args.device, action, request::out(action, ReservationType(0), &parameters))
    }

    fn preempt(args: &'a PreemptArgs, action: OutAction) -> Self {
        let parameters = BasicParameters {
            reservation_key: args.key,
            service_action_key: args.victim,
            ..BasicParameters::default()
        };
        let question = format!(
            "{action} on {} fences every initiator that is registered with key {}.",
            args.device, args.victim
        );
        Self::out(&args.device, action, request::out(action, args.kind, &parameters))
            .asking(!args.confirm.yes, question)
    }

    fn asking(self, ask: bool, question: String) -> Self {
        Self { question: ask.then_some(question), ..self }
    }
}
