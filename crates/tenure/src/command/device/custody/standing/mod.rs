//! Who has a guest that several devices may have, one after the other: the decisions of one device, without its files, its rings, its
//! peers, its clock (DESIGN P4, P5). [`Custody`](super::Custody) tells what happens ([`Event`]), carries out what comes of it ([`Act`]) and
//! tells how that ended; one thing at a time.
//!
//! In order, each step durable before the next:
//! 1. the source shuts its gate, saves the device's state, records *giving* with it and a new id, closes the LUNs and answers with both;
//! 2. the destination records *taking* with it, asks whether that still goes on (for LUNs that only one host can have open at a time, so that it
//!    does not take them from a source that has kept the guest), opens the LUNs and compares them with the state;
//! 3. it asks for the commit: the source records *away*, and serves the guest no more unless it is given back;
//! 4. the destination records *owned*, puts the state in force, records *here* and opens its gate.
//!
//! Rules that hold throughout:
//! - A record whose write failed is *in doubt*: it may be on disk or not. Nothing but the same write comes after it.
//! - Only a source that says for certain that a handover never was committed, and never will be, ends it; whatever else comes instead
//!   of an answer ends nothing.
//! - Who is *taking* has a state, and no right to it. It gives that away again only to who proves by the handover's id that it is
//!   *away* there: then the commit was done.
//! - What comes back from a call counts only where the call was made from.
//!
//! `tests` walks all orders of steps of two and three devices, with kills, failing writes, lost answers and late questions.

use super::place::{Entry, Place};
use peer::message::Id;

/// The logical units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Luns {
    /// Free for others.
    Closed,
    /// Open with the state of the place, and nothing that others could read is changed.
    Compared,
    /// Open, and what is kept beside them is that state.
    InForce,
}

/// What another device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The guest's state.
    Give,
    /// Whether a handover is under way, or was committed: before the logical units are opened.
    Check,
    /// To give the guest up.
    Commit,
}

/// A question to another device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call<H> {
    pub(super) to: H,
    pub(super) step: Step,
    /// Which handover. With [`Step::Give`], the one in which the asking device gave the guest away, 0 where it expects it.
    pub(super) id: Id,
}

/// What came of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer<H, S> {
    /// To give.
    Given(Gift<S>),
    /// To check and commit.
    Yes,
    /// There never was a commit of this handover, and there never will be.
    Unknown,
    /// The guest is elsewhere: there, if that is known.
    Elsewhere(Option<H>),
    /// Anything else, also nothing: it may have been carried out, or may be yet.
    Lost,
}

/// What a device gives another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gift<S> {
    /// The handover. Who gives names it, so that no other state is ever committed by this id.
    pub(super) id: Id,
    pub(super) epoch: u64,
    pub(super) state: S,
}

