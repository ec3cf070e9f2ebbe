//! A guest with a reservation that moves between the hosts while it writes, watched from outside, and judged.
//!
//! How it moves is a [`Way`]: `tenure migrate`, or by hand, which tests the lab itself: the right way must be let pass and
//! the naive one found out.

use super::scenario::{Fate, Scenario};
use super::{Hosts, INCOMING, Name, PATIENCE, PROGRAM, Seat, agents, guest, initiator};
use crate::judge::{Violation, judge};
use crate::process::wait_for;
use crate::watch::{Sight, Watch};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use scsi::pr::ReservationType;
use std::time::{Duration, Instant};

/// Blocks that are written before and after each move.
const BLOCKS: usize = 20;

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
}

/// What came of a course.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What happened, in a line.
    pub told: String,
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
struct Guest {
    at: Name,
    seat: Seat,
    diaries: Vec<Vec<crate::guest::Entry>>,
}

impl Hosts {
    /// Runs a course from a clean logical unit on, and leaves no guest.
    ///
    /// # Errors
    /// If something failed and no promise was broken before, which would say more.
    pub fn run_course(&mut self, course: &Course) -> Result<Ran> {
        let fate = course.scenario.fate();
        ensure!(fate == Fate::Moves || course.way == Way::Agents, "by hand nothing is refused");
        self.clean()?;
        let mut guest = self.begin(course)?;
        self.set_up(course.scenario, course.kind, &mut guest.seat)?;
        let watch = Watch::begin(|number| self.log_in("watcher", number))?;
        let begun = Instant::now();
        let moved = (1..=course.moves).try_for_each(|number| {
            self.move_guest(course, &mut guest, number).with_context(|| format!("move {number}"))
        });
        let took = begun.elapsed();
        let seen = watch.end().context("the watcher")?;
        guest.diaries.push(guest.seat.diary()?);
        self.hosts.iter_mut().try_for_each(super::Host::vacate)?;
        let promise = course.scenario.promise(course.kind);
        let broken = judge(&promise, &seen, &guest.diaries, &initiator(guest.at.as_str()));
        if broken.is_empty() {
            moved?;
        }
        Ok(Ran { told: course.told(took, &seen, &guest), broken })
    }

    fn begin(&mut self, course: &Course) -> Result<Guest> {
        let helper = match course.way {
            Way::Agents => {
                self.start_agents()?;
                Some(agents::HELPER)
            }
            Way::Hand | Way::Naive => None,
        };
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
    fn told(&self, took: Duration, seen: &[Vec<Sight>], guest: &Guest) -> String {
        let sights: u64 = seen.iter().flatten().map(|sight| sight.times).sum();
        let blocks = guest.diaries.iter().flatten().filter(|entry| guest::is_write(entry)).count();
        let each = took.as_secs_f64() / f64::from(self.moves.max(1));
        let Self { scenario, moves, .. } = self;
        let kind =
            scenario.kind(self.kind).map_or_else(|| "no reservation".to_owned(), |kind| kind.to_string());
        format!("{scenario:?}, {kind}: {moves} moves, {each:.1} s each, {blocks} writes, {sights} looks")
    }
}
