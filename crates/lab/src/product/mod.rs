//! The whole product of what a handover must survive: scenarios, roles, reservation types and kinds of targets, each as a migration
//! that an operator types, between two agents, with processes for QEMU and for the target.
//!
//! [`rows`] is the table, the judge is one function, and every case can be run alone by its name. Where something happens
//! at a point of a migration, the points are the commands that the same migration sent when nothing happened.

pub mod case;
mod cast;
mod house;
mod judge;
pub mod rows;
mod script;

use crate::stage::Qemus;
use crate::tenure::Tenure;
use anyhow::Result;
use case::{Case, Point, Standing};
use house::{House, Tried};
use logical_unit::profile::Profile;
use rows::{COURSE, ROWS, Row, Where};
use script::Trace;
use scsi::opcode;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Cases of one house: as many as a target of ours serves easily.
const IN_A_HOUSE: usize = 48;

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tenure`.
    pub tenure: Tenure,
    /// `scripted-qemu`.
    pub qemus: Qemus,
    /// Houses at a time.
    pub threads: usize,
    /// Hears of every case when it is over: what was wrong, and how long it took.
    pub told: fn(&Case, &[String], Duration),
}

/// What came of all cases.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many were played.
    pub played: usize,
    /// How many of each row.
    pub of_row: BTreeMap<&'static str, usize>,
    /// The one that took longest, and how long.
    pub slowest: Option<(Duration, String)>,
    /// Name and faults of those that failed.
    pub failed: Vec<(String, Vec<String>)>,
}

type Done = Vec<(Case, Tried)>;

/// What to play.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These cases alone, by name.
    pub cases: Vec<String>,
    /// Of these scenarios alone; none: of all.
    pub rows: Vec<String>,
    /// What happens at points, and what takes long, for every standing and profile; else for the roles that take different ways on the standard's target,
    /// and for a holder on the others.
    pub full: bool,
}

/// Plays what is selected.
///
/// # Errors
/// If there is a name that is no case.
pub fn run(programs: &Programs, selection: &Selection) -> Result<Outcome> {
    if !selection.cases.is_empty() {
        let cases = selection.cases.iter().map(|name| name.parse()).collect::<Result<Vec<Case>>>()?;
        return Ok(Outcome::of([play(programs, &cases)]));
    }
    let wanted = |row: &Row| selection.rows.is_empty() || selection.rows.iter().any(|name| name == row.name);
    let later = ROWS.iter().any(|row| row.at.is_some() && wanted(row));
    let plain: Vec<_> =
        plain().into_iter().filter(|case| wanted(case.row) || (later && case.row.name == COURSE)).collect();
    let done = play(programs, &plain);
    let courses: BTreeMap<String, Trace> = done
        .iter()
        .filter(|(case, _)| case.row.name == COURSE)
        .map(|(case, tried)| (place(case.standing, case.profile), tried.trace.clone()))
        .collect();
    let at_points: Vec<_> =
        at_points(&courses, selection.full).into_iter().filter(|case| wanted(case.row)).collect();
    Ok(Outcome::of([done, play(programs, &at_points)]))
}

fn place(standing: Standing, profile: &Profile) -> String {
    format!("{standing}/{}", profile.name)
}

fn grid() -> impl Iterator<Item = (Standing, &'static Profile)> {
    Profile::ALL
        .into_iter()
        .flat_map(|profile| Standing::all().into_iter().map(move |standing| (standing, profile)))
}

/// Every case in which nothing happens at a point.
fn plain() -> Vec<Case> {
    let rows = |at: (Standing, &'static Profile)| {
        ROWS.iter().filter(|row| row.at.is_none()).map(move |row| (row, at))
    };
    let case = |(row, (standing, profile)): (&'static Row, (Standing, &'static Profile))| {
        let played = row.leaves_out(standing, profile).is_none();
        played.then_some(Case { row, point: None, standing, profile })
    };
    grid().flat_map(rows).filter_map(case).collect()
}

/// On the standard's target the roles that take different ways; elsewhere the holder, whose way depends on the target.
fn is_sampled(standing: Standing, profile: &Profile) -> bool {
    let roles: &[&str] = if profile.name == "spc" {
        &["holder-5", "member-5", "holder-7", "registrant"]
    } else {
        &["holder-5"]
    };
    roles.contains(&standing.to_string().as_str())
}

/// Every case in which something happens at a point, for each point of the course of the same migration.
fn at_points(courses: &BTreeMap<String, Trace>, full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (standing, profile) in grid().filter(|(standing, profile)| full || is_sampled(*standing, profile)) {
        let Some(course) = courses.get(&place(standing, profile)) else { continue };
        for row in ROWS.iter().filter(|row| row.leaves_out(standing, profile).is_none()) {
            let Some((_, at)) = row.at else { continue };
            let points = course.iter().filter(|(_, cdb)| at.has(cdb)).map(|(point, _)| *point);
            cases.extend(points.map(|point: Point| Case { row, point: Some(point), standing, profile }));
        }
    }
    cases
}

impl Where {
    fn has(self, cdb: &[u8; 16]) -> bool {
        match self {
            Self::Everywhere => true,
            Self::AtChanges => cdb[0] == opcode::PERSISTENT_RESERVE_OUT,
            Self::AtReservations => {
                matches!(cdb[0], opcode::PERSISTENT_RESERVE_OUT | opcode::PERSISTENT_RESERVE_IN)
            }
        }
    }
}

/// Plays cases, those of a profile in houses of their own.
fn play(programs: &Programs, cases: &[Case]) -> Done {
    let mut houses = Vec::new();
    for profile in Profile::ALL {
        let own: Vec<Case> = cases.iter().filter(|case| case.profile == profile).copied().collect();
        houses.extend(own.chunks(IN_A_HOUSE).map(|chunk| (profile, chunk.to_vec())));
    }
    let (waiting, done) = (Mutex::new(houses.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((profile, cases)) = next() {
            let tried = in_house(programs, profile, cases);
            done.lock().unwrap_or_else(PoisonError::into_inner).extend(tried);
        }
    };
    thread::scope(|scope| (0..programs.threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn in_house(programs: &Programs, profile: &Profile, cases: Vec<Case>) -> Done {
    match House::open(&programs.tenure, &programs.qemus, profile, &cases) {
        Ok(house) => {
            let play = |(index, case): (u16, Case)| {
                let tried = house.play(index, &case);
                (programs.told)(&case, &tried.wrong, tried.took);
                (case, tried)
            };
            (0u16..).zip(cases).map(play).collect()
        }
        Err(error) => {
            let tried = || Tried { wrong: vec![format!("{error:#}")], ..Tried::default() };
            cases.into_iter().map(|case| (case, tried())).collect()
        }
    }
}

impl Outcome {
    fn of(parts: impl IntoIterator<Item = Done>) -> Self {
        let mut outcome = Self::default();
        for (case, tried) in parts.into_iter().flatten() {
            outcome.played += 1;
            *outcome.of_row.entry(case.row.name).or_default() += 1;
            let slowest = outcome.slowest.take();
            outcome.slowest =
                slowest.filter(|(took, _)| *took >= tried.took).or(Some((tried.took, case.to_string())));
            if !tried.wrong.is_empty() {
                outcome.failed.push((case.to_string(), tried.wrong));
            }
        }
        outcome.failed.sort();
        outcome
    }
}
