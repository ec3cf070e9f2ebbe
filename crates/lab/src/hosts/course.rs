//! A guest with a reservation that moves between the hosts while it writes, watched from outside, and judged.
//!
//! How it moves is a [`Way`]: `tenure migrate`, or by hand, which tests the lab itself: the right way must be let pass and
//! the naive one found out.

use super::{Hosts, INCOMING, Name, PATIENCE, PROGRAM, Seat, guest, initiator};
use crate::judge::{Promise, judge};
use crate::watch::{Registration, Watch};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::request::{clear, register, register_and_ignore, reserve};
use scsi::pr::{Key, ReservationType};
use scsi::{Request, Status};
use std::time::{Duration, Instant};

/// The guest's key.
const KEY: Key = Key(0xA1);
/// The key of another member of its cluster.
const MEMBER: Key = Key(0xC1);
/// Unit attentions that may stand before an answer.
const ATTENTIONS: usize = 8;
/// Blocks that are written before and after each move.
const BLOCKS: usize = 20;
/// A watch that sees nothing for so long proves nothing.
const BLIND: Duration = Duration::from_secs(5);

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
#[derive(Clone, Debug)]
pub struct Course {
    /// How.
    pub way: Way,
    /// How often: there, back, there…
    pub moves: u32,
    /// The reservation.
    pub kind: ReservationType,
}

/// Where the guest is, and all that it told.
struct Guest {
    at: Name,
    seat: Seat,
    diaries: Vec<Vec<crate::guest::Entry>>,
}

impl Hosts {
    /// Runs a course, and tells what was seen.
    ///
    /// # Errors
    /// Every promise that was broken; or what failed.
    pub fn run_course(&mut self, course: &Course) -> Result<String> {
        let session = self.log_in("member", 1)?;
        let mut member = session.nexus(0);
        send(&mut member, &register_and_ignore(MEMBER, true))?;
        send(&mut member, &clear(MEMBER))?;
        let mut guest = self.begin(course)?;
        send(&mut member, &register(Key(0), MEMBER, true))?;
        for request in [register(Key(0), KEY, true), reserve(KEY, course.kind)] {
            send(&mut guest.seat, &request).context("the guest")?;
        }
        let watch = Watch::begin(|number| self.log_in("watcher", number))?;
        let begun = Instant::now();
        let moved = (1..=course.moves).try_for_each(|number| {
            self.move_guest(course, &mut guest, number).with_context(|| format!("move {number}"))
        });
        let took = begun.elapsed();
        let seen = watch.end().context("the watcher")?;
        guest.diaries.push(guest.seat.diary()?);
        let sights: u64 = seen.iter().flatten().map(|sight| sight.times).sum();
        let broken = judge(&promise(course.kind), &seen, &guest.diaries, &initiator(guest.at.as_str()));
        moved?;
        let lines: Vec<String> = broken.iter().take(12).map(|violation| format!("\n  {violation}")).collect();
        ensure!(broken.is_empty(), "{} promises broken:{}", broken.len(), lines.concat());
        self.host(guest.at).clear(&guest.seat)?;
        let blocks = guest.diaries.iter().flatten().filter(|entry| guest::is_write(entry)).count();
        let each = took.as_secs_f64() / f64::from(course.moves.max(1));
        Ok(format!(
            "{} moves, {}: {each:.1} s each, {blocks} writes, {sights} looks, every promise kept",
            course.moves, course.kind
        ))
    }

    fn begin(&mut self, course: &Course) -> Result<Guest> {
        let helper = match course.way {
            Way::Agents => {
                self.start_agents()?;
                Some(super::agents::HELPER)
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
        let helper = (course.way == Way::Agents).then_some(super::agents::HELPER);
        let seat = self.host(to).seat(&number.to_string(), true, helper)?;
        match course.way {
            Way::Agents => self.migrate(from)?,
            Way::Hand | Way::Naive => self.migrate_by_hand(from, course)?,
        }
        guest.diaries.push(guest.seat.diary()?);
        let left = std::mem::replace(&mut guest.seat, seat);
        guest.at = to;
        self.host(from).clear(&left)?;
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
            Way::Hand | Way::Agents => self.by_nonce(from, course.kind),
        }?;
        self.host(from).vm.run(&[PROGRAM, "switch", &socket], PATIENCE)?.good()?;
        self.host(from.other()).vm.run(&[PROGRAM, "continue", &socket], PATIENCE)?.good().map(drop)
    }

    /// The destination registers, the source takes another key, and the destination preempts that.
    fn by_nonce(&mut self, from: Name, kind: ReservationType) -> Result<()> {
        let to = from.other();
        self.pr(to, &["register", "--new-key", "0xa1", "--aptpl"])?;
        self.pr(from, &["register", "--key", "0xa1", "--new-key", "0x77", "--aptpl"])?;
        let kind = kind.0.to_string();
        self.pr(to, &["preempt", "--key", "0xa1", "--victim", "0x77", "--type", &kind, "--yes"])
    }

    fn naive(&mut self, from: Name, kind: ReservationType) -> Result<()> {
        let kind = kind.0.to_string();
        self.pr(from, &["release", "--key", "0xa1", "--type", &kind])?;
        self.pr(from, &["register", "--key", "0xa1", "--new-key", "0x0"])?;
        self.pr(from.other(), &["register", "--new-key", "0xa1", "--aptpl"])?;
        self.pr(from.other(), &["reserve", "--key", "0xa1", "--type", &kind])
    }

    /// `tenure pr` on a host's own disk.
    fn pr(&mut self, host: Name, words: &[&str]) -> Result<()> {
        let disk = self.host(host).disk.display().to_string();
        let (verb, options) = words.split_first().context("no command")?;
        let argv = [&["/lab/programs/tenure", "-q", "pr", verb, disk.as_str()], options].concat();
        self.host(host).vm.run(&argv, PATIENCE)?.good().with_context(|| words.join(" ")).map(drop)
    }
}

fn promise(kind: ReservationType) -> Promise {
    let holds = kind.is_all_registrants().then_some(kind);
    Promise {
        key: KEY,
        hosts: Name::ALL.map(|name| initiator(name.as_str())).to_vec(),
        kind: Some(kind),
        aptpl: true,
        foreign: vec![Registration { port: initiator("member"), key: MEMBER, holds }],
        blind: BLIND,
    }
}

/// Sends a command that must be GOOD.
fn send(nexus: &mut dyn Nexus, request: &Request) -> Result<()> {
    let ended = retry_unit_attention(nexus, request, ATTENTIONS)?.completion;
    ensure!(ended.status == Status::GOOD, "{:02x?}: {}", request.cdb, ended.status);
    Ok(())
}
