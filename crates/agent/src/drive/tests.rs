//! What a lost answer may mean: a network in between that loses answers while the target still has the command.

use super::Device as Way;
use super::link::Job;
use super::*;
use iscsi::target::{Target, TargetConfig};
use logical_unit::{Device, LogicalUnit};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadKeys, request};
use scsi::{DataPhase, IscsiName, Request};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

const KEY: Key = Key(0xA);
const PATIENT: Duration = Duration::from_secs(20);
/// How long the target holds a command before it executes it.
const DELAY: Duration = Duration::from_millis(200);
/// A PERSISTENT RESERVE OUT with its parameter list as immediate data.
const PR_OUT: usize = 48 + 24;

fn target() -> Target {
    let unit =
        LogicalUnit::open(&format!("memory=1M,delay={}ms", DELAY.as_millis()).parse().unwrap()).unwrap();
    let name = IscsiName::new("iqn.2026-11.example:disk").unwrap();
    let config = TargetConfig::new("127.0.0.1:0".parse().unwrap(), name, Device::new(vec![unit]));
    Target::bind(config).unwrap()
}

fn way(address: SocketAddr, host: &str) -> Way {
    format!("iscsi://{address}/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:{host}")
        .parse()
        .unwrap()
}

/// A link without unit attentions, which gives up after `patience`.
fn link(address: SocketAddr, host: &str, patience: Duration) -> Link {
    let way = way(address, host);
    let mut link = Link::open(way.clone(), patience, way.open(PATIENT).unwrap());
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    let good = |link: &mut Link| link.execute(&ready).unwrap().status.is_good();
    assert!((0..8).any(|_| good(&mut link)), "the unit attentions do not end");
    link
}

/// The keys that are registered once everything that arrived before has had its time.
fn keys(observer: &mut Link) -> Vec<Key> {
    let completion = observer.execute(&request::read(InAction::READ_KEYS, 64)).unwrap();
    ReadKeys::parse(&completion.data).unwrap().keys
}

/// A network between initiators and the target.
#[derive(Clone, Default)]
struct Network {
    /// Deliver the next PERSISTENT RESERVE OUT, then lose its initiator's connection; the target does not notice.
    lose_next: Arc<AtomicBool>,
    /// Losing a connection loses the whole network.
    fragile: bool,
    down: Arc<AtomicBool>,
    /// The target's ends of the lost connections.
    lost: Arc<Mutex<Vec<TcpStream>>>,
    /// The initiators' ends of all connections.
    open: Arc<Mutex<Vec<TcpStream>>>,
    /// So many connections are turned away before one is let through, as by a target that restarts.
    outage: Arc<AtomicUsize>,
    /// What an initiator sends goes on when all who meet here have sent something.
    meeting: Arc<Mutex<Option<Arc<Barrier>>>>,
}

impl Network {
    fn start(&self, target: &Target) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, upstream, network) =
            (listener.local_addr().unwrap(), target.local_addr(), self.clone());
        thread::spawn(move || {
            for initiator in listener.incoming().filter(|_| network.is_up()) {
                let (initiator, target) = (initiator.unwrap(), TcpStream::connect(upstream).unwrap());
                network.open.lock().unwrap().push(initiator.try_clone().unwrap());
                let (mut from, mut to) = (target.try_clone().unwrap(), initiator.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut to));
                let network = network.clone();
                thread::spawn(move || network.carry(initiator, target));
            }
        });
        address
    }

    fn is_up(&self) -> bool {
        let turn_away = |left: usize| left.checked_sub(1);
        let over = self.outage.fetch_update(Ordering::SeqCst, Ordering::SeqCst, turn_away).is_err();
        over && !self.down.load(Ordering::SeqCst)
    }

    /// Cuts every connection, and turns away so many new ones.
    fn fail(&self, connections: usize) {
        self.outage.store(connections, Ordering::SeqCst);
        for end in self.open.lock().unwrap().drain(..) {
            end.shutdown(Shutdown::Both).unwrap();
        }
    }

    fn carry(&self, mut initiator: TcpStream, mut target: TcpStream) {
        let (mut chunk, mut met) = (vec![0; 1 << 16], false);
        loop {
            let mut length = 0;
            loop {
                match initiator.read(&mut chunk[length..]) {
                    Ok(0) | Err(_) => return drop(target.shutdown(Shutdown::Both)),
                    Ok(count) => length += count,
                }
                if !self.lose_next.load(Ordering::SeqCst) || length >= PR_OUT {
                    break;
                }
            }
            let meeting = self.meeting.lock().unwrap().clone();
            if let Some(meeting) = meeting.filter(|_| !std::mem::replace(&mut met, true)) {
                meeting.wait();
            }
            target.write_all(&chunk[..length]).unwrap();
            if length >= PR_OUT && chunk[32] == 0x5F && self.lose_next.swap(false, Ordering::SeqCst) {
                self.down.store(self.fragile, Ordering::SeqCst);
                self.lost.lock().unwrap().push(target);
                return initiator.shutdown(Shutdown::Both).unwrap();
            }
        }
    }
}

