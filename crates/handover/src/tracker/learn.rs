//! What the device tells when it is asked: the replies that make a tracker sure again.

use super::{Tracked, Tracker};
use crate::facts::FullStatusDigest;
use crate::settings::{Port, Settings};
use scsi::pr::{FullStatus, Key, ReadKeys, ReadReservation};

impl Tracker {
    /// READ FULL STATUS with the nexus's own names settles everything. Whether it could be used.
    pub fn learn_full_status(&mut self, status: &FullStatus, own: &Port) -> bool {
        let nobody = Port::default();
        let mut settings = Settings::new(None, Key::NONE, own.clone(), nobody);
        settings.destination.clear();
        let Some((key, digest)) = FullStatusDigest::of(status, None, &settings) else { return false };
        let registered = digest.source.with_key != 0 && !key.is_none();
        let held = digest.kind.filter(|_| registered && digest.source.holder.is_some());
        let kept =
            if registered { self.state } else { Tracked { aptpl: self.state.aptpl, ..Tracked::default() } };
        self.state = Tracked { key: registered.then_some(key), held, ..kept };
        self.wants = super::Wants::default();
        true
    }

    /// READ KEYS: a key that is not listed is nobody's. One that is listed may be a sharer's, so the probe is left.
    pub fn learn_keys(&mut self, keys: &ReadKeys) {
        let listed = self.state.key.is_some_and(|key| keys.keys.contains(&key));
        if !listed && !keys.truncated {
            self.forget();
        }
    }

    /// REGISTER of the last known key to itself: GOOD, or RESERVATION CONFLICT.
    pub fn learn_probe(&mut self, good: bool) {
        if good && self.state.key.is_some() {
            self.wants.registration = false;
        } else {
            self.forget();
        }
    }

    /// READ RESERVATION. With a single holder whose key is ours it is taken for us; where keys are shared only READ FULL
    /// STATUS can tell.
    pub fn learn_reservation(&mut self, read: &ReadReservation) {
        if self.wants.registration {
            return;
        }
        let ours = |key: Key| self.state.key.is_some_and(|own| key == own);
        let held = read.reservation.filter(|held| {
            let all = held.kind.is_all_registrants();
            (all && self.state.key.is_some()) || (!all && ours(held.key))
        });
        self.hold(held.map(|held| held.kind));
    }
}
