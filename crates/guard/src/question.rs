//! Asking the device what the guest's nexus has; the agent asks so when a guest is started without a handover. Own commands take unit attentions that belong to the guest: they are
//! kept, to be given to it. One that was taken in the instant before the helper is killed is lost: what it tells of
//! is found by the next helper's questions all the same, and the guest's own commands get RESERVATION CONFLICT.

use crate::failure;
use handover::{Port, Tracked, Tracker};
use nexus::{Nexus, unit_attention};
use scsi::pr::{
    Capabilities, FullStatus, InAction, Key, ReadKeys, ReadReservation, ReservationType, request,
};
use scsi::{Completion, Request, SenseKey, Status};

/// Most unit attentions that are taken before one answer.
const ATTENTIONS: usize = 16;
/// Rounds until one is not disturbed by a unit attention.
const ROUNDS: usize = 4;
/// READ KEYS and READ FULL STATUS.
const LENGTH: u16 = 8192;

/// What the device said.
pub struct Answer {
    /// What the nexus has.
    pub tracker: Tracker,
    /// PRGENERATION.
    pub generation: Option<u32>,
    /// No nexus at all is registered.
    pub nobody: bool,
    /// The reservation's type, whoever holds it; the outer `None`: not read.
    pub reservation: Option<Option<ReservationType>>,
}

impl Answer {
    /// Nothing had to be asked.
    #[must_use]
    pub const fn known(tracker: Tracker) -> Self {
        Self { tracker, generation: None, nobody: false, reservation: None }
    }
}

/// The questions about one nexus.
pub struct Questions<'a> {
    /// Which nexus.
    pub nexus: &'a mut dyn Nexus,
    /// How the target names it.
    pub port: &'a Port,
    /// What was recorded last.
    pub recorded: Tracked,
    /// Set if only what the nexus holds is in doubt, and not whether it is registered.
    pub registered: Option<Tracker>,
    /// What may be registered.
    pub candidates: Vec<(Key, bool)>,
    /// The type of which the nexus may be the holder: where its key is another's too, the reservation alone does not tell.
    pub claims: Vec<ReservationType>,
    /// Sense data of the unit attentions that were taken.
    pub taken: Vec<Vec<u8>>,
}

impl<'a> Questions<'a> {
    /// Questions about a nexus of which only the record is known.
    pub fn new(nexus: &'a mut dyn Nexus, port: &'a Port, recorded: Tracked) -> Self {
        Self { nexus, port, recorded, registered: None, candidates: vec![], claims: vec![], taken: vec![] }
    }

    /// Asks until a round passes undisturbed: a unit attention may tell of a change between two answers.
    ///
    /// # Errors
    /// The device did not answer; what the guest is told in its place.
    pub fn ask(&mut self) -> Result<Answer, Completion> {
        let mut answer = match self.registered {
            Some(tracker) => self.holding(tracker, None)?,
            None => self.round()?,
        };
        for _ in 1..ROUNDS {
            let before = self.taken.len();
            if before == 0 {
                break;
            }
            answer = self.round()?;
            if self.taken.len() == before {
                break;
            }
        }
        Ok(answer)
    }

    fn round(&mut self) -> Result<Answer, Completion> {
        let keys = self.keys()?;
        let tracker = self.registration(&keys)?;
        let nobody = keys.keys.is_empty() && !keys.truncated;
        Ok(Answer { generation: Some(keys.generation), nobody, ..self.holding(tracker, Some(&keys))? })
    }

    /// What a nexus holds whose registration is beyond doubt. The probe is spared then: it counts in PRGENERATION, which
    /// guests read.
    fn holding(&mut self, mut tracker: Tracker, keys: Option<&ReadKeys>) -> Result<Answer, Completion> {
        let (mut generation, mut reservation) = (None, self.full_status(&mut tracker)?);
        if reservation.is_none() {
            let read = self.read(InAction::READ_RESERVATION, 256, ReadReservation::parse)?;
            self.learn_reservation(&mut tracker, &read, keys)?;
            (generation, reservation) = (Some(read.generation), Some(read.reservation.map(|held| held.kind)));
        }
        Ok(Answer { tracker, generation, nobody: false, reservation })
    }

    fn keys(&mut self) -> Result<ReadKeys, Completion> {
        self.read(InAction::READ_KEYS, LENGTH, ReadKeys::parse)
    }

    /// `false` if no nexus has this key: a cheap question, which leaves PRGENERATION alone.
    ///
    /// # Errors
    /// The device did not answer.
    pub fn may_be_registered(&mut self, key: Key) -> Result<bool, Completion> {
        let keys = self.keys()?;
        Ok(keys.truncated || keys.keys.contains(&key))
    }

