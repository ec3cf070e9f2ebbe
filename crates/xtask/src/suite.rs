//! What `cargo xtask test` and its parts consist of.

use crate::report::{Done, Report};
use crate::{crash, fuzz, interop, lab, product, programs, shell};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Reservation types the demo is run with.
const TYPES: [&str; 6] = ["1", "3", "5", "6", "7", "8"];

/// The disks of the benchmark are only there with their feature.
const CLIPPY: [&str; 8] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--features",
    "tenure-null-sg/preload",
    "--",
    "-D",
    "warnings",
];

/// Everything that must pass.
///
/// # Errors
/// If any step failed.
pub(crate) fn test(no_skip: bool) -> Result<()> {
    let mut report = Report::new(no_skip);
    let cargo = |args: &'static [&'static str]| move || shell::cargo(args, &[]).map(|()| Done::passed());
    report.step("fmt", cargo(&["fmt", "--all", "--check"]));
    report.step("clippy", cargo(&CLIPPY));
    report.step("tests", || tests(no_skip));
    report.step("build", build);
    report.step("explore", explore);
    TYPES.iter().for_each(|kind| report.step(&format!("demo --type {kind}"), || demo(kind)));
    crash::steps(&mut report);
    report.step("product of migrations", product::step);
    interop::steps(&mut report, &programs::directory());
    lab::steps(&mut report, false);
    fuzz::steps(&mut report, 10);
    report.finish()
}

fn build() -> Result<Done> {
    programs::build(None).map(|_| Done::passed())
}

/// All tests. They say what this machine lacks, which nobody sees of a test that passed; with `no_skip` they fail.
///
/// There are none in documentation; to look for them takes every crate's compilation once more.
fn tests(no_skip: bool) -> Result<Done> {
    let mut command = shell::cargo_command();
    command.args(["test", "--workspace", "--lib", "--bins", "--tests", "--quiet", "--no-fail-fast"]);
    if no_skip {
        command.env("TENURE_NO_SKIP", "1");
    }
    shell::run(&mut command).map(|()| Done::passed())
}

/// Other people's software alone; of its steps those in whose names `only` is.
///
/// # Errors
/// If the programs do not compile, or any step failed.
pub(crate) fn interop(no_skip: bool, only: &str, built: Option<&Path>) -> Result<()> {
    let programs = programs::build(built)?;
    let mut report = Report::new(no_skip).only(only);
    interop::steps(&mut report, &programs);
    report.finish()
}

/// The fuzz targets alone.
///
/// # Errors
/// If any of them found something.
pub(crate) fn fuzz(seconds: u32) -> Result<()> {
    let mut report = Report::new(true);
    fuzz::steps(&mut report, seconds);
    report.finish()
}

/// The explorer's bounded part; it fails if any state breaks a promise.
fn explore() -> Result<Done> {
    let output = shell::output(Command::new(programs::explore()).stderr(Stdio::inherit()))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{told}");
    let summary = told.lines().find(|line| line.contains(" scenarios, ")).unwrap_or("it told no summary");
    ensure!(output.status.success(), "{summary}");
    Ok(Done::Passed(summary.to_owned()))
}

fn demo(kind: &str) -> Result<Done> {
    let mut command = Command::new(programs::tenure());
    let told = shell::read(command.args(["-q", "demo", "--json", "--type", kind]))?;
    let document: Value = serde_json::from_str(&told)?;
    let word = |name: &str| document.get(name).and_then(Value::as_str);
    ensure!(word("verdict") == Some("pass"), "{document}");
    Ok(Done::Passed(format!("method {}", word("method").unwrap_or("?"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines below a directory of Rust's that begin an example which would be run.
    fn examples(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                examples(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(begun(&text).map(|line| format!("{}: {line}", path.display())));
            }
        }
    }

    /// Every other fence begins something; what is named there as text is none.
    fn begun(text: &str) -> impl Iterator<Item = &str> {
        let is_fence = |line: &&str| line.starts_with("//! ```") || line.starts_with("/// ```");
        let begins = text.lines().map(str::trim).filter(is_fence).step_by(2);
        begins.filter(|line| !line.ends_with("```text"))
    }

    #[test]
    fn no_test_is_in_documentation_where_it_would_not_be_run() {
        assert_eq!(
            begun("/// ```\n/// run();\n/// ```\n//! ```text\n//! x\n//! ```").collect::<Vec<_>>(),
            ["/// ```"]
        );
        let mut found = Vec::new();
        examples(&shell::root().join("crates"), &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn no_program_whose_tests_are_not_run_has_one() {
        let programs = [
            "explorer/src/main.rs",
            "lab/src/main.rs",
            "lab/src/bin/agent-on-a-leash.rs",
            "lab/src/bin/helper-of-files.rs",
            "lab/src/bin/scripted-qemu.rs",
            "pr-helper/src/main.rs",
            "tenure/src/main.rs",
        ];
        for program in programs {
            let text = std::fs::read_to_string(shell::root().join("crates").join(program)).unwrap();
            assert!(!text.contains("#[test]") && !text.contains("\nmod "), "{program}");
        }
    }
}
