//! One host's part of a round, and whether reports of it are what they must be: one for each of its actions.

use super::message::Report;
use handover::verdict::Doubt;
use handover::{Action, CommandId, Group, Round, Side, UnitIndex};
use scsi::pr::{BasicParameters, OutAction, PrOutCdb};
use scsi::{DataPhase, Request};

/// The actions of a round that one side carries out.
pub(super) fn of(round: &Round, side: Side) -> Vec<(UnitIndex, Action)> {
    let own = |(_, action): &&(UnitIndex, Action)| place(action).is_some_and(|(_, at)| at == side);
    round.actions.iter().filter(own).cloned().collect()
}

/// Nothing of these changes what is registered, reserved, or whose session it is. REGISTER of a key to itself asks whether
/// it is there.
pub(super) fn only_asks(part: &[(UnitIndex, Action)]) -> bool {
    part.iter().all(|(_, action)| match action {
        Action::Execute { request, .. } => asks(request),
        Action::CloseSession { .. } | Action::OpenSession { .. } | Action::Journal(_) => false,
    })
}

fn asks(request: &Request) -> bool {
    let DataPhase::Out(list) = &request.data else { return true };
    let cdb = PrOutCdb::parse(&request.cdb).ok().filter(|cdb| cdb.action == OutAction::REGISTER);
    let keys = cdb.and_then(|_| BasicParameters::parse(list).ok());
    keys.is_some_and(|keys| keys.reservation_key == keys.service_action_key)
}

/// Tells the group what came of a side's part.
pub(super) fn tell(group: &mut Group, side: Side, reports: &[Report]) {
    let doubt = match side {
        Side::Source => Doubt::SourceUnreachable,
        Side::Destination => Doubt::DestinationUnreachable,
    };
    for Report { unit, id, outcome } in reports {
        match outcome {
            Some(outcome) => group.report(*unit, *id, outcome.clone()),
            None => group.give_up(*unit, doubt),
        }
    }
}

/// One report for each of these actions, and no other.
pub(super) fn are_complete(reports: &[Report], part: &[(UnitIndex, Action)]) -> bool {
    let mut told: Vec<_> = reports.iter().map(|report| (report.unit, report.id)).collect();
    let mut wanted: Vec<_> =
        part.iter().filter_map(|(unit, action)| Some((*unit, place(action)?.0))).collect();
    told.sort_unstable();
    wanted.sort_unstable();
    told == wanted
}

/// Reports of this part and no others; an action without one may still be executed.
pub(super) fn completed(reports: Vec<Report>, part: &[(UnitIndex, Action)]) -> Vec<Report> {
    let mut reports: std::collections::BTreeMap<_, _> =
        reports.into_iter().map(|report| ((report.unit, report.id), report.outcome)).collect();
    let wanted = part.iter().filter_map(|(unit, action)| Some((*unit, place(action)?.0)));
    wanted.map(|(unit, id)| Report { unit, id, outcome: reports.remove(&(unit, id)).flatten() }).collect()
}

const fn place(action: &Action) -> Option<(CommandId, Side)> {
    match action {
        Action::Execute { id, path, .. }
        | Action::CloseSession { id, path }
        | Action::OpenSession { id, path } => Some((*id, path.side)),
        Action::Journal(_) => None,
    }
}
