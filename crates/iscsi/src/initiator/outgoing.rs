//! Bytes on their way to the target, and which tasks' requests lie in them: what makes "not sent" exact.

use crate::pdu::frame::{Digests, encode, encode_with_ahs};
use crate::pdu::{DataFlags, DataOut, Header, Lun, NO_TAG};
use std::io::{self, Write};

/// PDUs not yet written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// For each request: where its PDU ends in `bytes`, and its tag.
    requests: Vec<(usize, u32)>,
}

impl Outgoing {
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a request whose fate matters, under its task tag.
    pub(super) fn request(
        &mut self,
        tag: u32,
        header: &impl Header,
        ahs: &[u8],
        data: &[u8],
        digests: Digests,
    ) {
        encode_with_ahs(&mut self.bytes, &header.emit(), ahs, data, digests);
        self.requests.push((self.bytes.len(), tag));
    }

    /// Appends any other PDU.
    pub(super) fn push(&mut self, header: &impl Header, data: &[u8], digests: Digests) {
        encode(&mut self.bytes, &header.emit(), data, digests);
    }

    /// The tags of all requests in here.
    pub(super) fn tags(&self) -> impl Iterator<Item = u32> {
        self.requests.iter().map(|(_, tag)| *tag)
    }

    /// Writes everything. On failure: the tags of the requests that were not handed over completely;
    /// a target cannot act on those.
    pub(super) fn write_to(&self, mut stream: impl Write) -> Result<(), (io::Error, Vec<u32>)> {
        let mut written = 0;
        while let Some(rest) = self.bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let error = match stream.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let unsent = self.requests.iter().filter(|(end, _)| *end > written);
            return Err((error, unsent.map(|(_, tag)| *tag).collect()));
        }
        Ok(())
    }
}

/// One burst of data-out: the place of its data and what its Data-Out PDUs share.
pub(super) struct Burst {
    pub(super) lun: Lun,
    pub(super) tag: u32,
    /// From the R2T, or [`NO_TAG`].
    pub(super) transfer_tag: u32,
    pub(super) offset: u32,
    pub(super) exp_stat_sn: u32,
}

impl Outgoing {
    /// Appends `data` as Data-Out PDUs of at most `segment` bytes; the last one has the F bit.
    pub(super) fn data_out(&mut self, burst: &Burst, data: &[u8], segment: usize, digests: Digests) {
        let last = data.len().div_ceil(segment.max(1)).saturating_sub(1);
        let mut offset = burst.offset;
        for (number, chunk) in data.chunks(segment.max(1)).enumerate() {
            let header = DataOut {
                flags: DataFlags::FINAL.when(number == last),
                lun: if burst.transfer_tag == NO_TAG { Lun::default() } else { burst.lun },
                initiator_task_tag: burst.tag,
                target_transfer_tag: burst.transfer_tag,
                exp_stat_sn: burst.exp_stat_sn,
                data_sn: u32::try_from(number).unwrap_or(u32::MAX),
                buffer_offset: offset,
            };
            self.push(&header, chunk, digests);
            offset = offset.wrapping_add(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::NopOut;
    use crate::pdu::frame::{Framing, Parsed};

    /// Takes `0` bytes, then fails.
    struct Short(usize);

    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn requests_cut_by_a_failure_count_as_not_sent() {
        let nop = NopOut::parse(&[0; 48]);
        let mut out = Outgoing::default();
        for tag in [1, 2, 3] {
            out.request(tag, &nop, &[], &[], Digests::default());
        }
        let unsent = |bytes| out.write_to(Short(bytes)).map_err(|(_, unsent)| unsent);
        assert_eq!(unsent(0), Err(vec![1, 2, 3]));
        assert_eq!(unsent(47), Err(vec![1, 2, 3]), "half a PDU is none");
        assert_eq!(unsent(48), Err(vec![2, 3]));
        assert_eq!(unsent(144), Ok(()));
    }

    #[test]
    fn bursts_are_numbered_and_end_with_the_f_bit() {
        let mut out = Outgoing::default();
        let burst = Burst { lun: Lun::default(), tag: 1, transfer_tag: 2, offset: 100, exp_stat_sn: 0 };
        out.data_out(&burst, &[7; 25], 10, Digests::default());
        let framing = Framing { digests: Digests::default(), max_data: 10 };
        let (mut rest, mut seen) = (&out.bytes[..], Vec::new());
        while let Ok(Parsed::Frame(frame)) = framing.next(rest) {
            let header = DataOut::parse(frame.bhs);
            seen.push((
                header.data_sn,
                header.buffer_offset,
                frame.data.len(),
                header.flags.has(DataFlags::FINAL),
            ));
            rest = &rest[frame.length..];
        }
        assert_eq!(seen, [(0, 100, 10, false), (1, 110, 10, false), (2, 120, 5, true)]);
    }
}
