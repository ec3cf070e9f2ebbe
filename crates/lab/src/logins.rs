//! What a target keeps of an initiator port while that has no session: its registration, its reservation, and the unit attentions that wait for
//! it. A guest of `tenure device` that moves with its initiator port stands on that, so what `handover` knows of a target is held against
//! what is seen here.
//!
//! Used by `cargo xtask interop` with tgt and `tenure target`, and in the lab's VM with the kernel's own target.

use crate::process::DEADLINE;
use crate::states::{good, login_session, run};
use agent::drive::{Device as Way, Opened};
use anyhow::{Context, Result, anyhow, ensure};
use handover::known_targets::{Known, KnownTargets, TargetIdentity};
use iscsi::initiator::{IscsiNexus, IscsiUrl, Session};
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::{InAction, Key, ReadReservation, ReservationType, request};
use scsi::{AdditionalSense, DataPhase, Request, Status, opcode};

const OWN: Key = Key(0xA1);
const OTHER: Key = Key(0xB2);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
/// Unit attentions before a command passes.
const ATTENTIONS: usize = 8;

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By a logout that the target confirmed.
    Logout,
    /// The connection is lost.
    Loss,
    /// By the next login of the same port.
    Login,
}

/// What was there after such an end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    registration: bool,
    /// It held nobody else off, or not the port itself.
    reservation: bool,
    /// What the port is told first, where RESERVATIONS RELEASED waited for it.
    attentions: Vec<AdditionalSense>,
}

/// Ends the session of the initiator port `device` (a URL with its name and ISID) in each way, and finds what the table of known targets says;
/// `other` (a DEVICE) is another node. What was seen, in a line.
///
/// # Errors
/// The table says something else, or nothing; or a port that was fenced while it was away can write.
pub fn judged(device: &str, other: &str) -> Result<String> {
    let way: Way = other.parse().map_err(|what: String| anyhow!(what))?;
    let mut story = Story { url: device.parse()?, device, other: way.open(DEADLINE)? };
    let known = story.known()?;
    let mut told = Vec::new();
    for end in [End::Logout, End::Loss, End::Login] {
        let seen = story.look(end).with_context(|| format!("{end:?}"))?;
        let keeps = seen.registration && seen.reservation;
        ensure!(keeps || !seen.registration && !seen.reservation, "{end:?}: by halves: {seen:?}");
        ensure!(known == if keeps { Known::Yes } else { Known::No }, "{end:?}: known as {known:?}: {seen:?}");
        told.push(format!("{end:?} {}{:?}", if keeps { "keeps it, " } else { "ends it, " }, seen.attentions));
    }
    Ok(told.join("; "))
}

struct Story<'a> {
    url: IscsiUrl,
    device: &'a str,
    other: Opened,
}

impl Story<'_> {
    /// What is known of the target.
    fn known(&mut self) -> Result<Known> {
        let inquiry = Request { cdb: vec![opcode::INQUIRY, 0, 0, 0, 96, 0], data: DataPhase::In(96) };
        let told = run(&mut self.other, &inquiry)?;
        let target = TargetIdentity::from_inquiry(&told.data).context("INQUIRY data")?;
        Ok(KnownTargets::default().traits(&target).keeps_identity)
    }

    fn look(&mut self, end: End) -> Result<Seen> {
        good(&mut self.other, &request::register_and_ignore(OTHER, false))?;
        good(&mut self.other, &request::clear(OTHER))?;
        let (session, attentions) = self.is_told(end)?;
        let (session, registration) = self.is_registered(session)?;
        let (session, reservation) = self.holds(session, end)?;
        if registration {
            self.stays_fenced(session, end)?;
        }
        good(&mut self.other, &request::clear(OTHER))?;
        Ok(Seen { registration, reservation, attentions })
    }

    /// The other node's reservation is released, so that the port is to be told, and its session ends before it is.
    fn is_told(&mut self, end: End) -> Result<(Session, Vec<AdditionalSense>)> {
        let session = login_session(self.device)?;
        let mut port = self.nexus(&session);
        good(&mut port, &request::register(Key::NONE, OWN, false))?;
        good(&mut self.other, &request::register(Key::NONE, OTHER, false))?;
        good(&mut self.other, &request::reserve(OTHER, KIND))?;
        good(&mut port, &write())?;
        good(&mut self.other, &request::release(OTHER, KIND))?;
        drop(port);
        let session = self.ends(session, end, |_| Ok(()))?;
        let told = retry_unit_attention(&mut self.nexus(&session), &ready(), ATTENTIONS)?;
        ensure!(told.completion.status.is_good(), "the port is not let in: {:?}", told.completion);
        Ok((session, told.attentions))
    }

    /// And is it afterwards in any case.
    fn is_registered(&mut self, session: Session) -> Result<(Session, bool)> {
        let mut port = self.nexus(&session);
        let is = run(&mut port, &request::register(OWN, OWN, false))?.status.is_good();
        good(&mut port, &request::register_and_ignore(OWN, false))?;
        drop(port);
        Ok((session, is))
    }

    /// Its reservation holds another node off that is not registered, while it is away and after it is back.
    fn holds(&mut self, session: Session, end: End) -> Result<(Session, bool)> {
        good(&mut self.other, &request::register(OTHER, Key::NONE, false))?;
        good(&mut self.nexus(&session), &request::reserve(OWN, KIND))?;
        let mut held = true;
        let session = self.ends(session, end, |other| {
            held = run(other, &write())?.status == Status::RESERVATION_CONFLICT;
            Ok(())
        })?;
        let mut port = self.nexus(&session);
        let found = run(&mut port, &request::read(InAction::READ_RESERVATION, 64))?;
        let found = ReadReservation::parse(&found.data).context("READ RESERVATION")?.reservation;
        held &= found.is_some_and(|found| found.key == OWN && found.kind == KIND);
        held &= run(&mut port, &request::reserve(OWN, KIND))?.status.is_good();
        good(&mut self.other, &request::register(Key::NONE, OTHER, false))?;
        drop(port);
        Ok((session, held))
    }

    /// The other node removes it while it has no session.
    fn stays_fenced(&mut self, session: Session, end: End) -> Result<()> {
        let session = self.ends(session, end, |other| good(other, &request::preempt(OTHER, OWN, KIND)))?;
        let mut port = self.nexus(&session);
        for command in [write(), request::register(OWN, OWN, false)] {
            let refused = run(&mut port, &command)?.status;
            ensure!(
                refused == Status::RESERVATION_CONFLICT,
                "a fenced port's {:02x?} ended {refused}",
                command.cdb
            );
        }
        Ok(session.logout()?)
    }

    /// Ends the session, lets the other node do something, and logs in again. Nothing of the session may be held.
    fn ends(
        &mut self,
        session: Session,
        end: End,
        meanwhile: impl FnOnce(&mut Opened) -> Result<()>,
    ) -> Result<Session> {
        match end {
            End::Logout => session.logout()?,
            End::Loss => drop(session),
            End::Login => {
                meanwhile(&mut self.other)?;
                let next = login_session(self.device)?;
                ensure!(
                    !session.is_open() || self.nexus(&session).execute(&ready()).is_err(),
                    "two sessions of one port"
                );
                return Ok(next);
            }
        }
        meanwhile(&mut self.other)?;
        login_session(self.device)
    }

    fn nexus(&self, session: &Session) -> IscsiNexus {
        session.nexus(self.url.lun)
    }
}

fn ready() -> Request {
    Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None }
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 0, 8, 0, 0, 1, 0], data: DataPhase::Out(vec![0x5A; 512]) }
}
