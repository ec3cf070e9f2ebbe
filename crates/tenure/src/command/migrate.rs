//! `tenure migrate` and `tenure handover status|resume|abort|freeze|take|release`: orders for the local agent, and what it tells while it carries them out.

use super::descriptor;
use crate::cli::{AbortArgs, ControlArgs, FreezeArgs, GuestArgs, MigrateArgs, ResumeArgs, TakeArgs};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use agent::guests::PROGRESS;
use agent::migrate::{Downtime, Order, Progress, Report, Verdict};
use anyhow::Context;
use qmp::{CallError, Client, Events, Heard, Object, Opening};
use serde_json::Value;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the agent may take to answer where nothing is waited for.
const PROMPT: Duration = Duration::from_secs(30);
/// No migration takes longer; each step of it has a limit of its own.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between looks at the events and at Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// `tenure migrate`.
///
/// # Errors
/// If the agent cannot be asked; how the migration ended is the exit status.
pub fn run(args: &MigrateArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.control)?;
    args.fd.map(|number| descriptor::give(&client, number, Instant::now() + PROMPT)).transpose()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&interrupted)).context("Ctrl-C")?;
    let events = client.events();
    let arguments = object(&order(args))?;
    let answer = thread::scope(|scope| {
        let asked = scope.spawn(|| client.execute("migrate", arguments, Instant::now() + LONGEST));
        while !asked.is_finished() {
            follow(&events, console);
            // Pressed once more it also ends the waiting for a host that does not answer.
            if interrupted.swap(false, Ordering::Relaxed) {
                cancel(args, console);
            }
        }
        asked.join()
    });
    let answer = answer.map_err(|_| Failure::new(Exit::Failed, "the connection to the agent died"))?;
    match answer {
        // A plan begins nothing.
        Err(error @ (CallError::Lost { .. } | CallError::Overdue { .. })) if args.plan => {
            Err(Failure::new(Exit::Failed, format!("the agent: {error}")))
        }
        answer => end(answer, (&args.vm, &args.control), console),
    }
}

/// `tenure handover resume`.
///
/// # Errors
/// If the agent cannot be asked, or has nothing to resume; or the operator does not confirm.
pub fn resume(args: &ResumeArgs, console: &mut Console) -> Result<Exit, Failure> {
    if args.vouch && !args.yes {
        console.confirm(&format!(
            "If {} ran at the other host in this handover, or still runs there, resuming it here destroys its data.",
            args.guest.vm
        ))?;
    }
    let client = connect(&args.guest.control)?;
    let mut arguments = about(&args.guest);
    arguments.insert("vouched".into(), args.vouch.into());
    ask(&client, "handover-resume", arguments, &args.guest, console)
}

/// `tenure handover abort`.
///
/// # Errors
/// If the agent cannot be asked, or has nothing to end; or the operator does not confirm.
pub fn abort(args: &AbortArgs, console: &mut Console) -> Result<Exit, Failure> {
    if !args.yes {
        console.confirm(&question(args))?;
    }
    let client = connect(&args.guest.control)?;
    let mut arguments = about(&args.guest);
    arguments.insert("release".into(), args.release.into());
    ask(&client, "handover-abort", arguments, &args.guest, console)
}

/// `tenure handover freeze`.
///
/// # Errors
/// If the agent cannot be asked, or refuses.
pub fn freeze(args: &FreezeArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.guest.control)?;
    let mut arguments = about(&args.guest);
    arguments.insert("to".into(), args.to.clone().into());
    arguments.insert("stopped".into(), args.stopped.into());
    ask(&client, "handover-freeze", arguments, &args.guest, console)
}

/// `tenure handover take`.
///
/// # Errors
/// If the agent cannot be asked, or refuses; how it ended is the exit status.
pub fn take(args: &TakeArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.guest.control)?;
    let mut arguments = about(&args.guest);
    arguments.insert("from".into(), args.from.clone().into());
    ask(&client, "handover-take", arguments, &args.guest, console)
}

/// `tenure handover release`.
///
/// # Errors
/// If the agent cannot be asked, or refuses.
pub fn release(args: &GuestArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.control)?;
    ask(&client, "handover-release", about(args), args, console)
}

fn about(args: &GuestArgs) -> Object {
    Object::from_iter([("vm".to_owned(), args.vm.clone().into())])
}

