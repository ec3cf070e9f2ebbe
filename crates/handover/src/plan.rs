//! Chooses the method from what was read, in the fixed order of preference, and says why, what it cannot promise,
//! and which commands will be sent. A forced method is held to the same conditions.

mod preview;

use crate::action::{Path, Phase};
use crate::facts::{Facts, SameUnit};
use crate::known_targets::{Known, Traits};
use crate::method::Method;
use crate::role::Role;
use crate::settings::Settings;
use crate::verdict::Reason;
use scsi::Request;
use std::fmt;

/// A handover that is possible.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The method.
    pub method: Method,
    /// The source's role.
    pub role: Role,
    /// Why not an earlier method: each with its reason, in order.
    pub passed_over: Vec<(Method, Reason)>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// The commands that will be sent when nothing goes wrong, in order.
    pub commands: Vec<PlannedCommand>,
}

/// One command of the preview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlannedCommand {
    /// In which phase.
    pub phase: Phase,
    /// On which nexus.
    pub path: Path,
    /// In words.
    pub words: String,
    /// In bytes; `None` for a login or logout.
    pub request: Option<Request>,
}

/// What the operator should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Warning {
    /// No reservation keeps a source that wakes up from writing: its exclusion rests on the hosts alone.
    NotExcluded,
    /// The reservation keeps an unregistered source from writing, but not from reading.
    ReadsNotExcluded,
    /// Both hosts have the same name on the target: the device fences neither.
    SameIdentity,
    /// For one command the key is not listed, and a fencer could take the guest for fenced.
    KeyAbsent,
    /// For one command the source is listed with the nonce only.
    NonceWindow,
    /// Nothing is known of this target beyond what it reports.
    UnknownTarget,
    /// A node that registers the guest's key between the last look and the PREEMPT would lose its registration.
    LateSharer,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotExcluded => {
                "no reservation: the device does not keep a source that wakes up from writing, only the hosts do"
            }
            Self::ReadsNotExcluded => "the device keeps the source from writing afterwards, but not from reading",
            Self::SameIdentity => "both hosts have the same name on the target: the device fences neither",
            Self::KeyAbsent => "for one command the key is not listed; a fencer may take the guest for fenced",
            Self::NonceWindow => "for one command the source is registered with a nonce instead of its key",
            Self::UnknownTarget => "nothing is known of this target beyond what it reports",
            Self::LateSharer => {
                "a node that registers this very key just before the PREEMPT would lose its registration"
            }
        })
    }
}

/// What a choice depends on, outside the pause and inside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) traits: Traits,
    pub(crate) role: Role,
    /// Another nexus has, or may have, the guest's key.
    pub(crate) shared: bool,
    pub(crate) move_reported: Known,
    /// READ FULL STATUS showed the source's nexus as the holder.
    pub(crate) role_sure: bool,
    /// The source itself saw that the port it would move to is the destination's; before the pause that is still to be seen.
    pub(crate) port_proved: bool,
    /// The nexus that acts for a source with several paths is known to be the holder, or there is only one.
    pub(crate) holder_known: bool,
    /// Bit per method that this target rejected just now.
    pub(crate) excluded: u8,
}

