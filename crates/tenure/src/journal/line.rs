//! One line of the journal as JSON, schema 1.

use super::Unread;
use agent::entry::EntryForm;
use anyhow::{Result, ensure};
use handover::Entry;
use serde::{Deserialize, Serialize};

const SCHEMA: u32 = 1;

/// A line. Unknown fields are refused: a newer program wrote them, and they may matter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// A handover begins.
    Begin { schema: u32, from: Vec<String>, to: Vec<String> },
    /// An entry of the procedure.
    Entry { schema: u32, entry: EntryForm },
    /// The handover is over.
    End { schema: u32, verdict: String },
}

/// What lines of every schema have; the rest of a newer one means nothing here.
#[derive(Deserialize)]
struct AnyLine {
    schema: u64,
}

impl Line {
    /// # Errors
    /// [`Unread`]: it is of a newer version, or no line.
    pub(super) fn read(text: &str) -> Result<Self, Unread> {
        match serde_json::from_str(text) {
            Ok(AnyLine { schema }) if schema > u64::from(SCHEMA) => Err(Unread::Newer(schema)),
            _ => serde_json::from_str(text).map_err(|error| Unread::Damaged(error.into())),
        }
    }

    pub(super) const fn begin(from: Vec<String>, to: Vec<String>) -> Self {
        Self::Begin { schema: SCHEMA, from, to }
    }

    pub(super) fn entry(entry: &Entry) -> Self {
        Self::Entry { schema: SCHEMA, entry: EntryForm::new(entry) }
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
