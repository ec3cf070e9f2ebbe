//! What the guest's own diaries show, of all the QEMUs that it was in, in their order.

use super::Violation;
use crate::guest::{Entry, What};
use scsi::Status;

/// Everything that was not GOOD, not there, or out of order. A unit attention is a word to the guest, and no refusal: the
/// guest sends such a command again.
pub(super) fn judge(diaries: &[Vec<Entry>]) -> Vec<Violation> {
    wrong(diaries.iter().flatten())
}

/// A guest that was fenced at some time: from the first write that was refused on all are.
pub(super) fn judge_fenced(diaries: &[Vec<Entry>]) -> Vec<Violation> {
    let entries: Vec<&Entry> = diaries.iter().flatten().collect();
    let Some(first) = entries.iter().position(|entry| is_refused(entry)) else {
        return vec![Violation::NotRefused];
    };
    let (before, after) = entries.split_at(first);
    let mut found = wrong(before.iter().copied());
    found.extend(after.iter().filter_map(|entry| match &entry.what {
        What::Wrote(sequence, answer) if answer.status == Status::GOOD.0 => Some(Violation::Wrote(*sequence)),
        _ => None,
    }));
    found
}

fn is_refused(entry: &Entry) -> bool {
    matches!(&entry.what, What::Wrote(_, answer) if answer.status == Status::RESERVATION_CONFLICT.0)
}

fn wrong<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut written = None;
    for entry in entries {
        match &entry.what {
            What::Wrote(sequence, answer) if answer.status == Status::GOOD.0 => {
                // What was under way when it left is written again.
                let jump = written.filter(|last| *sequence != last + 1 && sequence != last);
                found.extend(jump.map(|last| Violation::Jump(last, *sequence)));
                written = Some(*sequence);
            }
            What::Wrote(sequence, answer) | What::Read { sequence, answer, .. }
                if answer.status != Status::GOOD.0 && !answer.is_attention() =>
            {
                found.push(Violation::Refused(*sequence, answer.status));
            }
            What::Read { sequence, found: there, answer }
                if !answer.is_attention() && *there != Some(*sequence) =>
            {
                found.push(Violation::Lost(*sequence, *there));
            }
            _ => {}
        }
    }
    found
}