/// Why another device does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum No<H> {
    /// The guest's rings run here.
    Running,
    /// The guest is not this device's to give: it is there, if that is known.
    Elsewhere(Option<H>),
    /// There never was a commit of this handover, and there never will be.
    Unknown,
    /// Not now.
    InDoubt,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event<H, S> {
    /// Whether the guest runs here and waits at the shut gate.
    Rings(bool),
    /// What did not succeed is to be tried again.
    Retry,
    /// The record is written; if not, it may be all the same.
    Wrote(bool),
    /// The gate is shut; if not, rings are processed.
    Shut(bool),
    /// The state, if it could be saved, for that handover.
    Saved(Option<(Id, S)>),
    /// The logical units are closed; if not, they are as they were.
    Closed(bool),
    /// They are open; if not, they are closed.
    Opened(bool),
    /// Their state is in force.
    Published(bool),
    /// The gate is open.
    Served(bool),
    /// A call has ended.
    Answered(Call<H>, Answer<H, S>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act<H, S> {
    /// Make that durable.
    Write(Entry<H, S>),
    /// Shut the gate, unless rings are processed.
    Shut,
    /// Flush the logical units, and save their state, for the handover of this id.
    Save(Id),
    /// Let the logical units go.
    Close,
    /// Open them and compare them with this state, or without any, as after a power cycle.
    Open(Option<S>),
    /// Put the state that they were opened with in force, for whoever opens them next.
    Publish,
    /// Nobody else's state is good any more; open the gate.
    Serve,
    /// Ask another device.
    Call(Call<H>),
}

/// One device's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Standing<H, S> {
    entry: Entry<H, S>,
    /// What is being written, or could not be written for certain.
    next: Option<Entry<H, S>>,
    luns: Luns,
    /// The gate is open.
    open: bool,
    awaited: bool,
    call: Option<Call<H>>,
    /// To whom it is about to be given.
    giving: Option<H>,
    /// The operator claims it; `true` without its state.
    claiming: Option<bool>,
    /// The other device has just said that this goes on: the logical units may be opened. Not later, nor for a guest that stopped since.
    checked: bool,
    /// The logical units are to be closed until the next attempt.
    lets_go: bool,
    /// A third device wants the guest, which may be this one's without its knowing.
    wanted: bool,
    /// Until [`Event::Retry`].
    paused: bool,
    /// Whom to ask instead of the place's other host: as the operator says, as another device said.
    incoming: Option<H>,
    redirect: Option<H>,
}

impl<H: Clone + Eq, S: Clone + Eq> Standing<H, S> {
    /// That of a device that has just started. `luns` are in force for a guest that is here, closed for any other; the gate is shut.
    pub(super) fn new(entry: Entry<H, S>, incoming: Option<H>) -> Self {
        let luns = if matches!(entry.place, Place::Here) { Luns::InForce } else { Luns::Closed };
        let incoming =
            incoming.filter(|_| matches!(entry.place, Place::Expected { .. } | Place::Away { .. }));
        Self {
            entry,
            next: None,
            luns,
            open: false,
            awaited: false,
            call: None,
            giving: None,
            claiming: None,
            checked: false,
            lets_go: false,
            wanted: false,
            paused: false,
            incoming,
            redirect: None,
        }
    }

    /// What is known to be durable.
    pub(super) const fn entry(&self) -> &Entry<H, S> {
        &self.entry
    }

    /// Whether what is durable is not known.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.next.is_some()
    }

    /// Whether the guest may be served.
    #[cfg(test)]
    pub(super) const fn is_served(&self) -> bool {
        self.open
    }

    /// Whether something did not succeed, and waits for [`Event::Retry`].
    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the operator has just claimed the guest.
    pub(super) const fn is_claiming(&self) -> bool {
        self.claiming.is_some()
    }

    /// Whether another device is being asked.
    pub(super) const fn is_calling(&self) -> bool {
        self.call.is_some()
    }

    /// Whether a state of the logical units is on its way, from here or to here.
    pub(super) fn has_state(&self) -> bool {
        let mut entries = std::iter::once(&self.entry).chain(&self.next);
        self.giving.is_some() || entries.any(|entry| entry.place.state().is_some())
    }

    /// Whom to ask for a guest that is elsewhere.
    pub(super) fn source(&self) -> Option<&H> {
        let told = self.redirect.as_ref().or(self.incoming.as_ref());
        match &self.entry.place {
            Place::Expected { from: other } | Place::Away { to: other, .. } => Some(told.unwrap_or(other)),
            _ => None,
        }
    }

    /// Takes note of what happened.
    pub(super) fn on(&mut self, event: Event<H, S>) {
        match event {
            Event::Rings(awaited) => self.rings(awaited),
            Event::Retry => (self.paused, self.checked) = (false, false),
            Event::Wrote(true) => self.wrote(),
            Event::Wrote(false) => self.paused = true,
            Event::Shut(true) => self.open = false,
            Event::Shut(false) | Event::Saved(None) => self.giving = None,
            Event::Saved(Some((id, state))) => self.saved(id, state),
            Event::Closed(closed) => self.closed(closed),
            Event::Opened(opened) => self.opened(opened),
            Event::Published(true) => self.luns = Luns::InForce,
            Event::Published(false) => self.failed(),
            Event::Served(served) => (self.open, self.paused) = (served, !served),
            Event::Answered(call, answer) => self.answered(&call, answer),
        }
    }

    /// What is to be done now; nothing where it has to be waited for something. `fresh` is an id that nobody has used; other devices are
    /// asked only if `calls`.
    pub(super) fn act(&mut self, fresh: Id, calls: bool) -> Option<Act<H, S>> {
        if self.paused {
            return None;
        }
        if let Some(next) = &self.next {
            return Some(Act::Write(next.clone()));
        }
        if let Some(to) = self.giving.clone() {
            return Some(self.act_giving(to, fresh));
        }
        if let Some(without) = self.claiming {
            return Some(self.act_claiming(without));
        }
        if self.call.is_some() {
            return None;
        }
        if self.lets_go && self.luns != Luns::Closed {
            return Some(Act::Close);
        }
        if let Some(call) = self.question() {
            return calls.then(|| {
                self.call = Some(call.clone());
                Act::Call(call)
            });
        }
        self.act_by_place()
    }

    fn rings(&mut self, awaited: bool) {
        // Who is said to be waiting for this device may go on when its guest does not come.
        self.checked &= awaited || !self.awaited;
        self.awaited = awaited;
    }

    fn act_giving(&mut self, to: H, id: Id) -> Act<H, S> {
        match self.entry.place.state().cloned() {
            None if self.open => Act::Shut,
            None => Act::Save(id),
            Some(_) if self.luns != Luns::Closed => Act::Close,
            Some(state) => self.write(self.entry.epoch, Place::Giving { id, to, state }),
        }
    }

    fn act_claiming(&mut self, without: bool) -> Act<H, S> {
        match self.luns {
            Luns::Closed if without => Act::Open(None),
            Luns::Closed => Act::Open(self.entry.place.state().cloned()),
            Luns::Compared => Act::Publish,
            // One more than whoever has it by a commit that this device does not know of.
            Luns::InForce => self.write(self.entry.epoch.saturating_add(2), Place::Here),
        }
    }

    /// What another device is to be asked.
    fn question(&self) -> Option<Call<H>> {
        let wants = self.awaited || self.wanted;
        let is_open = self.luns != Luns::Closed;
        let (to, step, id) = match &self.entry.place {
            Place::Taking { id, from, .. } if wants && is_open => (from, Step::Commit, *id),
            Place::Taking { id, from, .. } if wants && !self.checked => (from, Step::Check, *id),
            place @ (Place::Expected { .. } | Place::Away { .. }) if self.awaited && !is_open => {
                (self.source()?, Step::Give, place.id())
            }
            _ => return None,
        };
        Some(Call { to: to.clone(), step, id })
    }

    fn act_by_place(&mut self) -> Option<Act<H, S>> {
        match self.entry.place.clone() {
            Place::Here => (!self.open).then_some(Act::Serve),
            Place::Owned { state } => Some(self.act_owned(state)),
            Place::Giving { state, .. } if self.awaited => {
                Some(self.write(self.entry.epoch, Place::Owned { state }))
            }
            Place::Taking { state, .. } if self.awaited || self.wanted => Some(Act::Open(Some(state))),
            _ => (self.luns != Luns::Closed).then_some(Act::Close),
        }
    }

    fn act_owned(&mut self, state: S) -> Act<H, S> {
        match self.luns {
            Luns::Closed => Act::Open(Some(state)),
            Luns::Compared => Act::Publish,
            Luns::InForce => self.write(self.entry.epoch, Place::Here),
        }
    }

    fn write(&mut self, epoch: u64, place: Place<H, S>) -> Act<H, S> {
        Act::Write(self.begin(epoch, place))
    }

    /// From here on it may be durable.
    fn begin(&mut self, epoch: u64, place: Place<H, S>) -> Entry<H, S> {
        let entry = Entry { epoch, place };
        self.next = Some(entry.clone());
        self.paused = false;
        entry
    }

    fn wrote(&mut self) {
        let Some(next) = self.next.take() else { return };
        // What was refused is not asked for again at once.
        let refused = matches!(next.place, Place::Expected { .. });
        (self.lets_go, self.paused) = (refused, refused && self.luns == Luns::Closed);
        if matches!(next.place, Place::Owned { .. } | Place::Here) {
            (self.incoming, self.redirect) = (None, None);
        }
        (self.giving, self.claiming, self.checked, self.wanted) = (None, None, false, false);
        self.entry = next;
    }

    fn saved(&mut self, id: Id, state: S) {
        if let (Some(to), Place::Here) = (self.giving.clone(), &self.entry.place) {
            self.begin(self.entry.epoch, Place::Giving { id, to, state });
        }
    }

    fn closed(&mut self, closed: bool) {
        if !closed {
            return self.failed();
        }
        (self.luns, self.checked) = (Luns::Closed, false);
        self.paused |= std::mem::take(&mut self.lets_go);
    }

    fn opened(&mut self, opened: bool) {
        self.checked = false;
        if opened {
            self.luns = Luns::Compared;
        } else {
            self.failed();
        }
    }

    /// What was begun is given up; what has to be, is tried again later.
    fn failed(&mut self) {
        // Open without the state of the place they are of no use to it.
        self.lets_go = self.claiming.take() == Some(true) && self.luns != Luns::Closed;
        (self.giving, self.paused) = (None, true);
    }

    fn answered(&mut self, call: &Call<H>, answer: Answer<H, S>) {
        self.call = None;
        if self.next.is_some() {
            return;
        }
        match (call.step, self.entry.place.clone()) {
            (Step::Give, place @ (Place::Expected { .. } | Place::Away { .. })) if place.id() == call.id => {
                self.was_given(call, answer);
            }
            (step, Place::Taking { id, from, state }) if id == call.id => {
                match answer {
                    Answer::Yes if step == Step::Check => self.checked = self.awaited || self.wanted,
                    Answer::Yes => {
                        self.begin(self.entry.epoch.saturating_add(1), Place::Owned { state });
                    }
                    Answer::Unknown => {
                        self.begin(self.entry.epoch, Place::Expected { from });
                    }
                    // Should it not be this device's, the other one must be able to open the LUNs.
                    _ if self.luns != Luns::Closed => self.lets_go = true,
                    _ => self.paused = true,
                }
            }
            _ => {}
        }
    }

    fn was_given(&mut self, call: &Call<H>, answer: Answer<H, S>) {
        self.redirect = None;
        self.paused = true;
        match answer {
            // Who has seen fewer changes has an old record.
            Answer::Given(Gift { epoch, .. }) if epoch < self.entry.epoch => {}
            Answer::Given(Gift { id, epoch, state }) => {
                self.begin(epoch, Place::Taking { id, from: call.to.clone(), state });
            }
            Answer::Elsewhere(there) => self.redirect = there,
            _ => {}
        }
    }

    /// Another device asks; if that is not refused at once, [`Standing::answer`] says what it gets, when there is nothing more to do.
    pub(super) fn asked(&mut self, from: &H, call: &Call<H>) -> Result<(), No<H>> {
        if self.next.is_some() || self.giving.is_some() || self.claiming.is_some() {
            return Err(No::InDoubt);
        }
        match call.step {
            Step::Give => self.asked_to_give(from, call),
            Step::Check => Ok(()),
            Step::Commit => self.asked_to_commit(from, call.id),
        }
    }

    fn asked_to_give(&mut self, to: &H, call: &Call<H>) -> Result<(), No<H>> {
        let is_theirs = match &self.entry.place {
            Place::Here | Place::Owned { .. } | Place::Giving { .. } => true,
            Place::Taking { id, from, .. } => from == to && *id == call.id,
            Place::Expected { .. } | Place::Away { .. } => false,
        };
        if !is_theirs {
            // Who is taking finds out whether it is his: then a third device can have it.
            self.wanted = matches!(&self.entry.place, Place::Taking { from, .. } if from != to);
            return Err(No::Elsewhere(self.entry.place.other().cloned()));
        }
        if self.awaited {
            return Err(No::Running);
        }
        (self.giving, self.paused) = (Some(to.clone()), false);
        Ok(())
    }

    fn asked_to_commit(&mut self, to: &H, id: Id) -> Result<(), No<H>> {
        match &self.entry.place {
            Place::Away { id: ours, .. } if *ours == id => Ok(()),
            Place::Giving { id: ours, to: other, .. } if *ours == id && other == to => {
                if self.awaited {
                    return Err(No::Running);
                }
                if self.luns != Luns::Closed {
                    return Err(No::InDoubt);
                }
                self.begin(self.entry.epoch, Place::Away { id, to: to.clone() });
                Ok(())
            }
            _ => Err(No::Unknown),
        }
    }

    /// What another device gets for what it [asked](Standing::asked): the state where it is given.
    pub(super) fn answer(&self, from: &H, call: &Call<H>) -> Result<Option<Gift<S>>, No<H>> {
        if self.next.is_some() {
            return Err(No::InDoubt);
        }
        match (call.step, &self.entry.place) {
            (Step::Give, Place::Giving { id, to, state }) if to == from && self.luns == Luns::Closed => {
                Ok(Some(Gift { id: *id, epoch: self.entry.epoch, state: state.clone() }))
            }
            (Step::Give, Place::Here) if self.open => Err(No::Running),
            (Step::Give, _) => Err(No::InDoubt),
            (Step::Check, Place::Giving { id, .. } | Place::Away { id, .. }) if *id == call.id => Ok(None),
            (Step::Check, _) => Err(No::Unknown),
            (Step::Commit, Place::Away { id, .. }) if *id == call.id => Ok(None),
            (Step::Commit, _) => Err(No::InDoubt),
        }
    }

    /// The operator says that the guest is this device's; `without` its state, which nobody has any more. It has succeeded when the place
    /// is *here*. The other devices are gone for good.
    ///
    /// # Errors
    /// What speaks against it; nothing has changed then. In doubt after it, the claim holds: its record is still to be written.
    pub(super) fn claim(&mut self, without: bool) -> Result<(), &'static str> {
        if self.next.is_some() {
            return Err("its record cannot be written");
        }
        match (&self.entry.place, without) {
            (Place::Here, _) => return Err("it is here"),
            (place, false) if place.state().is_none() => {
                return Err("its state is not here: without-state opens its LUNs as after a power failure");
            }
            _ if self.lets_go => return Err("its LUNs are being closed"),
            (_, true) if self.luns != Luns::Closed => return Err("its LUNs are open with its state"),
            _ => {}
        }
        (self.claiming, self.paused) = (Some(without), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
