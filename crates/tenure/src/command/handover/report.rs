//! How a plan and a run are told: text for people, one JSON document with `schema` 1 for programs.

use crate::console::Console;
use crate::exit::Exit;
use ::handover::{Engine, Method, Path, Plan, Verdict};
use agent::drive::Record;
use scsi::{DataPhase, Request};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// A verdict's name in JSON.
pub(crate) const fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Moved => "moved",
        Verdict::KeptAtSource { .. } => "kept-at-source",
        Verdict::Fenced { .. } => "fenced",
        Verdict::Lost => "lost",
        Verdict::InDoubt(_) => "in-doubt",
        Verdict::Refused(_) => "refused",
    }
}

/// A verdict's exit status.
pub(crate) const fn exit_of(verdict: &Verdict) -> Exit {
    match verdict {
        Verdict::Moved => Exit::Done,
        Verdict::KeptAtSource { .. } => Exit::RolledBack,
        Verdict::Fenced { .. } => Exit::Fenced,
        Verdict::Lost => Exit::Failed,
        Verdict::InDoubt(_) => Exit::InDoubt,
        Verdict::Refused(_) => Exit::Refused,
    }
}

/// One command of a plan or a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CommandDocument {
    pub(crate) phase: String,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    pub(crate) command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cdb: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<String>,
}

/// The document of `handover plan|run`.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    verdict: &'a str,
    method: Option<&'static str>,
    reason: String,
    role: Option<String>,
    passed_over: &'a [PassedOver],
    warnings: &'a [String],
    commands: &'a [CommandDocument],
    pause: Option<PauseDocument>,
    exit: u8,
}

#[derive(Clone, Debug, Serialize)]
struct PassedOver {
    method: &'static str,
    reason: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PauseDocument {
    round_trips: u32,
    microseconds: u64,
}

/// Everything there is to tell.
#[derive(Debug)]
pub(super) struct Report {
    verdict: Option<Verdict>,
    method: Option<Method>,
    role: Option<String>,
    passed_over: Vec<PassedOver>,
    warnings: Vec<String>,
    commands: Vec<CommandDocument>,
    pause: Option<PauseDocument>,
    advice: Option<String>,
}

impl Report {
    /// What a plan tells; `verdict` if it is refused.
    pub(super) fn planned(
        names: &BTreeMap<Path, String>,
        plan: Option<&Plan>,
        verdict: Option<Verdict>,
        record: &Record,
    ) -> Self {
        let commands = plan.map(|plan| {
            plan.commands
                .iter()
                .map(|command| CommandDocument {
                    phase: command.phase.to_string(),
                    path: command.path.to_string(),
                    device: names.get(&command.path).cloned(),
                    command: command.words.clone(),
                    cdb: command.request.as_ref().map(|request| hex(&request.cdb)),
                    data: command.request.as_ref().and_then(data_out),
                    outcome: None,
                })
                .collect()
        });
        Self {
            commands: commands.unwrap_or_default(),
            advice: record.advice.clone(),
            ..Self::new(plan, plan.map(|plan| plan.method), verdict)
        }
    }

    /// What a run tells.
    pub(super) fn ran(
        plan: Option<&Plan>,
        method: Option<Method>,
        verdict: Verdict,
        record: &Record,
    ) -> Self {
        let (round_trips, time) = record.pause();
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            commands: commands(record),
            advice: record.advice.clone(),
            pause: (verdict == Verdict::Moved).then_some(PauseDocument { round_trips, microseconds }),
            ..Self::new(plan, method, Some(verdict))
        }
    }

    fn new(plan: Option<&Plan>, method: Option<Method>, verdict: Option<Verdict>) -> Self {
        let passed_over = plan.map_or(&[][..], |plan| &plan.passed_over);
        Self {
            verdict,
            method,
            role: plan.map(|plan| plan.role.to_string()),
            passed_over: passed_over
                .iter()
                .map(|(method, reason)| PassedOver { method: method.name(), reason: reason.to_string() })
                .collect(),
            warnings: plan
                .map(|plan| plan.warnings.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            commands: Vec::new(),
            pause: None,
            advice: None,
        }
    }

    /// The exit status that belongs to it.
    pub(super) fn exit(&self) -> Exit {
        self.verdict.as_ref().map_or(Exit::Done, exit_of)
    }

    pub(super) fn document(&self) -> Document<'_> {
        Document {
            schema: 1,
            verdict: self.verdict.as_ref().map_or("ready", verdict_name),
            method: self.method.map(Method::name),
            reason: self.reason(),
            role: self.role.clone(),
            passed_over: &self.passed_over,
            warnings: &self.warnings,
            commands: &self.commands,
            pause: self.pause,
            exit: self.exit() as u8,
        }
    }