fn ask(
    client: &Client,
    command: &str,
    arguments: Object,
    guest: &GuestArgs,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let answer = client.execute(command, arguments, Instant::now() + LONGEST);
    end(answer, (&guest.vm, &guest.control), console)
}

fn question(args: &AbortArgs) -> String {
    let vm = &args.guest.vm;
    match args.release {
        false => format!(
            "The unfinished handover of {vm} is undone; without the other host its key is unlisted for a moment."
        ),
        true => format!(
            "What the handover of {vm} left registered on this host is removed. Where the guest has nothing else it is \
             out of its cluster then."
        ),
    }
}

/// `tenure handover status`.
///
/// # Errors
/// If the agent cannot be asked.
pub fn status(args: &GuestArgs, console: &mut Console) -> Result<Exit, Failure> {
    let client = connect(&args.control)?;
    let mut arguments = Object::new();
    arguments.insert("vm".into(), args.vm.clone().into());
    let answer = client.execute("query-vm", arguments, Instant::now() + PROMPT);
    let told = answer.context("the agent")?;
    if args.control.json {
        console.json(&serde_json::json!({ "schema": 1, "vm": args.vm, "exit": 0, "handover": told }))?;
    } else {
        console.data(&words(&args.vm, &told))?;
    }
    Ok(Exit::Done)
}

fn words(vm: &str, told: &Value) -> String {
    let guest = told.get("guest").and_then(Value::as_str).unwrap_or("gone");
    let mut text = format!("{vm}: QEMU here: {guest}\n");
    let Some(record) = told.get("record").filter(|record| !record.is_null()) else {
        return text + "no handover is known here\n";
    };
    let of = |name: &str| record.get(name).and_then(Value::as_str);
    let end = of("verdict").map_or_else(|| "unfinished".to_owned(), |verdict| format!("ended: {verdict}"));
    let side =
        if record.get("led").and_then(Value::as_bool) == Some(true) { "source" } else { "destination" };
    text += &format!("handover {}: {end}; this host is the {side}\n", of("handover").unwrap_or("?"));
    let marks = record.get("marks").and_then(Value::as_array);
    let marks: Vec<_> = marks.into_iter().flatten().filter_map(Value::as_str).collect();
    text + &format!("marks: {}\n", if marks.is_empty() { "none".to_owned() } else { marks.join(", ") })
}

fn connect(control: &ControlArgs) -> Result<Client, Failure> {
    let client = Client::connect(&control.control, &Opening::default(), Instant::now() + PROMPT);
    let what = || format!("no agent answers on {}: is tenure agent running?", control.control.display());
    Ok(client.with_context(what)?)
}

fn order(args: &MigrateArgs) -> Order {
    let mut order = Order::new(&args.vm, &args.to);
    order.plan = args.plan;
    order.uri.clone_from(&args.uri);
    order.fd = args.fd.map(|_| descriptor::NAME.to_owned());
    order.parameters = args.parameters.iter().cloned().collect();
    if let Some(channels) = args.multifd {
        order.capabilities.insert("multifd".into(), true.into());
        order.parameters.insert("multifd-channels".into(), channels.into());
    }
    order.downtime_limit = u64::try_from(args.downtime_limit.as_millis()).unwrap_or(u64::MAX);
    order.method = args.method.map(|method| method.to_string());
    order.allow_gap = args.allow_gap;
    order.on_doubt = args.on_doubt.into();
    order.timeout = args.timeout.map(|timeout| timeout.as_secs());
    order
}

fn object(order: &Order) -> Result<Object, Failure> {
    match serde_json::to_value(order).context("the order")? {
        Value::Object(object) => Ok(object),
        _ => Err(Failure::usage("the order has no form")),
    }
}

/// Over a connection of its own: on the first one the migration is being answered.
fn cancel(args: &MigrateArgs, console: &mut Console) {
    console.note("cancelling");
    let mut arguments = Object::new();
    arguments.insert("vm".into(), args.vm.clone().into());
    let asked = connect(&args.control)
        .map(|client| client.execute("migrate-cancel", arguments, Instant::now() + PROMPT));
    if let Err(failure) = asked.and_then(|answer| Ok(answer.context("the agent")?)) {
        console.warning(format!("not cancelled: {failure}"));
    }
}

