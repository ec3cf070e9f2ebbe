//! What goes wrong, and where.
//!
//! Points of a migration at the source: `setup`, `active`, `pre-switchover`, `continued` (after `migrate-continue`), `device`
//! (before the devices are sent), `sent` (after), `completed`; at the destination: `accepted`, `load` (before the devices
//! are loaded), `loaded` (before the source is told), `arrived` (after). On both: `command:NAME` before a command is carried out and
//! `answer:NAME` after it, before its answer. `say` is for the name of a migration's state or of a run state. `failed=linger` is what
//! QEMU 7.2 does for a moment: it says that the migration failed while the guest is still in finish-migrate.

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getpid, kill_process};
use std::str::FromStr;

/// Bytes that nobody needs, more than a client of QEMU's takes.
pub(super) const MEGABYTES: usize = 32 << 20;
/// Events, more than anybody keeps.
pub(super) const MANY: usize = 20_000;

/// Something that goes wrong at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub point: String,
    /// What.
    pub kind: Kind,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process is gone at once, as by `kill -9`.
    Die,
    /// It exits, as QEMU does on an error it cannot live with.
    Exit,
    /// It does nothing any more, and is there.
    Hang,
    /// What was to be done fails.
    Fail,
    /// A command: it answers something that makes no sense.
    Lie,
    /// It says an event of 32 MiB first.
    Flood,
    /// It says twenty thousand events first, and each is the one that counts: RESUME.
    Chatter,
    /// An answer: 32 MiB of it.
    Bloat,
    /// A command: before the answer comes one to a command that nobody gave.
    Stray,
    /// `failed`: the guest is still in finish-migrate when a few have looked.
    Linger,
    /// A state that nobody knows, in place of the one that it is.
    Say(String),
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (point, kind) = text.split_once('=').context("POINT=KIND")?;
        let kind = match (kind, kind.strip_prefix("say:")) {
            (_, Some(status)) => Kind::Say(status.to_owned()),
            ("die", _) => Kind::Die,
            ("exit", _) => Kind::Exit,
            ("hang", _) => Kind::Hang,
            ("fail", _) => Kind::Fail,
            ("lie", _) => Kind::Lie,
            ("flood", _) => Kind::Flood,
            ("chatter", _) => Kind::Chatter,
            ("bloat", _) => Kind::Bloat,
            ("stray", _) => Kind::Stray,
            ("linger", _) => Kind::Linger,
            _ => bail!("unknown fault {kind:?}"),
        };
        Ok(Self { point: point.to_owned(), kind })
    }
}

/// Ends the process without any of its destructors.
pub(super) fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

/// Stops the process: the kernel still takes connections and bytes for it. The signal may be another thread's to take, and until
/// that has run this one would go on.
pub(super) fn hang() -> ! {
    let _ = kill_process(getpid(), Signal::STOP);
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_may_have_a_colon_and_states_too() {
        let fault: Fault = "command:cont=fail".parse().unwrap();
        assert_eq!((fault.point.as_str(), fault.kind), ("command:cont", Kind::Fail));
        let fault: Fault = "active=say:odd:state".parse().unwrap();
        assert_eq!(fault.kind, Kind::Say("odd:state".into()));
        assert!("active".parse::<Fault>().is_err());
        assert!("active=burn".parse::<Fault>().is_err());
    }
}
