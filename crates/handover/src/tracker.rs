//! What one I_T nexus has registered and holds, learnt from the commands the device accepted (SPC-4 5.13).
//!
//! Observes every command of the guest with its completion. Only GOOD counts; whatever the device rejected changes
//! nothing, and parameter lists may have any length. Where a command's effect cannot be told from outside, or a unit
//! attention or an unexpected conflict says that somebody else acted, the tracker becomes unsure and says what to ask
//! ([`Tracker::wants`]); nothing is asked from here. Used per guest and logical unit by the pr-helper, the vhost-user
//! device and the ledger.

mod learn;

use scsi::pr::{BasicParameters, Key, MoveParameters, OutAction, PrOutCdb, ReservationType};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Sense, SenseKey, Status, opcode};

/// What is known of a nexus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tracked {
    /// The registered key; `None`: not registered.
    pub key: Option<Key>,
    /// The type of the reservation of which this nexus is the holder, or, for the all registrants types, one of them.
    pub held: Option<ReservationType>,
    /// The last APTPL that this nexus set.
    pub aptpl: bool,
    /// It registered with ALL_TG_PT.
    pub all_target_ports: bool,
}

/// What must be asked of the device before [`Tracker::state`] is known again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wants {
    /// Whether the nexus is registered: READ FULL STATUS, or READ KEYS and the probe REGISTER K to K.
    pub registration: bool,
    /// What it holds: READ RESERVATION, better READ FULL STATUS.
    pub reservation: bool,
}

impl Wants {
    const ALL: Self = Self { registration: true, reservation: true };

    /// Nothing is to be asked.
    #[must_use]
    pub const fn nothing(self) -> bool {
        !self.registration && !self.reservation
    }
}

/// Learns from commands; says when it cannot know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tracker {
    state: Tracked,
    wants: Wants,
}

impl Tracker {
    /// A nexus that has registered nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A nexus as it was recorded earlier. Whether it still is so must be asked.
    #[must_use]
    pub const fn recorded(state: Tracked) -> Self {
        Self { state, wants: Wants::ALL }
    }

    /// What is known; `None` while the device must be asked.
    #[must_use]
    pub const fn state(&self) -> Option<Tracked> {
        if self.wants.nothing() { Some(self.state) } else { None }
    }

    /// The last that was known, sure or not: what to probe with.
    #[must_use]
    pub const fn last(&self) -> Tracked {
        self.state
    }

