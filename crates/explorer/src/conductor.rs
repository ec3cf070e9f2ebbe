//! What is searched: a handover and its recovery as a [`Procedure`]. The project's own is [`Tenure`]; the
//! tests put the naive sequence and deliberately broken variants in its place.

use crate::cast::{GUEST_KEY, Host, NONCE, name_of, nexuses_of};
use crate::scenario::Scenario;
use handover::facts::{SameUnit, Survey};
use handover::known_targets::{Known, KnownTargets, TargetIdentity, Traits};
use handover::{Engine, Event, Port, Procedure, Recovery, Remains, Settings, Step};
use logical_unit::Profile;
use std::hash::Hash;

/// Makes the procedures of a search.
pub(crate) trait Conductor: Sync {
    /// The procedure, as part of a state.
    type Procedure: Procedure + Clone + Hash;

    /// The handover of a scenario.
    fn handover(&self, scenario: &Scenario) -> Self::Procedure;

    /// What runs after the coordinator crashed, or when a host is back that was missing at the end.
    fn recovery(&self, scenario: &Scenario, remains: Remains) -> Self::Procedure;

    /// Subtracts from every PRGENERATION in the procedure's state.
    fn shift_generation(&self, procedure: &mut Self::Procedure, by: u32);

    /// Whether the procedure says that it may have overridden another node's APTPL.
    fn reports_aptpl(&self, procedure: &Self::Procedure) -> bool;
}

/// The handover that users run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tenure;

/// The engine or, after a crash, its recovery.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum TenureProcedure {
    Engine(Engine),
    Recovery(Recovery),
}

impl Procedure for TenureProcedure {
    fn poll(&mut self) -> Step {
        match self {
            Self::Engine(engine) => engine.poll(),
            Self::Recovery(recovery) => recovery.poll(),
        }
    }

    fn handle(&mut self, event: Event) {
        match self {
            Self::Engine(engine) => engine.handle(event),
            Self::Recovery(recovery) => recovery.handle(event),
        }
    }
}

impl Conductor for Tenure {
    type Procedure = TenureProcedure;

    fn handover(&self, scenario: &Scenario) -> TenureProcedure {
        TenureProcedure::Engine(Engine::new(settings(scenario)))
    }

    fn recovery(&self, _: &Scenario, remains: Remains) -> TenureProcedure {
        TenureProcedure::Recovery(Recovery::new(remains))
    }

    fn shift_generation(&self, procedure: &mut TenureProcedure, by: u32) {
        match procedure {
            TenureProcedure::Engine(engine) => engine.shift_generation(by),
            TenureProcedure::Recovery(recovery) => recovery.shift_generation(by),
        }
    }

    fn reports_aptpl(&self, procedure: &TenureProcedure) -> bool {
        match procedure {
            TenureProcedure::Engine(engine) => engine.aptpl_may_have_changed(),
            // A recovery cannot know what the engine had read before it crashed.
            TenureProcedure::Recovery(_) => true,
        }
    }
}

/// The order that is given to the engine.
pub(crate) fn settings(scenario: &Scenario) -> Settings {
    let mut settings = Settings::new(Some(GUEST_KEY), NONCE, Port::default(), Port::default());
    settings.source = ports(scenario, Host::Source);
    settings.destination = ports(scenario, Host::Destination);
    settings.source_alive = !scenario.source_dead;
    settings.identity_is_ours = scenario.method == Some(handover::Method::Identity);
    settings.allow_absence = true;
    settings.method = scenario.method;
    settings.survey = Some(survey(scenario.profile));
    settings
}

/// How a host's paths are named.
pub(crate) fn ports(scenario: &Scenario, host: Host) -> Vec<Port> {
    let names = nexuses_of(host, usize::from(scenario.paths)).filter_map(name_of);
    names
        .map(|name| Port { initiator: Some(name.initiator.clone()), target_port: Some(name.target_port) })
        .collect()
}

/// What the table of known targets says of the profile.
pub(crate) fn traits(profile: &Profile) -> Traits {
    KnownTargets::default().traits(&survey(profile).target)
}

/// What INQUIRY and REPORT SUPPORTED OPERATION CODES say of the profile.
fn survey(profile: &Profile) -> Survey {
    let product = profile.product;
    Survey {
        same_unit: SameUnit::Same,
        target: TargetIdentity {
            vendor: padded(product.vendor),
            product: padded(product.product),
            revision: padded(product.revision),
        },
        move_reported: if profile.support.register_and_move { Known::Yes } else { Known::No },
    }
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = text.bytes();
    [(); N].map(|()| bytes.next().unwrap_or(b' '))
}
