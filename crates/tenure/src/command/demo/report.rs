//! The demo's time-line for people and its JSON document.

use super::cluster::Left;
use super::observer::Seen;
use super::{LAST_WORDS, Moved, SourceWrite};
use crate::cli::DemoArgs;
use crate::command::handover::{CommandDocument, commands, duration, verdict_name};
use crate::exit::Exit;
use ::handover::{Method, Phase, Verdict};
use agent::drive::PhaseSpan;
use scsi::pr::ReservationType;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[1;32m";
const RED: &str = "\x1b[1;31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Everything the demo found out.
pub(super) struct Report {
    kind: ReservationType,
    profile: String,
    address: String,
    moved: Moved,
    seen: Seen,
    left: Left,
}

/// One promise and whether it was kept.
struct Check {
    kept: bool,
    words: String,
}

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    verdict: &'static str,
    handover: &'static str,
    method: &'static str,
    reason: String,
    r#type: u8,
    profile: &'a str,
    commands: Vec<CommandDocument>,
    timeline: Vec<PhaseDocument>,
    pause: PauseDocument,
    observer: &'a Seen,
    source: &'static str,
    failed: Vec<String>,
}

#[derive(Serialize)]
struct PhaseDocument {
    phase: String,
    at_us: u64,
    took_us: u64,
    round_trips: u32,
}

#[derive(Serialize)]
struct PauseDocument {
    round_trips: u32,
    us: u64,
}

impl Report {
    pub(super) fn new(args: &DemoArgs, address: String, moved: Moved, seen: Seen, left: Left) -> Self {
        Self { kind: args.kind, profile: args.profile.clone(), address, moved, seen, left }
    }

    /// Every promise was kept.
    pub(super) fn passed(&self) -> bool {
        self.checks().iter().all(|check| check.kept)
    }

    /// A method that the plan refuses here is a refusal like that of `handover run`, no broken promise.
    pub(super) fn exit(&self) -> Exit {
        match self.moved.verdict {
            _ if self.passed() => Exit::Done,
            Verdict::Refused(_) => Exit::Refused,
            _ => Exit::Failed,
        }
    }

    fn checks(&self) -> Vec<Check> {
        vec![
            self.check_verdict(),
            self.check_observer(),
            self.check_source(),
            Check {
                kept: self.moved.read_back.as_deref() == Some(LAST_WORDS),
                words: "the guest goes on at beta: it reads its last block and writes".into(),
            },
            Check {
                kept: self.left.guest_keys == 1 && self.left.reservation_intact,
                words: format!("registered once, and the reservation is still {}", self.kind),
            },
            Check {
                kept: self.left.others_intact,
                words: "gamma and delta are registered as before, and nobody else is".into(),
            },
        ]
    }

    fn check_verdict(&self) -> Check {
        let words = format!("{}, by {}", self.moved.verdict, self.moved.method);
        Check { kept: self.moved.verdict == Verdict::Moved, words }
    }

    fn check_observer(&self) -> Check {
        let seen = &self.seen;
        // The standard requires no unit attention here; some of the imitated targets give one all the same.
        let clean = seen.is_clean(self.moved.method == Method::DestinationNonce, self.profile != "spc");
        let writes = match seen.writes_excluded {
            0 => format!("{} writes passed", seen.writes_passed),
            kept_out => format!("{kept_out} writes kept out, as {} demands", self.kind),
        };
        let words = match clean {
            true => {
                format!("gamma looked {} times: no gap, no other type, no conflict; {writes}", seen.looks)
            }
            false => format!("gamma looked {} times and saw: {}", seen.looks, seen.troubles.join("; ")),
        };
        Check { kept: clean, words }
    }

