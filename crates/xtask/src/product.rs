//! `cargo xtask product`: the whole product of scenarios, roles, reservation types and targets, between two agents of this machine.

use crate::programs;
use crate::report::Done;
use anyhow::{Result, bail};
use clap::Args;
use lab::product::case::Case;
use lab::product::{self, Outcome, Programs, Selection};
use lab::stage::Qemus;
use lab::tenure::Tenure;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Houses at a time: most of a case is waiting.
const THREADS: usize = 4;
/// Cases that take longer are named.
const SLOW: Duration = Duration::from_secs(5);

/// What to play.
#[derive(Debug, Args)]
pub(crate) struct ProductArgs {
    /// Play this case alone, as a failing one is named; repeat for more
    #[arg(long = "case", value_name = "SCENARIO[@HOST:N]/STANDING/PROFILE", conflicts_with_all = ["full", "rows"])]
    cases: Vec<String>,
    /// Play these scenarios alone; repeat for more
    #[arg(long = "row", value_name = "SCENARIO")]
    rows: Vec<String>,
    /// Everything that happens at a point for every role, type and target; else at a point four roles on the
    /// standard's target and the holder of type 5 on the others
    #[arg(long)]
    full: bool,
    /// Where `tenure` and `scripted-qemu` are; they are built if this is left out
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
    /// Targets with two agents each at a time
    #[arg(long, value_name = "N", default_value_t = THREADS)]
    threads: usize,
}

/// What was asked for.
///
/// # Errors
/// If any case failed.
pub(crate) fn run(args: &ProductArgs) -> Result<()> {
    let programs = programs::build(args.programs.as_deref())?;
    let selection = Selection { cases: args.cases.clone(), rows: args.rows.clone(), full: args.full };
    let outcome = product::run(&at(&programs, args.threads), &selection)?;
    for (row, count) in &outcome.of_row {
        println!("{count:6}  {row}");
    }
    println!("{}", judged(&outcome)?);
    Ok(())
}

/// The step of `cargo xtask test`.
///
/// # Errors
/// If any case failed.
pub(crate) fn step() -> Result<Done> {
    let programs = at(&programs::directory(), THREADS);
    Ok(Done::Passed(judged(&product::run(&programs, &Selection::default())?)?))
}

fn at(programs: &Path, threads: usize) -> Programs {
    let tenure = Tenure::at(&programs.join("tenure")).bound();
    Programs { tenure, qemus: Qemus::Processes(programs.join("scripted-qemu")), threads, told }
}

/// A failing case is named as it is run alone; a slow one is worth a look.
fn told(case: &Case, wrong: &[String], took: Duration) {
    if !wrong.is_empty() {
        eprintln!("FAIL cargo xtask product --case {case}: {}", wrong.join("; "));
    }
    if took > SLOW {
        eprintln!("slow: {case}: {:.1} s", took.as_secs_f64());
    }
}

fn judged(outcome: &Outcome) -> Result<String> {
    match (outcome.failed.len(), outcome.played) {
        (_, 0) => bail!("no such case"),
        (0, played) => Ok(format!("{played} cases of {} scenarios, 0 exceptions", outcome.of_row.len())),
        (failed, played) => bail!("{failed} of {played} cases failed"),
    }
}
