//! `cargo xtask crash`: the crash matrix of the lab.

use crate::programs;
use crate::report::{Done, Report};
use anyhow::{Result, ensure};
use clap::Args;
use lab::matrix::{self, Case, Moments, Programs, Situation, Summary};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Cases that take longer may be named.
const SLOW: Duration = Duration::from_secs(5);

/// What is played.
#[derive(Args)]
pub(crate) struct CrashArgs {
    /// Every situation, at every moment: also where nothing was done or said since the one before, and around each round of
    /// commands to the devices
    #[arg(long)]
    full: bool,
    /// Tell what the operator was asked, and which cases took long
    #[arg(long, short)]
    verbose: bool,
    /// Only the cases whose names begin so
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Where the programs were built, instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

/// The matrix alone.
///
/// # Errors
/// If a case ended otherwise than it must.
pub(crate) fn run(args: &CrashArgs) -> Result<()> {
    let programs = programs::build(args.programs.as_deref())?;
    let summary = matrix(&Programs::below(&programs), args)?;
    println!("{summary}");
    ensure!(summary.exceptions.is_empty(), "{summary}");
    Ok(())
}

/// The matrix as a step.
pub(crate) fn steps(report: &mut Report) {
    report.step("crash matrix", || {
        let args = CrashArgs { full: false, verbose: false, case: None, programs: None };
        let summary = matrix(&Programs::below(&programs::directory()), &args)?;
        ensure!(summary.exceptions.is_empty(), "{summary}");
        Ok(Done::Passed(summary.to_string()))
    });
}

fn matrix(programs: &Programs, args: &CrashArgs) -> Result<Summary> {
    let begun = Instant::now();
    let cases = cases(programs, args)?;
    eprintln!("{} cases", cases.len());
    let tell = |case: &Case, ended: &Result<Option<String>>, took: Duration| {
        match ended {
            Err(error) => eprintln!("cargo xtask crash --case {case}: {error:#}"),
            Ok(Some(asked)) if args.verbose => eprintln!("{case}: asked: {asked}"),
            Ok(_) => {}
        }
        if args.verbose && took > SLOW {
            eprintln!("slow: {case}: {:.1} s", took.as_secs_f32());
        }
    };
    let summary = matrix::play(programs, cases, &tell);
    eprintln!("{summary}, {:.0} s", begun.elapsed().as_secs_f32());
    Ok(summary)
}

/// One that is named whole is played without looking for the others.
fn cases(programs: &Programs, args: &CrashArgs) -> Result<Vec<Case>> {
    let named = args.case.as_deref().unwrap_or_default();
    if let Ok(case) = named.parse::<Case>() {
        return Ok(vec![case]);
    }
    let situations = if args.full || !named.is_empty() { Situation::all() } else { Situation::usual() };
    let begins = |situation: &Situation| named.is_empty() || named.split('/').next() == Some(situation.name);
    let situations: Vec<_> = situations.into_iter().filter(begins).collect();
    let moments = if args.full { Moments::All } else { Moments::Distinct };
    let mut cases = matrix::enumerate(programs, &situations, moments)?;
    cases.retain(|case| case.to_string().starts_with(named));
    ensure!(!cases.is_empty(), "no case is called {named}");
    Ok(cases)
}
