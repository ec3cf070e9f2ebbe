//! Requests and responses of the request queues (virtio 1.2 5.6.6.1). Used by the queues.
//!
//! A request is header, CDB (as long as `cdb_size`), data-out; a response is header, sense data (as long as `sense_size`), data-in.

use super::{Error, ResponseCode, field, join};

code! {
    /// Task attribute (virtio 1.2 5.6.6.1, SAM-5 8.6).
    TaskAttribute: u8 {
        /// SIMPLE.
        SIMPLE = 0;
        /// ORDERED.
        ORDERED = 1;
        /// HEAD OF QUEUE.
        HEAD = 2;
        /// ACA.
        ACA = 3;
    }
}

/// What stands before the CDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHeader {
    /// The logical unit, for [`super::Lun::parse`].
    pub lun: [u8; 8],
    /// The driver's name for the request, for task management; not checked to be unique.
    pub id: u64,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Priority (SAM-5 8.7).
    pub priority: u8,
    /// Command reference number; 0.
    pub crn: u8,
}

impl RequestHeader {
    /// Bytes of it.
    pub const LENGTH: usize = 19;

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let [attribute, priority, crn] = field(bytes, 16)?;
        Ok(Self {
            lun: field(bytes, 0)?,
            id: u64::from_le_bytes(field(bytes, 8)?),
            attribute: TaskAttribute(attribute),
            priority,
            crn,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let rest = [self.attribute.0, self.priority, self.crn];
        join(&[&self.lun, &self.id.to_le_bytes(), &rest])
    }
}

/// Header and CDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Header.
    pub header: RequestHeader,
    /// The CDB with what follows it up to `cdb_size`.
    pub cdb: &'a [u8],
}

impl<'a> Request<'a> {
    /// Bytes before data-out.
    #[must_use]
    pub fn length(cdb_size: u32) -> usize {
        RequestHeader::LENGTH.saturating_add(cdb_size as usize)
    }

    /// From the beginning of what the device reads; data-out may follow.
    pub fn parse(bytes: &'a [u8], cdb_size: u32) -> Result<Self, Error> {
        let needed = Self::length(cdb_size);
        let header = RequestHeader::parse(bytes)?;
        let cdb = bytes.get(RequestHeader::LENGTH..needed);
        Ok(Self { header, cdb: cdb.ok_or(Error::Short { needed, length: bytes.len() })? })
    }

    /// Its bytes; the CDB is cut or filled up with zeros to `cdb_size`.
    #[must_use]
    pub fn to_bytes(&self, cdb_size: u32) -> Vec<u8> {
        let mut bytes = self.header.to_bytes().to_vec();
        bytes.extend_from_slice(self.cdb);
        bytes.resize(Self::length(cdb_size), 0);
        bytes
    }
}

/// What stands before the sense data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Bytes of sense data.
    pub sense_length: u32,
    /// Bytes of data that were not moved.
    pub residual: u32,
    /// Status qualifier (SAM-5 5.3.2).
    pub status_qualifier: u16,
    /// SCSI status, where the response is OK.
    pub status: u8,
    /// What came of it.
    pub response: ResponseCode,
}

impl Response {
    /// Bytes of it.
    pub const LENGTH: usize = 12;

    /// Bytes before data-in.
    #[must_use]
    pub fn length(sense_size: u32) -> usize {
        Self::LENGTH.saturating_add(sense_size as usize)
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let [status, response] = field(bytes, 10)?;
        Ok(Self {
            sense_length: u32::from_le_bytes(field(bytes, 0)?),
            residual: u32::from_le_bytes(field(bytes, 4)?),
            status_qualifier: u16::from_le_bytes(field(bytes, 8)?),
            status,
            response: ResponseCode(response),
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        join(&[
            &self.sense_length.to_le_bytes(),
            &self.residual.to_le_bytes(),
            &self.status_qualifier.to_le_bytes(),
            &[self.status, self.response.0],
        ])
    }
}
