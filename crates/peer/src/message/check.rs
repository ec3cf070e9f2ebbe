//! The limits of what a message may hold, beside its length.

use super::parts::{Guest, Port, Record};
use super::{Advance, Attentions, Back, Incoming, Open, Opened, Recover, Reply, Request};
use std::collections::HashSet;

/// Logical units of a guest.
pub const MOST_LUNS: usize = 256;
/// Paths of a side to one logical unit.
pub const MOST_PORTS: usize = 8;
/// Bytes of a name, of a UUID or of a reason.
pub const MOST_NAME: usize = 4096;
/// Outcomes in one message.
pub const MOST_REPORTS: usize = 16_384;
/// Decisions in one message.
pub const MOST_DECISIONS: usize = 16;
/// Unit attentions of one logical unit.
pub const MOST_OWED: usize = 64;
/// Bytes of a device's state.
pub const MOST_DEVICE_STATE: usize = 2 << 20;
/// Migration capabilities, and parameters.
pub const MOST_PARAMETERS: usize = 256;

/// A message that is well-formed and yet none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Too many of something.
    #[error("{what}: at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// Something that must not be empty.
    #[error("{0}: it is empty")]
    Empty(&'static str),
    /// Twice the same logical unit.
    #[error("a logical unit is named twice")]
    Twice,
}

type Checked = Result<(), CheckError>;

impl Request {
    /// Whether everything is within its limits.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Checked {
        match self {
            Self::Open(open) => check_open(open),
            Self::Journal(advance) | Self::Round(advance) | Self::Settle(advance) => check_advance(advance),
            Self::Back(back) => check_back(back),
            Self::Attentions(attentions) => check_attentions(attentions),
            Self::Incoming(incoming) => check_incoming(incoming),
            Self::Abort(abort) => at_most("why", abort.why.len(), MOST_NAME),
            Self::State(state) => check_guest(&state.guest),
            Self::Recover(recover) => check_recover(recover),
            Self::Take(take) => check_guest(&take.guest),
            Self::Device(device) => name("guest", &device.guest),
            Self::Close(close) => at_most("verdict", close.verdict.len(), MOST_NAME),
            Self::Ping | Self::Freeze(_) | Self::Go(_) => Ok(()),
        }
    }
}

impl Reply {
    /// Whether everything is within its limits.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Checked {
        match self {
            Self::Opened(opened) => check_opened(opened),
            Self::Outcomes(outcomes) => at_most("outcomes", outcomes.outcomes.len(), MOST_REPORTS),
            Self::Listening(listening) => name("uri", &listening.uri),
            Self::Ran(ran) => name("guest", &ran.guest),
            Self::Device(device) => at_most("state", device.state.0.len(), MOST_DEVICE_STATE),
            Self::Taken(taken) => at_most("report", taken.report.len(), MOST_PARAMETERS),
            Self::State(records) => records.record.as_ref().map_or(Ok(()), check_record),
            Self::Done(_) | Self::Standing(_) | Self::Aborted(_) => Ok(()),
        }
    }
}

fn check_open(open: &Open) -> Checked {
    check_guest(&open.guest)?;
    check_luns(open.luns.iter().map(|offer| (offer.lun.as_str(), offer.ports.as_slice())))
}

fn check_opened(opened: &Opened) -> Checked {
    check_luns(opened.luns.iter().map(|paths| (paths.lun.as_str(), paths.ports.as_slice())))?;
    opened.record.as_ref().map_or(Ok(()), check_record)
}

fn check_back(back: &Back) -> Checked {
    at_most("units", back.units.len(), MOST_LUNS)?;
    let mut seen = HashSet::new();
    if back.units.iter().all(|unit| seen.insert(unit.unit)) { Ok(()) } else { Err(CheckError::Twice) }
}

fn check_recover(recover: &Recover) -> Checked {
    check_guest(&recover.guest)?;
    check_record(&recover.record)
}

fn check_record(record: &Record) -> Checked {
    at_most("marks", record.marks.len(), MOST_DECISIONS)?;
    check_luns(record.luns.iter().map(|remains| (remains.lun.as_str(), remains.ports.as_slice())))
}

fn check_luns<'a>(luns: impl ExactSizeIterator<Item = (&'a str, &'a [Port])>) -> Checked {
    at_most("luns", luns.len(), MOST_LUNS)?;
    let mut seen = HashSet::new();
    for (lun, ports) in luns {
        name("lun", lun)?;
        at_most("ports", ports.len(), MOST_PORTS)?;
        if !seen.insert(lun) {
            return Err(CheckError::Twice);
        }
    }
    Ok(())
}

fn check_guest(guest: &Guest) -> Checked {
    name("vm", &guest.vm)?;
    name("uuid", &guest.uuid)
}

fn check_advance(advance: &Advance) -> Checked {
    at_most("outcomes", advance.outcomes.len(), MOST_REPORTS)?;
    at_most("decisions", advance.decisions.len(), MOST_DECISIONS)
}

fn check_attentions(attentions: &Attentions) -> Checked {
    at_most("owed", attentions.owed.len(), MOST_LUNS)?;
    attentions.owed.iter().try_for_each(|owed| at_most("sense", owed.sense.len(), MOST_OWED))
}

fn check_incoming(incoming: &Incoming) -> Checked {
    at_most("capabilities", incoming.capabilities.len(), MOST_PARAMETERS)?;
    at_most("parameters", incoming.parameters.len(), MOST_PARAMETERS)
}

fn name(what: &'static str, text: &str) -> Checked {
    if text.is_empty() {
        return Err(CheckError::Empty(what));
    }
    at_most(what, text.len(), MOST_NAME)
}

const fn at_most(what: &'static str, count: usize, most: usize) -> Checked {
    if count > most { Err(CheckError::TooMany { what, most }) } else { Ok(()) }
}
