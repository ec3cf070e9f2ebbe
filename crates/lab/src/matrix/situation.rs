//! What is moved, and how it would go if nobody died.

use crate::stage::Host;
use crate::states::{Guest, Standing};
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
    /// The guest is paused before and stays so.
    pub paused: bool,
    /// Where the guest ends if nobody dies.
    pub ends: Host,
}

const TYPE_5: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
const TYPE_7: ReservationType = ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS;

const fn unit(profile: &'static str, standing: Standing, shared: bool) -> Unit {
    Unit { profile, guest: Guest { standing, shared } }
}

fn moves(name: &'static str, units: Vec<Unit>) -> Situation {
    Situation { name, units, fault: None, paused: false, ends: Host::Beta }
}

impl Situation {
    /// Those of every run.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        let holder = |profile| unit(profile, Standing::Holder(TYPE_5), false);
        let load = Some("load=fail");
        vec![
            moves("holder", vec![holder("lio")]),
            moves("two", vec![holder("spc"), unit("spc", Standing::Member, true)]),
            Self { fault: load, ends: Host::Alpha, ..moves("back", vec![holder("lio")]) },
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
            moves("spdk", vec![holder("spdk")]),
            moves("tgt", vec![holder("tgt")]),
            moves("registrant", vec![unit("scst", Standing::Registrant, false)]),
            Self { paused: true, ..moves("paused", vec![holder("lio")]) },
            Self { fault: load, ends: Host::Alpha, ..moves("two-back", vec![holder("lio"), member()]) },
        ];
        Self::usual().into_iter().chain(more).collect()
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|situation| situation.name == name)
    }
}
