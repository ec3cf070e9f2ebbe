//! Which scenarios are searched, and how far: the part of every test run, the whole space, and deeper than that.

use crate::scenario::{Role, Scenario};
use crate::search::Budget;
use handover::Method;
use logical_unit::Profile;

/// How far to search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// What every test run can afford: a minute or two.
    #[default]
    Part,
    /// The whole space: about half an hour on two cores.
    Whole,
    /// Further where the plan chooses and over two paths: hours, and several GiB.
    Deep,
}

/// What to search.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// How far.
    pub extent: Extent,
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

    /// The scenarios, each with what may disturb it; a scenario is listed once for each bound.
    #[must_use]
    pub fn orders(&self) -> Vec<(Scenario, Budget)> {
        let roles = Role::all();
        let pairs =
            Profile::ALL.into_iter().flat_map(|profile| roles.iter().map(move |role| (profile, *role)));
        let scenarios =
            pairs.flat_map(|(profile, role)| variants(profile, role)).filter(|one| self.wants(one));
        scenarios.flat_map(|one| self.budgets(&one).into_iter().map(move |budget| (one, budget))).collect()
    }

    /// How far a scenario is searched.
    fn budgets(&self, scenario: &Scenario) -> Vec<Budget> {
        let bound = |foreign, faults| Budget { foreign, faults, recovery_crashes: 1, joint: false };
        let either = |most| Budget { joint: true, ..bound(most, most) };
        let (two_and_one, one_and_two) = (bound(2, 1), bound(1, 2));
        match self.extent {
            Extent::Part if is_core(scenario) => vec![bound(1, 1)],
            Extent::Part => vec![either(1)],
            Extent::Whole if is_wide(scenario) => vec![either(1)],
            Extent::Whole => vec![either(2)],
            Extent::Deep if is_wide(scenario) => vec![either(2)],
            Extent::Deep if is_core(scenario) && !scenario.shared => vec![bound(2, 2)],
            Extent::Deep if is_plain(scenario) => vec![two_and_one, one_and_two],
            Extent::Deep => Vec::new(),
        }
    }
}

/// Two paths, which multiply the states, but for the plan's own choice on two profiles.
fn is_wide(scenario: &Scenario) -> bool {
    scenario.paths > 1 && (scenario.method.is_some() || !matches!(scenario.profile.name, "spc" | "tgt"))
}

/// The plan's own choice, one path, one other node, nothing persistent.
fn is_plain(scenario: &Scenario) -> bool {
    scenario.method.is_none() && scenario.nodes == 1 && scenario.paths == 1 && !scenario.aptpl
}

/// The plan's own choice on a target that does all that the standard says, and on the one that does least.
fn is_core(scenario: &Scenario) -> bool {
    is_plain(scenario) && matches!(scenario.profile.name, "spc" | "tgt")
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
