//! Events of the event queue (virtio 1.2 5.6.6.3). Used by the event queue.

use super::{Error, Lun, field, join};

code! {
    /// What happened.
    EventKind: u32 {
        /// Nothing: with [`EventKind::MISSED`] alone, the driver looks for itself.
        NO_EVENT = 0;
        /// A target or logical unit came, went or was reset; the reason says which.
        TRANSPORT_RESET = 1;
        /// An asynchronous notification.
        ASYNC_NOTIFY = 2;
        /// A unit attention's cause; the reason is its additional sense code.
        PARAM_CHANGE = 3;
        /// A bit on top of the rest: events were lost for want of buffers.
        MISSED = 0x8000_0000;
    }
}

code! {
    /// Why, by kind.
    Reason: u32 {
        /// TRANSPORT_RESET: it was reset.
        HARD = 0;
        /// TRANSPORT_RESET: there is something new.
        RESCAN = 1;
        /// TRANSPORT_RESET: it has gone.
        REMOVED = 2;
    }
}

impl Reason {
    /// Of a PARAM_CHANGE: the additional sense code and its qualifier.
    #[must_use]
    pub const fn sense(code: u8, qualifier: u8) -> Self {
        Self(code as u32 | (qualifier as u32) << 8)
    }
}

/// An event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Where; zeros for the whole device.
    pub lun: [u8; 8],
    /// Why.
    pub reason: Reason,
}

impl Event {
    /// Bytes of it (`event_info_size`).
    pub const LENGTH: usize = 16;

    /// An event of one logical unit.
    #[must_use]
    pub fn of(lun: Lun, kind: EventKind, reason: Reason) -> Self {
        Self { kind, lun: lun.to_bytes(), reason }
    }

    /// The same, telling that others before it were lost.
    #[must_use]
    pub const fn after_missed(self) -> Self {
        Self { kind: EventKind(self.kind.0 | EventKind::MISSED.0), ..self }
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Ok(Self {
            kind: EventKind(u32::from_le_bytes(field(bytes, 0)?)),
            lun: field(bytes, 4)?,
            reason: Reason(u32::from_le_bytes(field(bytes, 12)?)),
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        join(&[&self.kind.0.to_le_bytes(), &self.lun, &self.reason.0.to_le_bytes()])
    }
}
