//! Unit attentions that own commands took: what they mean for the handover, and which are owed to the guest.
//!
//! A unit attention taken from the guest's nexus is gone from the device, so it is kept here and handed to the guest
//! once, by whoever runs it afterwards.

use crate::action::{Path, Side};
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
    /// The target lost power while its registrations did not survive that.
    pub(crate) forgot: bool,
    /// APTPL was off when it was last read.
    volatile: bool,
    /// Bit per nexus that has answered since APTPL was first read as off. Only there is a power-on news: elsewhere it
    /// may be as old as the session, or older than the reading.
    heard: u16,
    /// A power-on or reset was reported since own commands are counted: PRGENERATION may have begun anew.
    pub(crate) reset_lately: bool,
    /// The destination had one since PRGENERATION was read.
    pub(crate) destination_stirred: bool,
}

impl Attentions {
    /// Before a handover: what the source's nexus reports is the guest's.
    pub(crate) fn new() -> Self {
        Self { source_counts: true, ..Self::default() }
    }

    /// A nexus answered otherwise than with a unit attention.
    pub(crate) const fn hear(&mut self, path: Path) {
        self.heard |= place(path);
    }

    /// APTPL was read on `path`.
    pub(crate) const fn persistence_read(&mut self, path: Path, active: bool) {
        self.heard = place(path) | if self.volatile { self.heard } else { 0 };
        self.volatile = !active;
    }

    /// Notes one.
    pub(crate) fn take(&mut self, path: Path, code: AdditionalSense) {
        let side = path.side;
        let reset = code.asc == AdditionalSense::POWER_ON_OR_RESET.asc && code.ascq <= 1;
        self.forgot |= reset && self.volatile && self.heard & place(path) != 0;
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

/// The bit of a nexus.
const fn place(path: Path) -> u16 {
    let shift = match path.side {
        Side::Source => 0,
        Side::Destination => 8,
    };
    1 << (shift + (path.index & 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Path = Path::source(0);
    const D: Path = Path::destination(0);

    #[test]
    fn the_guest_is_told_once_of_what_either_nexus_was_told() {
        let mut attentions =
            Attentions { source_counts: true, destination_counts: true, ..Default::default() };
        attentions.take(S, AdditionalSense::CAPACITY_CHANGED);
        attentions.take(D, AdditionalSense::CAPACITY_CHANGED);
        attentions.take(D, AdditionalSense::RESERVATIONS_RELEASED);
        assert_eq!(
            attentions.owed(Side::Destination),
            [AdditionalSense::CAPACITY_CHANGED, AdditionalSense::RESERVATIONS_RELEASED]
        );
        assert_eq!(attentions.owed(Side::Source), [AdditionalSense::CAPACITY_CHANGED]);
    }

    #[test]
    fn what_the_destination_had_before_it_registered_is_not_the_guests() {
        let mut attentions = Attentions::default();
        attentions.take(D, AdditionalSense::POWER_ON);
        assert_eq!(attentions.owed(Side::Destination), []);
        assert!(attentions.reset_lately && attentions.destination_stirred);
    }

    #[test]
    fn a_nexus_loss_is_no_loss_of_power() {
        let mut attentions = Attentions::default();
        attentions.persistence_read(S, false);
        attentions.take(S, AdditionalSense::NEXUS_LOSS);
        attentions.take(S, AdditionalSense::TARGET_RESET);
        assert!(!attentions.reset_lately && !attentions.forgot);
    }

    /// What the attentions say after APTPL was read on the destination and a power-on was then reported on `path`.
    fn after_power_on(active: bool, heard: bool, path: Path) -> bool {
        let mut attentions = Attentions::new();
        attentions.hear(path);
        attentions.persistence_read(D, active);
        if heard {
            attentions.hear(path);
        }
        attentions.take(path, AdditionalSense::POWER_ON);
        attentions.forgot
    }

    #[test]
    fn a_target_forgets_only_what_was_volatile_when_last_read() {
        assert!(after_power_on(false, false, D));
        assert!(!after_power_on(true, false, D));
    }

    #[test]
    fn a_power_on_older_than_the_reading_of_aptpl_is_no_news() {
        assert!(!after_power_on(false, false, S), "the session may have waited to tell since it began");
        assert!(after_power_on(false, true, S));
    }
}
