//! A move in the course of which something happens: an agent stands at a step, somebody dies there or the guest is fenced, what
//! died is started again, and both hosts come to an end by themselves.

use super::agents::{CONTROL, Ending, HELPER, Ordered, VM};
use super::blow::{Blow, Event};
use super::course::{BLOCKS, Guest};
use super::leash::Leash;
use super::scenario::{KEY, MEMBER, good};
use super::{DIRECTORY, Host, Hosts, Name, PATIENCE, PROGRAM, Seat};
use crate::guest::{Entry, What};
use crate::leash::When;
use crate::process::wait_for;
use crate::watch::Watch;
use anyhow::{Context, Result, bail, ensure};
use nexus::{Nexus, unit_attention};
use scsi::pr::request::{self, preempt, release, reserve};
use scsi::pr::{InAction, ReservationType};
use scsi::{AdditionalSense, Completion, Status};
use std::ops::Range;
use std::time::Duration;

/// A hardware address that nobody has.
const NOBODY: &str = "52:54:00:77:00:fe";

/// What happened in a move that has ended.
pub(super) struct Struck {
    /// When, by the watch.
    pub(super) during: Range<Duration>,
}

/// How it is while the agent stands.
struct Scene {
    during: Range<Duration>,
    /// The source had begun to give the guest away.
    given: bool,
    /// The source had the destination's word that everything is there.
    taken: bool,
    /// Connections that both hosts had begun before.
    opened: u64,
    /// The operator's own command.
    operator: Option<Ordered>,
}

impl Hosts {
    /// Moves the guest from the first host to the other, and strikes.
    pub(super) fn strike(
        &mut self,
        guest: &mut Guest,
        kind: ReservationType,
        blow: &Blow,
        watch: &Watch,
    ) -> Result<Struck> {
        guest.seat.wait_written(BLOCKS)?;
        let arrival = self.host(Name::B).seat("1", true, Some(HELPER))?;
        self.leash(blow.host)?.stop_at(blow.when, &blow.step, blow.nth)?;
        let ordered = self.order_migration(Name::A)?;
        self.wait_standing(blow, &ordered)?;
        let scene = self.happen(blow.event, kind, watch)?;
        self.leash(blow.host)?.let_go()?;
        let ended = self.wait_found(blow.event, &scene, &ordered).and_then(|()| {
            let wanted = exits(blow.event, &scene);
            self.wait_ended(&ordered, wanted)
        });
        self.mend(blow.event)?;
        let code = ended?;
        if let Some(operator) = &scene.operator {
            self.wait_ended(operator, operators(code))?;
        }
        let owner = self.settle()?;
        fits(blow.event, &scene, code, owner)?;
        self.look_at(blow.event, owner, guest, arrival, scene.during)
    }

    /// Where the guest is now, and that it is nowhere else.
    fn look_at(
        &mut self,
        event: Event,
        owner: Name,
        guest: &mut Guest,
        arrival: Seat,
        during: Range<Duration>,
    ) -> Result<Struck> {
        if owner == Name::B {
            guest.diaries.push(guest.seat.diary()?);
            guest.seat = arrival;
            guest.at = owner;
        } else {
            let begun = arrival.diary()?.iter().any(|entry| matches!(entry.what, What::Begun { .. }));
            ensure!(!begun, "the guest is the source's, and ran at the destination");
        }
        if event != Event::Qemu(owner) {
            guest.seat.wait_written_on(BLOCKS).with_context(|| self.words())?;
        }
        if event == Event::Stir {
            told_once(guest)?;
        }
        Ok(Struck { during })
    }

    pub(super) fn leash(&mut self, host: Name) -> Result<Leash> {
        self.host(host).leash.clone().context("the agent is on no leash")
    }

    fn wait_standing(&mut self, blow: &Blow, ordered: &Ordered) -> Result<()> {
        let leash = self.leash(blow.host)?;
        let stands = || match leash.stands() {
            true => Some(true),
            false => self.ended(ordered).map_or(Some(false), |ended| ended.map(|_| false)),
        };
        let stood = wait_for(PATIENCE, stands);
        if stood != Some(true) {
            let told = std::fs::read_to_string(ordered.log()).unwrap_or_default();
            let steps = self.steps_told(blow.host)?.join(" ");
            bail!("that step was not reached: {told}\nsteps: {steps}\nthe agents say:\n{}", self.words());
        }
        Ok(())
    }

    fn steps_told(&mut self, host: Name) -> Result<Vec<String>> {
        let told = self.leash(host)?.told()?;
        Ok(told.iter().map(|said| format!("{}-{}", said.when, said.step)).collect())
    }

    fn happen(&mut self, event: Event, kind: ReservationType, watch: &Watch) -> Result<Scene> {
        let told = self.leash(Name::A)?.told()?;
        let begun = |step: &str| told.iter().any(|said| said.when == When::Before && said.step == step);
        let (given, taken) = (begun("mark-go"), begun("mark-taken"));
        let opened = self.opened()?;
        let from = watch.elapsed();
        let operator = self.deal(event, kind)?;
        Ok(Scene { during: from..watch.elapsed(), given, taken, opened, operator })
    }

