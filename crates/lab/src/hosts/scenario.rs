//! What the logical unit is like before a guest moves (the scenarios of a handover), and what the guest is promised then.

use super::agents::HELPER;
use super::course::BLOCKS;
use super::{Hosts, Name, Seat, initiator};
use crate::judge::{Promise, Standing};
use crate::watch::Registration;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::request::{clear, preempt, register, register_and_ignore, release, reserve};
use scsi::pr::{BasicParameters, Key, OutAction, PrOutCdb, ReservationType, Scope};
use scsi::{DataPhase, Request, Status};
use std::time::Duration;

/// The guest's key.
pub(super) const KEY: Key = Key(0xA1);
/// The key of another member of its cluster.
pub(super) const MEMBER: Key = Key(0xC1);
/// The key of another guest on the destination.
const OTHER: Key = Key(0xB2);
/// Nobody's key.
const WRONG: Key = Key(0xBAD);
/// Unit attentions that may stand before an answer.
const ATTENTIONS: usize = 8;
/// A watch that sees nothing for so long proves nothing.
const BLIND: Duration = Duration::from_secs(5);

/// One of them. A member of the guest's cluster is registered in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The guest holds the reservation.
    Holder,
    /// The member holds it, for registrants only.
    Member,
    /// The member made it, for all registrants.
    MemberForAll,
    /// There is none; the guest is registered.
    KeyOnly,
    /// A bystander has the guest's key too.
    SharedKey,
    /// As holder, after a REGISTER with a wrong key was refused.
    WrongKey,
    /// As holder, after a RELEASE with a wrong type was refused.
    WrongType,
    /// As holder; the destination's nexus has been preempted, and has not heard of it.
    Attention,
    /// As holder; another guest is registered by the destination's nexus.
    Occupied,
    /// As holder; the guest's own key is registered by the destination's nexus as well.
    AlreadyThere,
    /// As holder, of a guest whose QEMU was started anew since.
    Restarted,
    /// As holder, after PERSISTENT RESERVE OUT with parameter lists of every length that is too short.
    ShortLists,
    /// The guest was preempted by the member.
    Fenced,
}

/// What must become of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It moves, with all that it has.
    Moves,
    /// It is refused, and stays with all that it has.
    Stays,
    /// It runs on at either host, and is registered at none.
    Fenced,
}

impl Fate {
    /// The exit status of `tenure migrate`.
    pub(super) const fn exits(self) -> &'static [i32] {
        match self {
            Self::Moves => &[0],
            // Where READ FULL STATUS tells nothing only the destination's REGISTER finds it, in the pause: rolled back.
            Self::Stays => &[4, 5],
            Self::Fenced => &[6],
        }
    }
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Holder,
        Self::Member,
        Self::MemberForAll,
        Self::KeyOnly,
        Self::SharedKey,
        Self::WrongKey,
        Self::WrongType,
        Self::Attention,
        Self::Occupied,
        Self::AlreadyThere,
        Self::Restarted,
        Self::ShortLists,
        Self::Fenced,
    ];

    /// What must become of a move.
    #[must_use]
    pub const fn fate(self) -> Fate {
        match self {
            Self::Occupied => Fate::Stays,
            Self::Fenced => Fate::Fenced,
            _ => Fate::Moves,
        }
    }

    /// The reservation, where the caller wants this type.
    #[must_use]
    pub const fn kind(self, wanted: ReservationType) -> Option<ReservationType> {
        match self {
            Self::KeyOnly => None,
            Self::Member => Some(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY),
            Self::MemberForAll => Some(ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS),
            _ => Some(wanted),
        }
    }

    /// Whether the guest is the one holder.
    #[must_use]
    pub const fn holds(self, kind: ReservationType) -> bool {
        !matches!(self, Self::KeyOnly | Self::Member | Self::MemberForAll) && !kind.is_all_registrants()
    }

    /// What is promised while the guest moves.
    pub(super) fn promise(self, wanted: ReservationType) -> Promise {
        let kind = self.kind(wanted);
        let of_all = kind.filter(|kind| kind.is_all_registrants());
        // Who preempts a holder holds.
        let of_member = if matches!(self, Self::Member | Self::Fenced) { kind } else { of_all };
        let of = |name: &str, key, holds| Registration { port: initiator(name), key, holds };
        let mut foreign = vec![of("member", MEMBER, of_member)];
        foreign.extend((self == Self::SharedKey).then(|| of("bystander", KEY, of_all)));
        foreign.extend((self == Self::Occupied).then(|| of(Name::B.as_str(), OTHER, of_all)));
        Promise {
            key: KEY,
            hosts: Name::ALL.map(|name| initiator(name.as_str())).to_vec(),
            kind,
            aptpl: true,
            foreign,
            guest: if self == Self::Fenced { Standing::Fenced } else { Standing::Member },
            blind: BLIND,
        }
    }
}

