//! What can happen next in a state.
//!
//! Two reductions, neither of which loses a reachable difference: a foreign command and a power cycle are
//! tried only where a command of ours is about to be executed, since they do not commute with device commands
//! alone; and a crash that falls between a command and its report is tried with the command executed and not.

use crate::cast::Host;
use crate::foreign::ForeignCommand;
use crate::scenario::Scenario;
use crate::world::{Driver, Running, World, host_of};
use handover::{Action, Verdict};

/// Where a command in flight stood when something broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum InFlight {
    /// Nothing in flight had been executed.
    None,
    /// The action at this place of the batch had.
    Executed(u8),
}

/// One step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Move {
    /// The driver carries out the action at this place of the batch.
    Run(u8),
    /// The same, but the answer is lost.
    LoseReply(u8),
    /// The command is lost on its way; nobody knows.
    LoseCommand(u8),
    /// The journal cannot be written on one of the hosts.
    FailJournal,
    /// The driver goes on to the next phase.
    Proceed,
    /// The driver gives the handover up at the end of a phase.
    GiveUp,
    /// A host crashes; the guest on it is gone.
    Crash(Host, InFlight),
    /// A host's paths to the target are lost.
    CutLink(Host, InFlight),
    /// The program that conducts the handover dies.
    CrashCoordinator,
    /// The target loses power between two commands.
    PowerCycle,
    /// The target crashes with the batch in flight.
    CrashTarget(InFlight),
    /// A crashed host is up again, or a lost link works.
    Heal(Host),
    /// A new coordinator takes over what the journals tell.
    Recover,
    /// Another node sends a command.
    Foreign(u8, ForeignCommand),
}

impl Move {
    /// Whether this is no disturbance.
    pub(crate) const fn is_calm(self) -> bool {
        matches!(self, Self::Run(_) | Self::Proceed | Self::Heal(_) | Self::Recover)
    }
}

/// Everything that can happen in this state.
pub(crate) fn moves<P>(scenario: &Scenario, world: &World<P>, moves: &mut Vec<Move>) {
    match &world.driver {
        Driver::Running(running) if running.phase_done.is_some() => at_the_end_of_a_phase(world, moves),
        Driver::Running(running) => {
            in_a_batch(world, running, moves);
            if matches!(running.batch.first(), Some(Action::Execute { .. })) {
                foreign(scenario, world, moves);
            }
        }
        Driver::Down => {
            // Somebody must be there to read a journal.
            if Host::BOTH.iter().any(|host| world.hosts.at(*host).up) {
                moves.push(Move::Recover);
            }
            heal(world, moves);
        }
        Driver::Ended(verdict) => after_the_end(world, *verdict, moves),
    }
}

fn at_the_end_of_a_phase<P>(world: &World<P>, moves: &mut Vec<Move>) {
    moves.push(Move::Proceed);
    if world.spare.0.faults > 0 {
        moves.extend([Move::GiveUp, Move::CrashCoordinator]);
        let up = Host::BOTH.into_iter().filter(|host| world.hosts.at(*host).up);
        moves.extend(up.map(|host| Move::Crash(host, InFlight::None)));
    }
}

fn in_a_batch<P>(world: &World<P>, running: &Running<P>, moves: &mut Vec<Move>) {
    let budget = world.spare.0;
    let journal_first = matches!(running.batch.first(), Some(Action::Journal(_)));
    let places = if journal_first { 1 } else { running.batch.len() };
    for (place, action) in (0..).zip(running.batch.iter().take(places)) {
        moves.push(Move::Run(place));
        match action {
            Action::Journal(_) if budget.faults > 0 => moves.push(Move::FailJournal),
            Action::Execute { path, .. } if budget.faults > 0 => {
                losses(world, host_of(path.side), place, moves)
            }
            _ => {}
        }
    }
    if budget.faults > 0 {
        faults(world, moves);
    }
    if if running.recovery { budget.recovery_crashes > 0 } else { budget.faults > 0 } {
        moves.push(Move::CrashCoordinator);
    }
    let waits = |host: &Host| !world.hosts.at(*host).linked && world.hosts.at(*host).up;
    moves.extend(Host::BOTH.into_iter().filter(waits).map(Move::Heal));
}

/// What can go wrong with one command in flight.
fn losses<P>(world: &World<P>, host: Host, place: u8, moves: &mut Vec<Move>) {
    if world.reaches(host) {
        moves.extend([
            Move::LoseReply(place),
            Move::LoseCommand(place),
            Move::Crash(host, InFlight::Executed(place)),
            Move::CutLink(host, InFlight::Executed(place)),
            Move::CrashTarget(InFlight::Executed(place)),
        ]);
    }
}

fn faults<P>(world: &World<P>, moves: &mut Vec<Move>) {
    for host in Host::BOTH {
        let state = world.hosts.at(host);
        if state.up {
            moves.push(Move::Crash(host, InFlight::None));
        }
        if state.is_healthy() {
            moves.push(Move::CutLink(host, InFlight::None));
        }
    }
    moves.extend([Move::PowerCycle, Move::CrashTarget(InFlight::None)]);
}

fn foreign<P>(scenario: &Scenario, world: &World<P>, moves: &mut Vec<Move>) {
    if world.spare.0.foreign == 0 {
        return;
    }
    for index in 0..scenario.nodes {
        let commands = ForeignCommand::possible(scenario, &world.device, index);
        moves.extend(commands.into_iter().map(|command| Move::Foreign(index, command)));
    }
}

fn heal<P>(world: &World<P>, moves: &mut Vec<Move>) {
    let broken = Host::BOTH.into_iter().filter(|host| !world.hosts.at(*host).is_healthy());
    moves.extend(broken.map(Move::Heal));
}

/// Once everything works again, a recovery finishes what was left open.
fn after_the_end<P>(world: &World<P>, verdict: Verdict, moves: &mut Vec<Move>) {
    heal(world, moves);
    if world.all_healthy() && world.repairs > 0 && is_open(verdict) {
        moves.push(Move::Recover);
    }
}

/// Whether a verdict leaves something for later.
pub(crate) const fn is_open(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::InDoubt(_) | Verdict::KeptAtSource { leftover: true, .. })
}