fn follow(events: &Events, console: &mut Console) {
    match events.next(Instant::now() + LOOK) {
        Heard::Event(event) if event.event == PROGRESS => {
            if let Ok(progress) = serde_json::from_value(Value::Object(event.data)) {
                show(&progress, console);
            }
        }
        // The answer says why.
        Heard::Closed => thread::sleep(LOOK),
        _ => {}
    }
}

fn show(progress: &Progress, console: &mut Console) {
    match progress {
        Progress::Step { what } => {
            console.progress(None);
            console.note(what);
        }
        Progress::Memory { total, remaining, rate } => {
            console.progress(Some(&bar(*total, *remaining, *rate)))
        }
        Progress::Note { text } => console.note(text),
    }
}

/// `memory [######----]  61 %  1.2 GiB left  850 MiB/s`
fn bar(total: u64, remaining: u64, rate: u64) -> String {
    let done = total.saturating_sub(remaining).saturating_mul(100).checked_div(total).unwrap_or(0);
    let full = usize::try_from(done / 5).unwrap_or(20).min(20);
    let (full, empty) = ("#".repeat(full), "-".repeat(20 - full));
    format!("memory [{full}{empty}] {done:3} %  {} left  {}/s", size(remaining), size(rate))
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

fn end(
    answer: Result<Value, CallError>,
    (vm, control): (&str, &ControlArgs),
    console: &mut Console,
) -> Result<Exit, Failure> {
    console.progress(None);
    let told = answer.map_err(|error| unanswered(vm, error))?;
    let report: Report = serde_json::from_value(told).context("the agent's report")?;
    if control.json {
        console.json(&report)?;
    } else {
        console.data(&text(&report))?;
    }
    // To have it undone may be what was asked for; and a guest that moved may have been lost with its new QEMU.
    Ok(match report.exit {
        0 => Exit::Done,
        1 => Exit::Failed,
        _ => exit(report.verdict),
    })
}

/// What the agent refuses was not begun. Of what it did not answer nobody can tell here how far it came.
fn unanswered(vm: &str, error: CallError) -> Failure {
    match error {
        CallError::Refused { error, .. } => Failure::refused(error.desc),
        CallError::NotSent { .. } => Failure::new(Exit::Failed, format!("the agent: {error}")),
        CallError::Lost { .. } | CallError::Overdue { .. } => Failure::new(
            Exit::InDoubt,
            format!(
                "the agent: {error}. A handover of {vm} that it had begun is unfinished: do not resume the guest by hand. The \
                 agent puts it in order as soon as it runs again; `tenure handover status {vm}` on both hosts says how it stands"
            ),
        ),
    }
}

const fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Possible | Verdict::Frozen | Verdict::Moved => Exit::Done,
        Verdict::Failed | Verdict::Lost => Exit::Failed,
        Verdict::Refused => Exit::Refused,
        Verdict::Kept => Exit::RolledBack,
        Verdict::Fenced => Exit::Fenced,
        Verdict::InDoubt => Exit::InDoubt,
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for lun in &report.luns {
        let method = lun.method.as_deref().map(|method| format!(" ({method})")).unwrap_or_default();
        text += &format!("{}: {}{method}\n", lun.lun, lun.result);
    }
    if report.verdict == Verdict::Possible {
        report.commands.iter().for_each(|command| text += &format!("  {command}\n"));
    }
    if let Some(downtime) = report.downtime.filter(|_| report.verdict == Verdict::Moved) {
        text += &parts(&downtime);
    }
    text + &format!("{}\n", report.reason)
}

