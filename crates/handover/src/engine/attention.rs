//! Unit attentions that own commands took: what they mean for the handover, and which are owed to the guest.
//!
//! A unit attention taken from the guest's nexus is gone from the device, so it is kept here and handed to the guest
//! once, by whoever runs it afterwards.

use crate::action::Side;
use scsi::AdditionalSense;

/// Most codes kept per side; a guest that was never told of more than this is told of a reset anyway.
const MAX_KEPT: usize = 8;

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Attentions {
    source: Vec<AdditionalSense>,
    destination: Vec<AdditionalSense>,
    /// The source's are the guest's (before the commit).
    pub(crate) source_counts: bool,
    /// The destination's are the guest's (once it is registered).
    pub(crate) destination_counts: bool,
    /// A power-on or reset was reported.
    pub(crate) reset: bool,
    /// The same, since own commands are counted: PRGENERATION may have begun anew.
    pub(crate) reset_lately: bool,
    /// The destination had one since PRGENERATION was read.
    pub(crate) destination_stirred: bool,
}

impl Attentions {
    /// Before a handover: what the source's nexus reports is the guest's.
    pub(crate) fn new() -> Self {
        Self { source_counts: true, ..Self::default() }
    }

    /// Notes one.
    pub(crate) fn take(&mut self, side: Side, code: AdditionalSense) {
        let reset = code.asc == AdditionalSense::POWER_ON_OR_RESET.asc && code.ascq <= 1;
        self.reset |= reset;
        self.reset_lately |= reset;
        self.destination_stirred |= side == Side::Destination;
        let (list, counts) = match side {
            Side::Source => (&mut self.source, self.source_counts),
            Side::Destination => (&mut self.destination, self.destination_counts),
        };
        if counts && !list.contains(&code) && list.len() < MAX_KEPT {
            list.push(code);
            list.sort_unstable();
        }
    }

    /// What the guest is owed if it goes on at `owner`. The source's device keeps what was not taken there; the
    /// destination's never had what the source's had.
    pub(crate) fn owed(&self, owner: Side) -> Vec<AdditionalSense> {
        let mut owed = self.source.clone();
        if owner == Side::Destination {
            owed.extend(self.destination.iter().filter(|code| !self.source.contains(code)));
        }
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_once_of_what_either_nexus_was_told() {
        let mut attentions =
            Attentions { source_counts: true, destination_counts: true, ..Default::default() };
        attentions.take(Side::Source, AdditionalSense::CAPACITY_CHANGED);
        attentions.take(Side::Destination, AdditionalSense::CAPACITY_CHANGED);
        attentions.take(Side::Destination, AdditionalSense::RESERVATIONS_RELEASED);
        assert_eq!(
            attentions.owed(Side::Destination),
            [AdditionalSense::CAPACITY_CHANGED, AdditionalSense::RESERVATIONS_RELEASED]
        );
        assert_eq!(attentions.owed(Side::Source), [AdditionalSense::CAPACITY_CHANGED]);
    }

    #[test]
    fn what_the_destination_had_before_it_registered_is_not_the_guests() {
        let mut attentions = Attentions::default();
        attentions.take(Side::Destination, AdditionalSense::POWER_ON);
        assert_eq!(attentions.owed(Side::Destination), []);
        assert!(attentions.reset && attentions.destination_stirred);
    }

    #[test]
    fn a_nexus_loss_is_no_loss_of_power() {
        let mut attentions = Attentions::default();
        attentions.take(Side::Source, AdditionalSense::NEXUS_LOSS);
        attentions.take(Side::Source, AdditionalSense::TARGET_RESET);
        assert!(!attentions.reset);
    }
}
