//! Many logical units at once: what a round costs, and what one lost session means for all that share it.

use super::*;
use crate::drive::{Device, Ports};
use iscsi::target::{Target, TargetConfig};
use logical_unit::LogicalUnit;
use scsi::pr::{InAction, Key, ReadKeys, request};
use scsi::{DataPhase, IscsiName, Request};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const PATIENT: Duration = Duration::from_secs(20);
const KEY: Key = Key(0xA);
const UNITS: usize = 64;
/// Simulated latency of the target.
const DELAY: Duration = Duration::from_millis(1000);

fn target(units: usize, options: &str) -> Target {
    let unit = || LogicalUnit::open(&format!("memory=64K{options}").parse().unwrap()).unwrap();
    let device = logical_unit::Device::new((0..units).map(|_| unit()).collect());
    let name = IscsiName::new("iqn.2026-11.example:disk").unwrap();
    Target::bind(TargetConfig::new("127.0.0.1:0".parse().unwrap(), name, device)).unwrap()
}

/// The links of one host to so many logical units, over one session, and the unit attentions of its login gone.
fn lines(ports: &Ports, address: SocketAddr, units: usize) -> Lines {
    let link = |unit: usize| {
        let url = format!(
            "iscsi://{address}/iqn.2026-11.example:disk/{unit}?initiator=iqn.2026-11.example:a&isid=800000000007"
        );
        let route = url.parse::<Device>().unwrap().shared(ports, PATIENT);
        ((index(unit), Path::source(0)), Link::connect(route, PATIENT).unwrap())
    };
    let mut lines = Lines::new((0..units).map(link));
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    let actions: Vec<_> = (0..units).map(|unit| execute(unit, 0, ready.clone())).collect();
    let good = |told: &[Told]| {
        told.iter().all(|(.., outcome)| matches!(outcome, Outcome::Done(done) if done.status.is_good()))
    };
    assert!((0..8).any(|_| good(&carry_out(&mut lines, &actions))), "the unit attentions do not end");
    lines
}

fn index(unit: usize) -> UnitIndex {
    UnitIndex(u16::try_from(unit).unwrap())
}

type Told = (UnitIndex, CommandId, Outcome);

/// One round, of which every command is certainly over.
fn carry_out(lines: &mut Lines, actions: &[(UnitIndex, Action)]) -> Vec<Told> {
    let told = lines.carry_out(actions, Instant::now() + PATIENT).into_iter();
    told.map(|report| (report.unit, report.id, report.outcome.expect("it is over"))).collect()
}

fn execute(unit: usize, id: u8, request: Request) -> (UnitIndex, Action) {
    (index(unit), Action::Execute { id: CommandId(id), path: Path::source(0), request })
}

fn register_and_read(units: usize) -> Vec<(UnitIndex, Action)> {
    let both = |unit| {
        let register = execute(unit, 0, request::register(Key::NONE, KEY, false));
        [register, execute(unit, 1, request::read(InAction::READ_KEYS, 64))]
    };
    (0..units).flat_map(both).collect()
}

/// How many keys were read of each logical unit.
fn keys(told: &[Told]) -> BTreeMap<UnitIndex, usize> {
    let read = |(unit, id, outcome): &Told| match outcome {
        Outcome::Done(done) if *id == CommandId(1) => {
            Some((*unit, ReadKeys::parse(&done.data).unwrap().keys.len()))
        }
        Outcome::Done(_) => None,
        other => panic!("{other:?}"),
    };
    told.iter().filter_map(read).collect()
}

