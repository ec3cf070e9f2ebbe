//! The steps of a run, what became of each, and the table at the end.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// What a step tells when it did its work.
pub(crate) enum Done {
    /// It passed; the text is the figure worth remembering, or empty.
    Passed(String),
    /// It could not run here, and why.
    Skipped(String),
}

impl Done {
    /// Passed, nothing to add.
    pub(crate) const fn passed() -> Self {
        Self::Passed(String::new())
    }
}

struct Step {
    name: String,
    verdict: &'static str,
    remark: String,
    elapsed: Duration,
}

/// Runs steps one after another, whatever became of those before.
pub(crate) struct Report {
    steps: Vec<Step>,
    no_skip: bool,
}

impl Report {
    /// An empty report; with `no_skip` a skipped step counts as failed.
    pub(crate) const fn new(no_skip: bool) -> Self {
        Self { steps: Vec::new(), no_skip }
    }

    /// Runs one step and remembers its verdict.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Done>) {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let (verdict, remark) = match work() {
            Ok(Done::Passed(remark)) => ("pass", remark),
            Ok(Done::Skipped(reason)) if self.no_skip => ("FAIL", format!("skipped: {reason}")),
            Ok(Done::Skipped(reason)) => ("skip", reason),
            Err(error) => ("FAIL", format!("{error:#}")),
        };
        if verdict == "FAIL" {
            eprintln!("{name}: {remark}");
        }
        self.steps.push(Step { name: name.to_owned(), verdict, remark, elapsed: started.elapsed() });
    }

    /// Prints the table.
    ///
    /// # Errors
    /// If any step failed.
    pub(crate) fn finish(&self) -> Result<()> {
        println!("{}", self.table());
        match self.steps.iter().filter(|step| step.verdict == "FAIL").count() {
            0 => Ok(()),
            failed => bail!("{failed} of {} steps failed", self.steps.len()),
        }
    }

    fn table(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let line = |step: &Step| {
            let remark = step.remark.lines().next().unwrap_or_default();
            let seconds = step.elapsed.as_secs_f64();
            format!("{}  {:width$}  {seconds:7.1} s  {remark}", step.verdict, step.name)
        };
        let total: Duration = self.steps.iter().map(|step| step.elapsed).sum();
        let lines: Vec<String> = self.steps.iter().map(line).collect();
        format!("\n{}\n      {:width$}  {:7.1} s", lines.join("\n"), "total", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_run_and_does_not_stop_it() {
        let mut report = Report::new(false);
        report.step("a", || bail!("broken"));
        report.step("b", || Ok(Done::passed()));
        assert_eq!(report.steps.len(), 2);
        assert!(report.finish().is_err());
    }

    #[test]
    fn a_skip_is_told_and_fails_only_where_nothing_may_be_skipped() {
        for (no_skip, fails) in [(false, false), (true, true)] {
            let mut report = Report::new(no_skip);
            report.step("peer", || Ok(Done::Skipped("not installed".into())));
            assert!(report.table().contains("not installed"));
            assert_eq!(report.finish().is_err(), fails);
        }
    }
}
