//! SANITIZE (SBC-4 5.24): overwrite and block erase of the whole medium, done when the status says so
//! (IMMED is refused, for nothing would tell the progress). The service action for leaving a failed
//! sanitize always finds that none has failed.

use super::refusal::{Answer, Refusal};
use super::{BLOCK, Disk, Sender};
use scsi::FieldError;
use scsi::block::{Sanitize, service_action};

impl Disk {
    pub(super) fn sanitize(&self, sender: Sender<'_>, command: &Sanitize, data_out: &[u8]) -> Answer {
        if command.reserved {
            return Err(FieldError::cdb(1).into());
        }
        if command.immediate {
            return Err(FieldError::cdb_bit(1, 7).into());
        }
        match command.action {
            service_action::SANITIZE_OVERWRITE => self.overwrite(sender, command, data_out),
            _ if command.length != 0 => Err(FieldError::cdb(7).into()),
            service_action::SANITIZE_BLOCK_ERASE => self.block_erase(),
            service_action::SANITIZE_EXIT_FAILURE_MODE => Ok(Vec::new()),
            _ => Err(FieldError::cdb_bit(1, 4).into()),
        }
    }

    fn block_erase(&self) -> Answer {
        let _alone = self.locks.exclude(0, self.blocks);
        self.give_back(0, self.blocks)?;
        self.store.flush().map(|()| Vec::new()).map_err(|error| Refusal::unwritten(&error))
    }

    /// Writes the initialization pattern over every block, as often as OVERWRITE COUNT says; with INVERT
    /// every other time its complement.
    fn overwrite(&self, sender: Sender<'_>, command: &Sanitize, data_out: &[u8]) -> Answer {
        let length = usize::from(command.length);
        if length < 5 || length > BLOCK as usize + 4 {
            return Err(FieldError::cdb(7).into());
        }
        let list = data_out.get(..length).ok_or(FieldError::list_length())?;
        let [flags, _, high, low, pattern @ ..] = list else { return Err(FieldError::list_length().into()) };
        let (count, wanted) = (flags & 0x1F, usize::from(u16::from_be_bytes([*high, *low])));
        if count == 0 {
            return Err(pattern_error(0, Some(4)));
        }
        let pattern = pattern.get(..wanted).filter(|pattern| !pattern.is_empty());
        let block = fill(pattern.ok_or(pattern_error(2, None))?);
        let _alone = self.locks.exclude(0, self.blocks);
        for pass in 0..count {
            let inverted = flags & 0x80 != 0 && pass % 2 == 1;
            let mask = if inverted { 0xFF } else { 0 };
            let block: Vec<_> = block.iter().map(|byte| byte ^ mask).collect();
            self.repeat(sender, 0, self.blocks, &block)?;
        }
        self.store.flush().map(|()| Vec::new()).map_err(|error| Refusal::unwritten(&error))
    }
}

/// INVALID FIELD IN PARAMETER LIST at a field of the overwrite list.
fn pattern_error(byte: u16, bit: Option<u8>) -> Refusal {
    bit.map_or(FieldError::parameter(byte), |bit| FieldError::parameter_bit(byte, bit)).into()
}

/// One block of the pattern, repeated and cut.
fn fill(pattern: &[u8]) -> Vec<u8> {
    pattern.iter().copied().cycle().take(BLOCK as usize).collect()
}