    /// Why: the verdict's own words, or why this method and not an earlier one.
    fn reason(&self) -> String {
        if let Some(verdict) = &self.verdict {
            let advice = self.advice.iter().map(|advice| format!("; {advice}"));
            return std::iter::once(verdict.to_string()).chain(advice).collect();
        }
        let role = self.role.as_deref().unwrap_or("the source");
        let reasons = self.passed_over.iter().map(|other| format!("not {}: {}", other.method, other.reason));
        std::iter::once(format!("the source is {role}")).chain(reasons).collect::<Vec<_>>().join("; ")
    }

    /// For people: a run ends with one line, a plan is a page.
    pub(super) fn text(&self) -> String {
        let Some(verdict) = &self.verdict else { return self.plan_text() };
        let mut out = format!("{}\n", self.reason());
        if let (Some(pause), Some(method)) = (self.pause, self.method) {
            let time = duration(Duration::from_micros(pause.microseconds));
            out =
                format!("{verdict} by {method}; the pause took {} round trips, {time}\n", pause.round_trips);
        }
        out
    }

    fn plan_text(&self) -> String {
        let mut out = String::new();
        let method = self.method.map_or("none", Method::name);
        let _ = writeln!(out, "method   {method}\nsource   {}", self.role.as_deref().unwrap_or("unknown"));
        for other in &self.passed_over {
            let _ = writeln!(out, "not      {}: {}", other.method, other.reason);
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "mind     {warning}");
        }
        for command in &self.commands {
            let _ = writeln!(out, "{}", line(command));
            let bytes = [("cdb", &command.cdb), ("data", &command.data)];
            for (name, bytes) in bytes.iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?))) {
                let _ = writeln!(out, "{:10}{name:5} {bytes}", "");
            }
        }
        out
    }
}

/// The commands that were carried out.
pub(crate) fn commands(record: &Record) -> Vec<CommandDocument> {
    let document = |happened: &agent::drive::Happened| CommandDocument {
        phase: happened.phase.to_string(),
        path: happened.path.to_string(),
        device: None,
        command: happened.words.clone(),
        cdb: None,
        data: None,
        outcome: Some(happened.outcome.clone()),
    };
    record.commands.iter().map(document).collect()
}

fn line(command: &CommandDocument) -> String {
    let outcome = command.outcome.as_ref().map_or(String::new(), |outcome| format!("  {outcome}"));
    format!("{:9}{:12} {:44}{outcome}", command.phase, command.path, command.command).trim_end().to_owned()
}

fn data_out(request: &Request) -> Option<String> {
    match &request.data {
        DataPhase::Out(bytes) if !bytes.is_empty() => Some(hex(bytes)),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A short time, readable.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_micros() {
        micros @ ..1000 => format!("{micros} us"),
        micros @ ..100_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        micros => format!("{} ms", micros / 1000),
    }
}

/// Narrates each command once.
#[derive(Debug, Default)]
pub(crate) struct Tone {
    told: usize,
    troubles: usize,
}

impl Tone {
    /// Tells what happened since the last call.
    pub(crate) fn commands(&mut self, record: &Record, console: &mut Console) {
        for (command, happened) in commands(record).iter().zip(&record.commands).skip(self.told) {
            match happened.reads {
                true => console.detail(line(command)),
                false => console.note(line(command)),
            }
        }
        for trouble in record.troubles.iter().skip(self.troubles) {
            console.warning(trouble);
        }
        (self.told, self.troubles) = (record.commands.len(), record.troubles.len());
    }
}

pub(super) fn narrate_plan(plan: Option<&Plan>, console: &mut Console) {
    let Some(plan) = plan else { return };
    console.note(format!("the source is {}; method {}", plan.role, plan.method));
    plan.warnings.iter().for_each(|warning| console.warning(warning.to_string()));
}

/// What was taken from the guest's nexus; a plan may have to ask it too.
pub(super) fn narrate_attentions(engine: &Engine, console: &mut Console) {
    for attention in engine.attentions() {
        console.warning(format!("the guest must be given this unit attention once: {attention}"));
    }
}

/// What the guest and the operator must be told although the handover is over.
pub(super) fn narrate_end(engine: &Engine, console: &mut Console) {
    narrate_attentions(engine, console);
    let surplus = engine.keys_unaccounted_for();
    if surplus > 0 {
        console.warning(format!(
            "the guest's key is listed {surplus} times more than its own registrations and the known sharers account for"
        ));
    }
    if engine.aptpl_may_have_changed() {
        console.warning("another node may have changed APTPL meanwhile; it is back at what was read first");
    }
}
