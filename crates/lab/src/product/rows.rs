//! The table: what happens before, in and after a migration, what must come of it, and which combinations make no sense. Letters in
//! `of` are the rows of the list of scenarios that a handover must survive.

use super::case::Standing;
use crate::stage::Host;
use agent::migrate::Verdict;
use logical_unit::profile::{Identity, Profile};

/// What was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing in particular.
    Nothing,
    /// The guest sent REGISTER with a wrong old key.
    WrongRegister,
    /// The guest sent RELEASE of another type.
    WrongRelease,
    /// The guest registered with APTPL.
    Aptpl,
    /// The destination's nexus has a registration of another guest's.
    Occupied,
    /// The destination's nexus has the guest's key already.
    AlreadyThere,
    /// A bystander has registered the guest's key too.
    Shared,
    /// The logical unit was reset, and no nexus has heard of it. Through a session of the agent's own that cannot be told from
    /// what its login causes, so it is drained.
    Reset,
    /// Another node released a reservation, and the guest's nexus has not heard of it.
    Released,
    /// The destination's nexus was preempted, and has not heard of it.
    Preempted,
    /// The agents were started again, and nobody has told them the guest's key.
    Forgotten,
    /// Another node has fenced the guest.
    Fenced,
    /// The guest does not run.
    Paused,
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Another node fences the guest.
    Fence,
    /// The operator asks for the end.
    Cancel,
    /// The destination's QEMU dies.
    KillDestination,
    /// The target rejects the command.
    Refuse,
    /// The answer is lost with the connection.
    Lose,
}

/// Which commands of the course are points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Every one.
    Everywhere,
    /// Those that change something.
    AtChanges,
    /// PERSISTENT RESERVE IN and OUT.
    AtReservations,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// The guest is at the destination with all that it had.
    Move,
    /// It is where it was with all that it had, and runs if it ran: rolled back.
    Stay,
    /// The same, and nothing was begun.
    Refuse,
    /// Either of both, as the exit status says.
    MoveOrStay,
    /// It arrives without a registration, and nobody has its key.
    ArriveFenced,
    /// The same, or it had moved before: nobody has its key.
    BeFenced,
    /// Its registrations are at the destination, and it runs nowhere: nobody can say whether it ran there.
    MoveDead,
    /// Nothing has changed, whatever is said of it but that it moved: the registration is that of another session, which nobody here
    /// can use, and where the target does not tell whose it is, that looks like a fencing.
    ChangeNothing,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// The scenarios that it is.
    pub of: &'static str,
    /// What was before.
    pub before: Before,
    /// What goes wrong in a QEMU, in its own words, by host.
    pub fault: Option<(Host, &'static str)>,
    /// What happens at a point, and which these are.
    pub at: Option<(Act, Where)>,
    /// What must come of it.
    pub must: Must,
    /// Afterwards it goes back in the same way.
    pub back: bool,
}

/// The row in which nothing happens, whose courses have the points of the others.
pub const COURSE: &str = "ctl";

const ROW: Row =
    Row { name: "", of: "", before: Before::Nothing, fault: None, at: None, must: Must::Move, back: false };

const fn before(name: &'static str, of: &'static str, before: Before, must: Must) -> Row {
    Row { name, of, before, must, ..ROW }
}

const fn dies(name: &'static str, fault: &'static str) -> Row {
    Row { name, of: "x1", fault: Some((Host::Beta, fault)), must: Must::Stay, ..ROW }
}

const fn at(name: &'static str, of: &'static str, act: Act, at: Where, must: Must) -> Row {
    Row { name, of, at: Some((act, at)), must, ..ROW }
}