/// A procedure that registers the source, and must not learn how that ended.
struct Registering {
    begun: bool,
}

impl Procedure for Registering {
    fn poll(&mut self) -> Step {
        assert!(!std::mem::replace(&mut self.begun, true), "the procedure goes on");
        let register = request::register(Key::NONE, KEY, false);
        Step::Run(vec![Action::Execute { id: CommandId(0), path: Path::source(0), request: register }])
    }

    fn handle(&mut self, event: Event) {
        panic!("the procedure was told {event:?}");
    }
}

#[test]
fn a_command_whose_answer_was_lost_is_over_once_the_session_is_reinstated() {
    // On a busy machine the new login may come only when the target has executed the command: that proves nothing.
    let end = Instant::now() + 6 * PATIENT;
    while !reinstated_in_time() {
        assert!(Instant::now() < end, "the new login never came before the target executed the command");
    }
}

/// Loses the answer to a command that the target executes only after its delay. Whether the new login came before that.
fn reinstated_in_time() -> bool {
    let (target, network) = (target(), Network::default());
    let mut source = link(network.start(&target), "alpha", PATIENT);
    let mut observer = link(target.local_addr(), "gamma", PATIENT);
    network.lose_next.store(true, Ordering::SeqCst);
    let sent = Instant::now();
    assert_eq!(source.send(&request::register(Key::NONE, KEY, false)), Outcome::Unknown);
    let settled = sent.elapsed();
    assert!(!source.dangles(), "the path is restored");
    let keys = keys(&mut observer);
    let why = "the target had the command and executed it after the new login";
    assert!(keys.is_empty() || settled >= DELAY, "{why}: {keys:?}");
    keys.is_empty()
}

#[test]
fn a_command_that_may_still_be_executed_ends_the_handover_in_doubt() {
    let (target, network) = (target(), Network { fragile: true, ..Network::default() });
    let source = link(network.start(&target), "alpha", Duration::from_secs(2));
    let mut observer = link(target.local_addr(), "gamma", PATIENT);
    network.lose_next.store(true, Ordering::SeqCst);
    let mut nowhere = NoJournal;
    let mut driver = Driver::new(BTreeMap::from([(Path::source(0), source)]), &mut nowhere);
    let pause = driver.advance(&mut Registering { begun: false }).unwrap();
    assert_eq!(pause, Pause::Finished(Verdict::InDoubt(Doubt::SourceUnreachable)));
    assert_eq!(driver.record.troubles.len(), 1, "and it says why");
    assert_eq!(keys(&mut observer), [KEY], "the doubt was right: it is executed afterwards");
    network.down.store(false, Ordering::SeqCst);
    let source = driver.link(Path::source(0)).unwrap();
    assert!(matches!(source.send(&request::read(InAction::READ_KEYS, 64)), Outcome::Done(_)));
    assert!(!source.dangles(), "a new login settles it");
}

#[test]
fn an_outage_that_ends_within_the_timeout_costs_no_second_command() {
    let (target, network) = (target(), Network::default());
    let mut source = link(network.start(&target), "alpha", PATIENT);
    network.fail(8);
    let read = request::read(InAction::READ_KEYS, 64);
    assert!(!matches!(source.send(&read), Outcome::Done(_)), "the session is lost");
    assert!(matches!(source.send(&read), Outcome::Done(_)), "the link waited until it was there again");
    network.fail(2);
    source.send(&read);
    assert!(!source.is_displaced(), "nobody took over");
}

