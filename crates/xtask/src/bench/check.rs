//! The reservation check of one command, in nanoseconds, with 1 and with 4,096 registrants: what the
//! benchmark of `logical-unit` tells, as rows.

use super::{ROUNDS, spread};
use crate::shell;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;

/// One line of that benchmark.
#[derive(Deserialize)]
struct Measured {
    registrants: u32,
    check_ns: f64,
    read_ns: f64,
}

/// Prints a row for each number of registrants, and the growth.
pub(super) fn print() -> Result<()> {
    let mut checks: BTreeMap<u32, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for measured in measure()? {
            let (check, read) = checks.entry(measured.registrants).or_default();
            check.push(measured.check_ns);
            read.push(measured.read_ns);
        }
    }
    ensure!(!checks.is_empty(), "the benchmark told nothing");
    println!("{:<34} {:>12} {:>12}   growth of the check", "registrants", "check", "4 KiB READ");
    let mut first = None;
    for (registrants, (mut check, mut read)) in checks {
        let (check, read) = (spread(&mut check).1, spread(&mut read).1);
        let growth = check / *first.get_or_insert(check);
        println!("{registrants:<34} {check:>9.1} ns {read:>9.1} ns   {growth:.2}");
    }
    Ok(())
}

fn measure() -> Result<Vec<Measured>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["bench", "-q", "-p", "tenure-logical-unit", "--bench", "reservation_check"]);
    let told = shell::read(command.current_dir(shell::root()))?;
    let lines = told.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
