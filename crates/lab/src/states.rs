//! Reservation states that a handover must move, set up by initiators of our own, and the look afterwards.
//!
//! Four nodes: `alpha` has the guest, `beta` is to get it, `gamma` is another node of the cluster, `delta` a bystander
//! that may share the guest's key. After a move each must be what it was, with beta in alpha's place.

use crate::served::Served;
use anyhow::{Context, Result, bail, ensure};
use iscsi::initiator::{IscsiNexus, IscsiUrl, Session};
use nexus::Nexus;
use scsi::pr::{InAction, Key, ReadKeys, ReadReservation, Reservation, ReservationType, request};
use scsi::{Completion, DataPhase, IscsiName, Isid, Request, SenseKey, Status, opcode};
use std::fmt;

/// The guest's key.
pub const GUEST: Key = Key(0x6E57);
/// The other node's key.
pub const OTHER: Key = Key(0xCAFE);

/// What the guest is on the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It made a reservation of this type.
    Holder(ReservationType),
    /// Another node holds Write Exclusive - Registrants Only.
    Member,
    /// Nobody holds anything.
    Registrant,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holder(kind) => write!(f, "type {}", kind.0),
            Self::Member => f.write_str("member"),
            Self::Registrant => f.write_str("registrant"),
        }
    }
}

impl Standing {
    /// Every state that a handover must move.
    #[must_use]
    pub fn all() -> Vec<Self> {
        ReservationType::ALL.into_iter().map(Self::Holder).chain([Self::Member, Self::Registrant]).collect()
    }

    /// The reservation that it means for the logical unit.
    pub(crate) const fn kind(self) -> Option<ReservationType> {
        match self {
            Self::Holder(kind) => Some(kind),
            Self::Member => Some(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY),
            Self::Registrant => None,
        }
    }

    /// READ RESERVATION's key.
    fn holder(self) -> Option<Key> {
        match self {
            Self::Holder(kind) if kind.is_all_registrants() => Some(Key::NONE),
            Self::Holder(_) => Some(GUEST),
            Self::Member => Some(OTHER),
            Self::Registrant => None,
        }
    }
}

/// A guest to be moved.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// What it is.
    pub standing: Standing,
    /// A bystander is registered with the same key.
    pub shared: bool,
    /// Everybody registered with APTPL.
    pub aptpl: bool,
}

impl Guest {
    /// One whose registration ends with the target's power.
    #[must_use]
    pub const fn new(standing: Standing, shared: bool) -> Self {
        Self { standing, shared, aptpl: false }
    }
}

/// Sessions of all four nodes to one disk.
#[derive(Debug)]
pub struct Nodes {
    alpha: Session,
    lun: u64,
    gamma: IscsiNexus,
    delta: IscsiNexus,
    device: [String; 4],
}

impl Nodes {
    /// Logs the nodes in to disk `index`, and clears what an earlier state left there.
    ///
    /// # Errors
    /// If the target does not let them.
    pub fn new(served: &Served, index: u16) -> Result<Self> {
        let device = ["alpha", "beta", "gamma", "delta"].map(|name| served.device(index, name));
        let [alpha, _, gamma, delta] = &device;
        let lun = alpha.parse::<IscsiUrl>()?.lun;
        let (alpha, gamma, delta) = (login_session(alpha)?, login(gamma)?, login(delta)?);
        let mut nodes = Self { alpha, lun, gamma, delta, device: device.clone() };
        good(&mut nodes.gamma, &request::register_and_ignore(OTHER, false))?;
        good(&mut nodes.gamma, &request::clear(OTHER))?;
        Ok(nodes)
    }

    /// Sets up the guest's standing; with `shared`, delta registers the guest's key too.
    ///
    /// # Errors
    /// If the device rejects it.
    pub fn set_up(&mut self, guest: Guest) -> Result<()> {
        let mut alpha = self.alpha.nexus(self.lun);
        self.set_up_as(guest, &mut alpha)
    }

