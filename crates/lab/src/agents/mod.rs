//! A handover of many logical units as two agents conduct it, without a VMM: a replica, a ground with its ledger, a journal and
//! iSCSI sessions on either side, and mutual TLS on loopback between them. It is what the agents do while the guest stands
//! still, except for QEMU, with everything that must be durable; and nothing that the guest runs through.

mod link;
mod log;
mod site;

use crate::served::Served;
use crate::states::good;
use agent::conduct::{Leader, Patience, Pause, PeerExchange, Span};
use agent::drive::Lines;
use agent::journal::Entries;
use agent::ownership::Mark;
use anyhow::{Context, Result, bail, ensure};
use handover::group::Ending;
use handover::{Group, Method, Phase, Settings, Side, UnitIndex};
use iscsi::initiator::{IscsiUrl, Session};
use link::Follows;
use peer::Link;
use peer::message::{About, Close, Guest, Open, Options, Request};
use scsi::pr::{Key, ReservationType, request};
use scsi::{DataPhase, IscsiName, Isid, opcode};
use site::{ID, PATIENCE, Site};
use std::path::Path;
use std::time::{Duration, Instant};

/// The guest's key.
const KEY: Key = Key(0x6E57);
const NONCE: Key = Key(0x99);
const UUID: &str = "6e570000-0000-4000-8000-000000000001";
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

/// What a handover took while the guest would have stood still.
#[derive(Clone, Debug)]
pub struct Conducted {
    /// How the first logical unit was handed over.
    pub method: Method,
    /// The phases, as the leader saw them.
    pub spans: Vec<Span>,
    /// From the stop of the guest to the moment at which the destination may run it.
    pub pause: Duration,
    /// Of this, what waits for disks: records, entries and marks on both hosts, with the message that asks the peer for it.
    pub durable: Duration,
}

impl Conducted {
    /// Round trips to the target in the pause; each is one for all logical units.
    #[must_use]
    pub fn round_trips(&self) -> u32 {
        self.paused().map(|span| span.round_trips).sum()
    }

    /// How long these took, the way to the peer with them.
    #[must_use]
    pub fn commands(&self) -> Duration {
        self.paused().map(|span| span.commands).sum()
    }

    fn paused(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| matches!(span.phase, Phase::Freeze | Phase::Take | Phase::Verify))
    }
}

/// Makes a guest of initiator `alpha` the holder of the first `disks` logical units, hands it over to `beta`, and checks that it
/// is the holder there; by `method`, or by the plan's own choice. What the hosts keep is below `state`.
///
/// # Errors
/// If it does not move, or anything is wrong afterwards.
pub fn conduct(served: &Served, disks: u16, state: &Path, method: Option<Method>) -> Result<Conducted> {
    hold(served, disks)?;
    let source = Site::open(served, disks, "alpha", Side::Source, state)?;
    let mut destination = Site::open(served, disks, "beta", Side::Destination, state)?;
    let offered: Vec<_> = source.ground.units().iter().map(|unit| unit.lun.clone()).collect();
    destination.ground.arrange(&offered)?;
    let group = group(&source, &destination, method)?;
    let mine = source.begin(Side::Source, &destination)?;
    let theirs = destination.begin(Side::Destination, &source)?;
    let (_listener, link) = link::open(Follows::new(destination, group.clone(), theirs))?;
    let conducted = Conduct::new(source, group, mine, &link)?.run()?;
    check(served, disks)?;
    Ok(conducted)
}

fn group(source: &Site, destination: &Site, method: Option<Method>) -> Result<Group> {
    let pairs = source.ground.units().iter().zip(destination.ground.units());
    let settings = pairs.map(|(from, to)| {
        let ports = (from.ports(), to.ports());
        let first = |ports: &[handover::Port]| ports.first().cloned().unwrap_or_default();
        Settings { method, ..Settings::new(from.key(), NONCE, first(&ports.0), first(&ports.1)) }
    });
    Group::new(settings.collect()).context("no logical unit")
}

/// The source's half.
struct Conduct<'a> {
    leader: Leader<PeerExchange<'a>, Lines, Entries>,
    source: Site,
    link: &'a Link,
}

