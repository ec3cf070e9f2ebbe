//! Registrations that belong to a host's nexus and not to the guest's, handed from one device's nexus to another's (DESIGN 4, the
//! engine's methods): on `/dev/…`, and at targets that end a registration with its session or of which that is not known.
//!
//! Custody comes first, registrations after. When the guest has been committed to the destination, its registration may still be at a
//! nexus of the host that it left, the *bearer*: what was saved says so ([`state`]). Before the destination opens its gate it leads a
//! handover ([`lead`]), in which the bearer's device follows on the nexuses that it kept for that ([`follow`]). Both keep a journal
//! ([`diary`]), from which an interrupted handover is put in order. So who may serve the guest rests on custody alone, and a handover that
//! does not succeed leaves a guest of which no ring is processed.
//!
//! A guest whose registration has moved, or was found to be removed, is here; the device gives it to nobody while a handover of its is open.

pub(super) mod diary;
pub(super) mod follow;
pub(super) mod hands;
pub(super) mod lead;
mod probe;
pub(super) mod state;

use handover::{Port, Settings, Verdict};
use ledger::HandoverId;
use peer::message::{Offer, Paths, Port as Told};
use scsi::pr::Key;
use thiserror::Error;

/// What a record names as the handover while its registration stays with this host's nexus until the host that has the guest takes it over,
/// and when that is done.
pub(super) const KEPT: HandoverId = HandoverId(u128::from_be_bytes(*b"device-its-nexus"));

/// Before the key that a host's nexus has kept of a handover in which the guest was fenced.
const UNDER: &str = "holds the reservation under the key ";

/// Why a registration has not come, or gone: the guest was fenced while this nexus held the reservation under the nonce, which it still
/// does, because a node may expect the reservation to exist.
pub(super) fn nonce_is_left(nexus: &str, nonce: Key) -> String {
    format!("another node fenced the guest in a handover, since which {nexus} {UNDER}{:#018x}", nonce.0)
}

/// The key that a record says is left at this host's nexus.
pub(super) fn left_nonce(record: &ledger::Record) -> Option<Key> {
    let why = record.doubt.as_deref().filter(|_| record.handover == Some(KEPT))?;
    let (_, key) = why.split_once(UNDER)?;
    u64::from_str_radix(key.strip_prefix("0x")?.get(..16)?, 16).ok().map(Key)
}

/// Why a registration is not handed over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum HandError {
    /// The device that has it does not answer.
    #[error("{host}, whose nexus has the guest's registration, does not answer: {why}")]
    Lost {
        /// The bearer.
        host: String,
        /// The link's error.
        why: String,
    },
    /// The device that had it knows nothing of the guest.
    #[error("{host}, whose nexus has the guest's registration, does not know the guest")]
    Forgot {
        /// The bearer.
        host: String,
    },
    /// The device that has it says no.
    #[error("{host}, whose nexus has the guest's registration: {why}")]
    Refused {
        /// The bearer.
        host: String,
        /// Its words.
        why: String,
    },
    /// The device that has it was not asked for what this host began alone.
    #[error(
        "{host}, whose nexus has the guest's registration, knows nothing of the handover that was begun here without it: guest-claim ends that"
    )]
    Unheard {
        /// The bearer.
        host: String,
    },
    /// A handover that nobody finishes has left a key at this host's nexus.
    #[error(
        "{lun}: this host's nexus is registered under the key {:#018x} of a handover that was not finished ({doubt}): the guest can be claimed \
         when another node has preempted that key", key.0
    )]
    Registered {
        /// The logical unit.
        lun: String,
        /// The guest's key, or the handover's.
        key: Key,
        /// What is not known.
        doubt: Verdict,
    },
    /// It could not be written down.
    #[error("the journal of handovers cannot be written: {0}")]
    Journal(String),
    /// It is another host's.
    #[error("{path}: it is the journal of host {host}")]
    Foreign {
        /// The journal.
        path: String,
        /// Whose it is.
        host: String,
    },
    /// The record cannot be used.
    #[error("the ledger cannot be used: {0}")]
    Ledger(String),
    /// A logical unit cannot be reached.
    #[error("LUN {0}: {1}")]
    Unit(u8, String),
    /// It was turned back, or is in doubt.
    #[error("the guest's registration stays with the nexus of {host} for now: {why}")]
    Kept {
        /// The bearer.
        host: String,
        /// The verdicts.
        why: String,
    },
    /// The two sides do not speak of the same.
    #[error("{0}")]
    Unfit(String),
}

/// The order of each unit, the same on both hosts: the leader is the destination, so its offers have the destination's paths.
pub(super) fn settings(offers: &[Offer], paths: &[Paths]) -> Result<Vec<Settings>, HandError> {
    let same = offers.iter().map(|offer| &offer.lun).eq(paths.iter().map(|paths| &paths.lun));
    if !same {
        return Err(HandError::Unfit("the two hosts name different logical units".to_owned()));
    }
    let one = |(offer, source): (&Offer, &Paths)| {
        let key = offer.key.map(|key| Key(key.0));
        let nowhere = Port::default();
        let settings = Settings::new(key, Key(offer.nonce.0), nowhere.clone(), nowhere);
        Ok(Settings { source: ports(&source.ports)?, destination: ports(&offer.ports)?, ..settings })
    };
    offers.iter().zip(paths).map(one).collect()
}

fn ports(told: &[Told]) -> Result<Vec<Port>, HandError> {
    let one = |told: &Told| {
        let initiator = told.initiator.as_deref().map(str::parse).transpose();
        let initiator = initiator
            .map_err(|error| HandError::Unfit(format!("an initiator port of the other host: {error}")))?;
        Ok(Port { initiator, target_port: told.target_port })
    };
    told.iter().map(one).collect()
}

/// A port in the words of the messages.
fn told(port: &Port) -> Told {
    Told { initiator: port.initiator.as_ref().map(ToString::to_string), target_port: port.target_port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::LunId;

    #[test]
    fn a_key_that_is_left_is_read_from_the_words_of_the_record_that_name_it() {
        let mut record = ledger::Record::new(LunId("naa.1".to_owned()));
        record.doubt = Some(nonce_is_left("this host's nexus", Key(0xAB)));
        assert_eq!(left_nonce(&record), None, "of no handover");
        record.handover = Some(KEPT);
        assert_eq!(left_nonce(&record), Some(Key(0xAB)));
        record.doubt = Some("another nexus removed it".to_owned());
        assert_eq!(left_nonce(&record), None);
    }
}
