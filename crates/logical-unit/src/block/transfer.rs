//! READ, WRITE, VERIFY and their relatives (SBC-4 5): the commands that move or compare blocks.

use super::provisioning::SameOptions;
use super::refusal::{Answer, Refusal};
use super::{BLOCK, Disk, Sender, limits};
use crate::access::Route;
use scsi::block::{Access, Command, Operation};
use scsi::pr::PrOutCdb;
use scsi::{AdditionalSense, FieldError, Sense, SenseKey};

impl Disk {
    /// Executes a medium access command. `data_out` is all that the initiator sent.
    pub(super) fn access(&self, sender: Sender<'_>, access: &Access, data_out: &[u8]) -> Answer {
        self.check(access)?;
        match access.operation {
            Operation::Read => self.read(access),
            Operation::Write => self.write(access, data_out),
            Operation::WriteAndVerify { byte_check } => self.write_and_verify(access, byte_check, data_out),
            Operation::WriteAtomic { .. } => self.write_atomic(access, data_out),
            Operation::OrWrite => self.or_write(access, data_out),
            Operation::CompareAndWrite => self.compare_and_write(access, data_out),
            Operation::Verify { byte_check } => self.verify(access, byte_check, data_out),
            Operation::PreFetch { .. } => Ok(Vec::new()),
            Operation::SynchronizeCache { .. } => self.flush(),
            Operation::WriteSame { anchor, unmap, no_data_out } => {
                let options = SameOptions { anchor, unmap, no_data_out };
                self.write_same(sender, access, options, data_out)
            }
        }
    }

    /// What every medium access command must obey: no protection information (SBC-4 4.21), no more than the
    /// limits page says, no block beyond the last.
    pub(super) fn check(&self, access: &Access) -> Result<(), Refusal> {
        if access.protect != 0 {
            return Err(FieldError::cdb_bit(1, 7).into());
        }
        if u64::from(access.extent.blocks) > limits::most_blocks(access.operation) {
            return Err(FieldError::cdb(access.length_byte()).into());
        }
        let end = access.extent.lba.checked_add(access.extent.blocks.into());
        if end.is_none_or(|end| end > self.blocks()) {
            return Err(Refusal::illegal(AdditionalSense::LBA_OUT_OF_RANGE));
        }
        Ok(())
    }

    fn read(&self, access: &Access) -> Answer {
        if access.fua {
            self.flush()?;
        }
        let (lba, blocks) = (access.extent.lba, u64::from(access.extent.blocks));
        let _shared = self.share(lba, blocks)?;
        self.read_blocks(lba, blocks)
    }

    fn write(&self, access: &Access, data_out: &[u8]) -> Answer {
        let data = whole_blocks(access, data_out)?;
        let _shared = self.share(access.extent.lba, access.extent.blocks.into())?;
        self.write_blocks(access.extent.lba, data, access.fua)
    }

    /// The medium is made durable, then read back: with BYTCHK = 1 it must also equal the data.
    fn write_and_verify(&self, access: &Access, byte_check: u8, data_out: &[u8]) -> Answer {
        if byte_check > 1 {
            return Err(FieldError::cdb_bit(1, 2).into());
        }
        let data = whole_blocks(access, data_out)?;
        let lba = access.extent.lba;
        let _alone = self.exclude(lba, access.extent.blocks.into())?;
        self.write_blocks(lba, data, true)?;
        let found = self.read_blocks(lba, data.len() as u64 / BLOCK)?;
        if byte_check == 1 {
            compare(&found, data)?;
        }
        Ok(Vec::new())
    }

    /// WRITE ATOMIC(16): nobody sees a part of it. Only a boundary of zero is supported.
    fn write_atomic(&self, access: &Access, data_out: &[u8]) -> Answer {
        if !matches!(access.operation, Operation::WriteAtomic { boundary: 0 }) {
            return Err(FieldError::cdb(10).into());
        }
        let data = exact(access, data_out, 1)?;
        let _alone = self.exclude(access.extent.lba, access.extent.blocks.into())?;
        self.write_blocks(access.extent.lba, data, access.fua)
    }

    fn or_write(&self, access: &Access, data_out: &[u8]) -> Answer {
        let data = whole_blocks(access, data_out)?;
        let lba = access.extent.lba;
        let _alone = self.exclude(lba, access.extent.blocks.into())?;
        let mut merged = self.read_blocks(lba, data.len() as u64 / BLOCK)?;
        merged.iter_mut().zip(data).for_each(|(old, new)| *old |= new);
        self.write_blocks(lba, &merged, access.fua)
    }

    /// COMPARE AND WRITE: the first half of the data must equal the medium, then the second is written.
    fn compare_and_write(&self, access: &Access, data_out: &[u8]) -> Answer {
        let data = exact(access, data_out, 2)?;
        let (expected, new) = data.split_at(data.len() / 2);
        let (lba, blocks) = (access.extent.lba, u64::from(access.extent.blocks));
        let _alone = self.exclude(lba, blocks)?;
        compare(&self.read_blocks(lba, blocks)?, expected)?;
        self.write_blocks(lba, new, access.fua)
    }