impl Situation<'_> {
    /// The first method that fits, with those passed over; or why the forced one, or the last, does not.
    pub(crate) fn choose(&self) -> Result<(Method, Vec<(Method, Reason)>), Reason> {
        if let Some(forced) = self.settings.method {
            return self.fits(forced).map(|()| (forced, Vec::new()));
        }
        if self.settings.by_identity() && self.excluded & Method::Identity.bit() == 0 {
            // The destination has no session of its own, so nothing else is possible.
            return self.fits(Method::Identity).map(|()| (Method::Identity, Vec::new()));
        }
        let mut passed_over = Vec::new();
        let mut last = Reason::NotSupported;
        for method in Method::ALL {
            match self.fits(method) {
                Ok(()) => return Ok((method, passed_over)),
                Err(reason) => {
                    last = reason;
                    passed_over.push((method, reason));
                }
            }
        }
        Err(last)
    }

    /// Whether `method` is safe here.
    pub(crate) fn fits(&self, method: Method) -> Result<(), Reason> {
        if self.excluded & method.bit() != 0 {
            return Err(if method == Method::RegisterAndMove {
                Reason::MoveUnusable
            } else {
                Reason::NotSupported
            });
        }
        if method != Method::DestinationNonce && !self.settings.source_alive {
            return Err(Reason::SourceNeeded);
        }
        match method {
            Method::Identity => self.fits_identity(),
            Method::MakeBeforeBreak => self.fits_make_before_break(),
            Method::RegisterAndMove => self.fits_move(),
            Method::PreemptOwnKey => self.fits_own_key(),
            Method::SourceNonce => Ok(()),
            Method::DestinationNonce => self.fits_destination_nonce(),
        }
    }

    fn fits_identity(&self) -> Result<(), Reason> {
        demand(self.settings.identity_is_ours, Reason::IdentityNotOurs)?;
        demand(!self.traits.keeps_identity.is_no(), Reason::IdentityNotKept)
    }

    fn fits_make_before_break(&self) -> Result<(), Reason> {
        match self.role {
            Role::Holder(_) => Err(Reason::SourceHolds),
            Role::HolderOrSharer(_) => Err(Reason::HolderUnknown),
            _ => Ok(()),
        }
    }

    fn single_holder(&self) -> Result<(), Reason> {
        match self.role {
            Role::Holder(_) => Ok(()),
            Role::HolderOrSharer(_) => Err(Reason::HolderUnknown),
            _ => Err(Reason::SourceDoesNotHold),
        }
    }

    fn fits_move(&self) -> Result<(), Reason> {
        self.single_holder()?;
        demand(self.holder_known, Reason::HolderUnknown)?;
        let usable = self.move_reported.is_yes() && !self.traits.register_and_move.is_no();
        demand(usable, Reason::MoveUnusable)?;
        let port = self.settings.destination.first();
        let known = port.is_some_and(|port| port.initiator.is_some() && port.target_port.is_some());
        demand(known, Reason::PortUnknown)?;
        demand(self.port_proved, Reason::PortUnproved)
    }

    fn fits_own_key(&self) -> Result<(), Reason> {
        self.single_holder()?;
        demand(!self.shared, Reason::KeyShared)?;
        // READ RESERVATION and READ KEYS are two replies: between them a sharer may have let go of the reservation, and
        // then the PREEMPT would remove its sender.
        demand(self.role_sure, Reason::HolderUnknown)?;
        demand(self.traits.keeps_sender.is_yes(), Reason::SenderNotKept)
    }

    /// Without the source, only a device that refuses to preempt an unknown key, or the reservation itself, tells our
    /// success from a fencing that came first.
    fn fits_destination_nonce(&self) -> Result<(), Reason> {
        demand(self.settings.allow_absence, Reason::AbsenceNotAllowed)?;
        demand(!self.shared, Reason::KeyShared)?;
        // A listed key may be a sharer's: READ FULL STATUS, or the source itself, must say that it is the source's.
        demand(self.role_sure || self.settings.source_alive, Reason::ProofMissing)?;
        let holds = matches!(self.role, Role::Holder(_));
        demand(holds || self.traits.refuses_unmatched_preempt.is_yes(), Reason::ProofMissing)
    }
}

fn demand(condition: bool, reason: Reason) -> Result<(), Reason> {
    if condition { Ok(()) } else { Err(reason) }
}

/// What forbids a handover whatever the method.
pub(crate) fn check(facts: &Facts, settings: &Settings) -> Result<(), Reason> {
    match facts.survey.same_unit {
        SameUnit::Same => {}
        SameUnit::Different => return Err(Reason::DifferentUnits),
        SameUnit::Unknown => return Err(Reason::UnknownUnit),
    }
    demand(facts.capabilities.is_some() || !facts.traits.aptpl.is_yes(), Reason::NotSupported)?;
    demand(!facts.keys_truncated, Reason::TooManyKeys)?;
    let nonce = settings.nonce;
    let fresh = !nonce.is_none() && nonce != facts.key && !facts.keys.contains(&nonce);
    demand(fresh, Reason::NonceTaken)?;
    let occupied = facts.full_status.is_some_and(|status| status.destination.with_other_key != 0);
    demand(!occupied || settings.identity_is_ours, Reason::DestinationOccupied)
}

/// The plan for what was read.
pub(crate) fn plan(facts: &Facts, settings: &Settings) -> Result<Plan, Reason> {
    check(facts, settings)?;
    let situation = facts.situation(settings);
    let (method, passed_over) = situation.choose()?;
    Ok(Plan {
        method,
        role: situation.role,
        passed_over,
        warnings: warnings(method, situation.role, facts),
        commands: preview::commands(method, situation.role, facts, settings),
    })
}

fn warnings(method: Method, role: Role, facts: &Facts) -> Vec<Warning> {
    let unknown = facts.traits == Traits::default();
    let mut warnings = Vec::new();
    match role.kind() {
        _ if method == Method::Identity => warnings.push(Warning::SameIdentity),
        None => warnings.push(Warning::NotExcluded),
        Some(kind) if !kind.excludes_reads() => warnings.push(Warning::ReadsNotExcluded),
        Some(_) => {}
    }
    match method {
        Method::SourceNonce => warnings.push(Warning::NonceWindow),
        Method::DestinationNonce => warnings.extend([Warning::KeyAbsent, Warning::LateSharer]),
        Method::PreemptOwnKey => warnings.push(Warning::LateSharer),
        _ => {}
    }
    warnings.extend(unknown.then_some(Warning::UnknownTarget));
    warnings
}

#[cfg(test)]
mod tests;
