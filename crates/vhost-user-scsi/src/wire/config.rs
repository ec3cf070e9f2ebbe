//! The configuration space (virtio 1.2 5.6.4): 36 bytes of which the driver may write two fields. Used by the front end's handler.

use super::{Error, field, join};

/// `sense_size` until the driver writes another.
pub const SENSE_SIZE_DEFAULT: u32 = 96;
/// The largest `sense_size` that is taken.
pub const SENSE_SIZE_MAX: u32 = 0xFFFF;
/// `cdb_size` until the driver writes another.
pub const CDB_SIZE_DEFAULT: u32 = 32;
/// The largest `cdb_size` that is taken: no CDB is longer (SPC-4 4.2.3).
pub const CDB_SIZE_MAX: u32 = 260;
/// The smallest CDB.
const CDB_SIZE_MIN: u32 = 6;

/// The configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Request queues.
    pub num_queues: u32,
    /// Descriptors of data that one request may have.
    pub seg_max: u32,
    /// Blocks of 512 bytes that one request should move at most.
    pub max_sectors: u32,
    /// Commands that a logical unit should get at a time.
    pub cmd_per_lun: u32,
    /// Bytes of an event.
    pub event_info_size: u32,
    /// Room for sense data in each response; the driver may write it.
    pub sense_size: u32,
    /// Room for the CDB in each request; the driver may write it.
    pub cdb_size: u32,
    /// Reserved: 0.
    pub max_channel: u16,
    /// The highest target.
    pub max_target: u16,
    /// The highest LUN.
    pub max_lun: u32,
}

impl Config {
    /// Bytes of it.
    pub const LENGTH: usize = 36;
    /// The most that can be asked for at once (vhost-user: VHOST_USER_MAX_CONFIG_SIZE).
    const READ_MAX: u32 = 256;

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let four = |offset| field(bytes, offset).map(u32::from_le_bytes);
        Ok(Self {
            num_queues: four(0)?,
            seg_max: four(4)?,
            max_sectors: four(8)?,
            cmd_per_lun: four(12)?,
            event_info_size: four(16)?,
            sense_size: four(20)?,
            cdb_size: four(24)?,
            max_channel: u16::from_le_bytes(field(bytes, 28)?),
            max_target: u16::from_le_bytes(field(bytes, 30)?),
            max_lun: four(32)?,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        join(&[
            &self.num_queues.to_le_bytes(),
            &self.seg_max.to_le_bytes(),
            &self.max_sectors.to_le_bytes(),
            &self.cmd_per_lun.to_le_bytes(),
            &self.event_info_size.to_le_bytes(),
            &self.sense_size.to_le_bytes(),
            &self.cdb_size.to_le_bytes(),
            &self.max_channel.to_le_bytes(),
            &self.max_target.to_le_bytes(),
            &self.max_lun.to_le_bytes(),
        ])
    }

    /// GET_CONFIG: `length` bytes from `offset` on; zeros beyond the space, as a front end may ask for more than there is.
    pub fn read(&self, offset: u32, length: u32) -> Result<Vec<u8>, Error> {
        let end = offset.checked_add(length).filter(|&end| end <= Self::READ_MAX);
        let out = Error::ConfigRange { offset, length: length as usize };
        let end = end.ok_or(out)?;
        let mut bytes = self.to_bytes().to_vec();
        bytes.resize(Self::LENGTH.max(end as usize), 0);
        bytes.get(offset as usize..end as usize).map(<[u8]>::to_vec).ok_or(out)
    }

    /// SET_CONFIG: the space after `bytes` were written at `offset`. Only sense_size and cdb_size may come out differently.
    pub fn written(&self, offset: u32, bytes: &[u8]) -> Result<Self, Error> {
        let out = Error::ConfigRange { offset, length: bytes.len() };
        let mut space = self.to_bytes();
        let end = (offset as usize).checked_add(bytes.len()).ok_or(out)?;
        space.get_mut(offset as usize..end).ok_or(out)?.copy_from_slice(bytes);
        let new = Self::parse(&space)?;
        if (Self { sense_size: self.sense_size, cdb_size: self.cdb_size, ..new }) != *self {
            return Err(Error::ReadOnly);
        }
        if new.sense_size > SENSE_SIZE_MAX {
            return Err(Error::Size(new.sense_size));
        }
        if !(CDB_SIZE_MIN..=CDB_SIZE_MAX).contains(&new.cdb_size) {
            return Err(Error::Size(new.cdb_size));
        }
        Ok(new)
    }
}
