//! The form of a journal entry in every file and message that has one: `handover run`'s journal, the agent's, the peer's.

use handover::journal::Stage;
use handover::{Entry, Role};
use scsi::pr::ReservationType;
use serde::{Deserialize, Serialize};

/// Something in an entry that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} is called {name}")]
pub struct EntryError {
    what: &'static str,
    name: String,
}

impl EntryError {
    fn new(what: &'static str, name: &str) -> Self {
        Self { what, name: name.chars().take(40).collect() }
    }
}

/// An [`Entry`] field by field. An unknown field is refused: it may matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryForm {
    stage: String,
    method: String,
    key: String,
    nonce: String,
    role: String,
    r#type: Option<u8>,
    aptpl: bool,
    generation: u32,
    source_paths: u8,
    holder: Option<u8>,
    destination_had: u8,
    sharers: u16,
}

impl EntryForm {
    /// The form of an entry.
    #[must_use]
    pub fn new(entry: &Entry) -> Self {
        Self {
            stage: entry.stage.name().to_owned(),
            method: entry.method.name().to_owned(),
            key: entry.key.to_string(),
            nonce: entry.nonce.to_string(),
            role: entry.role.name().to_owned(),
            r#type: entry.role.kind().map(|kind| kind.0),
            aptpl: entry.aptpl,
            generation: entry.generation,
            source_paths: entry.source_paths,
            holder: entry.holder,
            destination_had: entry.destination_had,
            sharers: entry.sharers,
        }
    }

    /// The entry.
    ///
    /// # Errors
    /// [`EntryError`]: a name or a key that this version does not know.
    pub fn to_entry(&self) -> Result<Entry, EntryError> {
        let stage = Stage::by_name(&self.stage);
        let role = Role::by_name(&self.role, self.r#type.map(ReservationType));
        Ok(Entry {
            stage: stage.ok_or_else(|| EntryError::new("stage", &self.stage))?,
            method: self.method.parse().map_err(|_| EntryError::new("method", &self.method))?,
            key: self.key.parse().map_err(|_| EntryError::new("key", &self.key))?,
            nonce: self.nonce.parse().map_err(|_| EntryError::new("nonce", &self.nonce))?,
            role: role.ok_or_else(|| EntryError::new("role with this type", &self.role))?,
            aptpl: self.aptpl,
            generation: self.generation,
            source_paths: self.source_paths,
            holder: self.holder,
            destination_had: self.destination_had,
            sharers: self.sharers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover::Method;
    use scsi::pr::Key;

    fn entry(stage: Stage, role: Role) -> Entry {
        Entry {
            stage,
            method: Method::SourceNonce,
            key: Key(0xA1),
            nonce: Key(u64::MAX),
            role,
            aptpl: true,
            generation: 7,
            source_paths: 3,
            holder: Some(1),
            destination_had: 2,
            sharers: 300,
        }
    }

    #[test]
    fn every_stage_and_role_reads_back() {
        let kind = ReservationType(5);
        let roles = [
            Role::Registrant,
            Role::Unregistered,
            Role::Member(kind),
            Role::AllRegistrants(kind),
            Role::Holder(kind),
            Role::HolderOrSharer(kind),
        ];
        for (stage, role) in Stage::ALL.into_iter().flat_map(|stage| roles.map(|role| (stage, role))) {
            let entry = entry(stage, role);
            let text = serde_json::to_string(&EntryForm::new(&entry)).unwrap();
            let read: EntryForm = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_entry(), Ok(entry));
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_by_its_name() {
        let mut form = EntryForm::new(&entry(Stage::Take, Role::Registrant));
        "later".clone_into(&mut form.stage);
        assert_eq!(form.to_entry().unwrap_err().to_string(), "no stage is called later");
        let with = r#"{"stage":"take","method":"source-nonce","key":"0x1","nonce":"0x2","role":"registrant","type":null,
            "aptpl":true,"generation":7,"source_paths":3,"holder":null,"destination_had":0,"sharers":0,"more":1}"#;
        assert!(serde_json::from_str::<EntryForm>(with).unwrap_err().to_string().contains("more"));
    }
}
