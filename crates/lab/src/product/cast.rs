//! The other initiators of a case: what sets the guest's standing up in its name, another node of the cluster that interferes, and
//! a bystander; and what all of them see of the logical unit.

use super::case::Standing;
use super::rows::Before;
use crate::served::Served;
use crate::stage::{Disk, Host, insist};
use crate::states::{GUEST, OTHER, good, login};
use anyhow::{Context, Result, ensure};
use iscsi::initiator::{IscsiNexus, IscsiUrl, Session};
use iscsi::pdu::TaskResponse;
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, SenseKey, Status, opcode};

/// The key of another guest.
pub(super) const STRANGER: Key = Key(0x57A6);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

/// READ RESERVATION: key and type.
type Reservation = Option<(Key, ReservationType)>;

/// What everybody but the guest can see and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// READ KEYS, in order of the keys.
    pub(super) keys: Vec<Key>,
    /// READ RESERVATION.
    pub(super) reservation: Reservation,
    /// PTPL_A.
    pub(super) aptpl: bool,
    /// Whether gamma and delta may write.
    pub(super) writes: [bool; 2],
    /// Whether delta has the guest's key.
    pub(super) shares: bool,
}

/// gamma, registered with [`OTHER`], and delta.
#[derive(Debug)]
pub(super) struct Cast {
    session: Session,
    gamma: IscsiNexus,
    delta: IscsiNexus,
    lun: u64,
    aptpl: bool,
    shared: bool,
    /// Unit attentions that gamma and delta heard, apart from those of before.
    pub(super) heard: Vec<String>,
}

fn session(device: &str) -> Result<(Session, u64)> {
    let url: IscsiUrl = device.parse()?;
    let nobody = IscsiName::new("iqn.2026-11.example.tenure:nobody")?;
    Ok((Session::login(&url.session(&nobody, Isid([0; 6])))?, url.lun))
}

fn attention(completion: &Completion) -> Option<String> {
    let sense = completion.decoded_sense().filter(|sense| sense.key == SenseKey::UNIT_ATTENTION)?;
    (completion.status == Status::CHECK_CONDITION).then(|| sense.to_string())
}

impl Cast {
    /// Logs in to a fresh disk, and gives the guest its standing there in the name of `alpha`.
    pub(super) fn new(served: &Served, index: u16, standing: Standing, before: Before) -> Result<Self> {
        let (session_of_gamma, lun) = session(&served.device(index, "gamma"))?;
        let (gamma, aptpl) = (session_of_gamma.nexus(lun), before == Before::Aptpl);
        let delta = session(&served.device(index, "delta"))?.0.nexus(lun);
        let (session, shared, heard) = (session_of_gamma, before == Before::Shared, Vec::new());
        let mut cast = Self { session, gamma, delta, lun, aptpl, shared, heard };
        let direct = Disk::of(served, index);
        cast.stand(standing, direct.at(Host::Alpha))?;
        cast.prepare(standing, before, &direct)?;
        cast.view().context("before the migration")?;
        cast.heard.clear();
        Ok(cast)
    }

    fn stand(&mut self, standing: Standing, alpha: &str) -> Result<()> {
        good(&mut self.gamma, &request::register(Key::NONE, OTHER, self.aptpl))?;
        // In one session: there are targets on which the next one is another nexus.
        let mut alpha = login(alpha)?;
        good(&mut alpha, &request::register(Key::NONE, GUEST, self.aptpl))?;
        match standing {
            Standing::Holder(kind) => good(&mut alpha, &request::reserve(GUEST, kind)),
            Standing::Member(kind) => good(&mut self.gamma, &request::reserve(OTHER, kind)),
            Standing::Registrant => Ok(()),
        }
    }

