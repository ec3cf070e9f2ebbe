//! What is moved, and how it would go if nobody died.

use crate::stage::Host;
use crate::states::{Guest, Standing};
use logical_unit::profile::{Identity, Profile};
use scsi::pr::ReservationType;

/// A logical unit of the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Which target it is on.
    pub profile: &'static str,
    /// What the guest is on it.
    pub guest: Guest,
}

/// What is moved.
#[derive(Clone, Debug)]
pub struct Situation {
    /// In a case's name.
    pub name: &'static str,
    /// The guest's logical units.
    pub units: Vec<Unit>,
    /// What goes wrong with the destination's QEMU by itself, in its words.
    pub fault: Option<&'static str>,
    /// Its disks are device nodes behind helpers, which know what it has; else the agents' own sessions.
    pub helped: bool,
    /// Whoever dies is never back, and the operator decides.
    pub alone: bool,
    /// Another node fences the guest in the moment of that.
    pub fenced: bool,
    /// The guest is paused before and stays so.
    pub paused: bool,
    /// Where the guest ends if nobody dies.
    pub ends: Host,
}

const TYPE_5: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const TYPE_7: ReservationType = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;

const fn unit(profile: &'static str, standing: Standing, shared: bool) -> Unit {
    Unit { profile, guest: Guest::new(standing, shared) }
}

/// Everybody registered with APTPL.
const fn kept(unit: Unit) -> Unit {
    Unit { guest: Guest { aptpl: true, ..unit.guest }, ..unit }
}

fn moves(name: &'static str, units: Vec<Unit>) -> Situation {
    Situation {
        name,
        units,
        fault: None,
        helped: false,
        alone: false,
        fenced: false,
        paused: false,
        ends: Host::Beta,
    }
}

impl Situation {
    /// Those of every run.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let holder = |profile| unit(profile, Standing::Holder(TYPE_5), false);
        let load = Some("load=fail");
        vec![
            Self { helped: true, ..moves("holder", vec![kept(holder("lio"))]) },
            moves("two", vec![kept(holder("spc")), unit("spc", Standing::Member, true)]),
            Self { helped: true, fault: load, ends: Host::Alpha, ..moves("back", vec![kept(holder("lio"))]) },
            Self { alone: true, helped: true, ..moves("alone", vec![kept(holder("lio"))]) },
            Self { alone: true, fenced: true, ..moves("alone-fenced", vec![holder("lio")]) },
        ]
    }

    /// Those, and more.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let holder = |profile| unit(profile, Standing::Holder(TYPE_5), false);
        let load = Some("load=fail");
        let member = || unit("lio", Standing::Member, false);
        let more = vec![
            moves("all-registrants", vec![unit("lio", Standing::Holder(TYPE_7), false)]),
            Self { helped: true, ..moves("spdk", vec![holder("spdk")]) },
            Self { helped: true, ..moves("tgt", vec![holder("tgt")]) },
            moves("registrant", vec![unit("scst", Standing::Registrant, false)]),
            Self { paused: true, ..moves("paused", vec![holder("lio")]) },
            Self { fault: load, ends: Host::Alpha, ..moves("two-back", vec![holder("lio"), member()]) },
            moves("sessions", vec![holder("lio")]),
            Self { fault: load, ends: Host::Alpha, ..moves("sessions-back", vec![holder("lio")]) },
            Self {
                alone: true,
                ..moves("alone-two", vec![kept(holder("spc")), unit("lio", Standing::Member, true)])
            },
            Self {
                alone: true,
                fenced: true,
                helped: true,
                ..moves("alone-fenced-two", vec![holder("spc"), member()])
            },
            Self { helped: true, ..moves("two-helped", vec![holder("spc"), kept(member())]) },
        ];
        Self::usual().into_iter().chain(more).collect()
    }

    /// A registration goes with the session that made it, and with the host whose session that is.
    pub(super) fn is_in_session(&self) -> bool {
        let identity = |unit: &Unit| Profile::by_name(unit.profile).map(|profile| profile.identity);
        self.units.iter().any(|unit| identity(unit) == Some(Identity::SessionInstance))
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|situation| situation.name == name)
    }
}
