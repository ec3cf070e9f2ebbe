//! `tenure demo`: the main job over real sockets. A guest on host alpha holds a reservation; it moves to host
//! beta while gamma, a node of its cluster, writes and reads keys and reservation without a pause.

mod cluster;
mod observer;
mod report;

use crate::cli::DemoArgs;
use crate::command::handover::nonce;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use ::handover::{Engine, Event, Method, Path, Phase, Procedure, Settings, Verdict};
use agent::drive::Opened;
use agent::drive::words;
use agent::drive::{Driver, Link, NoJournal, Pause, Record};
use anyhow::Result;
use cluster::{Cluster, TIMEOUT};
use logical_unit::Profile;
use nexus::{Nexus, TransportError};
use observer::Watch;
use report::Report;
use scsi::Status;
use std::collections::BTreeMap;
use std::thread;

/// Looks of the watching node before and after the handover.
const LOOKS: u64 = 25;

/// Shows one handover.
///
/// # Errors
/// If the stage cannot be set; a handover that shows anything wrong is exit 1, one that is refused exit 4.
pub fn run(args: &DemoArgs, console: &mut Console) -> Result<Exit, Failure> {
    if Profile::by_name(&args.profile).is_none() {
        let names: Vec<_> = Profile::ALL.iter().map(|profile| profile.name).collect();
        return Err(Failure::usage(format!("--profile is one of {}", names.join(", "))));
    }
    let report = show(args)?;
    if args.json {
        console.json(&report.document())?;
    } else {
        console.data(&report.text())?;
    }
    Ok(report.exit())
}

fn show(args: &DemoArgs) -> Result<Report> {
    let identity = args.method == Some(Method::Identity);
    let mut cluster = Cluster::new(&args.profile, identity)?;
    let mut alpha = cluster.open(&cluster.alpha)?;
    let mut gamma = cluster.open(&cluster.gamma)?;
    cluster.form(&mut alpha, &mut gamma, args.kind)?;
    let watch = Watch::default();
    let (moved, seen) = thread::scope(|scope| -> Result<_> {
        let watching = watch.start(scope, gamma, args.kind);
        let moved = watch.wait_for_looks(LOOKS, &watching).and_then(|()| {
            let moved = move_guest(args, &cluster, alpha)?;
            watch.wait_for_looks(LOOKS, &watching)?;
            Ok(moved)
        });
        watch.end();
        let seen = watching.join().map_err(|_| anyhow::anyhow!("the watching node failed"))??;
        Ok((moved?, seen))
    })?;
    let left = cluster.left(args.kind)?;
    let report = Report::new(args, cluster.address(), moved, seen, left);
    cluster.end();
    Ok(report)
}

/// What the handover left, seen from the two hosts.
struct Moved {
    verdict: Verdict,
    method: Method,
    record: Record,
    /// What beta read of alpha's last words; `None` if the guest never ran there.
    read_back: Option<String>,
    /// How a write on alpha ends afterwards.
    source_write: SourceWrite,
}

/// How a write on alpha ends after the handover.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceWrite {
    /// RESERVATION CONFLICT.
    Rejected,
    /// The source has no session to write with.
    NoSession,
    /// Anything else, which should not be.
    Wrong(String),
}

/// The guest's last words on alpha.
const LAST_WORDS: &str = "written on alpha just before the pause";
const SOURCE: Path = Path::source(0);
const DESTINATION: Path = Path::destination(0);

/// The guest writes on alpha, is paused when the engine says so, and goes on at beta.
fn move_guest(args: &DemoArgs, cluster: &Cluster, mut alpha: Opened) -> Result<Moved> {
    let dead = args.method == Some(Method::DestinationNonce);
    cluster::good(&mut alpha, &cluster::write(0, if dead { LAST_WORDS } else { "written on alpha" }))?;
    let links = links(args, cluster, alpha)?;
    let mut engine = Engine::new(settings(args, &links)?);
    let mut nowhere = NoJournal;
    let mut driver = Driver::new(links, &mut nowhere);
    let mut read_back = None;
    let verdict = loop {
        match driver.advance(&mut engine)? {
            Pause::Finished(verdict) => break verdict,
            Pause::Phase(Phase::Prepare) if !dead => {
                cluster::good(driver.link(SOURCE)?, &cluster::write(0, LAST_WORDS))?;
            }
            Pause::Phase(Phase::Verify) => read_back = Some(go_on(driver.link(DESTINATION)?)?),
            Pause::Phase(_) => {}
        }
        driver.record.resume_clock();
        engine.handle(Event::Proceed);
    };
    let source_write = if dead {
        // The dead host comes back and does not know better.
        write_late(&mut cluster.open(&cluster.alpha)?)
    } else {
        write_late(driver.link(SOURCE)?)
    };
    Ok(Moved { verdict, method: engine.method(), record: driver.record, read_back, source_write })
}

/// The guest resumes on beta: it reads what it wrote last, and writes.
fn go_on(beta: &mut dyn Nexus) -> Result<String> {
    let words = cluster::text(&cluster::run(beta, &cluster::read(0))?)?;
    cluster::good(beta, &cluster::write(1, "written on beta"))?;
    Ok(words)
}

fn write_late(alpha: &mut dyn Nexus) -> SourceWrite {
    match cluster::run(alpha, &cluster::write(1, "alpha, too late")) {
        Ok(completion) if completion.status == Status::RESERVATION_CONFLICT => SourceWrite::Rejected,
        Ok(completion) => SourceWrite::Wrong(words::status(&completion)),
        Err(error) => match error.downcast_ref() {
            Some(TransportError::NotSent(_)) => SourceWrite::NoSession,
            _ => SourceWrite::Wrong(format!("{error:#}")),
        },
    }
}

/// Under *identity* beta must not log in before alpha is out; under *destination nonce* alpha's host is dead.
fn links(args: &DemoArgs, cluster: &Cluster, alpha: Opened) -> Result<BTreeMap<Path, Link>> {
    let source = match args.method {
        Some(Method::DestinationNonce) => Link::closed(cluster.alpha.clone(), TIMEOUT),
        _ => Link::open(cluster.alpha.clone(), TIMEOUT, alpha),
    };
    let destination = match args.method {
        Some(Method::Identity) => Link::closed(cluster.beta.clone(), TIMEOUT),
        _ => Link::open(cluster.beta.clone(), TIMEOUT, cluster.open(&cluster.beta)?),
    };
    Ok(BTreeMap::from([(SOURCE, source), (DESTINATION, destination)]))
}

fn settings(args: &DemoArgs, links: &BTreeMap<Path, Link>) -> Result<Settings> {
    let port = |path: Path| links.get(&path).map(Link::port).unwrap_or_default();
    let nonce = nonce().map_err(|failure| failure.reason)?;
    let dead = args.method == Some(Method::DestinationNonce);
    Ok(Settings {
        source_alive: !dead,
        allow_absence: dead,
        identity_is_ours: args.method == Some(Method::Identity),
        method: args.method,
        ..Settings::new(Some(cluster::GUEST), nonce, port(SOURCE), port(DESTINATION))
    })
}