impl Scenario {
    /// What is promised from the moment on at which the member has preempted the guest.
    pub(super) fn promise_of_fenced(self, wanted: ReservationType) -> Promise {
        let before = self.promise(wanted);
        let holds = before.kind;
        let foreign = before.foreign.into_iter().map(|one| match one.key {
            MEMBER => Registration { holds, ..one },
            _ => one,
        });
        Promise { guest: Standing::FencedInMove, foreign: foreign.collect(), ..before }
    }
}

impl Hosts {
    /// Another guest is in the old one's place, by the same nexus.
    fn restart(&mut self, guest: &mut Seat) -> Result<()> {
        let host = self.host(Name::A);
        let helper = host.daemons.is_some().then_some(HELPER);
        *guest = host.seat("again", false, helper)?;
        guest.wait_written(BLOCKS)
    }

    /// Leaves nobody registered.
    pub(super) fn clean(&self) -> Result<()> {
        let session = self.log_in("member", 1)?;
        let mut member = session.nexus(0);
        good(&mut member, &register_and_ignore(MEMBER, true))?;
        good(&mut member, &clear(MEMBER))
    }

    /// Makes the logical unit what the scenario says, from clean.
    pub(super) fn set_up(
        &mut self,
        scenario: Scenario,
        wanted: ReservationType,
        guest: &mut Seat,
    ) -> Result<()> {
        let session = self.log_in("member", 1)?;
        let mut member = session.nexus(0);
        good(&mut member, &register(Key(0), MEMBER, true))?;
        good(guest, &register(Key(0), KEY, true))?;
        if let Some(kind) = scenario.kind(wanted) {
            match scenario {
                Scenario::Member | Scenario::MemberForAll => good(&mut member, &reserve(MEMBER, kind)),
                _ => good(guest, &reserve(KEY, kind)),
            }?;
        }
        let destination =
            |hosts: &mut Self, key| hosts.pr(Name::B, &["register", "--new-key", key, "--aptpl"]);
        match scenario {
            Scenario::SharedKey => {
                let bystander = self.log_in("bystander", 1)?;
                good(&mut bystander.nexus(0), &register(Key(0), KEY, true))
            }
            Scenario::WrongKey => refused(guest, &register(WRONG, KEY, true)),
            Scenario::WrongType => refused(guest, &release(KEY, other(wanted))),
            Scenario::Occupied => destination(self, "0xb2"),
            Scenario::AlreadyThere => destination(self, "0xa1"),
            Scenario::Restarted => self.restart(guest),
            Scenario::ShortLists => (0..LIST).try_for_each(|length| short_list(guest, length)),
            Scenario::Attention => {
                destination(self, "0xb2")?;
                good(&mut member, &preempt(MEMBER, OTHER, wanted))
            }
            Scenario::Fenced => good(&mut member, &preempt(MEMBER, KEY, wanted)),
            _ => Ok(()),
        }
        .with_context(|| format!("{scenario:?}"))
    }
}

/// Bytes of a parameter list of PERSISTENT RESERVE OUT.
const LIST: usize = 24;

/// It must be answered, and change nothing.
fn short_list(guest: &mut Seat, length: usize) -> Result<()> {
    let whole = BasicParameters { reservation_key: KEY, service_action_key: WRONG, ..Default::default() };
    let list: Vec<u8> = whole.to_bytes().into_iter().take(length).collect();
    let (action, kind, scope) = (OutAction::REGISTER, ReservationType(0), Scope::LOGICAL_UNIT);
    let parameter_list_length = u32::try_from(length)?;
    let cdb = PrOutCdb { action, scope, kind, parameter_list_length, control: 0 };
    let data = if list.is_empty() { DataPhase::None } else { DataPhase::Out(list) };
    send(guest, &Request { cdb: cdb.to_bytes().to_vec(), data }).map(drop)
}

/// A type that is not this one.
fn other(kind: ReservationType) -> ReservationType {
    if kind == ReservationType::WRITE_EXCLUSIVE {
        ReservationType::EXCLUSIVE_ACCESS
    } else {
        ReservationType::WRITE_EXCLUSIVE
    }
}

/// Sends a command that must be GOOD.
pub(super) fn good(nexus: &mut dyn Nexus, request: &Request) -> Result<()> {
    let status = send(nexus, request)?;
    ensure!(status == Status::GOOD, "{:02x?}: {status}", request.cdb);
    Ok(())
}

/// Sends one that must not be.
fn refused(nexus: &mut dyn Nexus, request: &Request) -> Result<()> {
    let status = send(nexus, request)?;
    ensure!(status != Status::GOOD, "{:02x?}: {status}", request.cdb);
    Ok(())
}

fn send(nexus: &mut dyn Nexus, request: &Request) -> Result<Status> {
    Ok(retry_unit_attention(nexus, request, ATTENTIONS)?.completion.status)
}
