//! `tenure status`: what the ledger of this host says of each guest, logical unit and I_T nexus.
//!
//! Reads files only. A guest whose log cannot be read hides no other, and fails the command.

use crate::cli::StatusArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use ledger::{Error, Guest, Ledger, Owner, PathRecord, Record};
use serde::Serialize;
use std::path::Path;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    records: Vec<Row>,
    errors: Vec<String>,
}

/// What one I_T nexus of a guest has.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    vm: String,
    lun: String,
    key: Option<String>,
    role: &'static str,
    r#type: Option<u8>,
    aptpl: bool,
    prgeneration: Option<u32>,
    state: &'static str,
    why: Option<String>,
    path: Option<String>,
    node: Option<String>,
}

/// Shows the records.
///
/// # Errors
/// [`Exit::Failed`] with what to do, if there is no ledger or none of the guest, or it cannot be read.
pub fn run(args: &StatusArgs, console: &mut Console) -> Result<Exit, Failure> {
    let ledger = Ledger::read_only(&args.state).map_err(|error| failure(&error, &args.state))?;
    let guests = match &args.vm {
        Some(vm) => vec![ledger.guest(&Owner(vm.clone()))],
        None => ledger.guests().map_err(|error| failure(&error, &args.state))?,
    };
    let (guests, errors): (Vec<_>, Vec<_>) = guests.into_iter().partition(Result::is_ok);
    let records: Vec<Row> = guests.into_iter().flatten().flat_map(|guest| rows(&guest)).collect();
    let errors: Vec<_> = errors.into_iter().filter_map(Result::err).map(|error| advise(&error)).collect();
    let exit = if errors.is_empty() { Exit::Done } else { Exit::Failed };
    errors.iter().for_each(|error| console.error(error));
    if args.json {
        console.json(&Document { schema: 1, records, errors })?;
    } else if !records.is_empty() {
        console.data(&table(&records))?;
    } else if exit == Exit::Done {
        console.note(format!("no guest of {} has registered anything yet", args.state.display()));
    }
    Ok(exit)
}

fn failure(error: &Error, state: &Path) -> Failure {
    let hint = match error {
        Error::Missing(_) => format!("; is {} the helpers' --state directory?", state.display()),
        _ => String::new(),
    };
    Failure::new(Exit::Failed, format!("{}{hint}", advise(error)))
}

/// The error, and what to do where the ledger cannot know who asks.
pub(super) fn advise(error: &Error) -> String {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            format!("{error}; the ledger is readable by root alone: run this as root")
        }
        _ => error.to_string(),
    }
}

fn rows(guest: &Guest) -> Vec<Row> {
    let vm = &guest.owner().0;
    guest.records().iter().flat_map(|record| record_rows(vm, record)).collect()
}

/// A row for each nexus; one for a logical unit of which only the state is known.
fn record_rows(vm: &str, record: &Record) -> Vec<Row> {
    match record.paths.as_slice() {
        [] => vec![row(vm, record, None)],
        paths => paths.iter().map(|path| row(vm, record, Some(path))).collect(),
    }
}

/// What a record says of a nexus, as `--json` prints it.
pub(super) fn row(vm: &str, record: &Record, path: Option<&PathRecord>) -> Row {
    let tracked = path.map(|path| path.tracked).unwrap_or_default();
    Row {
        vm: vm.to_owned(),
        lun: record.lun.0.clone(),
        key: tracked.key.map(|key| key.to_string()),
        role: record.role(&tracked),
        r#type: tracked.held.or(record.reservation).map(|kind| kind.0),
        aptpl: tracked.aptpl,
        prgeneration: record.generation,
        state: record.standing().word(),
        why: record.doubt.clone(),
        path: path.map(|path| path.path.0.clone()),
        node: path.map(|path| path.node.clone()),
    }
}

/// Columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let head = ["VM", "LUN", "KEY", "ROLE", "TYPE", "APTPL", "PRGENERATION", "STATE"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let widths: [usize; 8] = std::array::from_fn(|column| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    lines.iter().map(|line| aligned(line, &widths)).collect()
}

fn aligned(line: &[String; 8], widths: &[usize; 8]) -> String {
    let cells: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    format!("{}\n", cells.join("  ").trim_end())
}

fn cells(row: &Row) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        printable(&row.vm),
        printable(&row.lun),
        or_dash(row.key.clone()),
        row.role.to_owned(),
        or_dash(row.r#type.map(|kind| kind.to_string())),
        if row.aptpl { "yes" } else { "no" }.to_owned(),
        or_dash(row.prgeneration.map(|generation| generation.to_string())),
        row.state.to_owned(),
    ]
}

/// Names come from devices and command lines: none may move the cursor.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests;