/// A proxy that counts connections, and can cut one with commands under way.
#[derive(Clone, Default)]
struct Wire {
    connections: Arc<AtomicUsize>,
    /// Deliver what the initiator sends next, and cut.
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn start(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, wire) = (listener.local_addr().unwrap(), self.clone());
        thread::spawn(move || {
            for initiator in listener.incoming() {
                let (initiator, target) = (initiator.unwrap(), TcpStream::connect(target).unwrap());
                wire.connections.fetch_add(1, SeqCst);
                let (mut from, mut to) = (target.try_clone().unwrap(), initiator.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut to));
                let wire = wire.clone();
                thread::spawn(move || wire.carry(initiator, target));
            }
        });
        address
    }

    fn carry(&self, mut initiator: TcpStream, mut target: TcpStream) {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(length @ 1..) = initiator.read(&mut chunk) {
            if target.write_all(&chunk[..length]).is_err() || self.cut.swap(false, SeqCst) {
                break;
            }
        }
        [initiator, target].iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

#[test]
fn sixty_four_logical_units_cost_one_round_trip_and_one_session() {
    let (target, wire) = (target(UNITS, ",delay=1s"), Wire::default());
    let mut lines = lines(&Ports::default(), wire.start(target.local_addr()), UNITS);
    let begun = Instant::now();
    let told = carry_out(&mut lines, &register_and_read(UNITS));
    let took = begun.elapsed();
    assert!(took >= DELAY && took < 2 * DELAY, "{took:?}");
    assert_eq!(keys(&told), (0..UNITS).map(|unit| (index(unit), 1)).collect(), "in order on each");
    assert_eq!(wire.connections(), 1);
}

#[test]
fn one_login_serves_all_that_shared_a_lost_session() {
    let (target, wire) = (target(UNITS, ",delay=200ms"), Wire::default());
    let mut lines = lines(&Ports::default(), wire.start(target.local_addr()), UNITS);
    wire.cut.store(true, SeqCst);
    let lost = carry_out(&mut lines, &register_and_read(UNITS));
    assert_eq!(lost.len(), 2 * UNITS, "nothing dangles");
    assert!(lost.iter().any(|(.., outcome)| *outcome == Outcome::Unknown), "they were under way");
    let told = carry_out(&mut lines, &register_and_read(UNITS));
    assert_eq!(told.len(), 2 * UNITS);
    assert!(told.iter().all(|(.., outcome)| matches!(outcome, Outcome::Done(_))), "{told:?}");
    assert_eq!(wire.connections(), 2, "one login for all");
    assert_eq!(lines.troubles().len(), UNITS, "and why is told of each");
}

#[test]
fn a_command_that_takes_too_long_takes_the_session_from_nobody_else() {
    let units = ["memory=64K,delay=5s", "memory=64K"];
    let units = units.iter().map(|spec| LogicalUnit::open(&spec.parse().unwrap()).unwrap()).collect();
    let name = IscsiName::new("iqn.2026-11.example:disk").unwrap();
    let config = TargetConfig::new("127.0.0.1:0".parse().unwrap(), name, logical_unit::Device::new(units));
    let (target, wire, ports) = (Target::bind(config).unwrap(), Wire::default(), Ports::default());
    let address = wire.start(target.local_addr());
    let short = Duration::from_millis(500);
    let link = |unit: usize| {
        let url = format!("iscsi://{address}/iqn.2026-11.example:disk/{unit}");
        let route = url.parse::<Device>().unwrap().shared(&ports, short);
        ((index(unit), Path::source(0)), Link::connect(route, short).unwrap())
    };
    let mut lines = Lines::new([link(0), link(1)]);
    let told = carry_out(
        &mut lines,
        &[
            execute(0, 0, request::register(Key::NONE, KEY, false)),
            execute(1, 0, request::read(InAction::READ_KEYS, 64)),
        ],
    );
    let of =
        |unit| told.iter().find(|(other, ..)| *other == index(unit)).map(|(.., outcome)| outcome.clone());
    assert_eq!(of(0), Some(Outcome::Unknown), "aborted, and so over");
    assert!(matches!(of(1), Some(Outcome::Done(_))));
    assert_eq!(wire.connections(), 1);
}

#[test]
fn a_shared_session_is_ended_by_all_that_use_it_or_not_at_all() {
    let (target, wire) = (target(2, ""), Wire::default());
    let mut lines = lines(&Ports::default(), wire.start(target.local_addr()), 2);
    let close = |unit| (index(unit), Action::CloseSession { id: CommandId(0), path: Path::source(0) });
    let open = |unit| (index(unit), Action::OpenSession { id: CommandId(0), path: Path::source(0) });
    let told = carry_out(&mut lines, &[close(0)]);
    assert_eq!(told, [(index(0), CommandId(0), Outcome::NotSent)], "the other one still uses it");
    let done = Outcome::Done(Completion::good(Vec::new()));
    let all = [(index(0), CommandId(0), done.clone()), (index(1), CommandId(0), done)];
    assert_eq!(carry_out(&mut lines, &[close(0), close(1)]), all);
    let read = |unit| execute(unit, 1, request::read(InAction::READ_KEYS, 64));
    let told = carry_out(&mut lines, &[read(0), read(1)]);
    assert!(told.iter().all(|(.., outcome)| *outcome == Outcome::NotSent), "nobody logs in by himself");
    assert_eq!(wire.connections(), 1);
    assert_eq!(carry_out(&mut lines, &[open(0), open(1)]).len(), 2);
    assert_eq!(wire.connections(), 2, "and one login opens it for both");
}

#[test]
fn what_belongs_to_the_other_host_is_not_carried_out_here() {
    let target = target(1, "");
    let mut lines = lines(&Ports::default(), target.local_addr(), 1);
    let request = request::read(InAction::READ_KEYS, 64);
    let theirs = Action::Execute { id: CommandId(0), path: Path::destination(0), request };
    assert_eq!(carry_out(&mut lines, &[(index(0), theirs)]), []);
}
