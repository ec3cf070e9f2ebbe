//! What happens in the course of a move, and at which step of which host's agent, which stands still meanwhile.

use super::Name;
use crate::leash::{Said, When};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::str::FromStr;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent of a host dies, and is started again.
    Agent(Name),
    /// The helper does.
    Helper(Name),
    /// QEMU dies.
    Qemu(Name),
    /// Nothing passes between the hosts, until that has been found out.
    Link,
    /// Another member preempts the guest.
    Fence,
    /// The holder releases its reservation and reserves again, which the guest is to be told of once.
    Stir,
    /// The operator: `tenure handover abort`.
    Abort,
    /// Somebody else tells the source's QEMU to cancel.
    Cancel,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Agent(Name::A),
        Self::Agent(Name::B),
        Self::Helper(Name::A),
        Self::Helper(Name::B),
        Self::Qemu(Name::A),
        Self::Qemu(Name::B),
        Self::Link,
        Self::Fence,
        Self::Stir,
        Self::Abort,
        Self::Cancel,
    ];

    /// Those by which somebody dies.
    pub const DEATHS: [Self; 7] = {
        let [a, b, c, d, e, f, g, ..] = Self::ALL;
        [a, b, c, d, e, f, g]
    };

    const fn word(self) -> &'static str {
        match self {
            Self::Agent(Name::A) => "source-agent",
            Self::Agent(Name::B) => "destination-agent",
            Self::Helper(Name::A) => "source-helper",
            Self::Helper(Name::B) => "destination-helper",
            Self::Qemu(Name::A) => "source-qemu",
            Self::Qemu(Name::B) => "destination-qemu",
            Self::Link => "link",
            Self::Fence => "fence",
            Self::Stir => "stir",
            Self::Abort => "abort",
            Self::Cancel => "cancel",
        }
    }
}

/// What happens, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blow {
    /// What.
    pub event: Event,
    /// Where the step is: guests move from [`Name::A`].
    pub host: Name,
    /// On which side of it.
    pub when: When,
    /// The step.
    pub step: String,
    /// Which one of that name, from 1.
    pub nth: usize,
}

/// Where a step is, in a word.
const SIDES: [(Name, &str); 2] = [(Name::A, "source"), (Name::B, "destination")];

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = SIDES.into_iter().find(|(name, _)| *name == self.host).map_or("", |(_, word)| word);
        write!(f, "{}/{side}/{}/{}/{}", self.event.word(), self.when, self.step, self.nth)
    }
}

impl FromStr for Blow {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split('/').collect();
        let [event, side, when, step, nth] = words.as_slice() else { bail!("EVENT/HOST/WHEN/STEP/NTH") };
        let events = || Event::ALL.map(Event::word).join(", ");
        let event = Event::ALL.into_iter().find(|one| one.word() == *event);
        let host = SIDES.into_iter().find(|(_, word)| word == side).map(|(name, _)| name);
        Ok(Self {
            event: event.with_context(|| format!("none of {}", events()))?,
            host: host.context("source or destination")?,
            when: when.parse()?,
            step: (*step).to_owned(),
            nth: nth.parse()?,
        })
    }
}

/// A death of everybody once after each line that a host's agent wrote into its journal.
pub(super) fn deaths(host: Name, told: &[Said]) -> Vec<Blow> {
    let mut blows: Vec<Blow> = Vec::new();
    for said in told.iter().filter(|said| said.when == When::After && is_journalled(&said.step)) {
        let same = |blow: &&Blow| blow.step == said.step;
        let nth = blows.iter().filter(same).count() / Event::DEATHS.len() + 1;
        let blow = |event| Blow { event, host, when: said.when, step: said.step.clone(), nth };
        blows.extend(Event::DEATHS.map(blow));
    }
    blows
}

/// Whether it is a line of the journal.
fn is_journalled(step: &str) -> bool {
    matches!(step, "begin" | "entries" | "turn" | "end") || step.starts_with("mark-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blow_is_found_by_its_name() {
        for event in Event::ALL {
            let text = format!("{}/destination/after/entries/2", event.word());
            let blow: Blow = text.parse().unwrap();
            assert_eq!((blow.event, blow.host, blow.nth), (event, Name::B, 2));
            assert_eq!(blow.to_string(), text);
        }
        for wrong in ["", "nobody/source/after/go/1", "link/here/after/go/1", "link/source/on/go/1"] {
            assert!(wrong.parse::<Blow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn everybody_dies_once_after_each_line_of_the_journal_and_at_no_other_step() {
        let said = |when, step: &str| Said { vm: "guest".into(), when, step: step.into() };
        let told = [
            said(When::Before, "entries"),
            said(When::After, "entries"),
            said(When::After, "commands"),
            said(When::After, "entries"),
            said(When::After, "mark-go"),
        ];
        let blows = deaths(Name::A, &told);
        assert_eq!(blows.len(), 3 * Event::DEATHS.len());
        assert_eq!(blows.first().unwrap().to_string(), "source-agent/source/after/entries/1");
        let of = |step, nth| blows.iter().filter(|blow| blow.step == step && blow.nth == nth).count();
        assert_eq!([of("entries", 1), of("entries", 2), of("mark-go", 1)], [Event::DEATHS.len(); 3]);
    }
}
