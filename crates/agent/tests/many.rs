//! Sixty-four logical units of one guest over iSCSI, from two hosts to one target: what the pause costs, in round trips. No clock
//! says so: a gate between each host and the target lets no answer through before every command of the round is there.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod gate;

use agent::conduct::Hands;
use agent::drive::{Device, Lines, Link};
use agent::ground::{End, Fate, Ground, Order, Place, Way};
use gate::Gate;
use handover::group::Ending;
use handover::{Action, Group, GroupStep, Phase, Round, Settings, Side, Tracked};
use iscsi::target::{Target, TargetConfig};
use ledger::{HandoverId, Ledger, Owner, State};
use logical_unit::LogicalUnit;
use nexus::retry_unit_attention;
use pr_helper::opening::LinuxDevices;
use scsi::IscsiName;
use scsi::pr::{Key, ReservationType, request};
use std::time::{Duration, Instant};

const UNITS: usize = 64;
const KEY: Key = Key(0x10);
const NONCE: Key = Key(0x99);
const KIND: ReservationType = ReservationType(5);
const PATIENCE: Duration = Duration::from_secs(20);

fn target() -> Target {
    let units = (0..UNITS).map(|_| LogicalUnit::open(&"memory=64K".parse().unwrap()).unwrap());
    let name = IscsiName::new("iqn.2026-11.example:disk").unwrap();
    let device = logical_unit::Device::new(units.collect());
    Target::bind(TargetConfig::new("127.0.0.1:0".parse().unwrap(), name, device)).unwrap()
}

fn places(gate: &Gate, host: &str) -> Vec<Place> {
    let portal = gate.portal();
    let url =
        |lun| format!("iscsi://{portal}/iqn.2026-11.example:disk/{lun}?initiator=iqn.2026-11.example:{host}");
    (0..UNITS)
        .map(|lun| Place { key: Some(KEY), ..Place::new(Way::Own(url(lun).parse().unwrap())) })
        .collect()
}

/// The guest at this host becomes the holder of every logical unit.
fn hold(places: &[Place]) {
    let ports = agent::drive::Ports::default();
    std::thread::scope(|scope| {
        for place in places {
            let Way::Own(device) = &place.way else { panic!("a session") };
            let device: &Device = device;
            let ports = &ports;
            scope.spawn(move || {
                let mut link = Link::connect(device.shared(ports, PATIENCE), PATIENCE).unwrap();
                for request in [request::register(Key::NONE, KEY, false), request::reserve(KEY, KIND)] {
                    let ended = retry_unit_attention(&mut link, &request, 8).unwrap();
                    assert!(ended.completion.status.is_good());
                }
            });
        }
    });
}

fn ground(state: &std::path::Path, side: Side, places: &[Place]) -> Ground {
    let ledger = Ledger::open(state).unwrap();
    let (owner, devices) = (Owner("vm".into()), LinuxDevices::default());
    let order =
        Order { ledger: &ledger, owner, handover: HandoverId(7), side, timeout: PATIENCE, devices: &devices };
    Ground::open(&order, places).unwrap()
}

fn group(from: &Ground, to: &Ground) -> Group {
    let settings = from.units().iter().zip(to.units()).map(|(from, to)| Settings {
        source: from.ports(),
        destination: to.ports(),
        ..Settings::new(from.key(), NONCE, from.ports()[0].clone(), to.ports()[0].clone())
    });
    Group::new(settings.collect()).unwrap()
}

/// Commands of a round for each host.
fn commands(round: &Round) -> [usize; 2] {
    [Side::Source, Side::Destination].map(|side| {
        let own = |action: &Action| matches!(action, Action::Execute { path, .. } if path.side == side);
        round.actions.iter().filter(|(_, action)| own(action)).count()
    })
}

/// Runs to the end of this phase; rounds with commands on the way, each of which is one round trip of the target or never ends.
fn run(group: &mut Group, lines: &mut [Lines; 2], gates: &[Gate; 2], until: Phase) -> u32 {
    let mut rounds = 0;
    loop {
        match group.poll() {
            GroupStep::Run(round) => {
                rounds += u32::from(!round.actions.is_empty());
                gates.iter().zip(commands(&round)).for_each(|(gate, count)| gate.expect(count));
                let deadline = Instant::now() + PATIENCE;
                // Both hosts at once, as over the link.
                let reports: Vec<_> = std::thread::scope(|scope| {
                    let each = lines
                        .iter_mut()
                        .map(|lines| scope.spawn(|| lines.carry_out(&round.actions, deadline)));
                    each.collect::<Vec<_>>().into_iter().flat_map(|host| host.join().unwrap()).collect()
                });
                reports
                    .into_iter()
                    .for_each(|report| group.report(report.unit, report.id, report.outcome.unwrap()));
            }
            GroupStep::PhaseDone(phase) if phase == until => return rounds,
            GroupStep::PhaseDone(_) => group.proceed(),
            other => panic!("{other:?}: {:?}", group.verdicts().collect::<Vec<_>>()),
        }
    }
}

#[test]
fn the_pause_of_sixty_four_logical_units_is_four_round_trips() {
    let (target, states) = (target(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let gates = [Gate::before(target.local_addr()), Gate::before(target.local_addr())];
    let (here, there) = (places(&gates[0], "alpha"), places(&gates[1], "beta"));
    hold(&here);
    let mut from = ground(states[0].path(), Side::Source, &here);
    let mut to = ground(states[1].path(), Side::Destination, &there);
    to.arrange(&from.units().iter().map(|unit| unit.lun.clone()).collect::<Vec<_>>()).unwrap();
    let mut lines = [from.lines(), to.lines()];
    let mut group = group(&from, &to);
    run(&mut group, &mut lines, &gates, Phase::Prepare);
    for ground in [&mut from, &mut to] {
        assert!(!ground.freeze(Instant::now() + PATIENCE).unwrap().changed);
    }
    group.proceed();
    let rounds = run(&mut group, &mut lines, &gates, Phase::Verify);
    eprintln!("{UNITS} logical units: {rounds} round trips");
    assert!(rounds <= 4, "{rounds} round trips");
    group.proceed();
    while let GroupStep::Run(round) = group.poll() {
        for report in
            lines.iter_mut().flat_map(|lines| lines.carry_out(&round.actions, Instant::now() + PATIENCE))
        {
            group.report(report.unit, report.id, report.outcome.unwrap());
        }
    }
    let tracked = Tracked { key: Some(KEY), held: Some(KIND), ..Tracked::default() };
    let end = |(unit, _)| End { unit, fate: Fate::Has(tracked), owed: Vec::new() };
    to.arrive(&group.verdicts().map(end).collect::<Vec<_>>()).unwrap();
    from.depart().unwrap();
    assert!(matches!(group.poll(), GroupStep::PhaseDone(_) | GroupStep::Finished(Ending::Moved)));
    let states = states.map(|state| Ledger::open(state.path()).unwrap().guest(&Owner("vm".into())).unwrap());
    assert!(states[0].records().iter().all(|record| record.state == State::Moved));
    assert!(states[1].records().iter().all(|record| record.state == State::Active));
    assert_eq!(states[1].records().len(), UNITS);
}
