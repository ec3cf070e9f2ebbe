//! What the policy says of one guest and one device, and of a command on it.

use super::{Access, KeyPattern, Rule};
use scsi::pr::{Key, OutAction, PrOutCdb};
use scsi::{AdditionalSense, Completion, Sense, SenseKey};

/// The rule that decides for one guest and one device.
#[derive(Clone, Copy, Debug)]
pub struct Ruling<'a> {
    pub(super) rule: Option<&'a Rule>,
    pub(super) number: Option<usize>,
    pub(super) access: Access,
    pub(super) migrate: bool,
}

/// The policy forbids a command, which therefore did not reach the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy, {by}: {what}")]
pub struct Refusal {
    by: String,
    what: String,
}

impl Refusal {
    /// What the guest is answered: CHECK CONDITION, ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE.
    #[must_use]
    pub fn completion(&self) -> Completion {
        let code = AdditionalSense::INVALID_COMMAND_OPERATION_CODE;
        Completion::check(&Sense::new(SenseKey::ILLEGAL_REQUEST, code))
    }
}

impl Ruling<'_> {
    /// Whether the guest's registration is to be carried along when it migrates.
    #[must_use]
    pub const fn migrate(&self) -> bool {
        self.migrate
    }

    /// Whether the device may be used at all; all that is asked of PERSISTENT RESERVE IN.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_in(&self) -> Result<(), Refusal> {
        match self.access {
            Access::Allow => Ok(()),
            Access::Refuse => Err(self.refuse("the device is not for this guest".into())),
        }
    }

    /// Whether a PERSISTENT RESERVE OUT may reach the device.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge_out(&self, cdb: &PrOutCdb, parameters: &[u8]) -> Result<(), Refusal> {
        self.judge_in()?;
        let Some(rule) = self.rule else { return Ok(()) };
        let action = cdb.action;
        if rule.actions.as_ref().is_some_and(|allowed| !allowed.iter().any(|each| each.is(action))) {
            return Err(self.refuse(format!("{action} is not among the allowed actions")));
        }
        let (own, new, victim) = keys_used(action, parameters);
        self.judge_key("own key", own, rule.keys.as_deref())?;
        self.judge_key("new key", new, rule.keys.as_deref())?;
        let victims = rule.victims.as_deref();
        if strikes_everybody(action, victim)
            && victims.is_some_and(|set| !set.iter().any(|each| each.is_all()))
        {
            return Err(
                self.refuse(format!("{action} strikes all keys, of which not all are allowed victims"))
            );
        }
        self.judge_key("victim", victim, victims)
    }

    fn judge_key(&self, role: &str, key: Key, allowed: Option<&[KeyPattern]>) -> Result<(), Refusal> {
        match allowed {
            Some(set) if !key.is_none() && !set.iter().any(|each| each.contains(key)) => {
                Err(self.refuse(format!("{role} {key} is not among the allowed ones")))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, what: String) -> Refusal {
        let by = self.number.map_or_else(|| "default".into(), |number| format!("rule {number}"));
        Refusal { by, what }
    }
}

/// CLEAR, and PREEMPT of key zero where all registrants hold the reservation (SPC-4 5.13.11.2.4 to .7). What type the
/// device has is not known here, and no other PREEMPT means anything with that key.
fn strikes_everybody(action: OutAction, victim: Key) -> bool {
    match action {
        OutAction::CLEAR => true,
        OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => victim.is_none(),
        _ => false,
    }
}

/// The sender's own key, the key that will be registered, and the victim's; zero where there is none. The two fields
/// lie at the same place in both parameter lists (SPC-4 6.16.3, 6.16.4); what a short list lacks, no device acts on.
fn keys_used(action: OutAction, parameters: &[u8]) -> (Key, Key, Key) {
    let field = |at: usize| {
        let bytes = parameters.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        Key(bytes.map_or(0, u64::from_be_bytes))
    };
    let own = match action {
        // RESERVATION KEY does not count here.
        OutAction::REGISTER_AND_IGNORE | OutAction::REPLACE_LOST => Key::NONE,
        _ => field(0),
    };
    match action {
        OutAction::REGISTER
        | OutAction::REGISTER_AND_IGNORE
        | OutAction::REGISTER_AND_MOVE
        | OutAction::REPLACE_LOST => (own, field(8), Key::NONE),
        OutAction::PREEMPT | OutAction::PREEMPT_AND_ABORT => (own, Key::NONE, field(8)),
        _ => (own, Key::NONE, Key::NONE),
    }
}
