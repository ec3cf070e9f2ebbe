//! Trials of two hosts: `cargo xtask lab hosts` and `migrate`, and their part in a run of everything.

use crate::report::{Done, Report};
use crate::{lab, tools};
use ::lab::hosts::{Course, Fate, Hosts, Scenario, Target, Way};
use anyhow::Result;
use clap::{Args, ValueEnum};
use scsi::pr::ReservationType;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `hosts`.
#[derive(Args)]
pub(crate) struct Boot {
    /// Whose target serves the disk
    #[arg(long, default_value = "lio")]
    target: Target,
    /// Let a guest move between them so often, without a reservation
    #[arg(long, default_value_t = 2)]
    moves: u32,
    /// Where the programs are; without it they are built
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Arguments of `migrate`.
#[derive(Args)]
pub(crate) struct Migrate {
    /// Whose target serves the disk
    #[arg(long, default_value = "lio")]
    target: Target,
    #[command(flatten)]
    course: Course,
    /// Instead of one course all those of a run of everything
    #[arg(long)]
    all: bool,
    /// Where the programs are; without it they are built
    #[arg(long)]
    programs: Option<PathBuf>,
}

impl Boot {
    /// Boots them, lets every initiator see the disk, and a guest move.
    pub(crate) fn run(&self) -> Result<()> {
        let begun = Instant::now();
        let mut hosts = start(self.target, self.programs.as_deref())?;
        let ready = begun.elapsed().as_secs_f64();
        let seen = hosts.look_around()?;
        println!("{seen}, ready in {ready:.1} s; {}", hosts.move_plainly(self.moves)?);
        Ok(())
    }
}

impl Migrate {
    /// Runs one course, or all.
    pub(crate) fn run(&self) -> Result<()> {
        if self.all {
            let mut report = Report::new(true);
            on(self.target, self.programs.as_deref(), &mut report, false);
            return report.finish();
        }
        let mut hosts = start(self.target, self.programs.as_deref())?;
        println!("{}", hosts.run_course(&self.course)?.kept()?);
        Ok(())
    }
}

/// A guest there and back by its agents, each scenario in the role it is about, each type, and what tests the lab itself: a course
/// by hand, and one that the judge must find out. With `full` all of that on either target; else the scenarios on the kernel's
/// and the types on ours.
pub(crate) fn steps(report: &mut Report, full: bool) {
    for target in [Target::Lio, Target::Tenure] {
        on(target, None, report, full);
    }
}

fn on(target: Target, programs: Option<&Path>, report: &mut Report, full: bool) {
    let mut hosts = None;
    for course in courses(target, full) {
        let name = format!("lab: {}", describe(target, &course));
        report.step(&name, || within(&mut hosts, target, programs, &course));
    }
}

/// Moves of the guest that is moved most, in a run of everything, and with `full`.
const MOVES: [u32; 2] = [6, 20];

fn courses(target: Target, full: bool) -> Vec<Course> {
    let we_ro = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    let course = |way, scenario, kind, moves| Course { way, scenario, kind, moves };
    let [some, many] = MOVES;
    let agents = |scenario: Scenario, kind| {
        // Who stays cannot come back, and nobody is fenced twice.
        let moves = if scenario.fate() == Fate::Moves && full { 2 } else { 1 };
        course(Way::Agents, scenario, kind, moves)
    };
    let on = |its: Target| full || target == its;
    let others = Scenario::ALL.into_iter().filter(|one| on(Target::Lio) && *one != Scenario::Holder);
    let types = ReservationType::ALL.into_iter().filter(|kind| on(Target::Tenure) && *kind != we_ro);
    let mut courses = vec![course(Way::Agents, Scenario::Holder, we_ro, if full { many } else { some })];
    courses.extend(others.map(|scenario| agents(scenario, we_ro)));
    courses.extend(types.map(|kind| agents(Scenario::Holder, kind)));
    courses.extend(on(Target::Lio).then(|| course(Way::Hand, Scenario::Holder, we_ro, 1)));
    courses.push(course(Way::Naive, Scenario::Holder, we_ro, 1));
    courses
}

fn describe(target: Target, course: &Course) -> String {
    fn word(value: &impl ValueEnum) -> String {
        value.to_possible_value().map(|one| one.get_name().to_owned()).unwrap_or_default()
    }
    let Course { way, scenario, kind, .. } = course;
    format!("{} {} {} {}", word(&target), word(way), word(scenario), kind.short_name())
}

fn within(
    hosts: &mut Option<Hosts>,
    target: Target,
    programs: Option<&Path>,
    course: &Course,
) -> Result<Done> {
    if let Err(error) = tools::ensure(tools::LAB).and_then(|()| tools::ensure(tools::HOSTS)) {
        return Ok(Done::Skipped(error.to_string()));
    }
    let started = hosts.take().map_or_else(|| start(target, programs), Ok)?;
    let ran = hosts.insert(started).run_course(course)?;
    let told = if course.way == Way::Naive { ran.found_out() } else { ran.kept() }?;
    println!("{told}");
    Ok(Done::Passed(told))
}

/// Boots them with this workspace's programs.
fn start(target: Target, programs: Option<&Path>) -> Result<Hosts> {
    tools::ensure(tools::LAB)?;
    tools::ensure(tools::HOSTS)?;
    let built = lab::build(&["tenure", "tenure-lab", "tenure-pr-helper"], programs)?;
    Hosts::start(&lab::cache()?, &built, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_moves_every_type_and_every_scenario_by_agents_and_a_full_one_twenty_times_on_each_target() {
        let by_agents = |courses: &[Course], kind, scenario| {
            let same = |one: &&Course| one.kind == kind && one.scenario == scenario && one.way == Way::Agents;
            courses.iter().any(|one| same(&one))
        };
        let all = |courses: &[Course]| {
            let types = ReservationType::ALL.map(|kind| by_agents(courses, kind, Scenario::Holder));
            let scenarios = Scenario::ALL.map(|scenario| by_agents(courses, ReservationType(5), scenario));
            !types.contains(&false) && !scenarios.contains(&false)
        };
        let [lio, own] = [Target::Lio, Target::Tenure].map(|target| courses(target, false));
        assert!(all(&[lio, own].concat()));
        for target in [Target::Lio, Target::Tenure] {
            let courses = courses(target, true);
            assert!(all(&courses));
            assert_eq!(courses.iter().map(|one| one.moves).max(), Some(20));
        }
    }

    #[test]
    fn every_run_has_a_course_that_the_judge_must_find_out() {
        for target in [Target::Lio, Target::Tenure] {
            assert!(courses(target, false).iter().any(|one| one.way == Way::Naive));
        }
        let first = courses(Target::Lio, false).into_iter().next().unwrap();
        assert_eq!(describe(Target::Lio, &first), "lio agents holder WE-RO");
    }
}