    /// It is certain that the nexus is registered.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        self.state.key.is_some() && !self.wants.registration
    }

    /// What must be asked.
    #[must_use]
    pub const fn wants(&self) -> Wants {
        self.wants
    }

    /// Somebody else may have acted (a new session under other names, a takeover): everything must be asked.
    pub const fn doubt(&mut self) {
        self.wants = Wants::ALL;
    }

    /// Somebody else may have changed what it holds.
    pub const fn doubt_reservation(&mut self) {
        self.wants.reservation = true;
    }

    /// Takes note of a command and what the device answered.
    pub fn observe(&mut self, request: &Request, completion: &Completion) {
        match completion.status {
            Status::GOOD => self.good(request, completion),
            Status::CHECK_CONDITION => {
                if let Some(sense) = completion.decoded_sense() {
                    self.attention(&sense);
                }
            }
            Status::RESERVATION_CONFLICT if self.conflict_is_news(request) => self.doubt(),
            _ => {}
        }
    }

    fn good(&mut self, request: &Request, completion: &Completion) {
        match request.cdb.first() {
            Some(&opcode::PERSISTENT_RESERVE_OUT) => self.changed(request),
            Some(&opcode::REQUEST_SENSE) => {
                // A unit attention may be delivered as data (SPC-4 6.39).
                if let Some(sense) = Sense::parse(&completion.data) {
                    self.attention(&sense);
                }
            }
            _ => {}
        }
    }

    /// A unit attention that says that registrations or reservations are not what they were.
    fn attention(&mut self, sense: &Sense) {
        if sense.key != SenseKey::UNIT_ATTENTION {
            return;
        }
        match sense.code {
            AdditionalSense::RESERVATIONS_PREEMPTED | AdditionalSense::REGISTRATIONS_PREEMPTED => {
                self.doubt()
            }
            AdditionalSense::RESERVATIONS_RELEASED => self.wants.reservation = true,
            // A reset harms nothing, but may stand for a power cycle, and some targets drop what was queued behind it.
            code if code.asc == AdditionalSense::POWER_ON.asc && code != AdditionalSense::NEXUS_LOSS => {
                self.doubt();
            }
            _ => {}
        }
    }

    /// A conflict that the tracked state should have excluded. One that it explains (a wrong key, somebody else's
    /// reservation, a PREEMPT of a key that nobody has) is no news.
    fn conflict_is_news(&self, request: &Request) -> bool {
        if request.cdb.first() != Some(&opcode::PERSISTENT_RESERVE_OUT) {
            return self.state.held.is_some() && request.cdb.first() != Some(&opcode::PERSISTENT_RESERVE_IN);
        }
        let Some((cdb, list)) = parse(request) else { return false };
        let Ok(parameters) = BasicParameters::parse(list) else { return false };
        let right_key = parameters.reservation_key == self.state.key.unwrap_or_default();
        match cdb.action {
            OutAction::REGISTER_AND_IGNORE => true,
            OutAction::REGISTER => right_key,
            OutAction::CLEAR => right_key && self.state.key.is_some(),
            // LIO answers a RELEASE of another type than the holder's like this, not with INVALID RELEASE.
            OutAction::RELEASE => {
                let other_type = self.state.held.is_some_and(|held| held != cdb.kind);
                right_key && self.state.key.is_some() && !other_type
            }
            OutAction::RESERVE => right_key && self.state.held == Some(cdb.kind),
            OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => {
                right_key && self.state.key == Some(parameters.service_action_key)
            }
            OutAction::REGISTER_AND_MOVE => right_key && self.state.held.is_some(),
            _ => false,
        }
    }

    /// PERSISTENT RESERVE OUT ended GOOD. Without a parameter list there was nothing to do; with one that cannot be
    /// read, the device did something nobody knows.
    fn changed(&mut self, request: &Request) {
        let Some((cdb, list)) = parse(request) else { return self.doubt() };
        if list.is_empty() {
            return;
        }
        if cdb.action == OutAction::REGISTER_AND_MOVE {
            return match MoveParameters::parse(list) {
                Ok(parameters) => self.moved(&parameters),
                Err(_) => self.doubt(),
            };
        }
        let Ok(parameters) = BasicParameters::parse(list) else { return self.doubt() };
        match cdb.action {
            OutAction::REGISTER => {
                // GOOD proves the key it was sent with: another one than was known means that somebody removed that.
                if parameters.reservation_key != self.state.key.unwrap_or_default() {
                    self.state = Tracked { key: None, held: None, ..self.state };
                }
                self.registered(&parameters);
            }
            OutAction::REGISTER_AND_IGNORE => self.registered(&parameters),
            OutAction::RESERVE => self.hold(Some(cdb.kind)),
            OutAction::RELEASE => self.hold(None),
            OutAction::CLEAR => self.forget(),
            OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => {
                self.preempted(cdb.kind, parameters.service_action_key);
            }
            OutAction::REPLACE_LOST => {
                self.state.key = Some(parameters.service_action_key);
                self.wants.registration = false;
                self.hold(Some(cdb.kind));
            }
            _ => self.doubt(),
        }
    }

    const fn hold(&mut self, kind: Option<ReservationType>) {
        self.state.held = kind;
        self.wants.reservation = false;
    }

    fn forget(&mut self) {
        self.state = Tracked { aptpl: self.state.aptpl, ..Tracked::default() };
        self.wants = Wants::default();
    }

    /// A new registrant is at once one of the holders if the reservation is of an all registrants type, which only
    /// the device knows.
    fn registered(&mut self, parameters: &BasicParameters) {
        let new = parameters.service_action_key;
        if new.is_none() {
            self.forget();
            self.state.aptpl = parameters.aptpl;
            return;
        }
        let fresh = self.state.key.is_none() || self.wants.registration;
        self.state.key = Some(new);
        self.state.aptpl = parameters.aptpl;
        self.state.all_target_ports |= parameters.all_target_ports;
        self.wants.registration = false;
        self.wants.reservation |= fresh;
    }

    /// Only a single holder that preempts its own key has an effect that can be told: the new type, and it stays.
    fn preempted(&mut self, kind: ReservationType, victim: Key) {
        let single = self.state.held.is_some_and(|held| !held.is_all_registrants());
        let own = self.state.key == Some(victim);
        if single && own && self.wants.nothing() {
            return self.hold(Some(kind));
        }
        self.wants.reservation = true;
        self.wants.registration |= own;
    }

    fn moved(&mut self, parameters: &MoveParameters) {
        self.hold(None);
        self.state.aptpl = parameters.aptpl;
        if parameters.unregister {
            self.state.key = None;
            self.state.all_target_ports = false;
            self.wants.registration = false;
        }
    }
}

/// The CDB, and the parameter list as far as the CDB announces it and the initiator sent it.
fn parse(request: &Request) -> Option<(PrOutCdb, &[u8])> {
    let cdb = PrOutCdb::parse(&request.cdb).ok()?;
    let sent = match &request.data {
        DataPhase::Out(list) => list.as_slice(),
        DataPhase::None | DataPhase::In(_) => &[],
    };
    let announced = usize::try_from(cdb.parameter_list_length).unwrap_or(usize::MAX);
    Some((cdb, sent.get(..announced).unwrap_or(sent)))
}

#[cfg(test)]
mod tests;