    /// VERIFY: BYTCHK 0 reads, 1 compares block by block, 3 compares every block with the one that was sent.
    fn verify(&self, access: &Access, byte_check: u8, data_out: &[u8]) -> Answer {
        if byte_check == 2 {
            return Err(FieldError::cdb_bit(1, 2).into());
        }
        let (lba, blocks) = (access.extent.lba, u64::from(access.extent.blocks));
        let _shared = self.share(lba, blocks)?;
        let found = self.read_blocks(lba, blocks)?;
        match byte_check {
            0 => {}
            1 => compare(&found, data_out.get(..found.len()).ok_or(short_data())?)?,
            _ if blocks == 0 => {}
            _ => {
                let sent = data_out.get(..BLOCK as usize).ok_or(short_data())?;
                for (number, block) in found.chunks(sent.len()).enumerate() {
                    compare(block, sent).map_err(|refusal| at_offset(refusal, number * sent.len()))?;
                }
            }
        }
        Ok(Vec::new())
    }

    pub(super) fn read_blocks(&self, lba: u64, blocks: u64) -> Answer {
        let length = usize::try_from(blocks * BLOCK).unwrap_or(usize::MAX);
        let mut data = Vec::with_capacity(length);
        self.store.read_at(lba * BLOCK, length, &mut data).map_err(|error| self.unread(&error))?;
        Ok(data)
    }

    pub(super) fn write_blocks(&self, lba: u64, data: &[u8], durable: bool) -> Answer {
        let offset = lba * BLOCK;
        let written = if durable || self.modes.write_through() {
            self.store.write_durably(offset, data).map_err(|error| self.undurable(&error))
        } else {
            self.store.write_at(offset, data).map_err(|error| self.unwritten(&error))
        };
        written.map(|()| Vec::new())
    }
}

/// The data-out that a CDB names, in bytes; `None` for a command that is not of this device.
pub(crate) fn data_out_length(cdb: &[u8]) -> Option<u64> {
    if let Ok(order) = PrOutCdb::parse(cdb) {
        return Some(order.parameter_list_length.into());
    }
    if matches!(
        Route::of(&crate::profile::SPC, cdb),
        Route::Reserve | Route::Release | Route::PersistentReserveIn
    ) {
        return Some(0);
    }
    Some(match Command::parse(cdb).ok()? {
        Command::Access(access) => access_length(&access),
        Command::ModeSelect(command) => command.length.into(),
        Command::SendDiagnostic(command) => command.length.into(),
        Command::Unmap(command) => command.length.into(),
        Command::Sanitize(command) => command.length.into(),
        Command::ExtendedCopy(command) => command.length.into(),
        _ => 0,
    })
}

/// Bytes of the medium that this CDB reads, if it is a READ: all of that is in memory at once when [`Disk::execute`] carries it out.
pub(crate) fn read_length(cdb: &[u8]) -> Option<u64> {
    match Command::parse(cdb).ok()? {
        Command::Access(Access { operation: Operation::Read, extent, .. }) => {
            Some(u64::from(extent.blocks) * BLOCK)
        }
        _ => None,
    }
}

fn access_length(access: &Access) -> u64 {
    let blocks = u64::from(access.extent.blocks) * BLOCK;
    match access.operation {
        Operation::Read | Operation::PreFetch { .. } | Operation::SynchronizeCache { .. } => 0,
        Operation::Verify { byte_check: 1 } => blocks,
        Operation::Verify { byte_check: 3 } if blocks > 0 => BLOCK,
        Operation::Verify { .. } => 0,
        Operation::CompareAndWrite => 2 * blocks,
        Operation::WriteSame { no_data_out, .. } => {
            if no_data_out {
                0
            } else {
                BLOCK
            }
        }
        _ => blocks,
    }
}

/// The transport had less data than the CDB names, and not by whole blocks (SPC-4 annex F, 0Eh/03h).
pub(super) const fn short_data() -> Refusal {
    Refusal::illegal(AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
}

/// The blocks that a WRITE brings: those the CDB names, or fewer if the initiator sent fewer; the transport
/// reports the residual. A part of a block is refused, because nobody could say what the rest becomes.
fn whole_blocks<'a>(access: &Access, data_out: &'a [u8]) -> Result<&'a [u8], Refusal> {
    let wanted = usize::try_from(u64::from(access.extent.blocks) * BLOCK).unwrap_or(usize::MAX);
    let data = data_out.get(..wanted).unwrap_or(data_out);
    if data.len() % BLOCK as usize != 0 { Err(short_data()) } else { Ok(data) }
}

/// Exactly `times` the blocks that the CDB names: an atomic command on other data would not be the one
/// meant. The CDB and the data contradict each other, and the CDB has a field to point to.
fn exact<'a>(access: &Access, data_out: &'a [u8], times: u64) -> Result<&'a [u8], Refusal> {
    let wanted = u64::from(access.extent.blocks) * BLOCK * times;
    if data_out.len() as u64 == wanted {
        Ok(data_out)
    } else {
        Err(FieldError::cdb(access.length_byte()).into())
    }
}

/// MISCOMPARE with the offset of the first byte that differs in INFORMATION (SBC-4 5.3).
fn compare(found: &[u8], expected: &[u8]) -> Result<(), Refusal> {
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => {
            let miscompare = Sense::new(SenseKey::MISCOMPARE, AdditionalSense::MISCOMPARE_DURING_VERIFY);
            Err(Refusal(Sense { information: Some(at as u64), ..miscompare }))
        }
    }
}

fn at_offset(Refusal(sense): Refusal, offset: usize) -> Refusal {
    let information = sense.information.map(|at| at + offset as u64);
    Refusal(Sense { information, ..sense })
}

#[cfg(test)]
mod tests;
