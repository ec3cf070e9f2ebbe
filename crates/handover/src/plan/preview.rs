//! The commands of a handover in which nothing goes wrong, for people who want to see them before they are sent.

use super::PlannedCommand;
use crate::action::{Path, Phase, Side};
use crate::engine::order::{Name, Order, Speech};
use crate::facts::Facts;
use crate::method::Method;
use crate::role::Role;
use crate::settings::Settings;
use scsi::pr::ReservationType;

/// TYPE of a PREEMPT that takes no reservation: the standard ignores it, some targets reject zero.
const ANY: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

struct Preview<'a> {
    speech: Speech<'a>,
    commands: Vec<PlannedCommand>,
}

impl Preview<'_> {
    fn add(&mut self, phase: Phase, path: Path, order: Order) {
        let (words, request) = (order.words(&self.speech), order.request(&self.speech));
        self.commands.push(PlannedCommand { phase, path, words, request });
    }

    fn all(&mut self, phase: Phase, side: Side, paths: &[u8], order: Order) {
        for index in paths {
            self.add(phase, Path { side, index: *index }, order);
        }
    }
}

/// The commands that change something, and the reads inside the pause.
pub(super) fn commands(
    method: Method,
    role: Role,
    facts: &Facts,
    settings: &Settings,
) -> Vec<PlannedCommand> {
    let speech = Speech { settings, key: facts.key, aptpl: facts.aptpl() };
    let mut preview = Preview { speech, commands: Vec::new() };
    let sources: Vec<u8> = (0u8..).zip(&settings.source).map(|(index, _)| index).collect();
    let further: Vec<u8> = (0u8..).zip(&settings.destination).map(|(index, _)| index).skip(1).collect();
    if method == Method::Identity {
        return identity(preview);
    }
    freeze(&mut preview, method, facts, &sources);
    take(&mut preview, method, role, &sources);
    let others = Order::Register(Name::Nothing, Name::Guest);
    preview.all(Phase::Verify, Side::Destination, &further, others);
    preview.add(Phase::Verify, Path::destination(0), Order::Keys);
    preview.add(Phase::Verify, Path::destination(0), Order::Reservation);
    if facts.full_status.is_some() {
        preview.add(Phase::Verify, Path::destination(0), Order::FullStatus);
    }
    preview.commands
}

fn identity(mut preview: Preview<'_>) -> Vec<PlannedCommand> {
    let probe = Order::Register(Name::Guest, Name::Guest);
    preview.add(Phase::Freeze, Path::source(0), probe);
    preview.add(Phase::Take, Path::source(0), Order::Close);
    preview.add(Phase::Take, Path::destination(0), Order::Open);
    preview.add(Phase::Take, Path::destination(0), probe);
    preview.add(Phase::Verify, Path::destination(0), Order::Keys);
    preview.add(Phase::Verify, Path::destination(0), Order::Reservation);
    preview.commands
}

fn freeze(preview: &mut Preview<'_>, method: Method, facts: &Facts, sources: &[u8]) {
    let destination = Path::destination(0);
    let claimed = if method == Method::DestinationNonce { Name::Nonce } else { Name::Guest };
    preview.add(Phase::Freeze, destination, Order::Register(Name::Nothing, claimed));
    for order in [Order::Capabilities, Order::Reservation, Order::Keys] {
        preview.add(Phase::Freeze, destination, order);
    }
    if facts.full_status.is_some() {
        preview.add(Phase::Freeze, destination, Order::FullStatus);
    }
    if method == Method::RegisterAndMove {
        preview.add(Phase::Freeze, Path::source(0), Order::FullStatus);
    }
    let reckons = facts.full_status.is_some_and(|status| status.generation == facts.generation)
        && facts.traits.counts_registrations.is_yes()
        && !facts.traits.keeps_identity.is_no();
    if preview.speech.settings.source_alive && !reckons {
        preview.all(Phase::Freeze, Side::Source, sources, Order::Register(Name::Guest, Name::Guest));
    }
}

fn take(preview: &mut Preview<'_>, method: Method, role: Role, sources: &[u8]) {
    use Name::{Guest, Nonce, Nothing};
    let (destination, phase) = (Path::destination(0), Phase::Take);
    let kind = role.kind().unwrap_or(ANY);
    match method {
        Method::Identity => {}
        Method::MakeBeforeBreak => preview.all(phase, Side::Source, sources, Order::Register(Guest, Nothing)),
        Method::RegisterAndMove => preview.add(phase, Path::source(0), Order::Move),
        Method::PreemptOwnKey => preview.add(phase, destination, Order::Preempt(Guest, Guest, kind)),
        Method::SourceNonce => {
            preview.all(phase, Side::Source, sources, Order::Register(Guest, Nonce));
            if matches!(role, Role::HolderOrSharer(_)) {
                preview.add(phase, destination, Order::Reservation);
            }
            if role.may_hold() {
                preview.add(phase, destination, Order::Preempt(Guest, Nonce, kind));
            } else {
                preview.all(phase, Side::Source, sources, Order::Register(Nonce, Nothing));
            }
        }
        Method::DestinationNonce => {
            preview.add(phase, destination, Order::PreemptAbort(Nonce, Guest, kind));
            preview.add(phase, destination, Order::Reservation);
            preview.add(phase, destination, Order::Register(Nonce, Guest));
        }
    }
}
