//! Unit attentions that commands of a group took from the guest's nexuses, and which of them are durable.

use super::Journal;
use handover::{Group, Side, UnitIndex};
use scsi::AdditionalSense;

/// What is durable as owed to the guest on this host.
#[derive(Debug, Default)]
pub(super) struct Owed {
    recorded: Vec<(UnitIndex, AdditionalSense)>,
}

impl Owed {
    /// What a round took from the guest's nexus is the guest's wherever the handover ends, so it is durable before anything
    /// else is begun. What cannot be made so now is told again after the next round.
    pub(super) fn record(&mut self, group: &Group, side: Side, journal: &mut (impl Journal + ?Sized)) {
        let new = self.rest(group, side);
        if !new.is_empty() && journal.owe(&new) {
            let each =
                new.into_iter().flat_map(|(unit, codes)| codes.into_iter().map(move |code| (unit, code)));
            self.recorded.extend(each);
        }
    }

    /// What the guest is owed beside that if it goes on at `owner`, of each unit that lost any.
    pub(super) fn rest(&self, group: &Group, owner: Side) -> Vec<(UnitIndex, Vec<AdditionalSense>)> {
        let new = |(unit, mut codes): (UnitIndex, Vec<AdditionalSense>)| {
            codes.retain(|code| !self.recorded.contains(&(unit, *code)));
            (!codes.is_empty()).then_some((unit, codes))
        };
        group.attentions(owner).filter_map(new).collect()
    }
}
