//! A guest with a reservation that moves between the hosts while it writes, watched from outside, and judged.
//!
//! How it moves is a [`Way`]: `tenure migrate`, or by hand, which tests the lab itself: the right way must be let pass and
//! the naive one found out.

use super::blow::{self, Blow, Event};
use super::scenario::{Fate, Scenario};
use super::strike::Struck;
use super::{Hosts, INCOMING, Name, PATIENCE, PROGRAM, Seat, agents, guest, initiator};
use crate::judge::{Violation, judge, judge_turn};
use crate::process::wait_for;
use crate::watch::{Sight, Watch};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use scsi::pr::ReservationType;
use std::time::{Duration, Instant};

/// Blocks that are written before and after each move.
pub(super) const BLOCKS: usize = 20;

/// How a guest moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// `tenure migrate`.
    Agents,
    /// A bare migration, and in its pause a handover by single commands, done right.
    Hand,
    /// The same, done as it comes to mind: released here, reserved there.
    Naive,
}

/// What a course is.
#[derive(Clone, Debug, clap::Args)]
pub struct Course {
    /// By what the guest moves
    #[arg(long, default_value = "agents")]
    pub way: Way,
    /// What the logical unit is like
    #[arg(long, default_value = "holder")]
    pub scenario: Scenario,
    /// The reservation's type
    #[arg(long = "type", default_value = "we-ro")]
    pub kind: ReservationType,
    /// How often it moves: there, back, there…
    #[arg(long, default_value_t = 20)]
    pub moves: u32,
    /// Move it once, and let something happen at a step: EVENT/HOST/WHEN/STEP/NTH, as in destination-qemu/source/after/mark-taken/1
    #[arg(long, value_name = "BLOW", conflicts_with = "moves")]
    pub strike: Option<Blow>,
}

/// What came of a course.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What happened, in a line.
    pub told: String,
    /// How often the guest was to move.
    pub moves: u32,
    /// How often the third initiator looked.
    pub looks: u64,
    /// The promises that were broken.
    pub broken: Vec<Violation>,
}

impl Ran {
    /// The line, if every promise was kept.
    ///
    /// # Errors
    /// The promises that were broken.
    pub fn kept(self) -> Result<String> {
        let lines: Vec<String> =
            self.broken.iter().take(12).map(|violation| format!("\n  {violation}")).collect();
        ensure!(lines.is_empty(), "{}; {} promises broken:{}", self.told, self.broken.len(), lines.concat());
        Ok(format!("{}, every promise kept", self.told))
    }

    /// The line, if the judge found the gap that a naive handover leaves.
    ///
    /// # Errors
    /// If it found none.
    pub fn found_out(self) -> Result<String> {
        let gap = |violation: &Violation| matches!(violation, Violation::ReservationGap(_));
        ensure!(self.broken.iter().any(gap), "{}; the judge saw no gap: {:?}", self.told, self.broken);
        Ok(format!("naively: {} broken promises found", self.broken.len()))
    }
}

/// Where the guest is, and all that it told.
pub(super) struct Guest {
    pub(super) at: Name,
    pub(super) seat: Seat,
    pub(super) diaries: Vec<Vec<crate::guest::Entry>>,
}

impl Hosts {
    /// Runs a course from a clean logical unit on, and leaves no guest.
    ///
    /// # Errors
    /// If something failed and no promise was broken before, which would say more.
    pub fn run_course(&mut self, course: &Course) -> Result<Ran> {
        let fate = course.scenario.fate();
        let by_agents = course.way == Way::Agents;
        ensure!(fate == Fate::Moves || by_agents, "by hand nothing is refused");
        ensure!(
            course.strike.is_none() || by_agents && fate == Fate::Moves,
            "nothing else may happen in such a course"
        );
        self.clean()?;
        let mut guest = self.begin(course)?;
        self.set_up(course.scenario, course.kind, &mut guest.seat)?;
        let watch = Watch::begin(|number| self.log_in("watcher", number))?;
        let begun = Instant::now();
        let moved = match &course.strike {
            Some(blow) => self.strike(&mut guest, course.reservation()?, blow, &watch).map(Some),
            None => self.move_often(course, &mut guest).map(|()| None),
        };
        let took = begun.elapsed();
        let seen = watch.end().context("the watcher")?;
        guest.diaries.push(guest.seat.diary()?);
        self.hosts.iter_mut().try_for_each(super::Host::vacate)?;
        if course.strike.is_some() {
            let struck = moved?.context("nothing happened")?;
            return Ok(Ran {
                broken: course.judge(&struck, &seen, &guest),
                ..course.ran(took, &seen, &guest)
            });
        }
        let promise = course.scenario.promise(course.kind);
        let broken = judge(&promise, &seen, &guest.diaries, &initiator(guest.at.as_str()));
        if broken.is_empty() {
            moved?;
        }
        Ok(Ran { broken, ..course.ran(took, &seen, &guest) })
    }

