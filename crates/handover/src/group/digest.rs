//! What a group does, in one number that is the same on every host: FNV-1a, 64 bits, over an encoding that depends on
//! neither the compiler nor the machine. Two hosts that run the same group compare it before every round.

use super::UnitIndex;
use crate::action::{Action, Path, Phase, Side};
use crate::journal::Entry;
use crate::known_targets::{Known, Traits};
use crate::recovery::Remains;
use crate::settings::{Port, Settings};
use crate::verdict::Verdict;
use scsi::pr::Key;
use scsi::{DataPhase, Request};

/// A running digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64);

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Digest {
    pub(super) const fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    pub(super) const fn value(self) -> u64 {
        self.0
    }

    /// Adds raw bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    /// Adds bytes of which the end must be told from what follows.
    fn list(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.bytes(bytes);
    }

    pub(super) fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn optional(&mut self, number: Option<u64>) {
        self.byte(u8::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    pub(super) fn unit(&mut self, unit: UnitIndex) {
        self.number(u64::from(unit.0));
    }

    /// Adds an action; the entry of a journal action belongs to the round and is added by [`Digest::entry`].
    pub(super) fn action(&mut self, action: &Action) {
        match action {
            Action::Execute { id, path, request } => {
                self.bytes(&[1, id.0]);
                self.path(*path);
                self.request(request);
            }
            Action::CloseSession { id, path } => {
                self.bytes(&[2, id.0]);
                self.path(*path);
            }
            Action::OpenSession { id, path } => {
                self.bytes(&[3, id.0]);
                self.path(*path);
            }
            Action::Journal(entry) => {
                self.byte(4);
                self.entry(entry);
            }
        }
    }

    fn path(&mut self, path: Path) {
        self.bytes(&[u8::from(path.side == Side::Destination), path.index]);
    }

    fn request(&mut self, request: &Request) {
        self.list(&request.cdb);
        match &request.data {
            DataPhase::None => self.byte(0),
            DataPhase::In(length) => {
                self.byte(1);
                self.count(*length);
            }
            DataPhase::Out(data) => {
                self.byte(2);
                self.list(data);
            }
        }
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        self.list(entry.stage.name().as_bytes());
        self.list(entry.method.name().as_bytes());
        self.key(entry.key);
        self.key(entry.nonce);
        self.list(entry.role.name().as_bytes());
        self.optional(entry.role.kind().map(|kind| u64::from(kind.0)));
        self.byte(u8::from(entry.aptpl));
        self.number(u64::from(entry.generation));
        self.byte(entry.source_paths);
        self.optional(entry.holder.map(u64::from));
        self.byte(entry.destination_had);
        self.number(u64::from(entry.sharers));
    }

    fn key(&mut self, key: Key) {
        self.number(key.0);
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        self.list(phase.to_string().as_bytes());
    }

    /// Adds an end as far as hosts must agree on it.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Moved => self.byte(1),
            Verdict::KeptAtSource { leftover, .. } => self.bytes(&[2, u8::from(*leftover)]),
            Verdict::Fenced { nonce_left } => self.bytes(&[3, u8::from(*nonce_left)]),
            Verdict::Lost => self.byte(4),
            Verdict::InDoubt(_) => self.byte(5),
            Verdict::Refused(_) => self.byte(6),
        }
    }

    /// Adds what a handover was ordered to do. The table of targets is not part of it, but what it says of this target is,
    /// once that is known.
    pub(super) fn settings(&mut self, settings: &Settings) {
        self.optional(settings.key.map(|key| key.0));
        self.key(settings.nonce);
        self.ports(&settings.source);
        self.ports(&settings.destination);
        let flags = [settings.source_alive, settings.identity_is_ours, settings.allow_absence];
        self.bytes(&flags.map(u8::from));
        self.list(settings.method.map_or("", crate::Method::name).as_bytes());
    }

    /// Adds what a recovery was given.
    pub(super) fn remains(&mut self, remains: &Remains) {
        for entry in [remains.source_entry, remains.destination_entry] {
            self.byte(u8::from(entry.is_some()));
            entry.iter().for_each(|entry| self.entry(entry));
        }
        self.ports(&remains.source);
        self.ports(&remains.destination);
        let flags = [
            remains.source_alive,
            remains.destination_alive,
            remains.prefer_destination,
            remains.kept_at_source,
        ];
        self.bytes(&flags.map(u8::from));
        self.traits(&remains.traits);
    }

    /// Adds what is known of the target: hosts with different tables must not find out in the middle.
    pub(super) fn traits(&mut self, traits: &Traits) {
        let Traits {
            keeps_sender,
            register_and_move,
            full_status,
            aptpl,
            counts_registrations,
            counts_unregistrations,
            counts_removals,
            refuses_unmatched_preempt,
            keeps_identity,
        } = *traits;
        let known = [keeps_sender, register_and_move, full_status, aptpl, counts_registrations];
        let further = [counts_unregistrations, counts_removals, refuses_unmatched_preempt, keeps_identity];
        self.bytes(&known.map(known_byte));
        self.bytes(&further.map(known_byte));
    }

    fn ports(&mut self, ports: &[Port]) {
        self.count(ports.len());
        for port in ports {
            self.list(&port.initiator.as_ref().map(scsi::TransportId::to_bytes).unwrap_or_default());
            self.optional(port.target_port.map(u64::from));
        }
    }
}

const fn known_byte(known: Known) -> u8 {
    match known {
        Known::Unknown => 0,
        Known::Yes => 1,
        Known::No => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fnv_1a_as_published() {
        let of = |text: &str| {
            let mut digest = Digest::new();
            digest.bytes(text.as_bytes());
            digest.value()
        };
        assert_eq!(of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(of("foobar"), 0x8594_4171_f739_67e8);
    }
}
