//! Commands per second over iSCSI: 4 KiB reads by libiscsi's `iscsi-perf`, and 4 KiB writes and PR commands
//! by our own initiator, which is the same client for both targets.

use super::{Pair, compare};
use crate::interop::iscsi_perf;
use anyhow::{Context, Result, ensure};
use iscsi::initiator::{IscsiUrl, Session, SessionConfig};
use lab::tenure::Tenure;
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReservationType, request};
use scsi::{DataPhase, IscsiName, Isid, Request, opcode};
use std::time::{Duration, Instant};

const MEGABYTES: u64 = 256;
const BLOCK: u64 = 512;
const PER_REQUEST: u64 = 8;
/// Requests under way at a time, as `iscsi-perf` is told too.
const DEPTH: usize = 32;
/// How long one measurement takes.
const TIME: Duration = Duration::from_secs(2);
const KEY: Key = Key(0x7e57);

/// All rates, each against tgt's.
pub(super) fn all(tenure: &Tenure) -> Result<()> {
    let pair = Pair::start(tenure, MEGABYTES)?;
    let (ours, theirs) = (pair.ours.url(0), pair.theirs.served.url(0));
    // Both disks get their blocks first: reading holes would measure something else.
    fill(&ours)?;
    fill(&theirs)?;
    let reads = |url: &str| iscsi_perf(url, 8, TIME);
    compare("4 KiB random read, iscsi-perf", || reads(&ours), || reads(&theirs))?;
    compare("4 KiB random write, depth 32", || writes(&ours), || writes(&theirs))?;
    compare("4 KiB random read, depth 32", || own_reads(&ours), || own_reads(&theirs))?;
    for depth in [DEPTH, 1] {
        for (name, commands) in reservation_commands() {
            let rate = |url: &str| registered(url, &commands, depth);
            compare(&format!("{name}, depth {depth}"), || rate(&ours), || rate(&theirs))?;
        }
    }
    Ok(())
}

fn open(url: &str) -> Result<(Session, impl Nexus + use<>)> {
    let url: IscsiUrl = url.parse()?;
    let initiator = IscsiName::new("iqn.2026-11.example.tenure:bench")?;
    let isid = Isid([0x80, 0, 0, 0, 0, 1]);
    let session = Session::login(&SessionConfig::new(url.portal(), url.target.clone(), initiator, isid))?;
    let mut nexus = session.nexus(url.lun);
    // A new session begins with a unit attention.
    for _ in 0..5 {
        let ready = nexus.execute(&Request { cdb: vec![0; 6], data: DataPhase::None })?;
        if ready.status.is_good() {
            return Ok((session, nexus));
        }
    }
    anyhow::bail!("{url:?} is not ready")
}

fn transfer(code: u8, lba: u64, data: DataPhase) -> Request {
    let mut cdb = vec![code, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.extend([0, 0, 0, 8, 0, 0]);
    Request { cdb, data }
}

/// Writes the whole disk once.
fn fill(url: &str) -> Result<()> {
    let (session, mut nexus) = open(url)?;
    const STEP: u64 = 128;
    for lba in (0..(MEGABYTES << 20) / BLOCK).step_by(STEP as usize) {
        let mut request =
            transfer(opcode::WRITE_16, lba, DataPhase::Out(vec![0xA5; (STEP * BLOCK) as usize]));
        request.cdb.splice(13..14, [STEP as u8]);
        ensure!(nexus.execute(&request)?.status.is_good(), "the disk cannot be written");
    }
    session.logout()?;
    Ok(())
}

fn writes(url: &str) -> Result<f64> {
    let data = vec![0x5A; (PER_REQUEST * BLOCK) as usize];
    random(url, |lba| transfer(opcode::WRITE_16, lba, DataPhase::Out(data.clone())))
}

fn own_reads(url: &str) -> Result<f64> {
    random(url, |lba| transfer(opcode::READ_16, lba, DataPhase::In((PER_REQUEST * BLOCK) as usize)))
}

/// Batches of [`DEPTH`] requests at addresses that a fixed sequence scatters.
fn random(url: &str, request: impl Fn(u64) -> Request) -> Result<f64> {
    let (session, mut nexus) = open(url)?;
    let places = (MEGABYTES << 20) / BLOCK / PER_REQUEST;
    let mut place = 1u64;
    let rate = rate(|| {
        let batch: Vec<Request> = (0..DEPTH)
            .map(|_| {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                request((place >> 20) % places * PER_REQUEST)
            })
            .collect();
        for answer in nexus.execute_all(&batch) {
            ensure!(answer?.status.is_good(), "a transfer failed");
        }
        Ok(DEPTH)
    })?;
    session.logout()?;
    Ok(rate)
}

/// What a registered nexus may repeat for ever.
fn reservation_commands() -> [(&'static str, Vec<Request>); 3] {
    let kind = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
    [
        ("READ KEYS", vec![request::read(InAction::READ_KEYS, 4096)]),
        ("REGISTER K to K", vec![request::register(KEY, KEY, false)]),
        ("RESERVE and RELEASE", vec![request::reserve(KEY, kind), request::release(KEY, kind)]),
    ]
}

/// These commands in turn from a registered nexus, so many under way at a time.
fn registered(url: &str, commands: &[Request], depth: usize) -> Result<f64> {
    let (session, mut nexus) = open(url)?;
    ensure!(nexus.execute(&request::register(Key::NONE, KEY, false))?.status.is_good(), "REGISTER failed");
    let batch: Vec<Request> = commands.iter().cycle().take(depth.max(commands.len())).cloned().collect();
    let batches: Vec<&[Request]> = if depth == 1 { batch.chunks(1).collect() } else { vec![&batch] };
    let rate = rate(|| {
        for answer in batches.iter().flat_map(|batch| nexus.execute_all(batch)) {
            ensure!(answer?.status.is_good(), "a reservation command failed");
        }
        Ok(batch.len())
    });
    nexus.execute(&request::register(KEY, Key::NONE, false)).context("unregister")?;
    session.logout()?;
    rate
}

/// Repeats `work`, which tells how many commands it did, and gives commands per second.
fn rate(mut work: impl FnMut() -> Result<usize>) -> Result<f64> {
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < TIME {
        done += work()?;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}