#[test]
fn an_outage_is_waited_for_once_and_not_for_each_command() {
    let (target, network) = (target(), Network::default());
    let mut source = link(network.start(&target), "alpha", Duration::from_millis(400));
    let many = 1_000_000;
    network.fail(many);
    let turned_away = || many - network.outage.load(Ordering::SeqCst);
    let read = request::read(InAction::READ_KEYS, 64);
    let lost = Instant::now();
    assert!(!matches!(source.send(&read), Outcome::Done(_)), "the session is lost");
    assert!(lost.elapsed() >= Duration::from_millis(400), "the whole timeout is spent on the outage");
    let before = turned_away();
    for _ in 0..3 {
        assert_eq!(source.send(&read), Outcome::NotSent);
    }
    assert_eq!(turned_away() - before, 3, "one attempt each");
}

/// A procedure that reads, and meanwhile somebody else logs in under its name.
struct Robbed {
    thief: Way,
    session: Option<Opened>,
    lost: u32,
}

impl Procedure for Robbed {
    fn poll(&mut self) -> Step {
        if self.lost == 3 {
            return Step::Finished(Verdict::Refused(handover::verdict::Reason::Unreachable));
        }
        self.session = Some(self.thief.open(PATIENT).unwrap());
        let request = request::read(InAction::READ_KEYS, 64);
        Step::Run(vec![Action::Execute { id: CommandId(0), path: Path::source(0), request }])
    }

    fn handle(&mut self, _: Event) {
        self.lost += 1;
    }
}

#[test]
fn a_session_that_somebody_else_takes_over_again_and_again_is_named_as_the_likely_reason() {
    let target = target();
    let links = BTreeMap::from([(Path::source(0), link(target.local_addr(), "alpha", PATIENT))]);
    let mut nowhere = NoJournal;
    let mut driver = Driver::new(links, &mut nowhere);
    let thief = way(target.local_addr(), "alpha");
    driver.advance(&mut Robbed { thief, session: None, lost: 0 }).unwrap();
    let advice = driver.record.advice.unwrap();
    assert!(advice.contains("same initiator name and ISID"), "{advice}");
}

/// Paths of both sides, and a job for each: to register, and to read the keys.
fn several(address: SocketAddr) -> (BTreeMap<Path, Link>, Jobs) {
    let paths = [Path::source(0), Path::source(1), Path::destination(0)];
    let links = paths.into_iter().zip(["alpha", "beta", "gamma"].map(|host| link(address, host, PATIENT)));
    let command = |id, request| (CommandId(id), Job::Command(request));
    let job = || {
        let register = command(0, request::register(Key::NONE, KEY, false));
        vec![register, command(1, request::read(InAction::READ_KEYS, 64))]
    };
    (links.collect(), paths.into_iter().map(|path| (path, job())).collect())
}

/// How many keys each path was told.
fn told(outcomes: &BTreeMap<Path, Vec<Outcome>>) -> Vec<usize> {
    let keys = |outcomes: &Vec<Outcome>| match &outcomes[..] {
        [Outcome::Done(registered), Outcome::Done(read)] if registered.status.is_good() => {
            ReadKeys::parse(&read.data).unwrap().keys.len()
        }
        other => panic!("{other:?}"),
    };
    outcomes.values().map(keys).collect()
}

#[test]
fn paths_take_turns_where_the_system_has_no_threads_left() {
    let target = target();
    let (mut links, jobs) = several(target.local_addr());
    // No system has room for such a stack.
    let refused = || thread::Builder::new().stack_size(1 << 62);
    assert!(refused().spawn(|| ()).is_err());
    assert_eq!(told(&run_paths(&mut links, &jobs, refused)), [1, 2, 3], "one path after the other");
}

#[test]
fn paths_are_used_at_the_same_time_where_there_are_threads() {
    let (target, network) = (target(), Network::default());
    let (mut links, jobs) = several(network.start(&target));
    *network.meeting.lock().unwrap() = Some(Arc::new(Barrier::new(links.len())));
    let outcomes = run_paths(&mut links, &jobs, thread::Builder::new);
    *network.meeting.lock().unwrap() = None;
    assert_eq!(told(&outcomes).len(), 3);
}
