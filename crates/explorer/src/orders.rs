//! Which scenarios are searched, and how far: the part that runs with every test run and the whole space.

use crate::scenario::{Role, Scenario};
use crate::search::Budget;
use handover::Method;
use logical_unit::Profile;

/// What to search.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The whole space instead of the part for every test run.
    pub full: bool,
    /// Only this profile.
    pub profile: Option<String>,
    /// Only roles whose name begins so.
    pub role: Option<String>,
    /// Only this method; `auto` is the plan's choice.
    pub method: Option<String>,
}

impl Selection {
    fn wants(&self, scenario: &Scenario) -> bool {
        let method = scenario.method.map_or("auto", Method::name);
        self.profile.as_deref().is_none_or(|name| name == scenario.profile.name)
            && self.role.as_deref().is_none_or(|name| scenario.role.to_string().starts_with(name))
            && self.method.as_deref().is_none_or(|name| name == method)
    }

    /// The scenarios, each with what may disturb it.
    #[must_use]
    pub fn orders(&self) -> Vec<(Scenario, Budget)> {
        let mut orders = Vec::new();
        for profile in Profile::ALL {
            for role in Role::all() {
                orders.extend(variants(profile, role).into_iter().filter(|one| self.wants(one)));
            }
        }
        orders.into_iter().map(|scenario| (scenario, self.budget(&scenario))).collect()
    }

    const fn budget(&self, scenario: &Scenario) -> Budget {
        let _ = scenario;
        if self.full {
            Budget { foreign: 2, faults: 2, recovery_crashes: 1 }
        } else {
            Budget { foreign: 1, faults: 1, recovery_crashes: 1 }
        }
    }
}

/// Every scenario of one profile and role.
fn variants(profile: &'static Profile, role: Role) -> Vec<Scenario> {
    let methods = Method::ALL.into_iter().map(Some).chain([None]);
    let mut variants = Vec::new();
    for method in methods {
        for (nodes, shared) in [(1, false), (1, true), (2, false), (2, true)] {
            for aptpl in [false, true] {
                let base =
                    Scenario { profile, role, nodes, shared, aptpl, paths: 1, source_dead: false, method };
                variants.push(base);
            }
        }
        let base = Scenario {
            profile,
            role,
            nodes: 1,
            shared: false,
            aptpl: true,
            paths: 1,
            source_dead: false,
            method,
        };
        variants.push(Scenario { paths: 2, ..base });
        variants.push(Scenario { source_dead: true, aptpl: false, ..base });
    }
    variants
}
