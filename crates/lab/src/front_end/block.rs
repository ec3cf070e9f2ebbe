//! A driver for virtio-blk (virtio 1.2, 5.2) over a [`FrontEnd`]: only [reads and writes at depth](super::load::Dialect), to compare with what
//! serves that device.

use crate::front_end::load::{Dialect, Io, Kind, Verdict};
use crate::front_end::{FrontEnd, Setting, Shape, Wishes};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// More than one request queue; a flush command.
const MQ: u64 = 1 << 12;
const FLUSH: u64 = 1 << 9;
/// What addresses count in, whatever the device's own blocks are.
const SECTOR: u64 = 512;

/// A driver's setting: so many request queues of this shape.
#[must_use]
pub fn setting(queues: usize, shape: Shape) -> Setting {
    let wishes = Wishes::default();
    let wishes = Wishes { features: wishes.features | MQ | FLUSH, ..wishes };
    Setting { rings: vec![shape; queues], wishes, regions: 2 }
}

/// Connects, and gives also the size of the disk in bytes.
///
/// # Errors
/// If nobody listens, or the device refuses.
pub fn connect(path: &Path, setting: &Setting) -> Result<(FrontEnd, u64)> {
    let mut front = FrontEnd::connect(path, setting)?;
    let capacity = front.connection().config(0, 8)?;
    let sectors = capacity.first_chunk().copied().map(u64::from_le_bytes).context("no capacity")?;
    Ok((front, sectors * SECTOR))
}

/// Reads and writes of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Block;

impl Dialect for Block {
    fn header(&self, io: Io, _tag: u64, bytes: &mut Vec<u8>) {
        let kind: u32 = match io.kind {
            Kind::Read => 0,
            Kind::Write => 1,
            Kind::Flush => 4,
        };
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(io.offset / SECTOR).to_le_bytes());
    }

    fn response(&self) -> u32 {
        1
    }

    fn data_in_is_last(&self) -> bool {
        false
    }

    fn judge(&self, response: &[u8]) -> Result<Verdict> {
        match response {
            [0] => Ok(Verdict::Good),
            _ => bail!("virtio-blk status {response:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_and_from_which_sector() {
        let mut bytes = Vec::new();
        Block.header(Io { kind: Kind::Write, offset: 4096, length: 512 }, 9, &mut bytes);
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Block.judge(&[1]).is_err() && Block.judge(&[0]).is_ok());
    }
}