    fn deal(&mut self, event: Event, kind: ReservationType) -> Result<Option<Ordered>> {
        match event {
            Event::Agent(name) => self.host(name).restart_agent()?,
            Event::Helper(name) => self.host(name).restart_helper()?,
            Event::Qemu(name) => self.host(name).kill_qemu()?,
            Event::Link => self.cut()?,
            Event::Fence => self.as_member(|member| good(member, &preempt(MEMBER, KEY, kind)))?,
            Event::Stir => self.as_member(|member| {
                good(member, &release(MEMBER, kind))?;
                good(member, &reserve(MEMBER, kind))
            })?,
            Event::Cancel => {
                let socket = format!("{DIRECTORY}/qmp-other");
                self.host(Name::A).vm.run(&[PROGRAM, "cancel", &socket], PATIENCE)?.good()?;
            }
            Event::Abort => return self.order_abort().map(Some),
        }
        Ok(None)
    }

    fn as_member(&self, act: impl FnOnce(&mut dyn Nexus) -> Result<()>) -> Result<()> {
        act(&mut self.log_in("member", 1)?.nexus(0))
    }

    /// Asks the source's agent to end the migration. The answer comes when it has; once that order's connection is there, a question that is
    /// asked after it and answered gives it time to be read.
    fn order_abort(&mut self) -> Result<Ordered> {
        let before = self.control_connections()?;
        let ordered = self.order(Name::A, &["handover", "abort", VM, "--yes"])?;
        let arrived = || self.control_connections().is_ok_and(|now| now > before).then_some(());
        wait_for(PATIENCE, arrived).context("the operator's order does not arrive")?;
        let asked = self.order(Name::A, &["handover", "status", VM])?;
        self.wait_ended(&asked, &[0])?;
        Ok(ordered)
    }

    /// How many ends of connections the source's agent has at its control socket.
    fn control_connections(&mut self) -> Result<usize> {
        let told = self.host(Name::A).vm.run(&["cat", "/proc/net/unix"], PATIENCE)?.good()?;
        Ok(ends_at(&told, CONTROL))
    }

    /// From here on neither host knows where the other is: what they send to each other gets lost.
    fn cut(&mut self) -> Result<()> {
        self.each_neighbour(&["-s"], &[NOBODY])
    }

    fn mend(&mut self, event: Event) -> Result<()> {
        if event == Event::Link { self.each_neighbour(&["-d"], &[]) } else { Ok(()) }
    }

    fn each_neighbour(&mut self, before: &[&str], after: &[&str]) -> Result<()> {
        for name in Name::ALL {
            let other = self.host(name.other()).address.clone();
            let argv = [&["busybox", "arp"], before, &[&other], after].concat();
            self.host(name).vm.run(&argv, PATIENCE)?.good()?;
        }
        Ok(())
    }

    /// A link stays cut until an agent that finds it so dials again, or the migration is over.
    fn wait_found(&mut self, event: Event, scene: &Scene, ordered: &Ordered) -> Result<()> {
        if event != Event::Link {
            return Ok(());
        }
        let found = || {
            let found = self.opened().ok()? > scene.opened || self.ended(ordered).ok()?.is_some();
            found.then_some(())
        };
        wait_for(PATIENCE, found).context("nobody finds out that the link is cut")
    }

    /// How many TCP connections both hosts have begun.
    fn opened(&mut self) -> Result<u64> {
        let of = |host: &mut Host| {
            let told = host.vm.run(&["cat", "/proc/net/snmp"], PATIENCE)?.good()?;
            active_opens(&told).context("no count of connections")
        };
        self.hosts.iter_mut().map(of).sum()
    }

    /// Waits until neither host has anything open in its journal, and tells whose the guest is.
    fn settle(&mut self) -> Result<Name> {
        let endings = || {
            let [a, b] = self.hosts.each_ref().map(|host| host.ending().ok());
            let both = [a?, b?];
            (!both.contains(&Ending::Open)).then_some(both)
        };
        let both = wait_for(PATIENCE, endings).with_context(|| {
            format!("something stays open in the journals; the agents say:\n{}", self.words())
        })?;
        let of = |ending: &Ending| match ending {
            Ending::Over(verdict) if verdict == "moved" => Some(Name::B),
            Ending::Over(_) => Some(Name::A),
            Ending::None | Ending::Open => None,
        };
        let [a, b] = both.each_ref().map(of);
        ensure!(a.is_none() || b.is_none() || a == b, "the journals differ: {both:?}");
        Ok(a.or(b).unwrap_or(Name::A))
    }
}

