//! One line of the journal as JSON, schema 1.

use anyhow::{Context, Result, ensure};
use handover::journal::Stage;
use handover::{Entry, Method, Role};
use scsi::pr::{Key, ReservationType};
use serde::{Deserialize, Serialize};

const SCHEMA: u32 = 1;

/// A line. Unknown fields are refused: a newer program wrote them, and they may matter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// A handover begins.
    Begin { schema: u32, from: Vec<String>, to: Vec<String> },
    /// An entry of the procedure.
    Entry { schema: u32, entry: EntryFields },
    /// The handover is over.
    End { schema: u32, verdict: String },
}

impl Line {
    pub(super) const fn begin(from: Vec<String>, to: Vec<String>) -> Self {
        Self::Begin { schema: SCHEMA, from, to }
    }

    pub(super) fn entry(entry: &Entry) -> Self {
        Self::Entry { schema: SCHEMA, entry: EntryFields::new(entry) }
    }

    pub(super) fn end(verdict: &str) -> Self {
        Self::End { schema: SCHEMA, verdict: verdict.to_owned() }
    }

    pub(super) fn check_schema(&self) -> Result<()> {
        let (Self::Begin { schema, .. } | Self::Entry { schema, .. } | Self::End { schema, .. }) = self;
        ensure!(*schema == SCHEMA, "schema {schema} is not known to this version");
        Ok(())
    }
}

/// [`Entry`] field by field.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryFields {
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

impl EntryFields {
    fn new(entry: &Entry) -> Self {
        Self {
            stage: stage_name(entry.stage).to_owned(),
            method: entry.method.name().to_owned(),
            key: entry.key.to_string(),
            nonce: entry.nonce.to_string(),
            role: role_name(entry.role).to_owned(),
            r#type: entry.role.kind().map(|kind| kind.0),
            aptpl: entry.aptpl,
            generation: entry.generation,
            source_paths: entry.source_paths,
            holder: entry.holder,
            destination_had: entry.destination_had,
            sharers: entry.sharers,
        }
    }

    pub(super) fn to_entry(&self) -> Result<Entry> {
        let stage = STAGES.into_iter().find(|stage| stage_name(*stage) == self.stage);
        Ok(Entry {
            stage: stage.with_context(|| format!("no stage is called {}", self.stage))?,
            method: self.method.parse::<Method>()?,
            key: self.key.parse::<Key>()?,
            nonce: self.nonce.parse::<Key>()?,
            role: role(&self.role, self.r#type.map(ReservationType))?,
            aptpl: self.aptpl,
            generation: self.generation,
            source_paths: self.source_paths,
            holder: self.holder,
            destination_had: self.destination_had,
            sharers: self.sharers,
        })
    }
}

const STAGES: [Stage; 10] = [
    Stage::Freeze,
    Stage::Take,
    Stage::SourceClosed,
    Stage::Undo,
    Stage::UndoProved,
    Stage::Moved,
    Stage::Kept,
    Stage::Fenced,
    Stage::FencedWithNonce,
    Stage::Lost,
];

const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Freeze => "freeze",
        Stage::Take => "take",
        Stage::SourceClosed => "source-closed",
        Stage::Undo => "undo",
        Stage::UndoProved => "undo-proved",
        Stage::Moved => "moved",
        Stage::Kept => "kept",
        Stage::Fenced => "fenced",
        Stage::FencedWithNonce => "fenced-with-nonce",
        Stage::Lost => "lost",
    }
}

pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Registrant => "registrant",
        Role::Member(_) => "member",
        Role::AllRegistrants(_) => "all-registrants",
        Role::Holder(_) => "holder",
        Role::HolderOrSharer(_) => "holder-or-sharer",
        Role::Unregistered => "unregistered",
    }
}

fn role(name: &str, kind: Option<ReservationType>) -> Result<Role> {
    Ok(match (name, kind) {
        ("registrant", None) => Role::Registrant,
        ("unregistered", None) => Role::Unregistered,
        ("member", Some(kind)) => Role::Member(kind),
        ("all-registrants", Some(kind)) => Role::AllRegistrants(kind),
        ("holder", Some(kind)) => Role::Holder(kind),
        ("holder-or-sharer", Some(kind)) => Role::HolderOrSharer(kind),
        _ => anyhow::bail!("no role is {name} with type {kind:?}"),
    })
}
