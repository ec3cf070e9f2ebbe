//! Every fuzz target, on stable, for a given time.

use crate::report::{Done, Report};
use crate::{shell, tools};
use anyhow::{Context, Result};
use std::process::Command;

/// One step for each fuzz target, each on a core of its own.
pub(crate) fn steps(report: &mut Report, seconds: u32) {
    if let Err(reason) = tools::ensure_cargo_fuzz() {
        return report.step("fuzz", || Ok(Done::Skipped(format!("{reason:#}"))));
    }
    match targets() {
        Ok(names) => {
            report.step("fuzz build", build);
            let steps: Vec<String> = names.iter().map(|name| format!("fuzz {name}")).collect();
            report.together(&steps, |step| run(step.trim_start_matches("fuzz "), seconds));
        }
        Err(error) => report.step("fuzz", || Err(error)),
    }
}

fn targets() -> Result<Vec<String>> {
    let list = shell::read(cargo_fuzz().arg("list"))?;
    let names: Vec<String> = list.lines().map(str::to_owned).collect();
    anyhow::ensure!(!names.is_empty(), "there is no fuzz target");
    Ok(names)
}

/// The sanitizer would need a nightly toolchain; no parser has unsafe code.
const NO_SANITIZER: &str = "--sanitizer=none";

fn build() -> Result<Done> {
    shell::run(cargo_fuzz().args(["build", NO_SANITIZER])).map(|()| Done::passed())
}

fn run(name: &str, seconds: u32) -> Result<Done> {
    let time = format!("-max_total_time={seconds}");
    let mut command = cargo_fuzz();
    command.args([
        "run",
        NO_SANITIZER,
        name,
        "--",
        &time,
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]);
    let output = shell::output(&mut command)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{}", finding(&told));
    let executed = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let executed = executed.context("the fuzzer told no statistics")?.trim().to_owned();
    Ok(Done::Passed(format!("{executed} inputs")))
}

/// What the fuzzer found, from the panic on; a list of its statistics before it helps nobody.
fn finding(told: &str) -> &str {
    let start = told.find("panicked at").or_else(|| told.find("ERROR: libFuzzer")).unwrap_or(0);
    told.get(start..).unwrap_or(told).trim()
}

fn cargo_fuzz() -> Command {
    let mut command = Command::new("cargo");
    command.arg("fuzz").current_dir(shell::root()).env("RUSTC_BOOTSTRAP", "1");
    shell::forget_package(&mut command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_begins_with_the_panic() {
        assert_eq!(finding("#1 cov: 3\nthread panicked at x.rs:1\nbroken"), "panicked at x.rs:1\nbroken");
        assert_eq!(finding("#1\n==1== ERROR: libFuzzer: timeout"), "ERROR: libFuzzer: timeout");
        assert_eq!(finding("cannot build"), "cannot build");
    }
}
