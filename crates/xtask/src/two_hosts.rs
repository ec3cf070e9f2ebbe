//! Trials of two hosts: `cargo xtask lab hosts` and `migrate`, and their part in a run of everything.

use crate::report::{Done, Report};
use crate::{lab, programs, tools};
use ::lab::hosts::{Blow, Course, Event, Fate, Hosts, Ran, Scenario, Target, TargetHangs, Way};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use scsi::pr::ReservationType;
use std::fmt;
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
    /// Instead of one course everybody's death after each line of the journals
    #[arg(long)]
    deaths: bool,
    /// With `--all` or `--deaths`: more of them, those of `lab --full`
    #[arg(long)]
    full: bool,
    /// With `--all` or `--deaths`: only those in whose names this is
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
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
        if !self.all && !self.deaths {
            let mut hosts = start(self.target, self.programs.as_deref())?;
            println!("{}", hosts.run_course(&self.course)?.kept()?);
            return Ok(());
        }
        let mut report = Report::new(true);
        let mut part = Part::new(self.target, self.programs.as_deref(), &self.only);
        if self.all {
            part.courses(&mut report, courses(self.target, self.full));
        }
        if self.deaths {
            part.deaths(&mut report);
        }
        println!("{}", part.sum);
        report.finish()
    }
}

/// A guest there and back by its agents: what only real kernels, QEMUs and helpers can show. Every scenario, role and type there is is played by
/// the product of migrations, everybody's death at every step by the crash matrix, both with processes instead of VMs. With `full` all of
/// that here as well, on either target, and everybody's death after each line of the journals.
pub(crate) fn steps(report: &mut Report, full: bool) {
    let mut sum = Sum::default();
    for target in [Target::Lio, Target::Tenure] {
        let mut part = Part::new(target, None, "");
        part.courses(report, courses(target, full));
        if full {
            part.deaths(report);
        }
        sum = sum.and(part.sum);
    }
    report.step("lab: two hosts", || {
        println!("{sum}");
        Ok(Done::Passed(sum.to_string()))
    });
}

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    courses: u32,
    moves: u32,
    deaths: u32,
    blows: u32,
    looks: u64,
}

impl Sum {
    const fn and(self, other: Self) -> Self {
        Self {
            courses: self.courses + other.courses,
            moves: self.moves + other.moves,
            deaths: self.deaths + other.deaths,
            blows: self.blows + other.blows,
            looks: self.looks + other.looks,
        }
    }

    fn of(course: &Course, ran: &Ran) -> Self {
        let event = course.strike.as_ref().map(|blow| blow.event);
        let is_death = event.is_some_and(|event| Event::DEATHS.contains(&event));
        Self {
            courses: 1,
            moves: ran.moves,
            deaths: u32::from(is_death),
            blows: u32::from(event.is_some() && !is_death),
            looks: ran.looks,
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { courses, moves, deaths, blows, looks } = self;
        write!(
            f,
            "{courses} courses, {moves} moves, {deaths} kills and cuts, {blows} other blows, {looks} looks"
        )
    }
}

/// Why nothing is run.
const MISSING: &str = "QEMU, its helper, busybox, kmod or open-iscsi is missing";

/// What is run on one target, in VMs that are booted once.
struct Part<'a> {
    target: Target,
    programs: Option<&'a Path>,
    only: &'a str,
    hosts: Option<Hosts>,
    sum: Sum,
}

impl<'a> Part<'a> {
    fn new(target: Target, programs: Option<&'a Path>, only: &'a str) -> Self {
        Self { target, programs, only, hosts: None, sum: Sum::default() }
    }

    fn courses(&mut self, report: &mut Report, courses: Vec<Course>) {
        for course in courses {
            let name = format!("lab: {}", describe(self.target, &course));
            if name.contains(self.only) {
                report.step(&name, || self.run(&course));
            }
        }
    }

    /// Everybody's, once after each line that the agents write into their journals.
    fn deaths(&mut self, report: &mut Report) {
        let mut blows = Vec::new();
        report.step("lab: lines of the journals", || {
            let Some(hosts) = self.hosts()? else { return Ok(Done::Skipped(MISSING.into())) };
            blows = hosts.deaths()?;
            Ok(Done::Passed(format!("{} deaths", blows.len())))
        });
        self.courses(report, blows.into_iter().map(struck).collect());
    }

    /// `None` where this machine lacks something.
    fn hosts(&mut self) -> Result<Option<&mut Hosts>> {
        if tools::ensure(tools::LAB).and_then(|()| tools::ensure(tools::HOSTS)).is_err() {
            return Ok(None);
        }
        let started = self.hosts.take().map_or_else(|| start(self.target, self.programs), Ok)?;
        Ok(Some(self.hosts.insert(started)))
    }

