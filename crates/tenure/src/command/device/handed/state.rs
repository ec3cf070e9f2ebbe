//! What goes with a guest of a logical unit to which it is another initiator port on each host: the record of what it registered
//! ([`ledger::carried`]), and the host whose nexus has that registration, which need not be the one that gave the guest.
//!
//! Format: length (1 byte) and name of the bearer; length (1 byte) and text of the boot in which its nexus was used; the record.

use peer::HostName;
use scsi::TransportId;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command::device) struct Handed {
    /// The host whose nexus has the registration.
    pub(in crate::command::device) bearer: HostName,
    /// Which boot of which machine that is: a nexus of the same name there is the same.
    pub(in crate::command::device) boot: String,
    /// The record, as it is carried.
    pub(in crate::command::device) record: Vec<u8>,
}

impl Handed {
    /// The bytes.
    pub(in crate::command::device) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for text in [self.bearer.as_str(), &self.boot] {
            let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
            out.push(length);
            out.extend(text.bytes().take(length.into()));
        }
        out.extend(&self.record);
        out
    }

    /// `None`: they are none of [`Self::to_bytes`].
    pub(in crate::command::device) fn parse(bytes: &[u8]) -> Option<Self> {
        let (bearer, rest) = short(bytes)?;
        let (boot, record) = short(rest)?;
        Some(Self { bearer: bearer.parse().ok()?, boot: boot.to_owned(), record: record.to_vec() })
    }

    /// Whether its nexus has a registration that only the bearer can hand over to `own`: not where there is none, nor where the nexus may be
    /// the very same disk of this machine.
    pub(in crate::command::device) fn is_to_be_asked_for(&self, own: &HostName) -> bool {
        let Ok((record, path)) = ledger::read_carried(&self.record) else { return false };
        let has_key = record.path(&path).is_some_and(|known| known.tracked.key.is_some());
        let is_port = path.0.split(' ').next().is_some_and(|port| port.parse::<TransportId>().is_ok());
        has_key && self.bearer != *own && (is_port || !self.is_of_this_boot())
    }

    /// A nexus of this host, as it runs now.
    pub(in crate::command::device) fn is_of_this_boot(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot()
    }
}

fn short(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// Names this boot of this machine; empty where the kernel does not say.
pub(in crate::command::device) fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_names_nobody() {
        let handed =
            Handed { bearer: "alpha".parse().unwrap(), boot: "b".into(), record: b"record".to_vec() };
        let bytes = handed.to_bytes();
        assert_eq!(bytes, *b"\x05alpha\x01brecord", "version 1");
        assert_eq!(Handed::parse(&bytes), Some(handed));
        for cut in 0..8 {
            assert_eq!(Handed::parse(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Handed::parse(b"\x01/\x00"), None, "no host's name");
    }

    #[test]
    fn only_this_boot_is_this_boot() {
        let of = |boot: String| Handed { bearer: "a".parse().unwrap(), boot, record: Vec::new() };
        assert!(of(boot()).is_of_this_boot());
        assert!(!of("another".into()).is_of_this_boot() && !of(String::new()).is_of_this_boot());
    }
}
