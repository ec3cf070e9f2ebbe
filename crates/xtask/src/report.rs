//! The steps of a run, what became of each, and the table at the end.

use anyhow::{Result, bail};
use std::sync::Mutex;
use std::thread;
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

/// Runs steps, whatever became of those before.
pub(crate) struct Report {
    begun: Instant,
    steps: Vec<Step>,
    no_skip: bool,
    only: String,
}

impl Report {
    /// An empty report; with `no_skip` a skipped step counts as failed.
    pub(crate) fn new(no_skip: bool) -> Self {
        Self { begun: Instant::now(), steps: Vec::new(), no_skip, only: String::new() }
    }

    /// Single steps that have not this text in their names are not run.
    #[must_use]
    pub(crate) fn only(self, text: &str) -> Self {
        Self { only: text.to_owned(), ..self }
    }

    /// Runs one step and remembers its verdict.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Done>) {
        if name.contains(&self.only) {
            self.steps.push(Step::run(name, self.no_skip, work));
        }
    }

    /// Runs steps of which each keeps one core busy, as many at a time as there are cores, and remembers them in their order.
    pub(crate) fn together(&mut self, names: &[String], work: impl Fn(&str) -> Result<Done> + Sync) {
        let waiting = Mutex::new(names.iter().enumerate());
        let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
        let worker = || {
            let steps = std::iter::from_fn(next);
            steps
                .map(|(place, name)| (place, Step::run(name, self.no_skip, || work(name))))
                .collect::<Vec<_>>()
        };
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut done: Vec<(usize, Step)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .flat_map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        done.sort_by_key(|(place, _)| *place);
        self.steps.extend(done.into_iter().map(|(_, step)| step));
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
        let total = self.begun.elapsed();
        let lines: Vec<String> = self.steps.iter().map(line).collect();
        format!("\n{}\n      {:width$}  {:7.1} s", lines.join("\n"), "total", total.as_secs_f64())
    }
}

impl Step {
    fn run(name: &str, no_skip: bool, work: impl FnOnce() -> Result<Done>) -> Self {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let (verdict, remark) = match work() {
            Ok(Done::Passed(remark)) => ("pass", remark),
            Ok(Done::Skipped(reason)) if no_skip => ("FAIL", format!("skipped: {reason}")),
            Ok(Done::Skipped(reason)) => ("skip", reason),
            Err(error) => ("FAIL", format!("{error:#}")),
        };
        if verdict == "FAIL" {
            eprintln!("{name}: {remark}");
        }
        Self { name: name.to_owned(), verdict, remark, elapsed: started.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_run_together_are_all_remembered_in_their_order() {
        let mut report = Report::new(false);
        let names: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        report.together(&names, |name| if name == "7" { bail!("broken") } else { Ok(Done::passed()) });
        assert!(report.steps.iter().map(|step| &step.name).eq(&names));
        let failed: Vec<&str> = report
            .steps
            .iter()
            .filter(|step| step.verdict == "FAIL")
            .map(|step| step.name.as_str())
            .collect();
        assert_eq!(failed, ["7"]);
    }

    #[test]
    fn a_failed_step_fails_the_run_and_does_not_stop_it() {
        let mut report = Report::new(false);
        report.step("a", || bail!("broken"));
        report.step("b", || Ok(Done::passed()));
        assert_eq!(report.steps.len(), 2);
        assert!(report.finish().is_err());
    }

    #[test]
    fn a_step_that_is_not_asked_for_is_not_run() {
        let mut report = Report::new(false).only("tgt");
        report.step("device on tgt", || Ok(Done::passed()));
        report.step("iscsi-perf", || bail!("it ran"));
        assert_eq!(report.steps.len(), 1);
        report.finish().unwrap();
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
