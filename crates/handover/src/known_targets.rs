//! What is known of targets beyond what they report: a table by INQUIRY identity (SPC-4 6.6.2).
//!
//! REPORT CAPABILITIES has no bit for most of what a handover depends on, so behaviour that was read or measured
//! is listed here, and a user can put entries of his own before it ([`KnownTargets::parse`]). What nobody knows
//! is [`Known::Unknown`] and is taken for the worse.

use std::fmt;
use std::str::FromStr;

/// Yes, no, or nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Known {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// Taken for the worse of the two.
    #[default]
    Unknown,
}

impl Known {
    /// Certainly so.
    #[must_use]
    pub const fn is_yes(self) -> bool {
        matches!(self, Self::Yes)
    }

    /// Certainly not so.
    #[must_use]
    pub const fn is_no(self) -> bool {
        matches!(self, Self::No)
    }
}

/// Behaviour that a handover depends on and the device does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traits {
    /// A PREEMPT that takes the reservation of another holder with the sender's own key leaves the sender registered.
    pub keeps_sender: Known,
    /// REGISTER AND MOVE works as the standard says.
    pub register_and_move: Known,
    /// READ FULL STATUS is there and its TransportIDs can be compared.
    pub full_status: Known,
    /// APTPL may be set.
    pub aptpl: Known,
    /// PRGENERATION counts every registering command once and every foreign removal at least once.
    pub counts_registrations: Known,
    /// PRGENERATION counts an unregistration too.
    pub counts_unregistrations: Known,
    /// PRGENERATION counts a PREEMPT and besides every registration that it removes.
    pub counts_removals: Known,
    /// A PREEMPT of a key that nobody has ends with RESERVATION CONFLICT.
    pub refuses_unmatched_preempt: Known,
    /// A new login with the same initiator name and ISID finds the registration of the old one.
    pub keeps_identity: Known,
}

/// The target a logical unit belongs to, as INQUIRY tells it: ASCII, padded with spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetIdentity {
    /// T10 VENDOR IDENTIFICATION.
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL.
    pub revision: [u8; 4],
}

impl TargetIdentity {
    /// Standard INQUIRY data (at least 36 bytes) as an identity.
    #[must_use]
    pub fn from_inquiry(data: &[u8]) -> Option<Self> {
        let vendor = *data.get(8..)?.first_chunk()?;
        let product = *data.get(16..)?.first_chunk()?;
        let revision = *data.get(32..)?.first_chunk()?;
        Some(Self { vendor, product, revision })
    }
}

impl Default for TargetIdentity {
    fn default() -> Self {
        Self { vendor: [b' '; 8], product: [b' '; 16], revision: [b' '; 4] }
    }
}

impl fmt::Display for TargetIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        write!(f, "{} {} {}", text(&self.vendor), text(&self.product), text(&self.revision))
    }
}

/// One line of the table. An empty pattern fits everything; otherwise it is a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KnownTarget {
    /// Prefix of T10 VENDOR IDENTIFICATION.
    pub vendor: String,
    /// Prefix of PRODUCT IDENTIFICATION.
    pub product: String,
    /// Prefix of PRODUCT REVISION LEVEL.
    pub revision: String,
    /// What is known of such targets.
    pub traits: Traits,
}

impl KnownTarget {
    fn fits(&self, target: &TargetIdentity) -> bool {
        target.vendor.starts_with(self.vendor.as_bytes())
            && target.product.starts_with(self.product.as_bytes())
            && target.revision.starts_with(self.revision.as_bytes())
    }
}

/// The table: the first line that fits counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KnownTargets(Vec<KnownTarget>);

/// Targets whose behaviour was read in their source or measured.
const BUILT_IN: &str = "\
# vendor / product / revision: behaviour
LIO-ORG: counts-unregistrations=no keeps-sender=yes keeps-identity=yes register-and-move=yes full-status=yes aptpl=yes counts-registrations=yes refuses-unmatched-preempt=yes
SCST: keeps-sender=yes register-and-move=yes full-status=yes aptpl=yes counts-registrations=yes refuses-unmatched-preempt=yes
IET / VIRTUAL-DISK: keeps-sender=yes keeps-identity=no register-and-move=no full-status=no aptpl=no counts-registrations=yes refuses-unmatched-preempt=yes
INTEL / SPDK: keeps-sender=no keeps-identity=no register-and-move=no full-status=yes aptpl=no counts-registrations=yes counts-removals=yes refuses-unmatched-preempt=no
INTEL / Malloc disk: keeps-sender=no keeps-identity=no register-and-move=no full-status=yes aptpl=no counts-registrations=yes counts-removals=yes refuses-unmatched-preempt=no
SPDK: keeps-sender=no keeps-identity=no register-and-move=no full-status=yes aptpl=no counts-registrations=yes counts-removals=yes refuses-unmatched-preempt=no
SUN / COMSTAR: keeps-sender=yes register-and-move=yes full-status=yes aptpl=yes refuses-unmatched-preempt=yes
FREEBSD / CTL: keeps-sender=yes register-and-move=unknown full-status=yes refuses-unmatched-preempt=yes
3PARdata / VV: keeps-sender=yes
TENURE: keeps-sender=yes keeps-identity=yes register-and-move=yes full-status=yes aptpl=yes counts-registrations=yes refuses-unmatched-preempt=yes
";

