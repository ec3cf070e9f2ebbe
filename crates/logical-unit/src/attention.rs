//! Unit attention conditions (SAM-5 5.14): one queue for each I_T nexus.
//!
//! A queue holds every condition at most once, in order of arrival; the 29h family is reported before
//! all others. The number of conditions is fixed, so a queue can never grow beyond one word, and
//! nexuses without a session are bounded by the registration limit. Used by [`PrUnit`](crate::PrUnit).

use crate::NexusId;
use scsi::AdditionalSense;

/// A condition that a nexus is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Attention {
    /// 29h/00h POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    PowerOnOrReset = 1,
    /// 29h/01h POWER ON OCCURRED.
    PowerOn,
    /// 29h/03h BUS DEVICE RESET FUNCTION OCCURRED.
    TargetReset,
    /// 29h/07h I_T NEXUS LOSS OCCURRED.
    NexusLoss,
    /// 2Ah/01h MODE PARAMETERS CHANGED.
    ModeParametersChanged,
    /// 2Ah/03h RESERVATIONS PREEMPTED.
    ReservationsPreempted,
    /// 2Ah/04h RESERVATIONS RELEASED.
    ReservationsReleased,
    /// 2Ah/05h REGISTRATIONS PREEMPTED.
    RegistrationsPreempted,
    /// 2Ah/09h CAPACITY DATA HAS CHANGED.
    CapacityChanged,
    /// 28h/00h NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED.
    MediumMayHaveChanged,
    /// 2Fh/00h COMMANDS CLEARED BY ANOTHER INITIATOR.
    CommandsCleared,
    /// 3Fh/03h INQUIRY DATA HAS CHANGED.
    InquiryDataChanged,
    /// 3Fh/0Eh REPORTED LUNS DATA HAS CHANGED.
    ReportedLunsChanged,
}

impl Attention {
    /// Every condition.
    pub const ALL: [Self; 13] = [
        Self::PowerOnOrReset,
        Self::PowerOn,
        Self::TargetReset,
        Self::NexusLoss,
        Self::ModeParametersChanged,
        Self::ReservationsPreempted,
        Self::ReservationsReleased,
        Self::RegistrationsPreempted,
        Self::CapacityChanged,
        Self::MediumMayHaveChanged,
        Self::CommandsCleared,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
    ];

    /// The sense code that reports it.
    #[must_use]
    pub const fn code(self) -> AdditionalSense {
        match self {
            Self::PowerOnOrReset => AdditionalSense::POWER_ON_OR_RESET,
            Self::PowerOn => AdditionalSense::POWER_ON,
            Self::TargetReset => AdditionalSense::TARGET_RESET,
            Self::NexusLoss => AdditionalSense::NEXUS_LOSS,
            Self::ModeParametersChanged => AdditionalSense::MODE_PARAMETERS_CHANGED,
            Self::ReservationsPreempted => AdditionalSense::RESERVATIONS_PREEMPTED,
            Self::ReservationsReleased => AdditionalSense::RESERVATIONS_RELEASED,
            Self::RegistrationsPreempted => AdditionalSense::REGISTRATIONS_PREEMPTED,
            Self::CapacityChanged => AdditionalSense::CAPACITY_CHANGED,
            Self::MediumMayHaveChanged => AdditionalSense::MEDIUM_MAY_HAVE_CHANGED,
            Self::CommandsCleared => AdditionalSense::COMMANDS_CLEARED,
            Self::InquiryDataChanged => AdditionalSense::INQUIRY_DATA_CHANGED,
            Self::ReportedLunsChanged => AdditionalSense::REPORTED_LUNS_CHANGED,
        }
    }

    /// The 29h family: it outranks every other condition, and reservation conflicts too.
    #[must_use]
    pub const fn is_reset(self) -> bool {
        self.code().asc == 0x29
    }

    /// The 2Ah family: by SAM-5 5.3.3 a reservation conflict outranks it.
    #[must_use]
    pub const fn yields_to_conflict(self) -> bool {
        self.code().asc == 0x2A
    }

