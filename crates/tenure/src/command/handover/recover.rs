//! Putting an interrupted `handover run` in order, from the journal it left.

use super::Ended;
use super::order::{self, paths, ports, recovery_links};
use super::report::Tone;
use crate::cli::MoveArgs;
use crate::console::Console;
use crate::exit::Failure;
use crate::journal::{JournalFile, Unfinished};
use ::handover::known_targets::{KnownTargets, TargetIdentity, Traits};
use ::handover::{Cause, Outcome, Path, Recovery, Remains, Side, Verdict};
use agent::drive::{Driver, Link, Record};
use scsi::{DataPhase, Request, opcode};
use std::collections::BTreeMap;

/// Recovers; the verdict says which side has the registration.
///
/// # Errors
/// Refused if the journal belongs to other devices than those that were given.
pub(super) fn recover(
    args: &MoveArgs,
    unfinished: &Unfinished,
    journal: &mut JournalFile,
    console: &mut Console,
) -> Result<Ended, Failure> {
    let Some(entry) = unfinished.entry else {
        // Nothing is sent that changes anything before the first entry is durable, so whose it was does not matter.
        let verdict = Verdict::KeptAtSource { cause: Cause::Recovered, leftover: false };
        return Ok(Ended {
            verdict,
            plan: None,
            method: None,
            record: Record::default(),
            links: BTreeMap::new(),
        });
    };
    if unfinished.from != order::texts(&args.from) || unfinished.to != order::texts(&args.to) {
        return Err(Failure::refused(format!(
            "the journal tells of an unfinished handover from {} to {}; run that one again to recover it first",
            unfinished.from.join(" "),
            unfinished.to.join(" ")
        )));
    }
    console.note(format!("an earlier handover of key {} was interrupted; recovering it first", entry.key));
    let identity = order::same_identity(args);
    let (source, source_alive) = recovery_links(&args.from, args.timeout, identity);
    let (destination, destination_alive) = recovery_links(&args.to, args.timeout, identity);
    let (source_ports, destination_ports) = (ports(&source), ports(&destination));
    let mut links: BTreeMap<_, _> =
        paths(Side::Source, source).chain(paths(Side::Destination, destination)).collect();
    let traits = traits(&order::targets(args)?, &mut links);
    let mut recovery = Recovery::new(Remains {
        source_entry: Some(entry),
        destination_entry: Some(entry),
        source: source_ports,
        destination: destination_ports,
        source_alive,
        destination_alive,
        prefer_destination: false,
        kept_at_source: false,
        traits,
    });
    let mut driver = Driver::new(links, journal);
    let verdict = driver.finish(&mut recovery)?;
    Tone::default().commands(&driver.record, console);
    let (links, record) = driver.into_parts();
    Ok(Ended { verdict, plan: None, method: Some(entry.method), record, links })
}

/// What is known of the target, asked of any path that answers; all unknown if none does.
fn traits(known: &KnownTargets, links: &mut BTreeMap<Path, Link>) -> Traits {
    let cdb = vec![opcode::INQUIRY, 0, 0, 0, 36, 0];
    let inquiry = Request { cdb, data: DataPhase::In(36) };
    let told = links.values_mut().find_map(|link| match link.send(&inquiry) {
        Outcome::Done(completion) => TargetIdentity::from_inquiry(&completion.data),
        _ => None,
    });
    told.map(|target| known.traits(&target)).unwrap_or_default()
}
