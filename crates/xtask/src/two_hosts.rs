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
    /// Runs one course.
    pub(crate) fn run(&self) -> Result<()> {
        let mut hosts = start(self.target, self.programs.as_deref())?;
        println!("{}", hosts.run_course(&self.course)?.kept()?);
        Ok(())
    }
}

/// A course by hand on either target, and one that the judge must find out; with `full` every type and every scenario.
pub(crate) fn steps(report: &mut Report, full: bool) {
    for target in [Target::Lio, Target::Tenure] {
        let mut hosts = None;
        for course in courses(full) {
            let name = format!("lab: {}", describe(target, &course));
            report.step(&name, || within(&mut hosts, target, &course));
        }
    }
}

fn courses(full: bool) -> Vec<Course> {
    let we_ro = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    let course = |way, scenario, kind, moves| Course { way, scenario, kind, moves };
    let mut courses = vec![course(Way::Hand, Scenario::Holder, we_ro, 2)];
    courses.push(course(Way::Naive, Scenario::Holder, we_ro, 1));
    if full {
        let types = ReservationType::ALL.into_iter().filter(|kind| *kind != we_ro);
        courses.extend(types.map(|kind| course(Way::Hand, Scenario::Holder, kind, 2)));
        let others =
            Scenario::ALL.into_iter().filter(|one| *one != Scenario::Holder && one.fate() == Fate::Moves);
        courses.extend(others.map(|scenario| course(Way::Hand, scenario, we_ro, 2)));
    }
    courses
}

fn describe(target: Target, course: &Course) -> String {
    fn word(value: &impl ValueEnum) -> String {
        value.to_possible_value().map(|one| one.get_name().to_owned()).unwrap_or_default()
    }
    let Course { way, scenario, kind, .. } = course;
    format!("{} {} {} {}", word(&target), word(way), word(scenario), kind.short_name())
}

fn within(hosts: &mut Option<Hosts>, target: Target, course: &Course) -> Result<Done> {
    if let Err(error) = tools::ensure(tools::LAB).and_then(|()| tools::ensure(tools::HOSTS)) {
        return Ok(Done::Skipped(error.to_string()));
    }
    let started = hosts.take().map_or_else(|| start(target, None), Ok)?;
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
    fn a_full_run_has_every_type_and_every_scenario_that_moves() {
        let courses = courses(true);
        let by_hand = |kind, scenario| {
            let same = |one: &&Course| one.kind == kind && one.scenario == scenario && one.way == Way::Hand;
            courses.iter().filter(same).count()
        };
        for kind in ReservationType::ALL {
            assert_eq!(by_hand(kind, Scenario::Holder), 1, "{kind}");
        }
        for scenario in Scenario::ALL.into_iter().filter(|one| one.fate() == Fate::Moves) {
            assert_eq!(by_hand(ReservationType(5), scenario), 1, "{scenario:?}");
        }
    }

    #[test]
    fn every_run_has_a_course_that_the_judge_must_find_out() {
        let naive = courses(false).into_iter().find(|one| one.way == Way::Naive).unwrap();
        assert_eq!(describe(Target::Lio, &naive), "lio naive holder WE-RO");
    }
}
