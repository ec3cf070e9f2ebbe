//! One line of the audit.

use super::Timestamp;
use crate::observer::PrOutEvent;
use scsi::pr::{Key, PrOutCdb};
use serde::{Deserialize, Serialize};

/// The longest name or reason that is kept, in characters; what is longer is cut.
const LONGEST: usize = 256;

/// One PERSISTENT RESERVE OUT. Absent fields are left out of the line; unknown ones are ignored on reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Version of this line's form; 1.
    pub schema: u32,
    /// When it was answered, in milliseconds since 1970 (UTC).
    pub at: Timestamp,
    /// Whose record: `--vm NAME`, else the socket's path.
    pub vm: String,
    /// The client's process, as the kernel said when it connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The client's user.
    pub uid: u32,
    /// The client's process name; it chose it itself.
    pub name: String,
    /// The handover for which the agent sent it; absent if the guest did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<String>,
    /// The logical unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lun: Option<String>,
    /// The device node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The service action by its standard name.
    pub action: String,
    /// TYPE, where the service action has one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<u8>,
    /// RESERVATION KEY, `0x` and 16 digits, if the parameter list was long enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// SERVICE ACTION RESERVATION KEY, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_action_key: Option<String>,
    /// The SCSI status by its standard name.
    pub status: String,
    /// The sense data of a CHECK CONDITION.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sense: Option<SenseCode>,
    /// Why it did not reach the device; absent if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// From the complete request to the answer, in microseconds.
    pub took_us: u64,
    /// How many events of this kind (GOOD, or not) were left out right before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub suppressed: u64,
}

/// Sense key and additional sense code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenseCode {
    /// Sense key.
    pub key: u8,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    pub(super) fn new(event: &PrOutEvent<'_>, at: Timestamp, suppressed: u64) -> Self {
        let PrOutCdb { action, kind, .. } = event.cdb;
        let sense = event.completion.decoded_sense();
        Self {
            schema: 1,
            at,
            vm: cut(event.vm),
            pid: event.caller.pid,
            uid: event.caller.uid,
            name: cut(&event.caller.name),
            handover: event.handover.map(|id| id.to_string()),
            lun: event.lun.map(|lun| cut(&lun.0)),
            node: event.node.map(cut),
            action: action.to_string(),
            kind: action.uses_type().then_some(kind.0),
            key: key(event.parameters, 0),
            service_action_key: key(event.parameters, 8),
            status: event.completion.status.to_string(),
            sense: sense.map(|s| SenseCode { key: s.key.0, asc: s.code.asc, ascq: s.code.ascq }),
            refused: event.refused.map(cut),
            took_us: u64::try_from(event.took.as_micros()).unwrap_or(u64::MAX),
            suppressed,
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// The key at `at`, the same place in both parameter lists (SPC-4 6.16.3, 6.16.4).
fn key(parameters: &[u8], at: usize) -> Option<String> {
    let bytes = parameters.get(at..at + 8)?.try_into().ok()?;
    Some(Key(u64::from_be_bytes(bytes)).to_string())
}
