//! Operational parameters and the function that makes each result of two wishes (RFC 7143 clause 13).
//! Used by both halves of the login; pure.

use crate::pdu::frame::Digests;
use crate::text::Text;

/// Which digests an initiator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestOffer {
    /// None.
    #[default]
    None,
    /// CRC32C, or none if the target has no CRC32C.
    Prefer,
    /// CRC32C or no session.
    Require,
}

impl DigestOffer {
    const fn list(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Prefer => "CRC32C,None",
            Self::Require => "CRC32C",
        }
    }
}

/// What one side would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// HeaderDigest; a target takes what the initiator lists first.
    pub header_digest: DigestOffer,
    /// DataDigest; likewise.
    pub data_digest: DigestOffer,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxRecvDataSegmentLength of this side, in bytes.
    pub max_recv: u32,
    /// MaxBurstLength in bytes.
    pub max_burst: u32,
    /// FirstBurstLength in bytes.
    pub first_burst: u32,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
}

impl Default for Proposal {
    fn default() -> Self {
        Self {
            header_digest: DigestOffer::None,
            data_digest: DigestOffer::None,
            initial_r2t: false,
            immediate_data: true,
            max_recv: 256 * 1024,
            max_burst: 1024 * 1024,
            first_burst: 256 * 1024,
            max_outstanding_r2t: 8,
        }
    }
}

/// The parameters of a session; at first the standard's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The digests in use.
    pub digests: Digests,
    /// Unsolicited Data-Out is forbidden.
    pub initial_r2t: bool,
    /// Data may come with the command.
    pub immediate_data: bool,
    /// Longest data segment this side may send: the peer's MaxRecvDataSegmentLength, in bytes.
    pub max_send: u32,
    /// Longest data segment this side has declared to accept, in bytes.
    pub max_recv: u32,
    /// Longest solicited burst, in bytes.
    pub max_burst: u32,
    /// Most unsolicited data of a command, immediate data included, in bytes.
    pub first_burst: u32,
    /// R2Ts that may be open for a command.
    pub max_outstanding_r2t: u32,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u32,
    /// DefaultTime2Retain in seconds.
    pub time2retain: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            max_send: 8192,
            max_recv: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// A value that the standard does not allow for its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} has the inadmissible value {value:?}")]
pub struct KeyError {
    /// The key.
    pub key: String,
    /// The value as received, cut to 64 characters.
    pub value: String,
}

impl KeyError {
    pub(crate) fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.chars().take(64).collect() }
    }
}

/// How the result of a key comes about.
enum Rule {
    /// The responder chooses from the list.
    Choice,
    /// Boolean: Yes if either says so.
    Or,
    /// Boolean: Yes if both say so.
    And,
    /// The lower number, from a range.
    Min(u32, u32),
    /// The higher number, from a range.
    Max(u32, u32),
    /// No result: each side declares its own, from a range.
    Declare(u32, u32),
}

const LONGEST: u32 = (1 << 24) - 1;

fn rule(key: &str) -> Option<Rule> {
    Some(match key {
        "HeaderDigest" | "DataDigest" => Rule::Choice,
        "InitialR2T" | "DataPDUInOrder" | "DataSequenceInOrder" => Rule::Or,
        "ImmediateData" => Rule::And,
        "MaxRecvDataSegmentLength" => Rule::Declare(512, LONGEST),
        "MaxBurstLength" | "FirstBurstLength" => Rule::Min(512, LONGEST),
        "MaxConnections" | "MaxOutstandingR2T" => Rule::Min(1, 65535),
        "DefaultTime2Wait" => Rule::Max(0, 3600),
        "DefaultTime2Retain" => Rule::Min(0, 3600),
        "ErrorRecoveryLevel" => Rule::Min(0, 2),
        "iSCSIProtocolLevel" => Rule::Min(0, 31),
        _ => return None,
    })
}

/// What this side says to a key: a number, or 0 and 1 for No and Yes.
fn wish(key: &str, own: &Proposal) -> u32 {
    match key {
        "InitialR2T" => own.initial_r2t.into(),
        "ImmediateData" => own.immediate_data.into(),
        "MaxRecvDataSegmentLength" => own.max_recv,
        "MaxBurstLength" => own.max_burst,
        "FirstBurstLength" => own.first_burst.min(own.max_burst),
        "MaxOutstandingR2T" => own.max_outstanding_r2t,
        "DefaultTime2Wait" => 2,
        // One connection per session, order kept, nothing kept of a lost session (ErrorRecoveryLevel 0).
        "MaxConnections" | "DataPDUInOrder" | "DataSequenceInOrder" | "iSCSIProtocolLevel" => 1,
        _ => 0,
    }
}