    fn check_source(&self) -> Check {
        match &self.moved.source_write {
            SourceWrite::Rejected => {
                Check { kept: true, words: "a write on alpha ends RESERVATION CONFLICT".into() }
            }
            SourceWrite::NoSession => {
                let kept = self.moved.method == Method::Identity;
                Check { kept, words: "alpha has no session any more".into() }
            }
            SourceWrite::Wrong(outcome) => {
                Check { kept: false, words: format!("a write on alpha ends {outcome}") }
            }
        }
    }

    /// One JSON document.
    pub(super) fn document(&self) -> Document<'_> {
        let (round_trips, time) = self.moved.record.pause();
        let failed = self.checks().into_iter().filter(|check| !check.kept).map(|check| check.words);
        Document {
            schema: 1,
            verdict: if self.passed() { "pass" } else { "fail" },
            handover: verdict_name(&self.moved.verdict),
            method: self.moved.method.name(),
            reason: self.moved.verdict.to_string(),
            r#type: self.kind.0,
            profile: &self.profile,
            commands: commands(&self.moved.record),
            timeline: self.moved.record.phases.iter().map(PhaseDocument::from).collect(),
            pause: PauseDocument { round_trips, us: micros(time) },
            observer: &self.seen,
            source: match self.moved.source_write {
                SourceWrite::Rejected => "rejected",
                SourceWrite::NoSession => "no session",
                SourceWrite::Wrong(_) => "writes",
            },
            failed: failed.collect(),
        }
    }

    /// The time-line.
    pub(super) fn text(&self) -> String {
        let mut out = self.head();
        for span in &self.moved.record.phases {
            self.phase(span, &mut out);
        }
        let (round_trips, time) = self.moved.record.pause();
        let _ = writeln!(
            out,
            "\n{BOLD}The guest stood still for {round_trips} round trips, {}.{PLAIN}\n",
            duration(time)
        );
        for check in self.checks() {
            let (colour, mark) = if check.kept { (GREEN, "ok  ") } else { (RED, "FAIL") };
            let _ = writeln!(out, "  {colour}{mark}{PLAIN} {}", check.words);
        }
        let (colour, word) = if self.passed() { (GREEN, "PASS") } else { (RED, "FAIL") };
        let _ = writeln!(out, "\n{colour}{word}{PLAIN}");
        out
    }

    fn head(&self) -> String {
        format!(
            "{BOLD}One LUN, two hosts, a cluster, one live handover{PLAIN}\n\n  \
             target  {} on {}, behaving like {}\n  \
             alpha   runs the guest, which holds {} with key {:#x}\n  \
             beta    is where the guest is to go\n  \
             gamma   a cluster node: writes and reads keys and reservation without a pause\n  \
             delta   another member of the cluster\n\n",
            "iSCSI",
            self.address,
            self.profile,
            self.kind,
            super::cluster::GUEST.0,
        )
    }

    fn phase(&self, span: &PhaseSpan, out: &mut String) {
        match span.phase {
            Phase::Freeze => out.push_str("           -- the guest pauses on alpha --\n"),
            Phase::Release => out.push_str("           -- the guest runs on beta --\n"),
            _ => {}
        }
        let _ = writeln!(
            out,
            "{:>9}  {BOLD}{:8}{PLAIN} {:>2} round trip{}  {}",
            duration(span.at),
            span.phase.to_string(),
            span.round_trips,
            if span.round_trips == 1 { " " } else { "s" },
            duration(span.took),
        );
        for command in self.moved.record.commands.iter().filter(|command| command.phase == span.phase) {
            let host = match command.path.side {
                ::handover::Side::Source => "alpha",
                ::handover::Side::Destination => "beta",
            };
            let (on, off) = if command.reads { (DIM, PLAIN) } else { ("", "") };
            let _ = writeln!(out, "           {on}  {host:6} {:46} {}{off}", command.words, command.outcome);
        }
    }
}

impl From<&PhaseSpan> for PhaseDocument {
    fn from(span: &PhaseSpan) -> Self {
        Self {
            phase: span.phase.to_string(),
            at_us: micros(span.at),
            took_us: micros(span.took),
            round_trips: span.round_trips,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
