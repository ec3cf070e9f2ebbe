//! `tenure doctor`: what this machine lacks for the helper to work and to be confined, and what to do about it.
//!
//! It looks and reads only. `machine` looks at the kernel, this process, the helper's configuration, socket and state directory,
//! `unit` at a logical unit.

mod machine;
#[cfg(test)]
mod tests;
mod unit;

use crate::cli::DoctorArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Nothing to do.
    Ok,
    /// Works, less well or not for everybody.
    Warn,
    /// Does not work.
    Fail,
}

/// What was found at one place.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    state: State,
    found: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Finding {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Ok, found: found.into(), advice: None }
    }

    fn warn(check: impl Into<String>, found: impl Into<String>, advice: &'static str) -> Self {
        Self { state: State::Warn, advice: Some(advice), ..Self::ok(check, found) }
    }

    fn fail(check: impl Into<String>, found: impl Into<String>, advice: &'static str) -> Self {
        Self { state: State::Fail, advice: Some(advice), ..Self::ok(check, found) }
    }

    fn text(&self) -> String {
        let state = match self.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        let advice = self.advice.map(|advice| format!("      {advice}\n")).unwrap_or_default();
        format!("{state}  {}: {}\n{advice}", self.check, self.found)
    }
}

/// Everything found.
#[derive(Debug, Serialize)]
struct Findings {
    schema: u32,
    state: State,
    checks: Vec<Finding>,
}

impl Findings {
    fn of(checks: Vec<Finding>) -> Self {
        let state = checks.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
        Self { schema: 1, state, checks }
    }
}

/// Looks at everything, and prints what was found.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &DoctorArgs, console: &mut Console) -> Result<Exit, Failure> {
    let mut checks = vec![machine::seccomp(), machine::landlock(), machine::capability()];
    let configuration = machine::configuration(args.config.as_deref());
    checks.extend([configuration, machine::socket(&args.socket), machine::state(&args.state)]);
    args.devices.iter().for_each(|device| checks.extend(unit::examine(device)));
    let findings = Findings::of(checks);
    if args.json {
        console.json(&findings)?;
    } else {
        findings.checks.iter().try_for_each(|finding| console.data(&finding.text()))?;
    }
    Ok(if findings.state == State::Fail { Exit::Failed } else { Exit::Done })
}
