//! `tenure audit`: what guests asked their devices for, and what came of it.

use crate::cli::AuditArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use anyhow::Context;
use pr_helper::audit::{Event, Line, Reader, Timestamp};
use serde::Serialize;
use std::thread;
use std::time::Duration;

/// How often a growing audit is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// What `--json` prints without `--follow`.
#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    events: Vec<Event>,
}

/// Shows what is there, and with `--follow` what comes; it failed if one guest's audit could not be read.
///
/// # Errors
/// If none can be read.
pub fn run(args: &AuditArgs, console: &mut Console) -> Result<Exit, Failure> {
    let place = || format!("the audit in {}", args.state.display());
    let mut reader = Reader::open(&args.state).with_context(place)?;
    let since = args.since.map(|age| Timestamp::now().before(age));
    let (mut gathered, mut damaged, mut exit) = (Vec::new(), 0_u64, Exit::Done);
    loop {
        match reader.next_line().with_context(place)? {
            Some(Line::Event(event)) if !wanted(args, since, &event) => {}
            Some(Line::Event(event)) if args.json && !args.follow => gathered.push(*event),
            Some(Line::Event(event)) if args.json => console.json(&event)?,
            Some(Line::Event(event)) => console.data(&text(&event))?,
            Some(Line::Damaged) => damaged += 1,
            Some(Line::Unreadable(why)) => {
                console.warning(&why);
                exit = Exit::Failed;
            }
            None => {
                left_out(std::mem::take(&mut damaged), console);
                if !args.follow {
                    break;
                }
                thread::sleep(PERIOD);
            }
        }
    }
    if args.json {
        console.json(&Document { schema: 1, events: gathered })?;
    }
    Ok(exit)
}

fn left_out(damaged: u64, console: &mut Console) {
    if damaged > 0 {
        console.warning(format!("lines left out that are damaged or of another version: {damaged}"));
    }
}

fn wanted(args: &AuditArgs, since: Option<Timestamp>, event: &Event) -> bool {
    args.vm.as_ref().is_none_or(|vm| *vm == event.vm) && since.is_none_or(|since| event.at >= since)
}

/// One line for people. Names are the guest's or the client's, and may hold anything: shown without control characters.
fn text(event: &Event) -> String {
    let word = |name: &str, value: Option<&str>| value.map(|v| format!(" {name} {v}")).unwrap_or_default();
    let kind = event.kind.map(|kind| format!(" type {kind}")).unwrap_or_default();
    let keys = word("key", event.key.as_deref()) + &word("second key", event.service_action_key.as_deref());
    let device = event.lun.as_deref().unwrap_or("unknown device");
    let sense =
        event.sense.map(|s| format!(" {:02x}/{:02x}/{:02x}", s.key, s.asc, s.ascq)).unwrap_or_default();
    let refused = event.refused.as_ref().map(|why| format!(" refused: {why}")).unwrap_or_default();
    let pid = event.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    let left_out = match event.suppressed {
        0 => String::new(),
        count => format!(" ({count} before it left out)"),
    };
    let Event { at, vm, action, status, name, uid, .. } = event;
    let node = word("at", event.node.as_deref());
    let handover = word("for handover", event.handover.as_deref());
    let line = format!(
        "{at} {vm}: {action}{kind}{keys} on {device}{node}{handover}: {status}{sense}{refused} [{name} pid {pid} uid {uid}]{left_out}"
    );
    line.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_whole_event_and_no_name_can_forge_another() {
        let event = Event {
            at: Timestamp(951_782_400_000),
            vm: "db".into(),
            name: "qemu\n\x1b[2J".into(),
            pid: Some(7),
            lun: Some("naa.6".into()),
            node: Some("/dev/sdb".into()),
            handover: Some("ab".into()),
            action: "PREEMPT".into(),
            kind: Some(5),
            key: Some("0xa".into()),
            service_action_key: Some("0xb".into()),
            status: "RESERVATION CONFLICT".into(),
            suppressed: 3,
            ..Event::default()
        };
        assert_eq!(
            text(&event),
            "2000-02-29T00:00:00.000Z db: PREEMPT type 5 key 0xa second key 0xb on naa.6 at /dev/sdb for handover ab: \
             RESERVATION CONFLICT [qemu\u{FFFD}\u{FFFD}[2J pid 7 uid 0] (3 before it left out)\n"
        );
    }
}