impl Parameters {
    /// The initiator's offer: every key it cares about, in one step.
    #[must_use]
    pub fn offer(own: &Proposal) -> Text {
        let boolean = |key: &str| if wish(key, own) == 1 { "Yes" } else { "No" };
        let mut text = Text::default()
            .with("HeaderDigest", own.header_digest.list())
            .with("DataDigest", own.data_digest.list());
        for key in ["InitialR2T", "ImmediateData", "DataPDUInOrder", "DataSequenceInOrder"] {
            text.push(key, boolean(key));
        }
        let numbers = [
            "MaxRecvDataSegmentLength",
            "MaxBurstLength",
            "FirstBurstLength",
            "MaxOutstandingR2T",
            "MaxConnections",
            "DefaultTime2Wait",
            "DefaultTime2Retain",
            "ErrorRecoveryLevel",
        ];
        numbers.into_iter().fold(text, |text, key| text.with(key, wish(key, own).to_string()))
    }

    /// The responder's answer to one offered key, which is applied here; `None` where none is due.
    ///
    /// # Errors
    /// [`KeyError`] for a value outside the key's range.
    pub fn respond(&mut self, own: &Proposal, key: &str, value: &str) -> Result<Option<String>, KeyError> {
        let error = || KeyError::new(key, value);
        let Some(rule) = rule(key) else {
            return Ok(Some("NotUnderstood".to_owned()));
        };
        if matches!(rule, Rule::Choice) {
            let chosen = value.split(',').find(|item| matches!(*item, "CRC32C" | "None"));
            self.apply_digest(key, chosen == Some("CRC32C"));
            return Ok(Some(chosen.unwrap_or("Reject").to_owned()));
        }
        let offered = number(&rule, value).ok_or_else(error)?;
        let result = combine(&rule, offered, wish(key, own));
        self.apply(key, result);
        Ok(match rule {
            Rule::Declare(..) => None,
            Rule::And | Rule::Or => Some(if result == 1 { "Yes" } else { "No" }.to_owned()),
            _ => Some(result.to_string()),
        })
    }

    /// Takes the responder's answer to a key that [`Parameters::offer`] named, or its own declaration.
    ///
    /// # Errors
    /// [`KeyError`] if the answer is not a result that our offer allows.
    pub fn accept(&mut self, own: &Proposal, key: &str, value: &str) -> Result<(), KeyError> {
        let error = || KeyError::new(key, value);
        let Some(rule) = rule(key) else { return Ok(()) };
        if value == "Irrelevant" {
            return Ok(());
        }
        if matches!(rule, Rule::Choice) {
            let offer = if key == "HeaderDigest" { own.header_digest } else { own.data_digest };
            let listed = offer.list().split(',').any(|item| item == value);
            self.apply_digest(key, value == "CRC32C");
            return listed.then_some(()).ok_or_else(error);
        }
        let answer = number(&rule, value).ok_or_else(error)?;
        if combine(&rule, answer, wish(key, own)) != answer {
            return Err(error());
        }
        self.apply(key, answer);
        Ok(())
    }

    fn apply_digest(&mut self, key: &str, crc: bool) {
        match key {
            "HeaderDigest" => self.digests.header = crc,
            _ => self.digests.data = crc,
        }
    }

    fn apply(&mut self, key: &str, value: u32) {
        match key {
            "InitialR2T" => self.initial_r2t = value == 1,
            "ImmediateData" => self.immediate_data = value == 1,
            "MaxRecvDataSegmentLength" => self.max_send = value,
            "MaxBurstLength" => self.max_burst = value,
            "FirstBurstLength" => self.first_burst = value,
            "MaxOutstandingR2T" => self.max_outstanding_r2t = value,
            "DefaultTime2Wait" => self.time2wait = value,
            "DefaultTime2Retain" => self.time2retain = value,
            _ => {}
        }
    }
}

/// A value in the rule's range; hexadecimal is legal too (RFC 7143 6.1).
fn number(rule: &Rule, value: &str) -> Option<u32> {
    let numeric = || match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    };
    match (rule, value) {
        (Rule::And | Rule::Or, "Yes") => Some(1),
        (Rule::And | Rule::Or, "No") => Some(0),
        (Rule::Min(low, high) | Rule::Max(low, high) | Rule::Declare(low, high), _) => {
            numeric().filter(|number| (low..=high).contains(&number))
        }
        _ => None,
    }
}

