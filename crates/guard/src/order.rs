//! A PERSISTENT RESERVE OUT as the guest ordered it: what it can change, and what it explains (SPC-4 5.13, 6.16).

use handover::Tracked;
use ledger::Intended;
use scsi::pr::{BasicParameters, Key, MoveParameters, OutAction, PrOutCdb};
use scsi::{DataPhase, FieldError, Request};

/// Byte of the parameter list with SPEC_I_PT, ALL_TG_PT and APTPL.
const FLAGS: u16 = 20;

/// The command, taken apart.
#[derive(Clone, Debug)]
pub struct Order {
    /// The CDB.
    pub cdb: PrOutCdb,
    /// The CDB as it came, which is how it is sent.
    raw: Vec<u8>,
    /// Its parameter list.
    pub list: Vec<u8>,
    pub(crate) intended: Intended,
}

impl Order {
    /// `raw`: the CDB as it came. `list`: the whole parameter list.
    #[must_use]
    pub fn new(cdb: PrOutCdb, raw: Vec<u8>, list: Vec<u8>) -> Self {
        let intended = intended(&cdb, &list);
        Self { cdb, raw, list, intended }
    }

    /// What is sent.
    #[must_use]
    pub fn request(&self) -> Request {
        Request { cdb: self.raw.clone(), data: DataPhase::Out(self.list.clone()) }
    }

    /// Whether the device, if it accepts this, may leave something else than `known`. A repeated RESERVE and a REGISTER of
    /// the registered key change nothing.
    pub(crate) fn may_change(&self, known: Option<Tracked>) -> bool {
        let Some(known) = known else { return !self.list.is_empty() };
        let Intended { action, kind, reservation_key, service_action_key: new, .. } = self.intended;
        let same = match action {
            OutAction::REGISTER => known.key == Some(new) && reservation_key == new && self.same_flags(known),
            OutAction::REGISTER_AND_IGNORE => known.key == Some(new) && self.same_flags(known),
            OutAction::RESERVE => known.key == Some(reservation_key) && known.held == Some(kind),
            _ => false,
        };
        !same && !self.list.is_empty()
    }

    fn same_flags(&self, known: Tracked) -> bool {
        let Intended { aptpl, all_target_ports, .. } = self.intended;
        aptpl == known.aptpl && (known.all_target_ports || !all_target_ports)
    }

    /// SPEC_I_PT and ALL_TG_PT make registrations of other nexuses, which no handover could carry along: the answer of a
    /// target without them. Where no target looks at ALL_TG_PT it may be set.
    #[must_use]
    pub fn beyond_own_nexus(&self) -> Option<FieldError> {
        let bits: &[u8] = match self.cdb.action {
            OutAction::REGISTER_AND_MOVE => &[],
            OutAction::REGISTER | OutAction::REGISTER_AND_IGNORE => &[3, 2],
            _ => &[3],
        };
        let flags = self.list.get(usize::from(FLAGS)).copied().unwrap_or_default();
        let bit = *bits.iter().find(|bit| flags & (1 << **bit) != 0)?;
        Some(FieldError::parameter_bit(FLAGS, bit))
    }

    /// The key that GOOD proves to be registered. RELEASE proves none: LIO does not look at its key while nobody holds.
    pub(crate) fn proven_key(&self) -> Option<Key> {
        let checked = matches!(
            self.cdb.action,
            OutAction::RESERVE
                | OutAction::CLEAR
                | OutAction::PREEMPT
                | OutAction::PREEMPT_AND_ABORT
                | OutAction::REGISTER_AND_MOVE
        );
        let key = self.intended.reservation_key;
        (checked && !key.is_none() && !self.list.is_empty()).then_some(key)
    }
}

fn intended(cdb: &PrOutCdb, list: &[u8]) -> Intended {
    let nothing = Intended {
        action: cdb.action,
        kind: cdb.kind,
        reservation_key: Key::NONE,
        service_action_key: Key::NONE,
        aptpl: false,
        all_target_ports: false,
        unregister: false,
    };
    if cdb.action == OutAction::REGISTER_AND_MOVE {
        return MoveParameters::parse(list).map_or(nothing, |list| Intended {
            reservation_key: list.reservation_key,
            service_action_key: list.service_action_key,
            aptpl: list.aptpl,
            unregister: list.unregister,
            ..nothing
        });
    }
    BasicParameters::parse(list).map_or(nothing, |list| Intended {
        reservation_key: list.reservation_key,
        service_action_key: list.service_action_key,
        aptpl: list.aptpl,
        all_target_ports: list.all_target_ports,
        ..nothing
    })
}

/// Whether this command itself may have ended the registration under `own`.
pub(crate) fn explains_loss(intended: &Intended, own: Key) -> bool {
    match intended.action {
        OutAction::REGISTER | OutAction::REGISTER_AND_IGNORE => intended.service_action_key.is_none(),
        OutAction::CLEAR => true,
        OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => {
            intended.service_action_key == own || intended.service_action_key.is_none()
        }
        OutAction::REGISTER_AND_MOVE => intended.unregister,
        _ => false,
    }
}

/// Whether this command, carried out, registers its nexus: only so does a fenced guest come back.
pub(crate) fn registers(intended: &Intended) -> bool {
    let sets = intended.action.is_register() || intended.action == OutAction::REPLACE_LOST;
    sets && !intended.service_action_key.is_none()
}

/// Whether this command, carried out, may remove registrations of other nexuses.
pub(crate) const fn removes_others(intended: &Intended) -> bool {
    matches!(intended.action, OutAction::CLEAR | OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT)
}

/// Whether this command, carried out, also removes another nexus's registration under `key`.
pub(crate) fn removes(intended: &Intended, key: Key) -> bool {
    match intended.action {
        OutAction::CLEAR => true,
        OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => {
            // None stands for everybody else's under a reservation of all registrants (SPC-4 5.13.11.2.4).
            intended.service_action_key == key || intended.service_action_key.is_none()
        }
        _ => false,
    }
}

/// What may be registered, likeliest first: the key that an order under way sets, and the recorded one. Each with the
/// APTPL that a REGISTER of it must repeat.
pub(crate) fn candidates(recorded: Tracked, under_way: Option<&Intended>) -> Vec<(Key, bool)> {
    let sets = |order: &&Intended| order.action.is_register() || order.action == OutAction::REPLACE_LOST;
    let new = under_way.filter(sets).map(|order| (order.service_action_key, order.aptpl));
    let adopted = under_way.filter(|order| !sets(order)).map(|order| (order.reservation_key, recorded.aptpl));
    let old = recorded.key.map(|key| (key, recorded.aptpl));
    let mut all: Vec<(Key, bool)> = [new, old, adopted].into_iter().flatten().collect();
    all.retain(|(key, _)| !key.is_none());
    all.dedup_by_key(|(key, _)| *key);
    all
}