impl Default for KnownTargets {
    fn default() -> Self {
        Self::parse(BUILT_IN).unwrap_or_else(|_| Self(Vec::new()))
    }
}

/// A line of a list of targets that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the list of targets: expected `VENDOR[ / PRODUCT[ / REVISION]]: NAME=yes|no|unknown …` with the \
     names keeps-sender, register-and-move, full-status, aptpl, counts-registrations, counts-unregistrations, \
     counts-removals, refuses-unmatched-preempt, keeps-identity"
)]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
}

impl KnownTargets {
    /// Nothing is known of any target.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads a list: one target per line, `VENDOR[ / PRODUCT[ / REVISION]]: NAME=yes|no|unknown …`; `#` begins a comment.
    ///
    /// # Errors
    /// [`ParseError`] with the line that is not of this form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let content = |line: &str| !line.is_empty() && !line.starts_with('#');
        text.lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| content(line))
            .map(|(line, text)| text.parse().map_err(|()| ParseError { line }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// This list, then `others`: an entry here outweighs one there.
    #[must_use]
    pub fn before(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// What is known of `target`; all unknown if it is not listed.
    #[must_use]
    pub fn traits(&self, target: &TargetIdentity) -> Traits {
        self.0.iter().find(|known| known.fits(target)).map(|known| known.traits).unwrap_or_default()
    }
}

impl FromStr for KnownTarget {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (pattern, behaviour) = line.split_once(':').ok_or(())?;
        let mut parts = pattern.splitn(3, '/').map(|part| part.trim().to_owned());
        let mut next = || parts.next().unwrap_or_default();
        let (vendor, product, revision) = (next(), next(), next());
        if vendor.is_empty() {
            return Err(());
        }
        Ok(Self { vendor, product, revision, traits: parse_traits(behaviour)? })
    }
}

fn parse_traits(text: &str) -> Result<Traits, ()> {
    let mut traits = Traits::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or(())?;
        let value = match value {
            "yes" => Known::Yes,
            "no" => Known::No,
            "unknown" => Known::Unknown,
            _ => return Err(()),
        };
        let field = match name {
            "keeps-sender" => &mut traits.keeps_sender,
            "register-and-move" => &mut traits.register_and_move,
            "full-status" => &mut traits.full_status,
            "aptpl" => &mut traits.aptpl,
            "counts-registrations" => &mut traits.counts_registrations,
            "refuses-unmatched-preempt" => &mut traits.refuses_unmatched_preempt,
            "counts-unregistrations" => &mut traits.counts_unregistrations,
            "counts-removals" => &mut traits.counts_removals,
            "keeps-identity" => &mut traits.keeps_identity,
            _ => return Err(()),
        };
        *field = value;
    }
    Ok(traits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(vendor: &[u8; 8], product: &[u8; 16]) -> TargetIdentity {
        TargetIdentity { vendor: *vendor, product: *product, revision: *b"0001" }
    }

    #[test]
    fn the_built_in_list_reads_and_knows_the_broken_ones() {
        let known = KnownTargets::parse(BUILT_IN).unwrap();
        assert_eq!(known.0.len(), 10);
        let tgt = known.traits(&target(b"IET     ", b"VIRTUAL-DISK    "));
        assert!(tgt.register_and_move.is_no() && tgt.full_status.is_no());
        let lio = known.traits(&target(b"LIO-ORG ", b"FILEIO          "));
        assert!(lio.keeps_sender.is_yes());
    }

    #[test]
    fn an_unlisted_target_is_unknown_in_everything() {
        let traits = KnownTargets::default().traits(&target(b"NOBODY  ", b"DISK            "));
        assert_eq!(traits, Traits::default());
        assert!(!traits.keeps_sender.is_yes() && !traits.refuses_unmatched_preempt.is_yes());
    }

    #[test]
    fn a_users_entry_outweighs_the_built_in_one() {
        let mine = KnownTargets::parse("# mine\n\nLIO-ORG / FILEIO: register-and-move=no\n").unwrap();
        let known = mine.before(KnownTargets::default());
        assert!(known.traits(&target(b"LIO-ORG ", b"FILEIO          ")).register_and_move.is_no());
        assert!(known.traits(&target(b"LIO-ORG ", b"IBLOCK          ")).register_and_move.is_yes());
    }

    #[test]
    fn a_line_that_says_nothing_is_named() {
        for bad in ["LIO-ORG", ": aptpl=yes", "A: aptpl", "A: aptpl=perhaps", "A: colour=yes"] {
            let text = format!("# list\n{bad}\n");
            assert_eq!(KnownTargets::parse(&text), Err(ParseError { line: 2 }), "{bad}");
        }
    }

    #[test]
    fn short_inquiry_data_has_no_identity() {
        assert_eq!(TargetIdentity::from_inquiry(&[0; 35]), None);
        assert!(TargetIdentity::from_inquiry(&[b' '; 36]).is_some());
    }
}
