//! The peer's commands with types, over any [`Link`].

use super::patience;
use super::site::{CallError, Link};
use crate::ownership::{Guest, Mark, Marks, View};
use peer::message::{
    Abort, About, Attentions, Back, BackUnit, Close, Guest as Named, Id, Incoming, Mark as Told, Open,
    Opened, Owed, Record, Records, Recover, Reply, Request, State,
};

/// One handover on a link.
#[derive(Clone, Copy)]
pub(crate) struct Talk<'a> {
    pub(crate) link: &'a dyn Link,
    pub(crate) handover: Id,
}

impl Talk<'_> {
    fn about(&self) -> About {
        About { handover: self.handover }
    }

    fn call(&self, request: &Request) -> Result<Reply, CallError> {
        self.link.call(request, patience::of(request))
    }

    fn done(&self, request: &Request) -> Result<(), CallError> {
        match self.call(request)? {
            Reply::Done(_) => Ok(()),
            _ => Err(CallError::Unfit),
        }
    }

    pub(crate) fn open(&self, open: Open) -> Result<Opened, CallError> {
        match self.call(&Request::Open(open))? {
            Reply::Opened(opened) => Ok(opened),
            _ => Err(CallError::Unfit),
        }
    }

    pub(crate) fn recover(&self, recover: Recover) -> Result<Opened, CallError> {
        match self.call(&Request::Recover(recover))? {
            Reply::Opened(opened) => Ok(opened),
            _ => Err(CallError::Unfit),
        }
    }

    pub(crate) fn incoming(&self, incoming: Incoming) -> Result<String, CallError> {
        match self.call(&Request::Incoming(incoming))? {
            Reply::Listening(listening) => Ok(listening.uri),
            _ => Err(CallError::Unfit),
        }
    }

    pub(crate) fn freeze(&self) -> Result<(), CallError> {
        self.done(&Request::Freeze(self.about()))
    }

    pub(crate) fn attentions(&self, owed: Vec<Owed>) -> Result<(), CallError> {
        if owed.is_empty() {
            return Ok(());
        }
        self.done(&Request::Attentions(Attentions { handover: self.handover, owed }))
    }

    pub(crate) fn back(&self, units: Vec<BackUnit>) -> Result<(), CallError> {
        self.done(&Request::Back(Back { handover: self.handover, units }))
    }

    pub(crate) fn close(&self, verdict: &str) -> Result<(), CallError> {
        self.done(&Request::Close(Close { handover: self.handover, verdict: verdict.to_owned() }))
    }

    /// The guest is the destination's now; gives how it stands there.
    pub(crate) fn go(&self) -> Result<String, CallError> {
        match self.call(&Request::Go(self.about()))? {
            Reply::Ran(ran) => Ok(ran.guest),
            _ => Err(CallError::Unfit),
        }
    }

    /// Whether the destination has promised never to run the guest.
    pub(crate) fn abort(&self, why: &str) -> Result<bool, CallError> {
        let abort = Abort { handover: self.handover, why: why.to_owned() };
        match self.call(&Request::Abort(abort))? {
            Reply::Aborted(aborted) => Ok(aborted.given_up),
            _ => Err(CallError::Unfit),
        }
    }

    /// What the other host has of this handover; `None` where it knows nothing of it.
    pub(crate) fn state(&self, guest: Named) -> Result<Records, CallError> {
        let state = State { guest, handover: Some(self.handover) };
        match self.call(&Request::State(state))? {
            Reply::State(records) => Ok(records),
            _ => Err(CallError::Unfit),
        }
    }
}

/// What records tell of a host. One that knows nothing of the handover has made no promise.
pub(crate) fn view(records: &Records) -> View {
    let guest = match records.guest.as_deref() {
        None | Some("absent" | ENDED) => Guest::Absent,
        Some("loading") => Guest::Loading,
        Some("paused") => Guest::Paused,
        Some("running") => Guest::Running,
        Some("ran") => Guest::Ran,
        Some(_) => Guest::Unknown,
    };
    View { marks: records.record.as_ref().map(marks).unwrap_or_default(), guest }
}

/// The marks of a record.
pub(crate) fn marks(record: &Record) -> Marks {
    let marks: Marks = record.marks.iter().map(|mark| heard(*mark)).collect();
    let touched = record.luns.iter().any(|lun| lun.entry.is_some());
    if touched { marks.touched() } else { marks }
}

/// A mark in the words of the messages.
pub(crate) const fn told(mark: Mark) -> Told {
    match mark {
        Mark::Taken => Told::Taken,
        Mark::Go => Told::Go,
        Mark::Ran => Told::Ran,
        Mark::Abort => Told::Abort,
        Mark::Back => Told::Back,
    }
}

const fn heard(mark: Told) -> Mark {
    match mark {
        Told::Taken => Mark::Taken,
        Told::Go => Mark::Go,
        Told::Ran => Mark::Ran,
        Told::Abort => Mark::Abort,
        Told::Back => Mark::Back,
    }
}

/// Of a guest whose QEMU is gone, which ran at the destination before that was given it. Who does not know the word takes it for a QEMU
/// that does not answer.
const ENDED: &str = "ended";

/// Whether the guest ran at the destination before that was given it, as that host tells.
pub(crate) fn ran_there(records: &Records) -> bool {
    matches!(records.guest.as_deref(), Some("running" | "ran" | ENDED))
}

/// How a guest stands at the destination, with what that host has written down, in the words of the messages.
pub(crate) const fn word_there(guest: Guest, ran_there: bool) -> Option<&'static str> {
    match guest {
        Guest::Absent if ran_there => Some(ENDED),
        Guest::Paused if ran_there => word(Guest::Ran),
        guest => word(guest),
    }
}

/// A guest's standing in the words of the messages.
pub(crate) const fn word(guest: Guest) -> Option<&'static str> {
    match guest {
        Guest::Absent => None,
        Guest::Loading => Some("loading"),
        Guest::Paused => Some("paused"),
        Guest::Running => Some("running"),
        Guest::Ran => Some("ran"),
        Guest::Unknown => Some("unknown"),
    }
}