    pub(crate) fn of(nibble: u64) -> Option<Self> {
        let index = usize::try_from(nibble.checked_sub(1)?).ok()?;
        Self::ALL.get(index).copied()
    }
}

/// The conditions of one nexus: a nibble each, oldest lowest, no condition twice.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Queue(u64);

impl Queue {
    fn iter(self) -> impl Iterator<Item = Attention> {
        (0..16).map_while(move |at| Attention::of(self.0 >> (4 * at) & 0xF))
    }

    fn collect(conditions: impl Iterator<Item = Attention>) -> Self {
        Self(conditions.enumerate().fold(0, |word, (at, one)| word | u64::from(one as u8) << (4 * at)))
    }

    fn push(&mut self, condition: Attention) {
        if self.iter().all(|queued| queued != condition) {
            *self = Self::collect(self.iter().chain([condition]));
        }
    }

    fn first(self) -> Option<Attention> {
        self.iter().find(|queued| queued.is_reset()).or_else(|| self.iter().next())
    }

    fn remove(&mut self, condition: Attention) {
        *self = Self::collect(self.iter().filter(|queued| *queued != condition));
    }
}

/// The queues of a logical unit. Empty queues are not kept, so equal states are equal values.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct AttentionQueues(Vec<(NexusId, Queue)>);

impl AttentionQueues {
    /// The condition that `nexus` is told next.
    #[must_use]
    pub fn first(&self, nexus: NexusId) -> Option<Attention> {
        self.queue(nexus).and_then(Queue::first)
    }

    /// What waits for `nexus`, in order of arrival.
    pub fn pending(&self, nexus: NexusId) -> impl Iterator<Item = Attention> {
        self.queue(nexus).unwrap_or_default().iter()
    }

    /// Every nexus for which something waits, in order.
    pub fn nexuses(&self) -> impl Iterator<Item = NexusId> + '_ {
        self.0.iter().map(|(nexus, _)| *nexus)
    }

    fn queue(&self, nexus: NexusId) -> Option<Queue> {
        let at = self.find(nexus).ok()?;
        self.0.get(at).map(|(_, queue)| *queue)
    }

    fn find(&self, nexus: NexusId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&nexus, |(nexus, _)| *nexus)
    }

    /// Queues `condition` for all of `nexuses`; one that waits already is not queued again.
    pub(crate) fn establish(&mut self, nexuses: impl IntoIterator<Item = NexusId>, condition: Attention) {
        let known = self.0.len();
        for nexus in nexuses {
            let place = self.0.get(..known).unwrap_or_default().binary_search_by_key(&nexus, |(n, _)| *n);
            match place.ok().and_then(|at| self.0.get_mut(at)) {
                Some((_, queue)) => queue.push(condition),
                None => self.0.push((nexus, Queue::collect([condition].into_iter()))),
            }
        }
        self.0.sort_by_key(|(nexus, _)| *nexus);
        self.0.dedup_by_key(|(nexus, _)| *nexus);
    }

    /// Takes the condition that `nexus` is told now; with `all`, forgets the others too.
    pub(crate) fn take(&mut self, nexus: NexusId, all: bool) -> Option<Attention> {
        let at = self.find(nexus).ok()?;
        let (_, queue) = self.0.get_mut(at)?;
        let condition = queue.first()?;
        queue.remove(condition);
        if all || *queue == Queue::default() {
            self.0.remove(at);
        }
        Some(condition)
    }

    pub(crate) fn forget(&mut self, nexus: NexusId) {
        if let Ok(at) = self.find(nexus) {
            self.0.remove(at);
        }
    }

    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }
}

impl std::fmt::Debug for AttentionQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues = self.0.iter().map(|(nexus, queue)| (nexus.0, queue.iter().collect::<Vec<_>>()));
        f.debug_map().entries(queues).finish()
    }
}

#[cfg(test)]
mod tests;