    fn prepare(&mut self, standing: Standing, before: Before, disk: &Disk) -> Result<()> {
        let [alpha, beta] = Host::BOTH.map(|host| disk.at(host));
        match before {
            Before::Nothing | Before::Aptpl | Before::Forgotten | Before::Paused => Ok(()),
            Before::WrongRegister => rejected(alpha, &request::register(Key(0xBAD), Key(0x1), self.aptpl)),
            Before::WrongRelease => {
                let kind = standing.kind().unwrap_or(KIND);
                let other = ReservationType::ALL.into_iter().find(|other| *other != kind).unwrap_or(KIND);
                rejected(alpha, &request::release(GUEST, other))
            }
            Before::Occupied => sent(beta, &request::register(Key::NONE, STRANGER, self.aptpl)),
            Before::AlreadyThere => sent(beta, &request::register(Key::NONE, GUEST, self.aptpl)),
            Before::Shared => good(&mut self.delta, &request::register(Key::NONE, GUEST, false)),
            Before::Reset => {
                let ended = self.session.reset_logical_unit(self.lun)?;
                ensure!(ended == TaskResponse::FUNCTION_COMPLETE, "the reset ended {ended:?}");
                Ok(())
            }
            Before::Released => {
                good(&mut self.gamma, &request::reserve(OTHER, KIND))?;
                good(&mut self.gamma, &request::release(OTHER, KIND))
            }
            Before::Preempted => {
                sent(beta, &request::register(Key::NONE, STRANGER, self.aptpl))?;
                good(&mut self.gamma, &request::preempt(OTHER, STRANGER, standing.kind().unwrap_or(KIND)))
            }
            Before::Fenced => self.fence(standing),
        }
    }

    /// gamma fences the guest, as a cluster does. The guest's key must be there to be fenced.
    pub(super) fn fence(&mut self, standing: Standing) -> Result<()> {
        let kind = standing.kind().unwrap_or(KIND);
        good(&mut self.gamma, &request::preempt(OTHER, GUEST, kind)).context("the fencing")
    }

    fn ask(&mut self, of_delta: bool, request: &Request) -> Result<Completion> {
        for _ in 0..8 {
            let nexus = if of_delta { &mut self.delta } else { &mut self.gamma };
            let completion = nexus.execute(request)?;
            match attention(&completion) {
                Some(sense) => self.heard.push(sense),
                None => return Ok(completion),
            }
        }
        anyhow::bail!("unit attentions without end")
    }

    /// The keys and the reservation, as gamma reads them.
    pub(super) fn registered(&mut self) -> Result<(Vec<Key>, Reservation)> {
        let keys = self.ask(false, &request::read(InAction::READ_KEYS, 1024))?;
        let mut keys = ReadKeys::parse(&keys.data).context("READ KEYS")?.keys;
        keys.sort_unstable();
        let held = self.ask(false, &request::read(InAction::READ_RESERVATION, 24))?;
        let held = ReadReservation::parse(&held.data).context("READ RESERVATION")?.reservation;
        Ok((keys, held.map(|held| (held.key, held.kind))))
    }

    /// Everything.
    pub(super) fn view(&mut self) -> Result<View> {
        let (keys, reservation) = self.registered()?;
        let capabilities = self.ask(false, &request::read(InAction::REPORT_CAPABILITIES, 8))?;
        // PTPL_A (SPC-4 table 218).
        let aptpl = capabilities.data.get(3).is_some_and(|byte| byte & 1 != 0);
        let mut may_write = |of_delta| Ok::<_, anyhow::Error>(self.ask(of_delta, &write())?.status.is_good());
        let writes = [may_write(false)?, may_write(true)?];
        let shares = self.shared && {
            let probe = request::register(GUEST, GUEST, aptpl);
            self.ask(true, &probe)?.status.is_good()
        };
        Ok(View { keys, reservation, aptpl, writes, shares })
    }
}

fn sent(device: &str, request: &Request) -> Result<()> {
    let ended = insist(device, request)?;
    ensure!(ended.status.is_good(), "{:02x?} ended {}", request.cdb, ended.status);
    Ok(())
}

fn rejected(device: &str, request: &Request) -> Result<()> {
    let ended = insist(device, request)?;
    ensure!(!ended.status.is_good(), "{:02x?} was accepted", request.cdb);
    Ok(())
}

/// WRITE of a block.
pub(super) fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 0, 8, 0, 0, 1, 0], data: DataPhase::Out(vec![0x5A; 512]) }
}