    /// Once; and once more, on new VMs, if it is shown that the kernel's target hung. What it tells says so.
    fn run(&mut self, course: &Course) -> Result<Done> {
        again(|| self.once(course))
    }

    /// After a course that failed nobody knows what its VMs are like; the next one boots new ones.
    fn once(&mut self, course: &Course) -> Result<Done> {
        let Some(hosts) = self.hosts()? else { return Ok(Done::Skipped(MISSING.into())) };
        let ran = hosts.run_course(course).map_err(|error| hosts.inquire(&error));
        let told = ran.and_then(|ran| {
            self.sum = self.sum.and(Sum::of(course, &ran));
            if course.way == Way::Naive { ran.found_out() } else { ran.kept() }
        });
        if told.is_err() {
            self.hosts = None;
        }
        told.inspect(|told| println!("{told}")).map(Done::Passed)
    }
}

/// Runs it; and, if the kernel's own target was shown to hang meanwhile, once more.
fn again(mut once: impl FnMut() -> Result<Done>) -> Result<Done> {
    let told = once();
    let Err(error) = &told else { return told };
    let Some(hangs) = error.downcast_ref::<TargetHangs>() else { return told };
    eprintln!("{error:#}");
    let first = format!("AT THE SECOND TRY; at the first {hangs}");
    match once().context(first.clone())? {
        Done::Passed(told) => Ok(Done::Passed(format!("{first}: {told}"))),
        skipped @ Done::Skipped(_) => Ok(skipped),
    }
}

/// Moves of the guest that is moved most, in a run of everything, and with `full`.
const MOVES: [u32; 2] = [2, 20];

const WE_RO: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

fn courses(target: Target, full: bool) -> Vec<Course> {
    match (full, target) {
        (true, _) => all(),
        (false, Target::Lio) => usual(),
        // The kernel's initiator at our target, and what the judge must find out.
        (false, Target::Tenure) => vec![
            course(Way::Agents, Scenario::Holder, ReservationType::WRITE_EXCLUSIVE_ALL_REGISTRANTS, 1),
            course(Way::Naive, Scenario::Holder, WE_RO, 1),
        ],
    }
}

/// On the kernel's target in every run.
fn usual() -> Vec<Course> {
    let [some, _] = MOVES;
    let mut courses = vec![course(Way::Agents, Scenario::Holder, WE_RO, some)];
    courses.extend(SCENARIOS.map(|scenario| course(Way::Agents, scenario, WE_RO, 1)));
    courses.extend(blows(&BLOWS));
    courses
}

/// Each scenario in the role it is about, each type, what happens in the course of a move, and what tests the lab itself: a course by hand,
/// and one that the judge must find out.
fn all() -> Vec<Course> {
    let [_, many] = MOVES;
    let agents = |scenario: Scenario, kind| {
        // Who stays cannot come back, and nobody is fenced twice.
        let moves = if scenario.fate() == Fate::Moves { 2 } else { 1 };
        course(Way::Agents, scenario, kind, moves)
    };
    let others = Scenario::ALL.into_iter().filter(|one| *one != Scenario::Holder);
    let types = ReservationType::ALL.into_iter().filter(|kind| *kind != WE_RO);
    let mut courses = vec![course(Way::Agents, Scenario::Holder, WE_RO, many)];
    courses.extend(others.map(|scenario| agents(scenario, WE_RO)));
    courses.extend(types.map(|kind| agents(Scenario::Holder, kind)));
    courses.extend(blows(&BLOWS));
    courses.extend(blows(&MORE_BLOWS));
    courses.extend([Way::Hand, Way::Naive].map(|way| course(way, Scenario::Holder, WE_RO, 1)));
    courses
}

const fn course(way: Way, scenario: Scenario, kind: ReservationType, moves: u32) -> Course {
    Course { way, scenario, kind, moves, strike: None }
}

fn blows(named: &[&str]) -> Vec<Course> {
    named.iter().filter_map(|blow| Some(struck(blow.parse().ok()?))).collect()
}

/// What of the kernel's own behaviour the others do not meet: another member with the same key, no reservation, another member that
/// fences, processes that are new, and lists that do not fit.
const SCENARIOS: [Scenario; 5] =
    [Scenario::KeyOnly, Scenario::SharedKey, Scenario::Restarted, Scenario::ShortLists, Scenario::Fenced];

/// What happens in the course of a move in every run: each program dies once, the link, the guest is fenced, and QEMU's migration ends.
const BLOWS: [&str; 6] = [
    "source-agent/source/after/mark-taken/1",
    "destination-qemu/source/after/mark-taken/1",
    "destination-helper/destination/after/entries/2",
    "link/source/after/freeze/1",
    "fence/destination/after/entries/2",
    "cancel/source/after/qemu-send/1",
];

