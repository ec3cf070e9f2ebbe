//! How fast a target answers: `rates URL [SECONDS]` prints commands per second of PERSISTENT RESERVE IN and
//! TEST UNIT READY pipelines, so that two targets can be compared with the same client.

use iscsi::initiator::{IscsiUrl, Session};
use nexus::Nexus;
use scsi::pr::{InAction, request};
use scsi::{DataPhase, IscsiName, Isid, Request};
use std::error::Error;
use std::time::{Duration, Instant};

/// Commands under way at a time.
const DEPTH: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url: IscsiUrl = arguments.next().ok_or("usage: rates URL [SECONDS]")?.parse()?;
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let isid = Isid([0x80, 0, 0, 0, 0, 1]);
    let session = Session::login(&url.session(&IscsiName::new("iqn.2026-11.tenure:rates")?, isid))?;
    let mut nexus = session.nexus(url.lun);
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    while !nexus.execute(&ready)?.status.is_good() {}
    println!("READ KEYS {:.0}/s", rate(&mut nexus, &request::read(InAction::READ_KEYS, 1024), seconds)?);
    println!("TEST UNIT READY {:.0}/s", rate(&mut nexus, &ready, seconds)?);
    session.logout()?;
    Ok(())
}

fn rate(nexus: &mut impl Nexus, request: &Request, seconds: u64) -> Result<f64, Box<dyn Error>> {
    let batch = vec![request.clone(); DEPTH];
    let (start, mut done) = (Instant::now(), 0u32);
    while start.elapsed() < Duration::from_secs(seconds) {
        for outcome in nexus.execute_all(&batch) {
            if !outcome?.status.is_good() {
                return Err("a command failed".into());
            }
            done += 1;
        }
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}
