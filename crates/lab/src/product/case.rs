//! A case: what the guest is on the logical unit, on which kind of target, what happens to it, and when. Its name is enough to
//! run it alone: `SCENARIO[@HOST:N]/STANDING/PROFILE`, as in `fenced@beta:12/holder-5/lio`.

use super::rows::{ROWS, Row};
use crate::stage::Host;
use crate::states::{GUEST, OTHER};
use anyhow::{Context, Error, Result, bail};
use logical_unit::profile::Profile;
use scsi::pr::{Key, ReservationType};
use std::fmt;
use std::str::FromStr;

/// What the guest is on the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It made a reservation of this type: the holder, or one of all registrants that are.
    Holder(ReservationType),
    /// Another node made it.
    Member(ReservationType),
    /// There is no reservation.
    Registrant,
}

impl Standing {
    /// Every one: each type made by the guest and by another node, and none.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let types = ReservationType::ALL;
        types.map(Self::Holder).into_iter().chain(types.map(Self::Member)).chain([Self::Registrant]).collect()
    }

    /// The reservation's type.
    #[must_use]
    pub const fn kind(self) -> Option<ReservationType> {
        match self {
            Self::Holder(kind) | Self::Member(kind) => Some(kind),
            Self::Registrant => None,
        }
    }

    /// The type that the guest's own nexus holds.
    #[must_use]
    pub fn held(self) -> Option<ReservationType> {
        match self {
            Self::Holder(kind) => Some(kind),
            Self::Member(kind) => Some(kind).filter(|kind| kind.is_all_registrants()),
            Self::Registrant => None,
        }
    }

    /// READ RESERVATION's key and type.
    #[must_use]
    pub fn reservation(self) -> Option<(Key, ReservationType)> {
        let kind = self.kind()?;
        let key = match self {
            _ if kind.is_all_registrants() => Key::NONE,
            Self::Member(_) => OTHER,
            _ => GUEST,
        };
        Some((key, kind))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(kind) => write!(f, "holder-{}", kind.0),
            Self::Member(kind) => write!(f, "member-{}", kind.0),
            Self::Registrant => f.write_str("registrant"),
        }
    }
}

impl FromStr for Standing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::all().into_iter().find(|standing| standing.to_string() == text);
        found.with_context(|| format!("no standing {text:?}"))
    }
}

/// Before which command of a host's, of all that it sends to the logical unit in the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Whose.
    pub host: Host,
    /// Counted from 1.
    pub number: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.name(), self.number)
    }
}

impl FromStr for Point {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, number) = text.split_once(':').context("HOST:N")?;
        let host = Host::BOTH.into_iter().find(|one| one.name() == host).context("no such host")?;
        Ok(Self { host, number: number.parse()? })
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What happens.
    pub row: &'static Row,
    /// When, where the row says that something happens at a point.
    pub point: Option<Point>,
    /// What the guest is.
    pub standing: Standing,
    /// The kind of target.
    pub profile: &'static Profile,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row.name)?;
        if let Some(point) = self.point {
            write!(f, "@{point}")?;
        }
        write!(f, "/{}/{}", self.standing, self.profile.name)
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [scenario, standing, profile] = text.split('/').collect::<Vec<_>>()[..] else {
            bail!("{text:?} is not SCENARIO[@HOST:N]/STANDING/PROFILE");
        };
        let (name, point) = scenario.split_once('@').map_or((scenario, None), |(name, at)| (name, Some(at)));
        let row =
            ROWS.iter().find(|row| row.name == name).with_context(|| format!("no scenario {name:?}"))?;
        let point = point.map(Point::from_str).transpose()?;
        anyhow::ensure!(point.is_some() == row.at.is_some(), "{name} happens at a point, or at none");
        let profile = Profile::by_name(profile).with_context(|| format!("no profile {profile:?}"))?;
        Ok(Self { row, point, standing: standing.parse()?, profile })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough_to_run_a_case_alone() {
        for name in ["ctl/holder-5/spc", "fenced@beta:12/member-7/lio", "load-fails/registrant/keep-self"] {
            assert_eq!(name.parse::<Case>().unwrap().to_string(), name);
        }
        let wrong =
            ["ctl", "ctl/holder-5", "ctl/holder-2/spc", "ctl/holder-5/xxx", "ctl@beta:1/holder-5/spc"];
        for name in wrong.into_iter().chain(["fenced/holder-5/spc", "fenced@gamma:1/holder-5/spc"]) {
            assert!(name.parse::<Case>().is_err(), "{name}");
        }
    }

    #[test]
    fn every_role_and_type_is_there_once() {
        let all = Standing::all();
        assert_eq!(all.len(), 13);
        assert_eq!(all.iter().filter(|standing| standing.held().is_some()).count(), 8);
    }
}