    /// The probe: REGISTER of a key to itself is GOOD only for the nexus that has it.
    fn registration(&mut self, keys: &ReadKeys) -> Result<Tracker, Completion> {
        for (key, recorded) in self.candidates.clone() {
            if !keys.truncated && !keys.keys.contains(&key) {
                continue;
            }
            let aptpl = self.persistence()?.unwrap_or(recorded);
            let ended = self.send(&request::register(key, key, aptpl))?;
            match ended.status {
                Status::GOOD => {
                    let mut tracker = Tracker::recorded(Tracked { key: Some(key), aptpl, ..self.recorded });
                    tracker.learn_probe(true);
                    return Ok(tracker);
                }
                Status::RESERVATION_CONFLICT => {}
                // Not ready, aborted, out of resources: that proves nothing.
                _ => return Err(ended),
            }
        }
        let mut tracker = Tracker::recorded(self.recorded);
        tracker.learn_probe(false);
        Ok(tracker)
    }

    /// PTPL_A: the APTPL of the whole logical unit, whoever set it last. Every REGISTER sets it, so the probe must repeat it.
    /// `None` where the device has no REPORT CAPABILITIES.
    fn persistence(&mut self) -> Result<Option<bool>, Completion> {
        let told = self.read_optional(InAction::REPORT_CAPABILITIES, 8, Capabilities::parse)?;
        Ok(told.map(|capabilities| capabilities.persist_active))
    }

    /// A key that several nexuses have does not tell which of them holds: then it is this one only if it may be.
    fn learn_reservation(
        &mut self,
        tracker: &mut Tracker,
        read: &ReadReservation,
        keys: Option<&ReadKeys>,
    ) -> Result<(), Completion> {
        let single = read.reservation.filter(|held| !held.kind.is_all_registrants());
        let claimed = single.is_none_or(|held| self.claims.contains(&held.kind));
        let told =
            if claimed || !self.is_shared(tracker.last().key, keys)? { read.reservation } else { None };
        tracker.learn_reservation(&ReadReservation { reservation: told, ..*read });
        Ok(())
    }

    fn is_shared(&mut self, key: Option<Key>, keys: Option<&ReadKeys>) -> Result<bool, Completion> {
        let times = |keys: &ReadKeys| keys.keys.iter().filter(|listed| Some(**listed) == key).count();
        let several = |keys: &ReadKeys| keys.truncated || times(keys) > 1;
        match keys {
            Some(keys) => Ok(several(keys)),
            None => Ok(several(&self.keys()?)),
        }
    }

    /// READ FULL STATUS alone tells a holder from one that shares its key; it takes both names of the nexus.
    /// The type of the reservation; `None` if it cannot be used.
    fn full_status(&mut self, tracker: &mut Tracker) -> Result<Option<Option<ReservationType>>, Completion> {
        if self.port.initiator.is_none() || self.port.target_port.is_none() {
            return Ok(None);
        }
        let status = self.read_optional(InAction::READ_FULL_STATUS, LENGTH, FullStatus::parse)?;
        let Some(status) = status.filter(|status| !status.truncated) else { return Ok(None) };
        let mut told = *tracker;
        let used = told.learn_full_status(&status, self.port);
        // The probe is proof: a list without this nexus has it under another name than this side knows.
        let contradicted = tracker.is_registered() && !told.is_registered();
        if !used || contradicted {
            return Ok(None);
        }
        *tracker = told;
        Ok(Some(status.descriptors.iter().find_map(|one| one.holds).map(|(_, kind)| kind)))
    }

    fn read<T>(
        &mut self,
        action: InAction,
        length: u16,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<T, Completion> {
        let ended = self.send(&request::read(action, length))?;
        if !ended.status.is_good() {
            return Err(ended);
        }
        parse(&ended.data).ok_or_else(failure::not_recorded)
    }

    /// What not every device has; one that does not rejects it.
    fn read_optional<T>(
        &mut self,
        action: InAction,
        length: u16,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Completion> {
        let ended = self.send(&request::read(action, length))?;
        let key = ended.decoded_sense().map(|sense| sense.key);
        match ended.status {
            Status::GOOD => Ok(parse(&ended.data)),
            Status::CHECK_CONDITION if key == Some(SenseKey::ILLEGAL_REQUEST) => Ok(None),
            _ => Err(ended),
        }
    }

    /// Sends one question, past unit attentions.
    fn send(&mut self, request: &Request) -> Result<Completion, Completion> {
        for _ in 0..ATTENTIONS {
            let ended = self.nexus.execute(request).map_err(|error| failure::answer(&error))?;
            if unit_attention(&ended).is_some() {
                self.taken.push(ended.sense);
                continue;
            }
            return Ok(ended);
        }
        Err(Completion::status(Status::BUSY))
    }
}
