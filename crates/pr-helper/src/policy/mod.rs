//! What each guest may do with each device: the operator's rules, read from TOML.
//!
//! The first rule whose `vm`, `lun` and `node` all match decides; what no rule matches, the file's `default` decides. Without
//! a file everything is allowed and `migrate` is on, as with `qemu-pr-helper`. A refusal is CHECK CONDITION with INVALID
//! COMMAND OPERATION CODE and never RESERVATION CONFLICT, which would tell a cluster that somebody fenced it.
//! The format is published as `docs/schema/policy.schema.json`; a test holds it and this parser together.

mod glob;
mod keys;
mod parse;
mod ruling;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

pub use glob::Globs;
pub use keys::KeyPattern;
pub use parse::PolicyError;
pub use ruling::{Refusal, Ruling};

use ledger::LunId;
use serde::Deserialize;
use words::Action;

mod words;

/// A policy: rules in the order of the file, and what holds where none matches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    #[serde(rename = "version")]
    _version: words::Version,
    #[serde(default)]
    default: Access,
    #[serde(default)]
    migrate: Switch,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

/// Whether a device may be used at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Access {
    #[default]
    Allow,
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    #[default]
    On,
    Off,
}

/// One `[[rule]]`. An absent condition matches everything, an absent limit limits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    vm: Option<Globs>,
    lun: Option<Globs>,
    node: Option<Globs>,
    #[serde(default)]
    access: Access,
    actions: Option<Vec<Action>>,
    keys: Option<Vec<KeyPattern>>,
    victims: Option<Vec<KeyPattern>>,
    migrate: Option<Switch>,
}

impl Default for Rules {
    /// Everything is allowed, and migration is on.
    fn default() -> Self {
        Self { _version: words::Version, default: Access::Allow, migrate: Switch::On, rules: Vec::new() }
    }
}

impl Rules {
    /// What holds for a guest and a device. `node` is the device node as this host names it.
    #[must_use]
    pub fn of(&self, vm: &str, lun: &LunId, node: &str) -> Ruling<'_> {
        let position = self.rules.iter().position(|rule| rule.matches(vm, lun, node));
        let rule = position.and_then(|at| self.rules.get(at));
        let access = rule.map_or(self.default, |rule| rule.access);
        let migrate = rule.and_then(|rule| rule.migrate).unwrap_or(self.migrate);
        Ruling { rule, number: position.map(|at| at + 1), access, migrate: migrate == Switch::On }
    }
}

impl Rule {
    fn matches(&self, vm: &str, lun: &LunId, node: &str) -> bool {
        let fits = |globs: &Option<Globs>, text| globs.as_ref().is_none_or(|globs| globs.matches(text));
        fits(&self.vm, vm) && fits(&self.lun, &lun.0) && fits(&self.node, node)
    }
}