/// How `tenure migrate` may end.
const fn exits(event: Event, scene: &Scene) -> &'static [i32] {
    match event {
        Event::Agent(_) | Event::Helper(_) | Event::Qemu(_) | Event::Link => &[0, 1, 4, 5, 7],
        // What happens after the last look at the device is the guest's to find out.
        Event::Fence if scene.taken => &[0, 6],
        Event::Fence => &[6],
        Event::Stir => &[0],
        Event::Cancel => &[5],
        // An order that is overtaken by the last step that it could stop changes nothing, and says so.
        Event::Abort => &[0, 5],
    }
}

/// How the operator's own command then ends: with what was ordered, or refused because it came too late.
const fn operators(code: i32) -> &'static [i32] {
    if code == 0 { &[4] } else { &[0] }
}

/// Whoever ordered it was told where the guest is, and nobody gave it to a host where there is none.
fn fits(event: Event, scene: &Scene, code: i32, owner: Name) -> Result<()> {
    let told = match code {
        0 => Some(Name::B),
        4 | 5 => Some(Name::A),
        _ => None,
    };
    let (here, exit) = (owner.as_str(), code);
    ensure!(told.is_none_or(|told| told == owner), "the guest is {here}'s, and the exit status was {exit}");
    let lost = event == Event::Qemu(Name::B) && !scene.given && owner == Name::B;
    ensure!(!lost, "the destination's QEMU was dead before the guest was given to it");
    Ok(())
}

/// What was released and reserved again is told to the guest by one of its own commands, and by no second.
fn told_once(guest: &mut Guest) -> Result<()> {
    let read = request::read(InAction::READ_KEYS, 1024);
    let first = guest.seat.execute(&read)?;
    let second = guest.seat.execute(&read)?;
    ensure!(second.status == Status::GOOD, "told again: {second:?}");
    let diary = guest.seat.diary()?;
    let heard = guest.diaries.iter().flatten().chain(&diary).filter(|entry| is_released(entry)).count();
    ensure!(heard == 1, "the guest was told {heard} times; READ KEYS: {first:?}");
    Ok(())
}

fn is_released(entry: &Entry) -> bool {
    let answer = match &entry.what {
        What::Wrote(_, answer) | What::Answered(_, answer) | What::Read { answer, .. } => answer,
        What::Begun { .. } | What::Stopped | What::Resumed | What::Ended(_) => return false,
    };
    let ended: Completion = answer.completion();
    unit_attention(&ended) == Some(AdditionalSense::RESERVATIONS_RELEASED)
}

/// Sockets of /proc/net/unix that have this name, or had it with something behind it before it was published.
fn ends_at(told: &str, socket: &str) -> usize {
    told.lines().filter(|line| line.contains(socket)).count()
}

/// `ActiveOpens` of the lines about TCP in /proc/net/snmp.
fn active_opens(told: &str) -> Option<u64> {
    let mut lines = told.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "ActiveOpens")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Answer;

    #[test]
    fn connections_are_counted_by_the_kernels_own_table() {
        let told = "Ip: A B\nIp: 1 2\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 17 3\nUdp: A\nUdp: 4\n";
        assert_eq!(active_opens(told), Some(17));
        assert_eq!(active_opens("Tcp: RtoMin\nTcp: 200\n"), None);
    }

    #[test]
    fn an_agents_connections_are_counted_by_the_name_that_it_bound() {
        let told = "Num RefCount Path\n0: 2 /run/tenure/agent.sock.412\n0: 3 /run/tenure/guest-agent.sock.9\n\
                    0: 3 /run/tenure/agent.sock.412\n0: 3\n";
        assert_eq!(ends_at(told, CONTROL), 2);
    }

    #[test]
    fn an_operator_who_comes_too_late_is_told_so_and_nobody_else() {
        assert_eq!([operators(0), operators(5)], [[4], [0]]);
    }

    #[test]
    fn only_the_word_of_a_release_is_counted() {
        let answered = |ascq| {
            let sense = vec![0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, ascq, 0, 0, 0, 0];
            let answer = Answer { status: 2, sense, data: Vec::new() };
            Entry { at: 0, what: What::Answered(0, answer) }
        };
        assert!(is_released(&answered(4)));
        assert!(!is_released(&answered(3)));
        assert!(!is_released(&Entry { at: 0, what: What::Stopped }));
    }

    #[test]
    fn what_was_told_must_be_true() {
        let scene = |given| Scene {
            during: Duration::ZERO..Duration::ZERO,
            given,
            taken: given,
            opened: 0,
            operator: None,
        };
        for (code, wrong) in [(0, Name::A), (4, Name::B), (5, Name::B)] {
            assert!(fits(Event::Link, &scene(true), code, wrong).is_err());
            assert!(fits(Event::Link, &scene(true), code, wrong.other()).is_ok());
        }
        let dead = Event::Qemu(Name::B);
        assert!(fits(dead, &scene(false), 7, Name::B).is_err());
        assert!(fits(dead, &scene(true), 7, Name::B).is_ok());
        assert!(fits(dead, &scene(false), 7, Name::A).is_ok());
    }
}