/// All of them.
pub static ROWS: &[Row] = &[
    Row { name: COURSE, of: "ctl a b c e h y", ..ROW },
    Row { name: "there-and-back", of: "ctl", back: true, ..ROW },
    before("wrong-register", "w", Before::WrongRegister, Must::Move),
    before("wrong-release", "r", Before::WrongRelease, Must::Move),
    before("aptpl", "p", Before::Aptpl, Must::Move),
    before("occupied", "f", Before::Occupied, Must::Refuse),
    before("shared-key", "g", Before::Shared, Must::Move),
    before("already-there", "x3", Before::AlreadyThere, Must::Move),
    before("reset", "u2", Before::Reset, Must::Move),
    before("released-before", "u2", Before::Released, Must::Move),
    before("preempted-before", "u2", Before::Preempted, Must::Move),
    before("forgotten", "z", Before::Forgotten, Must::Move),
    before("fenced-before", "n", Before::Fenced, Must::ArriveFenced),
    before("paused", "ctl", Before::Paused, Must::Move),
    Row { name: "load-fails", of: "u1", fault: Some((Host::Beta, "load=fail")), must: Must::Stay, ..ROW },
    dies("dies-accepting", "accepted=die"),
    dies("dies-loading", "load=die"),
    dies("dies-loaded", "loaded=die"),
    dies("dies-arrived", "arrived=die"),
    Row { must: Must::MoveDead, ..dies("dies-cont", "command:cont=die") },
    at("cancelled", "x2", Act::Cancel, Where::AtReservations, Must::MoveOrStay),
    at("destination-dies", "x1", Act::KillDestination, Where::AtReservations, Must::Stay),
    at("rejected", "", Act::Refuse, Where::AtChanges, Must::MoveOrStay),
    at("answer-lost", "", Act::Lose, Where::AtChanges, Must::MoveOrStay),
    at("fenced", "n", Act::Fence, Where::Everywhere, Must::BeFenced),
];

impl Row {
    /// Why there is no such case, if there is none.
    #[must_use]
    pub fn leaves_out(&self, standing: Standing, profile: &Profile) -> Option<&'static str> {
        match self.before {
            Before::Aptpl if !profile.support.aptpl => Some("the target has no APTPL"),
            Before::WrongRelease if standing.held().is_none() => Some("only a holder can release wrongly"),
            Before::Released if standing != Standing::Registrant => {
                Some("as long as there is a reservation nobody else can make and release one")
            }
            _ if profile.identity == Identity::SessionInstance && self.at.is_some() => {
                Some("nothing is changed there, so that nothing can happen between two changes")
            }
            _ if profile.identity == Identity::SessionInstance
                && (self.back || self.must == Must::MoveDead) =>
            {
                Some("nothing moves there: there is nothing to bring back, and nothing to be let run")
            }
            _ => None,
        }
    }

    /// What must come of it on this kind of target.
    #[must_use]
    pub fn must(&self, profile: &Profile) -> Must {
        match self.before {
            _ if profile.identity == Identity::SessionInstance && self.name != COURSE => Must::ChangeNothing,
            // The proof fails. Where nobody can read whose registration is listed, it cannot be told from a fencing.
            _ if profile.identity == Identity::SessionInstance && profile.support.read_full_status => {
                Must::Stay
            }
            _ if profile.identity == Identity::SessionInstance => Must::ArriveFenced,
            Before::Forgotten if !profile.support.read_full_status => Must::Refuse,
            _ => self.must,
        }
    }
}

impl Must {
    /// The exit status, where there is one.
    #[must_use]
    pub const fn verdicts(self) -> &'static [Verdict] {
        match self {
            Self::Move => &[Verdict::Moved],
            Self::Stay => &[Verdict::Kept],
            Self::Refuse => &[Verdict::Refused],
            Self::MoveOrStay => &[Verdict::Moved, Verdict::Kept],
            Self::ArriveFenced => &[Verdict::Fenced],
            Self::BeFenced => &[Verdict::Moved, Verdict::Fenced],
            Self::MoveDead => &[Verdict::Moved],
            Self::ChangeNothing => &[Verdict::Kept, Verdict::Refused, Verdict::Fenced],
        }
    }
}