    /// Moves a guest by agents that tell each step, and gives the death of everybody after each line of their journals.
    ///
    /// # Errors
    /// If it does not move.
    pub fn deaths(&mut self) -> Result<Vec<Blow>> {
        let kind = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
        let (way, scenario) = (Way::Agents, Scenario::Holder);
        let course = Course { way, scenario, kind, moves: 1, strike: None };
        self.clean()?;
        self.start_agents(true)?;
        let mut guest = self.seat_first(Some(agents::HELPER))?;
        self.set_up(scenario, kind, &mut guest.seat)?;
        self.move_often(&course, &mut guest)?;
        self.hosts.iter_mut().try_for_each(super::Host::vacate)?;
        let mut blows = Vec::new();
        for name in Name::ALL {
            blows.extend(blow::deaths(name, &self.leash(name)?.told()?));
        }
        ensure!(!blows.is_empty(), "no agent told anything");
        Ok(blows)
    }

    fn move_often(&mut self, course: &Course, guest: &mut Guest) -> Result<()> {
        (1..=course.moves).try_for_each(|number| {
            self.move_guest(course, guest, number).with_context(|| format!("move {number}"))
        })
    }

    fn begin(&mut self, course: &Course) -> Result<Guest> {
        let helper = match course.way {
            Way::Agents => {
                self.start_agents(course.strike.is_some())?;
                Some(agents::HELPER)
            }
            Way::Hand | Way::Naive => None,
        };
        self.seat_first(helper)
    }

    fn seat_first(&mut self, helper: Option<&str>) -> Result<Guest> {
        let seat = self.host(Name::A).seat("0", false, helper)?;
        seat.wait_written(BLOCKS)?;
        Ok(Guest { at: Name::A, seat, diaries: Vec::new() })
    }

    fn move_guest(&mut self, course: &Course, guest: &mut Guest, number: u32) -> Result<()> {
        let (from, to) = (guest.at, guest.at.other());
        guest.seat.wait_written(BLOCKS)?;
        let helper = (course.way == Way::Agents).then_some(agents::HELPER);
        let seat = self.host(to).seat(&number.to_string(), true, helper)?;
        let fate = course.scenario.fate();
        match course.way {
            Way::Agents => self.migrate(from, fate.exits())?,
            Way::Hand | Way::Naive => self.migrate_by_hand(from, course)?,
        }
        if !arrives(fate, &guest.seat, &seat)? {
            self.host(to).vacate()?;
            return guest.seat.wait_written_on(BLOCKS);
        }
        guest.diaries.push(guest.seat.diary()?);
        guest.seat = seat;
        guest.at = to;
        self.host(from).vacate()?;
        guest.seat.wait_written(BLOCKS)
    }

    /// The pause is QEMU's own, before the switchover.
    fn migrate_by_hand(&mut self, from: Name, course: &Course) -> Result<()> {
        let socket = format!("{}/qmp", guest::DIRECTORY);
        let uri = format!("tcp:{}:4444", self.host(from.other()).address);
        self.host(from.other()).vm.run(&[PROGRAM, "incoming", &socket, INCOMING], PATIENCE)?.good()?;
        self.host(from).vm.run(&[PROGRAM, "migrate", &socket, &uri], PATIENCE)?.good()?;
        match course.way {
            Way::Naive => self.naive(from, course.kind),
            Way::Hand | Way::Agents => self.properly(from, course),
        }?;
        self.host(from).vm.run(&[PROGRAM, "switch", &socket], PATIENCE)?.good()?;
        self.host(from.other()).vm.run(&[PROGRAM, "continue", &socket], PATIENCE)?.good().map(drop)
    }