    /// The same, where the guest's own commands go through `alpha`.
    ///
    /// # Errors
    /// If the device rejects it.
    pub fn set_up_as(&mut self, guest: Guest, alpha: &mut dyn Nexus) -> Result<()> {
        let Guest { standing, shared, aptpl } = guest;
        good(&mut self.gamma, &request::register(Key::NONE, OTHER, aptpl))?;
        good(alpha, &request::register(Key::NONE, GUEST, aptpl))?;
        if shared {
            good(&mut self.delta, &request::register(Key::NONE, GUEST, aptpl))?;
        }
        match standing {
            Standing::Holder(kind) => good(alpha, &request::reserve(GUEST, kind)),
            Standing::Member => good(
                &mut self.gamma,
                &request::reserve(OTHER, ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY),
            ),
            Standing::Registrant => Ok(()),
        }
    }

    /// The DEVICEs of alpha and beta, for `--from` and `--to`. Alpha's session here ends first: a second login with its
    /// name and ISID would end it anyway.
    #[must_use]
    pub fn from_and_to(&self) -> (&str, &str) {
        let [alpha, beta, ..] = &self.device;
        (alpha, beta)
    }

    /// Alpha's session, for targets on which another one would be another I_T nexus.
    #[must_use]
    pub fn alpha(&self) -> Session {
        self.alpha.clone()
    }

    /// New sessions of alpha and beta.
    ///
    /// # Errors
    /// If the target does not let them in.
    pub fn log_in_again(&self) -> Result<(IscsiNexus, IscsiNexus)> {
        let [alpha, beta, ..] = &self.device;
        Ok((login(alpha)?, login(beta)?))
    }

    /// The guest is at beta, with everything it had, and nobody else lost or gained anything.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn check_moved(&mut self, guest: Guest, alpha: &mut dyn Nexus, beta: &mut dyn Nexus) -> Result<()> {
        self.check_view(guest)?;
        ensure!(probe(beta, guest)?, "beta is not registered with the guest's key");
        ensure!(!probe(alpha, guest)?, "alpha is still registered with the guest's key");
        good(beta, &write()).context("beta cannot write")?;
        if guest.standing != Standing::Registrant {
            let late = run(alpha, &write())?;
            ensure!(late.status == Status::RESERVATION_CONFLICT, "alpha can still write: {}", late.status);
        }
        Ok(())
    }

    /// Nothing has changed: the guest is at alpha.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn check_untouched(
        &mut self,
        guest: Guest,
        alpha: &mut dyn Nexus,
        beta: &mut dyn Nexus,
    ) -> Result<()> {
        self.check_view(guest)?;
        ensure!(probe(alpha, guest)?, "alpha lost the guest's registration");
        ensure!(!probe(beta, guest)?, "beta has the guest's registration");
        Ok(())
    }

    /// gamma fences the guest.
    ///
    /// # Errors
    /// If the device rejects it.
    pub fn fence(&mut self, guest: Guest) -> Result<()> {
        let kind = guest.standing.kind().unwrap_or(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
        good(&mut self.gamma, &request::preempt(OTHER, GUEST, kind))
    }

    fn keys(&mut self) -> Result<Vec<Key>> {
        let keys = run(&mut self.gamma, &request::read(InAction::READ_KEYS, 1024))?;
        Ok(ReadKeys::parse(&keys.data).context("READ KEYS")?.keys)
    }

    /// The guest was fenced and stays so: nobody has its key, and gamma has what it had.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn check_fenced(&mut self, guest: Guest) -> Result<()> {
        let keys = self.keys()?;
        ensure!(!keys.contains(&GUEST), "the guest was fenced, and its key is back: {keys:?}");
        self.check_bystanders(guest, &keys)
    }

    /// The guest was given up at `own`, and nobody else lost or gained anything.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn check_given_up(&mut self, guest: Guest, own: &mut dyn Nexus) -> Result<()> {
        let keys = self.keys()?;
        let most = if guest.shared { 2 } else { 1 };
        let listed = keys.iter().filter(|key| **key == GUEST).count();
        ensure!(listed <= most, "the keys are {keys:?}");
        ensure!(!probe(own, guest)?, "the guest's key is left");
        self.check_bystanders(guest, &keys)
    }

    fn check_bystanders(&mut self, guest: Guest, keys: &[Key]) -> Result<()> {
        ensure!(keys.iter().filter(|key| **key == OTHER).count() == 1, "the keys are {keys:?}");
        if guest.shared {
            ensure!(probe(&mut self.delta, guest)?, "delta, which shares the key, lost its registration");
        }
        if guest.standing == Standing::Member {
            let held = self.held()?;
            ensure!(held.map(|held| held.key) == Some(OTHER), "the reservation is {held:?}");
        }
        Ok(())
    }

    fn held(&mut self) -> Result<Option<Reservation>> {
        let held = run(&mut self.gamma, &request::read(InAction::READ_RESERVATION, 24))?;
        Ok(ReadReservation::parse(&held.data).context("READ RESERVATION")?.reservation)
    }

    /// What gamma and delta see is the same before and after.
    fn check_view(&mut self, guest: Guest) -> Result<()> {
        let Guest { standing, shared, aptpl } = guest;
        let keys = self.keys()?;
        let count = |key| keys.iter().filter(|listed| **listed == key).count();
        let guests = if shared { 2 } else { 1 };
        ensure!(
            count(GUEST) == guests && count(OTHER) == 1 && keys.len() == guests + 1,
            "the keys are {keys:?}"
        );
        let held = self.held()?;
        ensure!(
            held.map(|held| held.kind) == standing.kind() && held.map(|held| held.key) == standing.holder(),
            "the reservation is {held:?}"
        );
        let capabilities = run(&mut self.gamma, &request::read(InAction::REPORT_CAPABILITIES, 8))?;
        // PTPL_A (SPC-4 table 218).
        let kept = capabilities.data.get(3).is_some_and(|byte| byte & 1 != 0);
        ensure!(kept == aptpl, "APTPL was {aptpl} and is {kept}");
        ensure!(
            !shared || probe(&mut self.delta, guest)?,
            "delta, which shares the key, lost its registration"
        );
        Ok(())
    }
}

