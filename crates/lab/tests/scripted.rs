//! The stand-in for QEMU against real ones of Debian's 7.2: the same orders give the same events and states, on both ends.
//!
//! Where they differ, and nothing of Tenure's depends on it: the stand-in counts its passes (MIGRATION_PASS) by its own
//! memory, which is why they are left out here; it words errors in its own way; it has no `wait-unplug`, no post-copy, and no
//! `device` event where nobody asked for a pause; a cancel after `migrate-continue` comes too late always, not mostly.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use lab::process::{Background, DEADLINE, wait_for};
use lab::scripted::diary;
use qmp::qemu::{Capability, MigrationStatus, Qemu, RunState};
use qmp::{Events, Heard};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Kind, kinds};
use tempfile::TempDir;

const MOMENT: Duration = Duration::from_millis(100);

/// One QEMU, real or not, and what it said.
struct Machine {
    qemu: Qemu,
    events: Events,
    process: Background,
    said: Vec<String>,
}

impl Machine {
    fn start(kind: Kind, directory: &Path, name: &str, more: &[&str]) -> Self {
        let (mut process, path) = kind.start(directory, name, more);
        let connect = || Qemu::connect(&path, DEADLINE).ok();
        let qemu = wait_for(DEADLINE, || {
            assert!(process.is_running(), "{name} ended");
            connect()
        });
        let qemu = qemu.unwrap();
        let events = qemu.events();
        let capabilities = [Capability::EVENTS, Capability::RETURN_PATH, Capability::PAUSE_BEFORE_SWITCHOVER];
        qemu.set_capabilities(&capabilities.map(|name| (name, true))).unwrap();
        Self { qemu, events, process, said: Vec::new() }
    }

    /// Waits until its migration says this.
    fn reach(&self, status: &MigrationStatus) {
        let reached =
            wait_for(DEADLINE, || self.qemu.migration().ok().filter(|info| info.status() == *status));
        assert!(reached.is_some(), "not {status}: {:?}", self.qemu.migration());
    }

    /// Waits for the end of its migration, and of what comes with it.
    fn settle(&mut self) {
        let settled = wait_for(DEADLINE, || {
            let Ok(info) = self.qemu.migration() else { return Some(()) };
            let moving = [RunState::FINISH_MIGRATE, RunState::INMIGRATE];
            let still = self.qemu.status().is_ok_and(|status| !moving.contains(&status.status));
            (info.status().is_over() && still).then_some(())
        });
        assert!(settled.is_some(), "{:?}", self.qemu.migration());
        self.note();
    }

    /// What it says now, if it is there.
    fn note(&mut self) {
        self.hear();
        match (self.qemu.status(), self.qemu.migration()) {
            (Ok(status), Ok(info)) => self.said.push(format!("= {} {}", status.status, info.status())),
            _ => self.said.push("= gone".into()),
        }
    }

    fn hear(&mut self) {
        while let Heard::Event(event) = self.events.next(Instant::now() + MOMENT) {
            match event.data.get("status").and_then(|status| status.as_str()) {
                _ if event.event == "MIGRATION_PASS" => {}
                Some(status) => self.said.push(format!("{} {status}", event.event)),
                None => self.said.push(event.event),
            }
        }
    }

    fn kill(&mut self) {
        self.process.kill();
    }
}

/// When the guest is stopped by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Never,
    Before,
    Active,
    PreSwitchover,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Continue,
    Cancel,
    DestinationDies,
}

/// What both ends say through a migration with these orders.
fn story(kind: Kind, stop: Stop, end: End, waiting: bool) -> [Vec<String>; 2] {
    let directory = TempDir::new().unwrap();
    let mut source = Machine::start(kind, directory.path(), "source", &[]);
    let mut destination = Machine::start(kind, directory.path(), "destination", kind.incoming(waiting));
    let uri = format!("unix:{}", directory.path().join("link").display());
    for machine in [&mut source, &mut destination] {
        machine.note();
    }
    destination.qemu.migrate_incoming(&uri).unwrap();
    until_the_pause(&source, &uri, stop);
    for machine in [&mut source, &mut destination] {
        machine.note();
    }
    match end {
        End::Continue => source.qemu.migrate_continue().unwrap(),
        End::Cancel => source.qemu.migrate_cancel().unwrap(),
        End::DestinationDies => {
            destination.kill();
            source.qemu.migrate_continue().unwrap();
        }
    }
    source.settle();
    destination.settle();
    if end == End::Continue {
        destination.qemu.cont().unwrap();
        destination.note();
    } else {
        source.qemu.cont().unwrap();
        source.note();
    }
    if kind != Kind::Real {
        let lines = diary::read(&directory.path().join("diary")).unwrap();
        assert_eq!(diary::ran_twice(&lines), None);
        let owner = if end == End::Continue { "destination" } else { "source" };
        assert_eq!(diary::runs_now(&lines).unwrap().name, owner);
    }
    [source.said, destination.said]
}