impl<'a> Conduct<'a> {
    fn new(mut source: Site, group: Group, entries: Entries, link: &'a Link) -> Result<Self> {
        let guest = Guest { vm: "guest".into(), uuid: UUID.into() };
        let luns = source.ground.units().iter().map(link::offer).collect();
        link.call(&Request::Open(Open { handover: ID, guest, luns, options: Options::default() }), PATIENCE)?;
        let exchange = PeerExchange { link, handover: ID };
        let mut lines = source.ground.lines();
        use_them(&mut lines)?;
        let leader = Leader::new(group, Side::Source, exchange, lines, entries, Patience::default());
        Ok(Self { leader, source, link })
    }

    fn run(mut self) -> Result<Conducted> {
        self.until(Phase::Prepare)?;
        self.leader.sync()?;
        let stopped = Instant::now();
        self.freeze()?;
        let frozen = stopped.elapsed();
        self.until(Phase::Verify)?;
        self.leader.sync()?;
        let verified = Instant::now();
        self.give_up_the_guest()?;
        let (pause, given) = (stopped.elapsed(), verified.elapsed());
        self.finish()?;
        let spans = self.leader.record().spans().to_vec();
        let method = self.source.log.last(UnitIndex(0)).context("nothing was journalled")?.method;
        let entries: Duration = spans.iter().map(|span| span.journal).sum();
        Ok(Conducted { method, spans, pause, durable: frozen + entries + given })
    }

    /// Goes on from the phase at whose end it stands.
    fn until(&mut self, end: Phase) -> Result<()> {
        loop {
            self.leader.proceed();
            match self.leader.advance()? {
                Pause::Phase(phase) if phase == end => return Ok(()),
                Pause::Phase(_) => {}
                Pause::Finished(ending) => {
                    let verdicts: Vec<_> = self.leader.group().verdicts().collect();
                    bail!("{ending:?} before the end of {end}: {verdicts:?}");
                }
            }
        }
    }

    fn freeze(&mut self) -> Result<()> {
        ensure!(!self.source.ground.freeze(Instant::now() + PATIENCE)?.changed, "nobody changed anything");
        self.link.call(&Request::Freeze(About { handover: ID }), PATIENCE)?;
        Ok(())
    }

    /// From here on the guest is the destination's.
    fn give_up_the_guest(&self) -> Result<()> {
        self.source.log.mark(Mark::Taken)?;
        self.source.log.mark(Mark::Go)?;
        self.link.call(&Request::Go(About { handover: ID }), PATIENCE)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.until(Phase::Release)?;
        self.leader.proceed();
        let ended = self.leader.advance()?;
        ensure!(ended == Pause::Finished(Ending::Moved), "{ended:?}");
        self.source.ground.depart()?;
        let close = Close { handover: ID, verdict: "moved".into() };
        self.link.call(&Request::Close(close), PATIENCE)?;
        Ok(())
    }
}

/// A running guest has long been told what a new session begins with.
fn use_them(lines: &mut Lines) -> Result<()> {
    let ready = scsi::Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None };
    lines.links().try_for_each(|(_, _, link)| good(link, &ready))
}

/// A session of a node's.
fn session(served: &Served, name: &str) -> Result<Session> {
    let url: IscsiUrl = served.device(0, name).parse()?;
    let nobody = IscsiName::new("iqn.2026-11.example.tenure:nobody")?;
    Ok(Session::login(&url.session(&nobody, Isid([0; 6])))?)
}

fn hold(served: &Served, disks: u16) -> Result<()> {
    let session = session(served, "alpha")?;
    for disk in 0..disks {
        let mut nexus = session.nexus(u64::from(served.first_lun + disk));
        good(&mut nexus, &request::register(Key::NONE, KEY, false))?;
        good(&mut nexus, &request::reserve(KEY, KIND))?;
    }
    Ok(session.logout()?)
}

/// Only the holder's RELEASE takes the reservation away, and only a registrant may send one.
fn check(served: &Served, disks: u16) -> Result<()> {
    let session = session(served, "beta")?;
    for disk in 0..disks {
        let mut nexus = session.nexus(u64::from(served.first_lun + disk));
        good(&mut nexus, &request::release(KEY, KIND)).with_context(|| format!("disk {disk}"))?;
    }
    Ok(session.logout()?)
}