    /// The destination registers. Then a holder takes another key, which the destination preempts; anybody else unregisters.
    fn properly(&mut self, from: Name, course: &Course) -> Result<()> {
        let (to, kind) = (from.other(), course.kind);
        self.pr(to, &["register", "--new-key", "0xa1", "--aptpl"])?;
        if !course.scenario.holds(kind) {
            return self.pr(from, &["register", "--key", "0xa1", "--new-key", "0x0", "--aptpl"]);
        }
        self.pr(from, &["register", "--key", "0xa1", "--new-key", "0x77", "--aptpl"])?;
        self.pr(to, &["preempt", "--key", "0xa1", "--victim", "0x77", "--type", &kind.0.to_string(), "--yes"])
    }

    fn naive(&mut self, from: Name, kind: ReservationType) -> Result<()> {
        let kind = kind.0.to_string();
        self.pr(from, &["release", "--key", "0xa1", "--type", &kind])?;
        self.pr(from, &["register", "--key", "0xa1", "--new-key", "0x0"])?;
        self.pr(from.other(), &["register", "--new-key", "0xa1", "--aptpl"])?;
        self.pr(from.other(), &["reserve", "--key", "0xa1", "--type", &kind])
    }

    /// `tenure pr` on a host's own disk.
    pub(super) fn pr(&mut self, host: Name, words: &[&str]) -> Result<()> {
        let disk = self.host(host).disk.display().to_string();
        let (verb, options) = words.split_first().context("no command")?;
        let argv = [&["/lab/programs/tenure", "-q", "pr", verb, disk.as_str()], options].concat();
        self.host(host).vm.run(&argv, PATIENCE)?.good().with_context(|| words.join(" ")).map(drop)
    }
}

/// Whether the guest runs at its new seat after a move.
fn arrives(fate: Fate, old: &Seat, new: &Seat) -> Result<bool> {
    match fate {
        Fate::Moves => Ok(true),
        Fate::Stays => Ok(false),
        Fate::Fenced => {
            let before = old.written()?;
            let runs = || match (old.written(), new.written()) {
                (_, Ok(here)) if here >= BLOCKS => Some(true),
                (Ok(there), _) if there >= before + BLOCKS => Some(false),
                _ => None,
            };
            wait_for(PATIENCE, runs).context("the guest runs nowhere")
        }
    }
}

impl Course {
    /// The reservation that somebody has.
    fn reservation(&self) -> Result<ReservationType> {
        self.scenario.kind(self.kind).context("nothing is reserved")
    }

    /// Against what was promised before and after it happened.
    fn judge(&self, struck: &Struck, seen: &[Vec<Sight>], guest: &Guest) -> Vec<Violation> {
        let before = self.scenario.promise(self.kind);
        let (end, diaries) = (initiator(guest.at.as_str()), &guest.diaries);
        let after = match self.strike.as_ref().map(|blow| blow.event) {
            Some(Event::Fence) => self.scenario.promise_of_fenced(self.kind),
            Some(Event::Stir) => before.clone(),
            _ => return judge(&before, seen, diaries, &end),
        };
        judge_turn([&before, &after], &struck.during, seen, diaries, &end)
    }

    fn ran(&self, took: Duration, seen: &[Vec<Sight>], guest: &Guest) -> Ran {
        let looks = seen.iter().flatten().map(|sight| sight.times).sum();
        let writes = guest.diaries.iter().flatten().filter(|entry| guest::is_write(entry)).count();
        let moves = if self.strike.is_some() { 1 } else { self.moves };
        let each = took.as_secs_f64() / f64::from(moves.max(1));
        let scenario = self.scenario;
        let kind =
            scenario.kind(self.kind).map_or_else(|| "no reservation".to_owned(), |kind| kind.to_string());
        let told = match &self.strike {
            None => format!("{scenario:?}, {kind}: {moves} moves, {each:.1} s each"),
            Some(blow) => format!("{scenario:?}, {kind}, {blow}: ends at {}, {each:.1} s", guest.at.as_str()),
        };
        Ran { told: format!("{told}, {writes} writes, {looks} looks"), moves, looks, broken: Vec::new() }
    }
}