fn combine(rule: &Rule, theirs: u32, ours: u32) -> u32 {
    match rule {
        Rule::Or => theirs | ours,
        Rule::And => theirs & ours,
        Rule::Min(..) => theirs.min(ours),
        Rule::Max(..) => theirs.max(ours),
        Rule::Declare(..) | Rule::Choice => theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(key: &str, value: &str) -> Option<String> {
        Parameters::default().respond(&Proposal::default(), key, value).unwrap()
    }

    #[test]
    fn each_key_has_the_result_function_of_clause_13() {
        assert_eq!(answer("InitialR2T", "Yes").as_deref(), Some("Yes"), "or");
        assert_eq!(answer("InitialR2T", "No").as_deref(), Some("No"));
        assert_eq!(answer("ImmediateData", "No").as_deref(), Some("No"), "and");
        assert_eq!(answer("DataPDUInOrder", "No").as_deref(), Some("Yes"), "or: we need order");
        assert_eq!(answer("MaxConnections", "4").as_deref(), Some("1"), "min");
        assert_eq!(answer("MaxBurstLength", "16776192").as_deref(), Some("1048576"), "min");
        assert_eq!(answer("FirstBurstLength", "4096").as_deref(), Some("4096"), "min");
        assert_eq!(answer("DefaultTime2Wait", "0").as_deref(), Some("2"), "max");
        assert_eq!(answer("DefaultTime2Retain", "20").as_deref(), Some("0"), "min");
        assert_eq!(answer("ErrorRecoveryLevel", "2").as_deref(), Some("0"), "min");
        assert_eq!(answer("MaxRecvDataSegmentLength", "65536"), None, "declared, not negotiated");
    }

    #[test]
    fn digest_is_the_first_listed_that_we_know() {
        assert_eq!(answer("HeaderDigest", "None,CRC32C").as_deref(), Some("None"));
        assert_eq!(answer("DataDigest", "X-fancy,CRC32C,None").as_deref(), Some("CRC32C"));
        assert_eq!(answer("DataDigest", "X-fancy").as_deref(), Some("Reject"));
    }

    #[test]
    fn unknown_keys_are_answered_not_understood() {
        assert_eq!(answer("X-org.example.key", "1").as_deref(), Some("NotUnderstood"));
        assert_eq!(answer("OFMarker", "No").as_deref(), Some("NotUnderstood"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("MaxOutstandingR2T", "0"),
            ("InitialR2T", "yes"),
            ("MaxRecvDataSegmentLength", "-1"),
            ("ErrorRecoveryLevel", "3"),
        ] {
            let outcome = Parameters::default().respond(&Proposal::default(), key, value);
            assert!(outcome.is_err(), "{key}={value}");
        }
    }

    #[test]
    fn an_answer_that_the_offer_forbids_is_refused() {
        let own = Proposal { immediate_data: false, ..Proposal::default() };
        let mut parameters = Parameters::default();
        assert!(parameters.accept(&own, "ImmediateData", "Yes").is_err());
        assert!(parameters.accept(&own, "MaxBurstLength", "2097152").is_err());
        assert!(parameters.accept(&own, "HeaderDigest", "CRC32C").is_err());
        assert!(parameters.accept(&own, "MaxBurstLength", "0x10000").is_ok());
        assert_eq!(parameters.max_burst, 0x10000);
    }

    proptest! {
        /// Whatever both sides wish, they end with the same session parameters.
        #[test]
        fn both_sides_agree(
            (ir, ii, ib, if_, io) in (any::<bool>(), any::<bool>(), 512u32..1 << 24, 512u32..1 << 24, 1u32..100),
            (tr, ti, tb, tf, to) in (any::<bool>(), any::<bool>(), 512u32..1 << 24, 512u32..1 << 24, 1u32..100),
            digest in prop::sample::select(vec![DigestOffer::None, DigestOffer::Prefer, DigestOffer::Require]),
        ) {
            let wishes = |initial_r2t, immediate_data, max_burst, first_burst, max_outstanding_r2t| Proposal {
                initial_r2t, immediate_data, max_burst, first_burst, max_outstanding_r2t,
                header_digest: digest, ..Proposal::default()
            };
            let (initiator, target) = (wishes(ir, ii, ib, if_, io), wishes(tr, ti, tb, tf, to));
            let (mut ours, mut theirs) = (Parameters::default(), Parameters::default());
            for (key, value) in Parameters::offer(&initiator).iter() {
                if let Some(answer) = theirs.respond(&target, key, value).unwrap() {
                    ours.accept(&initiator, key, &answer).unwrap();
                }
            }
            theirs.max_send = ours.max_send;
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn any_value_is_judged_without_panic(key in "[A-Za-z0-9]{1,30}", value: String) {
            let _ = Parameters::default().respond(&Proposal::default(), &key, &value);
            let _ = Parameters::default().accept(&Proposal::default(), &key, &value);
        }
    }
}
