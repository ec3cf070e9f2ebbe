//! One case, and all of them.

use super::situation::Situation;
use crate::leash::{Said, When};
use crate::stage::Host;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What the operator says where a host will not be back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// `tenure handover resume --vouch`; and where that leaves it in doubt, the other.
    Vouch,
    /// `tenure handover abort --release`.
    Release,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Victim {
    /// The agent of a host, by `kill -9`.
    Agent(Host),
    /// The QEMU of a host.
    Qemu(Host),
    /// The helper of a host.
    Helper(Host),
    /// All of a host.
    Host(Host),
    /// The link between the agents.
    Link,
    /// All of a host, for good: the operator decides at the other.
    Gone(Host, Word),
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Agent(Host::Alpha),
        Self::Agent(Host::Beta),
        Self::Qemu(Host::Alpha),
        Self::Qemu(Host::Beta),
        Self::Helper(Host::Alpha),
        Self::Helper(Host::Beta),
        Self::Host(Host::Alpha),
        Self::Host(Host::Beta),
        Self::Link,
        Self::Gone(Host::Alpha, Word::Vouch),
        Self::Gone(Host::Alpha, Word::Release),
        Self::Gone(Host::Beta, Word::Vouch),
        Self::Gone(Host::Beta, Word::Release),
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent(Host::Alpha) => "source-agent",
            Self::Agent(Host::Beta) => "destination-agent",
            Self::Qemu(Host::Alpha) => "source-qemu",
            Self::Qemu(Host::Beta) => "destination-qemu",
            Self::Helper(Host::Alpha) => "source-helper",
            Self::Helper(Host::Beta) => "destination-helper",
            Self::Host(Host::Alpha) => "source-host",
            Self::Host(Host::Beta) => "destination-host",
            Self::Link => "link",
            Self::Gone(Host::Alpha, Word::Vouch) => "source-gone-vouched",
            Self::Gone(Host::Alpha, Word::Release) => "source-gone-released",
            Self::Gone(Host::Beta, Word::Vouch) => "destination-gone-vouched",
            Self::Gone(Host::Beta, Word::Release) => "destination-gone-released",
        }
    }

    /// Whose agent it takes, if one's.
    #[must_use]
    pub const fn agent(self) -> Option<Host> {
        match self {
            Self::Agent(host) | Self::Host(host) | Self::Gone(host, _) => Some(host),
            Self::Qemu(_) | Self::Helper(_) | Self::Link => None,
        }
    }

    /// Whose QEMU it takes, if one's.
    #[must_use]
    pub const fn qemu(self) -> Option<Host> {
        match self {
            Self::Qemu(host) | Self::Host(host) | Self::Gone(host, _) => Some(host),
            Self::Agent(_) | Self::Helper(_) | Self::Link => None,
        }
    }

    /// Whose helper it takes, where there are helpers.
    #[must_use]
    pub const fn helper(self) -> Option<Host> {
        match self {
            Self::Helper(host) | Self::Host(host) | Self::Gone(host, _) => Some(host),
            Self::Agent(_) | Self::Qemu(_) | Self::Link => None,
        }
    }

    /// The host that is never back, and the operator's word at the other.
    #[must_use]
    pub const fn gone(self) -> Option<(Host, Word)> {
        if let Self::Gone(host, word) = self { Some((host, word)) } else { None }
    }

    /// Those who can die in this situation.
    fn of(situation: &Situation, moments: Moments) -> Vec<Self> {
        let there = |victim: &Self| match victim {
            Self::Helper(_) => situation.helped && !situation.alone,
            Self::Host(_) if situation.is_in_session() => false,
            // Who vouches ends it in the same way afterwards, where that is needed.
            Self::Gone(_, Word::Release) => situation.alone && moments == Moments::All,
            victim => victim.gone().is_some() == situation.alone,
        };
        Self::ALL.into_iter().filter(there).collect()
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

/// Which moments of a migration are cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// Before and after every step, rounds of commands too.
    All,
    /// Once where they are the same: before a step that its host begins when it has ended another, and the other host told nothing
    /// between, nothing was done or said since. Rounds of commands, which leave nothing on a host, are left out.
    Distinct,
}

/// Every victim of this situation at every moment of what was told, in the order in which it came.
pub(super) fn all(situation: &Situation, told: &[(Host, Said)], moments: Moments) -> Vec<Case> {
    let mut seen = BTreeMap::<(Host, When, &str), usize>::new();
    let (mut cases, mut last) = (Vec::new(), None);
    for (host, said) in told {
        let nth = seen.entry((*host, said.when, &said.step)).or_default();
        *nth += 1;
        let same = said.when == When::Before && last.replace(*host) == Some(*host);
        last = Some(*host);
        if moments == Moments::Distinct && (same || said.step == "commands") {
            continue;
        }
        cases.extend(Victim::of(situation, moments).into_iter().map(|victim| Case {
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
    fn every_moment_is_a_case_for_every_victim_and_is_found_by_its_name() {
        let situation = Situation::named("holder").unwrap();
        assert!(situation.helped);
        let said = |host, when, step: &str| (host, Said { vm: "web".into(), when, step: step.into() });
        let told = [
            said(Host::Beta, When::Before, "mark-go"),
            said(Host::Beta, When::After, "mark-go"),
            // The same moment, once more.
            said(Host::Beta, When::Before, "commands"),
            said(Host::Alpha, When::After, "entries"),
            said(Host::Beta, When::Before, "mark-go"),
            said(Host::Beta, When::After, "mark-go"),
            said(Host::Beta, When::Before, "end"),
        ];
        let cases = all(&situation, &told, Moments::Distinct);
        assert_eq!(cases.len(), 5 * 9);
        let last = cases.last().unwrap();
        assert_eq!(last.to_string(), "holder/link/beta/after/mark-go/2");
        assert_eq!(last.to_string().parse::<Case>().unwrap().to_string(), last.to_string());
        assert_eq!(all(&situation, &told, Moments::All).len(), 7 * 9);
        let alone = Situation::named("alone").unwrap();
        assert_eq!(all(&alone, &told, Moments::All).len(), 7 * 4);
    }
}