/// And in a full one.
const MORE_BLOWS: [&str; 8] = [
    "destination-agent/source/after/mark-go/1",
    "source-qemu/source/after/entries/2",
    "destination-qemu/source/after/qemu-switch-over/1",
    "source-helper/source/after/entries/2",
    "fence/source/after/qemu-send/1",
    "fence/source/after/mark-taken/1",
    "stir/source/after/qemu-stop/1",
    "abort/source/after/qemu-send/1",
];

/// A move in the course of which this happens, of a guest that holds its reservation unless another member has to.
fn struck(blow: Blow) -> Course {
    let scenario = if blow.event == Event::Stir { Scenario::Member } else { Scenario::Holder };
    Course { strike: Some(blow), ..course(Way::Agents, scenario, WE_RO, 1) }
}

fn describe(target: Target, course: &Course) -> String {
    fn word(value: &impl ValueEnum) -> String {
        value.to_possible_value().map(|one| one.get_name().to_owned()).unwrap_or_default()
    }
    let Course { way, scenario, kind, strike, .. } = course;
    let blow = strike.as_ref().map(|blow| format!(" {blow}")).unwrap_or_default();
    format!("{} {} {} {}{blow}", word(&target), word(way), word(scenario), kind.short_name())
}

/// Boots them with this workspace's programs.
fn start(target: Target, built: Option<&Path>) -> Result<Hosts> {
    tools::ensure(tools::LAB)?;
    tools::ensure(tools::HOSTS)?;
    Hosts::start(&lab::cache()?, &programs::build(built)?, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_run_moves_every_type_and_every_scenario_by_agents_and_twenty_times_on_each_target() {
        for target in [Target::Lio, Target::Tenure] {
            let courses = courses(target, true);
            let by_agents = |kind, scenario| {
                let same = |one: &Course| {
                    one.kind == kind
                        && one.scenario == scenario
                        && one.way == Way::Agents
                        && one.strike.is_none()
                };
                courses.iter().any(same)
            };
            assert!(ReservationType::ALL.into_iter().all(|kind| by_agents(kind, Scenario::Holder)));
            assert!(Scenario::ALL.into_iter().all(|scenario| by_agents(WE_RO, scenario)));
            assert_eq!(courses.iter().map(|one| one.moves).max(), Some(20));
        }
    }

    #[test]
    fn every_run_has_the_death_of_each_program_and_of_the_link_and_a_full_one_all_that_may_happen() {
        let events = |full| {
            let courses = courses(Target::Lio, full);
            courses.iter().filter_map(|course| Some(course.strike.as_ref()?.event)).collect::<Vec<_>>()
        };
        let usual = events(false);
        assert_eq!(usual.len(), BLOWS.len());
        let has = |is_it: fn(&Event) -> bool| usual.iter().any(is_it);
        assert!(
            has(|event| matches!(event, Event::Agent(_))) && has(|event| matches!(event, Event::Helper(_)))
        );
        assert!(has(|event| matches!(event, Event::Qemu(_))) && has(|event| *event == Event::Link));
        assert!(has(|event| *event == Event::Fence) && has(|event| *event == Event::Cancel));
        let full = events(true);
        assert_eq!(full.len(), BLOWS.len() + MORE_BLOWS.len());
        assert!(Event::ALL.iter().all(|event| full.contains(event)), "{full:?}");
    }

    #[test]
    fn a_course_is_run_again_only_where_the_kernels_target_hung_and_only_once() {
        let hangs = || anyhow::anyhow!("lost").context(TargetHangs::new("soft lockup"));
        let runs = |failures: Vec<anyhow::Error>| {
            let (mut failures, mut runs) = (failures.into_iter(), 0);
            let done = again(|| {
                runs += 1;
                failures.next().map_or_else(|| Ok(Done::Passed("moved".into())), Err)
            });
            (runs, done)
        };
        let (count, done) = runs(vec![hangs()]);
        assert!(matches!(done, Ok(Done::Passed(told)) if told.contains("SECOND") && told.contains("lockup")));
        assert_eq!(count, 2);
        for (failures, wanted) in
            [(vec![], 1), (vec![anyhow::anyhow!("a gap")], 1), (vec![hangs(), hangs()], 2)]
        {
            let fails = !failures.is_empty();
            let (count, done) = runs(failures);
            assert_eq!((count, done.is_err()), (wanted, fails));
        }
    }

    #[test]
    fn every_run_has_a_course_that_the_judge_must_find_out() {
        let is_naive = |one: &Course| one.way == Way::Naive;
        let of = |target, full| courses(target, full).iter().filter(|one| is_naive(one)).count();
        assert_eq!(of(Target::Lio, false) + of(Target::Tenure, false), 1);
        assert_eq!([of(Target::Lio, true), of(Target::Tenure, true)], [1; 2]);
        let first = courses(Target::Lio, false).into_iter().next().unwrap();
        assert_eq!(describe(Target::Lio, &first), "lio agents holder WE-RO");
    }
}
