//! What the initiator knows of one thing it has asked the target for, and how it may end. Pure.

use super::TaskResponse;
use crate::pdu::{LogoutResult, Lun, RejectReason};
use scsi::{Completion, DataPhase, Request, Status};

/// Something under way, named by its initiator task tag.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lun: Lun,
    pub(super) kind: Kind,
    /// Its request has been handed to the system, at least in part: the target may act on it.
    pub(super) sent: bool,
    pub(super) answer: Option<Answer>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Command(Command),
    Management,
    Logout,
    /// A text request; the answer so far.
    Text,
}

/// How a task ended.
#[derive(Debug)]
pub(super) enum Answer {
    Completion(Completion),
    Management(TaskResponse),
    Logout(LogoutResult),
    /// The data of a text response, the tag to ask for more with, and whether there is more.
    Text {
        data: Vec<u8>,
        tag: u32,
        lun: Lun,
        more: bool,
    },
    Rejected(RejectReason),
    /// No status will come: the target failed, or the task was aborted.
    Ended(&'static str),
}

/// A SCSI command's data phase.
#[derive(Debug)]
pub(super) struct Command {
    data_out: Vec<u8>,
    /// Data-out bytes sent or asked for so far; R2Ts come in order (DataSequenceInOrder).
    solicited: usize,
    data_in: Vec<u8>,
    expected_in: usize,
    next_r2t: u32,
}

/// The target sent what the command does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

impl Command {
    pub(super) fn new(request: &Request) -> Self {
        let (data_out, expected_in) = match &request.data {
            DataPhase::None => (Vec::new(), 0),
            DataPhase::In(length) => (Vec::new(), *length),
            DataPhase::Out(data) => (data.clone(), 0),
        };
        Self { data_out, solicited: 0, data_in: Vec::new(), expected_in, next_r2t: 0 }
    }

    /// The next `length` bytes of data-out, unsolicited.
    pub(super) fn unsolicited(&mut self, length: usize) -> &[u8] {
        let start = self.solicited;
        self.solicited = (start + length).min(self.data_out.len());
        self.data_out.get(start..self.solicited).unwrap_or_default()
    }

    /// The burst that an R2T asks for. Each byte may be asked for once and in order, so a target
    /// cannot make us send more than the command holds.
    pub(super) fn burst(&mut self, r2t_sn: u32, offset: u32, length: u32) -> Result<&[u8], Violation> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if r2t_sn != self.next_r2t || start != self.solicited || length == 0 {
            return Err(Violation("an R2T out of order"));
        }
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let burst = self.data_out.get(start..end).ok_or(Violation("an R2T beyond the data"))?;
        self.next_r2t += 1;
        self.solicited = end;
        Ok(burst)
    }

    /// Takes a Data-In segment.
    pub(super) fn receive(&mut self, offset: u32, data: &[u8]) -> Result<(), Violation> {
        if usize::try_from(offset) != Ok(self.data_in.len()) {
            return Err(Violation("Data-In out of order"));
        }
        if self.data_in.len() + data.len() > self.expected_in {
            return Err(Violation("Data-In beyond the expected length"));
        }
        self.data_in.extend_from_slice(data);
        Ok(())
    }

    /// The completion, its data cut by an underflow of `underflow` bytes.
    pub(super) fn complete(&mut self, status: u8, sense: Vec<u8>, underflow: u32) -> Completion {
        let mut data = std::mem::take(&mut self.data_in);
        let moved = self.expected_in.saturating_sub(usize::try_from(underflow).unwrap_or(usize::MAX));
        data.truncate(moved);
        Completion { status: Status(status), sense, data }
    }
}

/// Sense data of a SCSI Response's data segment: two bytes of length come first (RFC 7143 11.4.7).
pub(super) fn sense_of(data: &[u8]) -> Vec<u8> {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return Vec::new() };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    rest.get(..length).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(length: usize) -> Command {
        let data = (0..length).map(|i| i.to_be_bytes()[7]).collect();
        Command::new(&Request { cdb: vec![0x2A; 10], data: DataPhase::Out(data) })
    }

    #[test]
    fn bursts_follow_unsolicited_data_and_each_other() {
        let mut command = write(10);
        assert_eq!(command.unsolicited(4), [0, 1, 2, 3]);
        assert_eq!(command.burst(0, 4, 3).unwrap(), [4, 5, 6]);
        assert_eq!(command.burst(1, 7, 3).unwrap(), [7, 8, 9]);
    }

    #[test]
    fn data_is_never_sent_twice_or_beyond_its_end() {
        let mut command = write(10);
        assert!(command.burst(0, 0, 11).is_err(), "beyond the end");
        assert!(command.burst(0, 5, 5).is_err(), "with a gap");
        assert!(command.burst(0, 0, 0).is_err(), "of nothing");
        assert!(command.burst(0, u32::MAX, u32::MAX).is_err());
        assert!(command.burst(0, 0, 5).is_ok());
        assert!(command.burst(1, 0, 5).is_err(), "again");
    }

    #[test]
    fn data_in_is_bounded_by_what_was_expected() {
        let mut command = Command::new(&Request { cdb: vec![0x28; 10], data: DataPhase::In(4) });
        assert!(command.receive(1, &[0]).is_err());
        assert!(command.receive(0, &[1, 2, 3]).is_ok());
        assert!(command.receive(3, &[4, 5]).is_err());
        assert_eq!(command.complete(0, Vec::new(), 2).data, [1, 2], "an underflow cuts padding");
    }

    #[test]
    fn sense_of_any_length_is_read() {
        assert_eq!(sense_of(&[]), []);
        assert_eq!(sense_of(&[0, 9, 0x70]), [0x70], "cut short");
        assert_eq!(sense_of(&[0, 1, 0x70, 0]), [0x70], "padded");
    }
}
