//! One case, and all of them.

use super::situation::Situation;
use crate::leash::{Said, When};
use crate::stage::Host;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Victim {
    /// The agent of a host, by `kill -9`.
    Agent(Host),
    /// The QEMU of a host.
    Qemu(Host),
    /// Both of a host.
    Host(Host),
    /// The link between the agents.
    Link,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Agent(Host::Alpha),
        Self::Agent(Host::Beta),
        Self::Qemu(Host::Alpha),
        Self::Qemu(Host::Beta),
        Self::Host(Host::Alpha),
        Self::Host(Host::Beta),
        Self::Link,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Agent(Host::Alpha) => "source-agent",
            Self::Agent(Host::Beta) => "destination-agent",
            Self::Qemu(Host::Alpha) => "source-qemu",
            Self::Qemu(Host::Beta) => "destination-qemu",
            Self::Host(Host::Alpha) => "source-host",
            Self::Host(Host::Beta) => "destination-host",
            Self::Link => "link",
        }
    }

    /// Whose agent has to be started again, if one has.
    #[must_use]
    pub const fn agent(self) -> Option<Host> {
        match self {
            Self::Agent(host) | Self::Host(host) => Some(host),
            Self::Qemu(_) | Self::Link => None,
        }
    }

    /// Whose QEMU is gone, if one is.
    #[must_use]
    pub const fn qemu(self) -> Option<Host> {
        match self {
            Self::Qemu(host) | Self::Host(host) => Some(host),
            Self::Agent(_) | Self::Link => None,
        }
    }
}

/// One death.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is moved.
    pub situation: Situation,
    /// Who dies.
    pub victim: Victim,
    /// On which host the step is.
    pub host: Host,
    /// On which side of the step.
    pub when: When,
    /// The step.
    pub step: String,
    /// Which one of that name, from 1.
    pub nth: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (situation, victim, host) = (self.situation.name, self.victim.name(), self.host.name());
        write!(f, "{situation}/{victim}/{host}/{}/{}/{}", self.when, self.step, self.nth)
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split('/').collect();
        let [situation, victim, host, when, step, nth] = words.as_slice() else {
            anyhow::bail!("SITUATION/VICTIM/HOST/WHEN/STEP/NTH")
        };
        Ok(Self {
            situation: Situation::named(situation).context("no such situation")?,
            victim: Victim::ALL.into_iter().find(|one| one.name() == *victim).context("no such victim")?,
            host: Host::BOTH.into_iter().find(|one| one.name() == *host).context("alpha or beta")?,
            when: when.parse()?,
            step: (*step).to_owned(),
            nth: nth.parse()?,
        })
    }
}

/// Every victim at every step that was told. What an order to QEMU and the step after it leave is the same unless the step is
/// around a round of commands, which are left out without `commands`.
pub(super) fn all(situation: &Situation, told: &[(Host, Said)], commands: bool) -> Vec<Case> {
    let mut seen = BTreeMap::<(Host, When, &str), usize>::new();
    let mut cases = Vec::new();
    for (host, said) in told {
        let nth = seen.entry((*host, said.when, &said.step)).or_default();
        *nth += 1;
        if said.step == "commands" && !commands {
            continue;
        }
        cases.extend(Victim::ALL.map(|victim| Case {
            situation: situation.clone(),
            victim,
            host: *host,
            when: said.when,
            step: said.step.clone(),
            nth: *nth,
        }));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_of_every_step_is_a_case_for_every_victim_and_is_found_by_its_name() {
        let situation = Situation::named("holder").unwrap();
        let said = |when, step: &str| (Host::Beta, Said { vm: "web".into(), when, step: step.into() });
        let told = [
            said(When::Before, "mark-go"),
            said(When::After, "mark-go"),
            said(When::Before, "commands"),
            said(When::Before, "mark-go"),
        ];
        let cases = all(&situation, &told, false);
        assert_eq!(cases.len(), 3 * Victim::ALL.len());
        let last = cases.last().unwrap();
        assert_eq!(last.to_string(), "holder/link/beta/before/mark-go/2");
        assert_eq!(last.to_string().parse::<Case>().unwrap().to_string(), last.to_string());
        assert_eq!(all(&situation, &told, true).len(), 4 * Victim::ALL.len());
    }
}
