//! The words of the policy file that stand for codes.

use scsi::pr::OutAction;
use serde::Deserialize;

/// `version = 1`, the only one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1 => Ok(Self),
            newer => Err(format!("this program reads policies of version 1, not {newer}")),
        }
    }
}

/// A service action of PERSISTENT RESERVE OUT by its name, as `tenure pr` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    Register,
    Reserve,
    Release,
    Clear,
    Preempt,
    PreemptAbort,
    RegisterIgnore,
    RegisterMove,
    ReplaceLost,
}

impl Action {
    pub(super) const fn is(self, action: OutAction) -> bool {
        self as u8 == action.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_service_action_code() {
        let pairs = [
            (Action::Register, OutAction::REGISTER),
            (Action::Reserve, OutAction::RESERVE),
            (Action::Release, OutAction::RELEASE),
            (Action::Clear, OutAction::CLEAR),
            (Action::Preempt, OutAction::PREEMPT),
            (Action::PreemptAbort, OutAction::PREEMPT_AND_ABORT),
            (Action::RegisterIgnore, OutAction::REGISTER_AND_IGNORE),
            (Action::RegisterMove, OutAction::REGISTER_AND_MOVE),
            (Action::ReplaceLost, OutAction::REPLACE_LOST),
        ];
        assert!(pairs.iter().all(|(name, code)| name.is(*code)));
    }
}
