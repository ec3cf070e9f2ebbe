//! `cargo xtask explore`: searches the states of a handover and says what it found. Data on stdout, progress on
//! stderr; ends non-zero on a violation or an incomplete search.

use clap::Parser;
use explorer::explore::{Broken, Report, explore};
use explorer::oracle::{Promise, Tolerance};
use explorer::orders::{Extent, Selection};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Parser)]
#[command(name = "cargo xtask explore", about = "Search the states of a handover for broken promises")]
struct Cli {
    /// The whole space instead of the part for every test run
    #[arg(long)]
    full: bool,
    /// Further than `--full` where the plan chooses and over two paths: hours, and several GiB
    #[arg(long, conflicts_with = "full")]
    deep: bool,
    /// Only this profile
    #[arg(long)]
    profile: Option<String>,
    /// Only roles whose name begins so: holder-5, alone, member, registrant, fenced
    #[arg(long)]
    role: Option<String>,
    /// Only this method; `auto` is the plan's own choice
    #[arg(long)]
    method: Option<String>,
    /// Most foreign commands in a run, instead of the part's own bound (at most 3)
    #[arg(long)]
    foreign: Option<u8>,
    /// Most faults in a run, instead of the part's own bound (at most 3)
    #[arg(long)]
    faults: Option<u8>,
    /// Threads
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Random walks beyond the bounds, from this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Steps of random walks in all
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Only violations of this promise, P1 to P7; what breaks another ends its path
    #[arg(long)]
    only: Option<Promise>,
    /// Kinds of violations told in full
    #[arg(long, default_value_t = 5)]
    show: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let extent = match (cli.full, cli.deep) {
        (true, _) => Extent::Whole,
        (_, true) => Extent::Deep,
        _ => Extent::Part,
    };
    let selection = Selection { extent, profile: cli.profile, role: cli.role, method: cli.method };
    let mut orders = selection.orders();
    for (_, budget) in &mut orders {
        budget.foreign = cli.foreign.unwrap_or(budget.foreign).min(3);
        budget.faults = cli.faults.unwrap_or(budget.faults).min(3);
    }
    let begun = Instant::now();
    let (done, states, all) = (AtomicU64::new(0), AtomicU64::new(0), orders.len());
    let progress = |scenario: &explorer::scenario::Scenario, report: &Report| {
        report.broken.iter().for_each(|broken| eprintln!("{scenario}: {}", broken.violation));
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        let so_far = states.fetch_add(report.states, Ordering::Relaxed) + report.states;
        if done % 100 == 0 || report.states > 3_000_000 {
            let (after, here) = (begun.elapsed(), report.states);
            eprintln!("{after:6.0?} {done}/{all}, {so_far} states; {scenario}: {here}");
        }
    };
    let report = match cli.seed {
        Some(seed) => explorer::walk::walk(&orders, seed, cli.steps),
        None => explore(&orders, cli.only, cli.jobs, &progress),
    };
    tell(&report, cli.show);
    eprintln!("{:.0?}", begun.elapsed());
    if report.is_clean() && report.scenarios > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The shortest trace of every kind of violation, most frequent kind first.
fn tell_violations(report: &Report, show: usize) {
    let mut kinds: BTreeMap<String, Vec<&Broken>> = BTreeMap::new();
    for broken in &report.broken {
        kinds.entry(broken.violation.to_string()).or_default().push(broken);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, all)| std::cmp::Reverse(all.len()));
    for (kind, all) in kinds.iter().take(show) {
        println!("{} scenarios: {kind}", all.len());
        if let Some(shortest) = all.iter().min_by_key(|broken| broken.trace.len()) {
            println!("  for instance {}", shortest.scenario);
            shortest.trace.iter().for_each(|line| println!("    {line}"));
        }
    }
}

fn tell(report: &Report, show: usize) {
    tell_violations(report, show);
    for (rule, count) in Tolerance::ALL.iter().zip(report.tolerated).filter(|(_, count)| *count > 0) {
        println!("tolerated {count} times: {rule}");
    }
    for (verdict, count) in &report.verdicts {
        println!("{count} ends: {verdict}");
    }
    println!(
        "{} scenarios, {} states, {} moves, depth {}, {} violations{}",
        report.scenarios,
        report.states,
        report.moves,
        report.depth,
        report.broken.len(),
        if report.cut > 0 { ", INCOMPLETE" } else { "" }
    );
}
