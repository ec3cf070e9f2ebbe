//! Requests and responses of the control queue (virtio 1.2 5.6.6.2): task management, and asynchronous notifications. Used by
//! the control queue.

use super::{Error, ResponseCode, field, join};

/// Bytes of the longest control request.
pub const CONTROL_LENGTH_MAX: usize = 24;

const TASK_MANAGEMENT: u32 = 0;
const QUERY: u32 = 1;
const SUBSCRIBE: u32 = 2;

code! {
    /// Task management function (virtio 1.2 5.6.6.2, SAM-5 7).
    Subtype: u32 {
        /// ABORT TASK, named by `id`.
        ABORT_TASK = 0;
        /// ABORT TASK SET.
        ABORT_TASK_SET = 1;
        /// CLEAR ACA.
        CLEAR_ACA = 2;
        /// CLEAR TASK SET.
        CLEAR_TASK_SET = 3;
        /// I_T NEXUS RESET: all logical units of the target.
        I_T_NEXUS_RESET = 4;
        /// LOGICAL UNIT RESET.
        LOGICAL_UNIT_RESET = 5;
        /// QUERY TASK, named by `id`.
        QUERY_TASK = 6;
        /// QUERY TASK SET.
        QUERY_TASK_SET = 7;
    }
}

code! {
    /// Classes of asynchronous notifications, a bit each (virtio 1.2 5.6.6.2, MMC-6).
    AsyncEvents: u32 {
        /// Operational change.
        OPERATIONAL_CHANGE = 2;
        /// Power management.
        POWER_MGMT = 4;
        /// External request.
        EXTERNAL_REQUEST = 8;
        /// Media change.
        MEDIA_CHANGE = 16;
        /// Multiple hosts.
        MULTI_HOST = 32;
        /// Device busy.
        DEVICE_BUSY = 64;
    }
}

/// A control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// A task management function. The answer is one byte, a [`ResponseCode`].
    TaskManagement {
        /// Which.
        subtype: Subtype,
        /// Where, for [`super::Lun::parse`].
        lun: [u8; 8],
        /// The request it is about, as [`super::RequestHeader::id`] named it.
        id: u64,
    },
    /// Which notifications are there? The answer is an [`AsyncReply`].
    Query {
        /// Where.
        lun: [u8; 8],
        /// Which are asked about.
        events: AsyncEvents,
    },
    /// These notifications from now on. The answer is an [`AsyncReply`].
    Subscribe {
        /// Where.
        lun: [u8; 8],
        /// Which are wanted.
        events: AsyncEvents,
    },
}

impl Control {
    /// From the beginning of what the device reads, at most [`CONTROL_LENGTH_MAX`] bytes of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let four = |offset| field(bytes, offset).map(u32::from_le_bytes);
        let notification = || Ok((field(bytes, 4)?, AsyncEvents(four(12)?)));
        match four(0)? {
            TASK_MANAGEMENT => Ok(Self::TaskManagement {
                subtype: Subtype(four(4)?),
                lun: field(bytes, 8)?,
                id: u64::from_le_bytes(field(bytes, 16)?),
            }),
            QUERY => notification().map(|(lun, events)| Self::Query { lun, events }),
            SUBSCRIBE => notification().map(|(lun, events)| Self::Subscribe { lun, events }),
            other => Err(Error::ControlType(other)),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let notification = |kind: u32, lun: &[u8; 8], events: AsyncEvents| {
            join::<16>(&[&kind.to_le_bytes(), lun, &events.0.to_le_bytes()]).to_vec()
        };
        match self {
            Self::TaskManagement { subtype, lun, id } => join::<CONTROL_LENGTH_MAX>(&[
                &TASK_MANAGEMENT.to_le_bytes(),
                &subtype.0.to_le_bytes(),
                lun,
                &id.to_le_bytes(),
            ])
            .to_vec(),
            Self::Query { lun, events } => notification(QUERY, lun, *events),
            Self::Subscribe { lun, events } => notification(SUBSCRIBE, lun, *events),
        }
    }

    /// The address it is about.
    #[must_use]
    pub fn lun(&self) -> &[u8; 8] {
        match self {
            Self::TaskManagement { lun, .. } | Self::Query { lun, .. } | Self::Subscribe { lun, .. } => lun,
        }
    }

    /// The bytes of an answer that has only a code to tell: the form is the request's.
    #[must_use]
    pub fn answer(&self, response: ResponseCode) -> Vec<u8> {
        match self {
            Self::TaskManagement { .. } => vec![response.0],
            _ => AsyncReply { events: AsyncEvents(0), response }.to_bytes().to_vec(),
        }
    }
}

/// What comes back for a query or subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncReply {
    /// What the device supports of what was asked for.
    pub events: AsyncEvents,
    /// What came of it.
    pub response: ResponseCode,
}

impl AsyncReply {
    /// Bytes of it.
    pub const LENGTH: usize = 5;

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let [response] = field(bytes, 4)?;
        let events = AsyncEvents(u32::from_le_bytes(field(bytes, 0)?));
        Ok(Self { events, response: ResponseCode(response) })
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        join(&[&self.events.0.to_le_bytes(), &[self.response.0]])
    }
}