/// Logs in as a DEVICE says.
///
/// # Errors
/// If the URL has no identity or the target does not let us in.
pub fn login(device: &str) -> Result<IscsiNexus> {
    let url: IscsiUrl = device.parse()?;
    Ok(login_session(device)?.nexus(url.lun))
}

/// The session of a DEVICE.
///
/// # Errors
/// As of [`login`].
pub fn login_session(device: &str) -> Result<Session> {
    let url: IscsiUrl = device.parse()?;
    let nobody = IscsiName::new("iqn.2026-11.example.tenure:nobody")?;
    Ok(Session::login(&url.session(&nobody, Isid([0; 6])))?)
}

/// REGISTER from the guest's key to the guest's key: GOOD only on a nexus that has it.
///
/// # Errors
/// If it answers anything else than yes or no.
pub fn probe(nexus: &mut dyn Nexus, guest: Guest) -> Result<bool> {
    let completion = run(nexus, &request::register(GUEST, GUEST, guest.aptpl))?;
    match completion.status {
        Status::GOOD => Ok(true),
        Status::RESERVATION_CONFLICT => Ok(false),
        other => bail!("REGISTER ended {other}"),
    }
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 0, 8, 0, 0, 1, 0], data: DataPhase::Out(vec![0x5A; 512]) }
}

/// Sends a command until no unit attention is in its way, a bounded number of times.
///
/// # Errors
/// If the transport is lost or the attentions do not end.
pub fn run(nexus: &mut dyn Nexus, request: &Request) -> Result<Completion> {
    for _ in 0..8 {
        let completion = nexus.execute(request)?;
        let attention = completion.decoded_sense().is_some_and(|sense| sense.key == SenseKey::UNIT_ATTENTION);
        if !(attention && completion.status == Status::CHECK_CONDITION) {
            return Ok(completion);
        }
    }
    bail!("unit attentions without end")
}

/// Sends a command that must end GOOD.
///
/// # Errors
/// If it does not.
pub fn good(nexus: &mut dyn Nexus, request: &Request) -> Result<()> {
    let completion = run(nexus, request)?;
    let sense = completion.decoded_sense().map_or(String::new(), |sense| format!(", {sense}"));
    ensure!(completion.status.is_good(), "{:02x?} ended {}{sense}", request.cdb, completion.status);
    Ok(())
}