fn parts(downtime: &Downtime) -> String {
    let ms = |micros: u64| format!("{}.{:03} ms", micros / 1000, micros % 1000);
    format!(
        "stood still {}: memory {}, freeze {}, take {}, verify {} ({} round trips), journal {}, device state {}, cont {}\n",
        ms(downtime.total),
        ms(downtime.memory),
        ms(downtime.freeze),
        ms(downtime.take),
        ms(downtime.verify),
        downtime.round_trips,
        ms(downtime.journal),
        ms(downtime.device_state),
        ms(downtime.cont)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::console::Verbosity;
    use clap::Parser;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// `tenure WORDS` against an agent that answers the order with this, or dies of it.
    fn told(words: &[&str], answer: Option<&str>) -> Failure {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let control = path.to_str().unwrap();
        let cli = Cli::parse_from([&["tenure"], words, &["--control", control]].concat());
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                writeln!(stream, "{{\"QMP\": {{\"version\": {{}}, \"capabilities\": []}}}}").unwrap();
                for answer in ["\"return\": {}"].into_iter().chain(answer) {
                    let line = lines.next().unwrap().unwrap();
                    let asked: Value = serde_json::from_str(&line).unwrap();
                    writeln!(stream, "{{{answer}, \"id\": {}}}", asked.get("id").unwrap()).unwrap();
                }
                // The order of an agent that dies of it, or the end of who was answered.
                lines.next();
            });
            let mut console = Console::standard(Verbosity::Quiet);
            let ended = match &cli.command {
                Command::Migrate(args) => run(args, &mut console),
                Command::Handover(args) => crate::command::handover::run(args, &mut console),
                _ => panic!("{words:?}"),
            };
            ended.unwrap_err()
        })
    }

    const ORDERS: [&[&str]; 6] = [
        &["migrate", "db", "--to", "b"],
        &["handover", "resume", "db"],
        &["handover", "abort", "db", "--yes"],
        &["handover", "freeze", "db", "--to", "b"],
        &["handover", "take", "db", "--from", "b"],
        &["handover", "release", "db"],
    ];

    #[test]
    fn what_an_agent_refuses_ends_with_4_and_its_reason_alone() {
        let refusal = "\"error\": {\"class\": \"GenericError\", \"desc\": \"db has no unfinished handover\"}";
        for words in ORDERS {
            let failure = told(words, Some(refusal));
            assert_eq!(failure.exit, Exit::Refused, "{words:?}: {failure}");
            assert_eq!(failure.to_string(), "db has no unfinished handover", "{words:?}");
        }
    }

    #[test]
    fn what_an_agent_that_dies_had_begun_is_in_doubt_and_a_plan_is_not() {
        for words in ORDERS {
            let failure = told(words, None);
            assert_eq!(failure.exit, Exit::InDoubt, "{words:?}: {failure}");
            assert!(failure.to_string().contains("`tenure handover status db`"), "{words:?}: {failure}");
        }
        assert_eq!(told(&["migrate", "db", "--to", "b", "--plan"], None).exit, Exit::Failed);
    }

    #[test]
    fn the_bar_is_empty_at_the_beginning_and_full_at_the_end() {
        assert_eq!(bar(0, 0, 0), "memory [--------------------]   0 %  0 B left  0 B/s");
        assert_eq!(
            bar(1 << 30, 1 << 29, 1 << 20),
            "memory [##########----------]  50 %  512.0 MiB left  1.0 MiB/s"
        );
        assert_eq!(bar(100, 0, 1), "memory [####################] 100 %  0 B left  1 B/s");
        assert_eq!(bar(1, u64::MAX, u64::MAX).len(), bar(1, u64::MAX, u64::MAX).len());
    }

    #[test]
    fn every_verdict_has_the_exit_status_of_its_document() {
        let all = [
            Verdict::Possible,
            Verdict::Frozen,
            Verdict::Moved,
            Verdict::Kept,
            Verdict::Refused,
            Verdict::Fenced,
            Verdict::Lost,
            Verdict::InDoubt,
            Verdict::Failed,
        ];
        all.into_iter().for_each(|verdict| assert_eq!(exit(verdict) as u8, verdict.exit(), "{verdict:?}"));
    }

    #[test]
    fn the_report_says_what_became_of_each_logical_unit_and_where_the_time_went() {
        let mut report = Report::new(Verdict::Moved, "the guest is at the destination");
        let mut lun = agent::migrate::LunReport::new("naa.1");
        (lun.method, lun.result) = (Some("source-nonce".into()), "moved to the destination".into());
        report.luns = vec![lun];
        report.downtime = Some(Downtime { total: 12_345, round_trips: 4, ..Downtime::default() });
        let text = text(&report);
        assert!(text.starts_with("naa.1: moved to the destination (source-nonce)\n"), "{text}");
        assert!(text.contains("stood still 12.345 ms") && text.contains("(4 round trips)"), "{text}");
        assert!(text.ends_with("the guest is at the destination\n"), "{text}");
    }
}