fn until_the_pause(source: &Machine, uri: &str, stop: Stop) {
    let qemu = &source.qemu;
    let parameter = |name: &str, value: u64| {
        qemu.set_parameters(json!({ name: value }).as_object().unwrap().clone()).unwrap();
    };
    if stop == Stop::Before {
        qemu.stop().unwrap();
    }
    if stop == Stop::Active {
        parameter("max-bandwidth", 20_000);
    }
    qemu.migrate(uri).unwrap();
    if stop == Stop::Active {
        source.reach(&MigrationStatus::ACTIVE);
        qemu.stop().unwrap();
        assert_eq!(qemu.status().unwrap().status, RunState::PAUSED);
        parameter("max-bandwidth", 1 << 30);
    }
    source.reach(&MigrationStatus::PRE_SWITCHOVER);
    if stop == Stop::PreSwitchover {
        qemu.stop().unwrap();
    }
}

const STORIES: [(Stop, End, bool); 10] = [
    (Stop::Never, End::Continue, true),
    (Stop::Never, End::Continue, false),
    (Stop::Active, End::Continue, true),
    (Stop::Active, End::Continue, false),
    (Stop::Never, End::DestinationDies, true),
    (Stop::Active, End::DestinationDies, true),
    (Stop::PreSwitchover, End::DestinationDies, true),
    (Stop::Never, End::Cancel, true),
    (Stop::Active, End::Cancel, true),
    (Stop::Before, End::Cancel, true),
];

#[test]
fn events_and_states_come_as_from_qemu_7_2() {
    if !kinds().contains(&Kind::Real) {
        return;
    }
    for (stop, end, waiting) in STORIES {
        let [real, scripted] = [Kind::Real, Kind::Scripted("7.2")].map(|kind| {
            let [source, destination] = story(kind, stop, end, waiting);
            [without_the_race(source), destination]
        });
        assert_eq!(scripted, real, "stop {stop:?}, end {end:?}, -S {waiting}");
    }
}

/// A cancel wakes QEMU's migration thread, which may be at the device state for a moment before it hears of the cancel.
fn without_the_race(mut said: Vec<String>) -> Vec<String> {
    let race = ["MIGRATION device", "MIGRATION cancelling"];
    if let Some(at) = said.windows(2).position(|pair| pair == race) {
        said.remove(at);
    }
    said
}

/// The end of a source's story: what it is after the migration, and after `cont`.
fn source_states(release: &'static str, stop: Stop, end: End) -> Vec<String> {
    let [source, _] = story(Kind::Scripted(release), stop, end, true);
    source.into_iter().filter(|said| said.starts_with('=')).skip(2).collect()
}

#[test]
fn a_guest_stopped_while_active_stays_stopped_and_one_stopped_later_does_not() {
    let running = "= running failed";
    assert_eq!(source_states("7.2", Stop::PreSwitchover, End::DestinationDies)[0], running);
    assert_eq!(source_states("11.1", Stop::PreSwitchover, End::DestinationDies)[0], running);
    assert_eq!(source_states("7.2", Stop::Active, End::DestinationDies), ["= postmigrate failed", running]);
    assert_eq!(source_states("11.1", Stop::Active, End::DestinationDies), ["= paused failed", running]);
}

#[test]
fn the_newer_release_says_that_it_fails_before_it_has_failed() {
    let [source, _] = story(Kind::Scripted("11.1"), Stop::Never, End::DestinationDies, true);
    let events: Vec<&str> = source.iter().map(String::as_str).filter(|said| !said.starts_with('=')).collect();
    let end = ["MIGRATION device", "MIGRATION failing", "RESUME", "MIGRATION failed"];
    assert_eq!(events[events.len() - 4..], end);
}

#[test]
fn a_guest_that_is_told_to_quit_runs_no_more() {
    let directory = TempDir::new().unwrap();
    let mut machine = Machine::start(Kind::Scripted("7.2"), directory.path(), "source", &[]);
    let diary_path = directory.path().join("diary");
    assert!(diary::runs_now(&diary::read(&diary_path).unwrap()).is_some());
    let _ = machine.qemu.quit();
    assert!(machine.process.wait().unwrap().success());
    assert_eq!(diary::runs_now(&diary::read(&diary_path).unwrap()), None);
}

#[test]
fn a_guest_that_came_is_sent_on_and_that_can_be_cancelled() {
    for kind in kinds() {
        let directory = TempDir::new().unwrap();
        let uri = |name: &str| format!("unix:{}", directory.path().join(name).display());
        let start = |name: &str, more: &[&str]| Machine::start(kind, directory.path(), name, more);
        let waiting = kind.incoming(true);
        let (mut first, mut second) = (start("first", &[]), start("second", waiting));
        second.qemu.migrate_incoming(&uri("there")).unwrap();
        until_the_pause(&first, &uri("there"), Stop::Active);
        first.qemu.migrate_continue().unwrap();
        [&mut first, &mut second].into_iter().for_each(Machine::settle);
        second.qemu.cont().unwrap();
        let third = start("third", waiting);
        third.qemu.migrate_incoming(&uri("on")).unwrap();
        until_the_pause(&second, &uri("on"), Stop::Active);
        second.qemu.migrate_cancel().unwrap();
        second.reach(&MigrationStatus::CANCELLED);
    }
}
