//! Asking the device what the guest's nexus has. Own commands take unit attentions that belong to the guest: they are
//! kept, to be given to it.

use crate::failure;
use handover::{Port, Tracked, Tracker};
use nexus::{Nexus, unit_attention};
use scsi::pr::{FullStatus, InAction, Key, ReadKeys, ReadReservation, request};
use scsi::{Completion, Request, Status};

/// Most unit attentions that are taken before one answer.
const ATTENTIONS: usize = 16;
/// Rounds until one is not disturbed by a unit attention.
const ROUNDS: usize = 4;
/// READ KEYS and READ FULL STATUS.
const LENGTH: u16 = 8192;

/// What the device said.
pub(super) struct Answer {
    /// What the nexus has.
    pub(super) tracker: Tracker,
    /// PRGENERATION.
    pub(super) generation: Option<u32>,
    /// No nexus at all is registered.
    pub(super) nobody: bool,
}

/// The questions about one nexus.
pub(super) struct Questions<'a> {
    pub(super) nexus: &'a mut dyn Nexus,
    pub(super) port: &'a Port,
    /// What was recorded last.
    pub(super) recorded: Tracked,
    /// Set if only what the nexus holds is in doubt, and not whether it is registered.
    pub(super) registered: Option<Tracker>,
    /// What may be registered.
    pub(super) candidates: Vec<(Key, bool)>,
    /// Sense data of the unit attentions that were taken.
    pub(super) taken: Vec<Vec<u8>>,
}

impl Questions<'_> {
    /// Asks until a round passes undisturbed: a unit attention may tell of a change between two answers.
    ///
    /// # Errors
    /// The device did not answer; what the guest is told in its place.
    pub(super) fn ask(&mut self) -> Result<Answer, Completion> {
        let mut answer = match self.registered {
            Some(tracker) => self.holding(tracker)?,
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
        let keys = self.read(InAction::READ_KEYS, LENGTH, ReadKeys::parse)?;
        let tracker = self.registration(&keys)?;
        let nobody = keys.keys.is_empty() && !keys.truncated;
        Ok(Answer { generation: Some(keys.generation), nobody, ..self.holding(tracker)? })
    }

    /// What a nexus holds whose registration is beyond doubt. The probe is spared then: it counts in PRGENERATION, which
    /// guests read.
    fn holding(&mut self, mut tracker: Tracker) -> Result<Answer, Completion> {
        let mut generation = None;
        if !self.full_status(&mut tracker)? {
            let held = self.read(InAction::READ_RESERVATION, 256, ReadReservation::parse)?;
            tracker.learn_reservation(&held);
            generation = Some(held.generation);
        }
        Ok(Answer { tracker, generation, nobody: false })
    }

    /// The probe: REGISTER of a key to itself is GOOD only for the nexus that has it, and changes nothing.
    fn registration(&mut self, keys: &ReadKeys) -> Result<Tracker, Completion> {
        for (key, aptpl) in self.candidates.clone() {
            let listed = keys.truncated || keys.keys.contains(&key);
            if listed && self.send(&request::register(key, key, aptpl))?.status.is_good() {
                let mut tracker = Tracker::recorded(Tracked { key: Some(key), aptpl, ..self.recorded });
                tracker.learn_probe(true);
                return Ok(tracker);
            }
        }
        let mut tracker = Tracker::recorded(self.recorded);
        tracker.learn_probe(false);
        Ok(tracker)
    }

    /// READ FULL STATUS alone tells a holder from one that shares its key; it takes both names of the nexus.
    fn full_status(&mut self, tracker: &mut Tracker) -> Result<bool, Completion> {
        if self.port.initiator.is_none() || self.port.target_port.is_none() {
            return Ok(false);
        }
        let ended = self.send(&request::read(InAction::READ_FULL_STATUS, LENGTH))?;
        let status = if ended.status.is_good() { FullStatus::parse(&ended.data) } else { None };
        let mut told = *tracker;
        let used =
            status.is_some_and(|status| !status.truncated && told.learn_full_status(&status, self.port));
        // The probe is proof: a list without this nexus has it under another name than this side knows.
        let contradicted = tracker.is_registered() && !told.is_registered();
        if used && !contradicted {
            *tracker = told;
        }
        Ok(used && !contradicted)
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

    /// Sends one question; GOOD, RESERVATION CONFLICT and a rejection are answers.
    fn send(&mut self, request: &Request) -> Result<Completion, Completion> {
        for _ in 0..ATTENTIONS {
            let ended = self.nexus.execute(request).map_err(|error| failure::answer(&error))?;
            if unit_attention(&ended).is_some() {
                self.taken.push(ended.sense);
                continue;
            }
            let busy = [Status::BUSY, Status::TASK_SET_FULL, Status::TASK_ABORTED].contains(&ended.status);
            return if busy { Err(ended) } else { Ok(ended) };
        }
        Err(Completion::status(Status::BUSY))
    }
}
