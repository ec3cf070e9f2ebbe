//! What a command's completion becomes on the wire: Data-In PDUs, status, residual counts, sense (RFC 7143 11.4, 11.7).

use super::{Out, Session, size};
use crate::pdu::{
    CommandFlags, DataFlags, DataIn, Lun, NO_TAG, ResponseCode, ResponseFlags, ScsiCommand, ScsiResponse,
};
use scsi::Completion;

/// What the initiator announced to move, and what the command itself names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    expected: usize,
    read: bool,
    write: bool,
    /// Data-out that the CDB names; `None` if it is no command of the device.
    named: Option<u64>,
}

/// Bytes by which a transfer differs from what the initiator expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residual {
    None,
    Under(u32),
    Over(u32),
}

impl Residual {
    /// `moved` bytes where `expected` were announced.
    fn of(moved: u64, expected: usize) -> Self {
        let expected = u64::try_from(expected).unwrap_or(u64::MAX);
        let count = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match moved.cmp(&expected) {
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Less => Self::Under(count(expected - moved)),
            std::cmp::Ordering::Greater => Self::Over(count(moved - expected)),
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Under(count) | Self::Over(count) => count,
        }
    }
}

impl Transfer {
    pub(super) fn of(command: &ScsiCommand, named: Option<u64>) -> Self {
        Self {
            expected: size(command.expected_data_transfer_length),
            read: command.flags.has(CommandFlags::READ),
            write: command.flags.has(CommandFlags::WRITE),
            named,
        }
    }

    pub(super) const fn expected(&self) -> usize {
        self.expected
    }

    /// Most data-in that there may be to send, in bytes.
    pub(super) const fn answer(&self) -> usize {
        if self.read { self.expected } else { 0 }
    }

    /// Data-out to gather before execution: what the command names, as far as the initiator announced it.
    pub(super) fn wanted(&self) -> usize {
        let named = usize::try_from(self.named.unwrap_or(0)).unwrap_or(usize::MAX);
        if self.write { named.min(self.expected) } else { 0 }
    }

    fn residual(&self, completion: &Completion) -> Residual {
        let data_in = u64::try_from(completion.data.len()).unwrap_or(u64::MAX);
        match self.named.filter(|named| *named > 0) {
            None => Residual::of(data_in, self.expected),
            Some(named) => match Residual::of(named, if self.write { self.expected } else { 0 }) {
                // How much a failed command left untouched is not known; that it was sent too little is.
                Residual::Under(_) if !completion.status.is_good() => Residual::None,
                residual => residual,
            },
        }
    }
}

impl Session<'_> {
    /// Sends a completion.
    pub(super) fn complete(
        &mut self,
        tag: u32,
        transfer: &Transfer,
        completion: &Completion,
        r2ts: u32,
        out: &mut Out,
    ) {
        let residual = transfer.residual(completion);
        let room = if transfer.read { transfer.expected } else { 0 };
        let data = completion.data.get(..room).unwrap_or(&completion.data);
        // Status may ride on the last Data-In unless there is sense data to carry (RFC 7143 11.7.3).
        let together = completion.status.is_good() && !data.is_empty();
        let sent = self.data_in(tag, data, together.then_some(residual), out);
        if !together {
            self.response(tag, completion, residual, sent.wrapping_add(r2ts), out);
        }
    }

    /// Sends data, with GOOD status in the last PDU if a residual is given; tells the number of PDUs.
    fn data_in(&mut self, tag: u32, data: &[u8], status: Option<Residual>, out: &mut Out) -> u32 {
        let segment = size(self.parameters.max_send);
        let burst = size(self.parameters.max_burst);
        let (mut number, mut start, mut in_burst) = (0, 0, 0);
        while start < data.len() {
            let length = segment.min(burst - in_burst).min(data.len() - start);
            let chunk = data.get(start..start + length).unwrap_or_default();
            let last = start + length == data.len();
            in_burst = if in_burst + length == burst { 0 } else { in_burst + length };
            let header = DataIn {
                flags: DataFlags::FINAL.when(last || in_burst == 0),
                status: 0,
                lun: Lun::default(),
                initiator_task_tag: tag,
                target_transfer_tag: NO_TAG,
                stat_sn: 0,
                exp_cmd_sn: self.exp_cmd_sn,
                max_cmd_sn: self.max_cmd_sn(),
                data_sn: number,
                buffer_offset: u32::try_from(start).unwrap_or(u32::MAX),
                residual: 0,
            };
            let header = match status.filter(|_| last) {
                Some(residual) => self.with_status(header, residual),
                None => header,
            };
            self.emit(&header, chunk, out);
            (number, start) = (number.wrapping_add(1), start + length);
        }
        number
    }

    fn with_status(&mut self, header: DataIn, residual: Residual) -> DataIn {
        let flag = match residual {
            Residual::None => DataFlags::default(),
            Residual::Under(_) => DataFlags::UNDERFLOW,
            Residual::Over(_) => DataFlags::OVERFLOW,
        };
        let flags = header.flags.with(DataFlags::STATUS).with(flag);
        DataIn { flags, stat_sn: self.take_stat_sn(), residual: residual.count(), ..header }
    }

    fn response(
        &mut self,
        tag: u32,
        completion: &Completion,
        residual: Residual,
        data_sn: u32,
        out: &mut Out,
    ) {
        let flag = match residual {
            Residual::None => ResponseFlags::default(),
            Residual::Under(_) => ResponseFlags::UNDERFLOW,
            Residual::Over(_) => ResponseFlags::OVERFLOW,
        };
        let response = ScsiResponse {
            flags: ResponseFlags::FINAL.with(flag),
            response: ResponseCode::COMPLETED,
            status: completion.status.0,
            initiator_task_tag: tag,
            snack_tag: 0,
            stat_sn: self.take_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            exp_data_sn: data_sn,
            bidirectional_residual: 0,
            residual: residual.count(),
        };
        if completion.sense.is_empty() {
            return self.emit(&response, &[], out);
        }
        // Two bytes of length precede the sense data (RFC 7143 11.4.7.2).
        let length = u16::try_from(completion.sense.len()).unwrap_or(u16::MAX);
        let mut data = length.to_be_bytes().to_vec();
        data.extend(completion.sense.iter().take(usize::from(length)));
        self.emit(&response, &data, out);
    }
}
