//! Parameter data of EXTENDED COPY(LID1) and of the commands and the page that tell what it can do
//! (SPC-4 6.4, 6.17, 6.19, 7.8.17). One kind of copy target descriptor is read, the identification
//! descriptor, and one kind of segment, block to block.

use crate::bytes::{array, be16, be32, be64, u8_at};
use crate::field::FieldError;
use crate::sense::AdditionalSense;
use crate::vpd::{Association, CodeSet, Designator, DesignatorType};

/// Bytes of the parameter list header.
pub const HEADER: usize = 16;
/// Bytes of a copy target descriptor.
pub const TARGET_LENGTH: usize = 32;
/// Bytes of a block to block segment descriptor.
pub const SEGMENT_LENGTH: usize = 28;
/// DESCRIPTOR TYPE CODE of the identification descriptor.
pub const IDENTIFICATION: u8 = 0xE4;
/// DESCRIPTOR TYPE CODE of a block to block segment.
pub const BLOCK_TO_BLOCK: u8 = 0x02;

/// The limits that a copy manager has and tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyLimits {
    /// MAXIMUM TARGET DESCRIPTOR COUNT.
    pub targets: u16,
    /// MAXIMUM SEGMENT DESCRIPTOR COUNT.
    pub segments: u16,
    /// MAXIMUM DESCRIPTOR LIST LENGTH in bytes.
    pub descriptors: u32,
    /// MAXIMUM SEGMENT LENGTH in bytes.
    pub segment: u32,
    /// How many copies one nexus may have whose status is kept.
    pub held: u8,
}

/// A logical unit that takes part in a copy. LU ID TYPE is ignored in this descriptor and NUL obsolete
/// (SPC-4 6.4.5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyTarget {
    /// How the logical unit is named, as in VPD page 83h.
    pub designator: Designator,
    /// DISK BLOCK LENGTH in bytes, 24 bits.
    pub block_length: u32,
}

/// Blocks to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopySegment {
    /// Index of the source in the list of targets.
    pub source: u16,
    /// Index of the destination.
    pub destination: u16,
    /// BLOCK DEVICE NUMBER OF BLOCKS.
    pub blocks: u16,
    /// First block at the source.
    pub source_lba: u64,
    /// First block at the destination.
    pub destination_lba: u64,
}

/// An EXTENDED COPY(LID1) parameter list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CopyList {
    /// LIST IDENTIFIER.
    pub list: u8,
    /// LIST ID USAGE, 2 bits: 11b keeps no status.
    pub usage: u8,
    /// Who takes part.
    pub targets: Vec<CopyTarget>,
    /// What is copied, in order.
    pub segments: Vec<CopySegment>,
}

impl CopyList {
    /// Reads a list.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if it is shorter than it announces or longer than `limits` allows; the
    /// codes of SPC-4 for too many or unsupported descriptors; INVALID FIELD IN PARAMETER LIST at INLINE
    /// DATA LENGTH, which must be zero.
    pub fn parse(list: &[u8], limits: &CopyLimits) -> Result<Self, FieldError> {
        let cut = FieldError::list_length();
        let (targets, segments) = (be16(list, 2).ok_or(cut)?, be32(list, 8).ok_or(cut)?);
        let inline = be32(list, 12).ok_or(cut)?;
        if u64::from(targets) + u64::from(segments) > u64::from(limits.descriptors) {
            return Err(cut);
        }
        let (targets, segments) = (usize::from(targets), segments as usize);
        let code = |code| FieldError { code, pointer: None };
        if targets / TARGET_LENGTH > usize::from(limits.targets) {
            return Err(code(AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS));
        }
        if segments / SEGMENT_LENGTH > usize::from(limits.segments) {
            return Err(code(AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS));
        }
        if inline != 0 {
            return Err(FieldError::parameter(12));
        }
        let body = list.get(HEADER..HEADER + targets + segments).ok_or(cut)?;
        let (targets, segments) = body.split_at_checked(targets).ok_or(cut)?;
        let flags = u8_at(list, 1).ok_or(cut)?;
        Ok(Self {
            list: u8_at(list, 0).ok_or(cut)?,
            usage: flags >> 3 & 0x03,
            targets: targets.chunks(TARGET_LENGTH).map(CopyTarget::parse).collect::<Result<_, _>>()?,
            segments: segments.chunks(SEGMENT_LENGTH).map(CopySegment::parse).collect::<Result<_, _>>()?,
        })
    }

    /// The bytes of this list.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let targets = u16::try_from(TARGET_LENGTH * self.targets.len()).unwrap_or(u16::MAX);
        let segments = u32::try_from(SEGMENT_LENGTH * self.segments.len()).unwrap_or(u32::MAX);
        let mut out = vec![self.list, (self.usage & 0x03) << 3];
        out.extend(targets.to_be_bytes());
        out.extend([0; 4]);
        out.extend(segments.to_be_bytes());
        out.extend([0; 4]);
        out.extend(self.targets.iter().flat_map(CopyTarget::to_bytes));
        out.extend(self.segments.iter().flat_map(|segment| segment.to_bytes()));
        out
    }
}

impl CopyTarget {
    fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        let cut = FieldError::list_length();
        let [kind, _, _, _, code_set, what, _, length] = array(bytes, 0).ok_or(cut)?;
        if kind != IDENTIFICATION {
            let code = AdditionalSense::INVALID_TARGET_DESCRIPTOR_TYPE;
            return Err(FieldError { code, pointer: None });
        }
        let name = bytes.get(8..28).ok_or(cut)?;
        let name = name.get(..usize::from(length)).unwrap_or(name);
        let designator = Designator {
            protocol: None,
            code_set: CodeSet(code_set & 0x0F),
            association: Association(what >> 4 & 0x03),
            kind: DesignatorType(what & 0x0F),
            bytes: name.to_vec(),
        };
        let block_length = be32(bytes, 28).ok_or(cut)? & 0x00FF_FFFF;
        Ok(Self { designator, block_length })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let name = self.designator.bytes.iter().take(20);
        let length = u8::try_from(name.len()).unwrap_or(20);
        let what = (self.designator.association.0 & 0x03) << 4 | self.designator.kind.0 & 0x0F;
        let mut out = vec![IDENTIFICATION, 0, 0, 0, self.designator.code_set.0 & 0x0F, what, 0, length];
        out.extend(name);
        out.resize(28, 0);
        out.extend((self.block_length & 0x00FF_FFFF).to_be_bytes());
        out
    }
}

impl CopySegment {
    fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        if u8_at(bytes, 0) != Some(BLOCK_TO_BLOCK) {
            let code = AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE;
            return Err(FieldError { code, pointer: None });
        }
        let segment = || {
            Some(Self {
                source: be16(bytes, 4)?,
                destination: be16(bytes, 6)?,
                blocks: be16(bytes, 10)?,
                source_lba: be64(bytes, 12)?,
                destination_lba: be64(bytes, 20)?,
            })
        };
        segment().ok_or(FieldError::list_length())
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![BLOCK_TO_BLOCK, 0, 0, 0x18];
        out.extend([self.source, self.destination, 0, self.blocks].into_iter().flat_map(u16::to_be_bytes));
        out.extend([self.source_lba, self.destination_lba].into_iter().flat_map(u64::to_be_bytes));
        out
    }
}

/// How a copy ended, for RECEIVE COPY STATUS(LID1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyStatus {
    /// COPY COMMAND STATUS, 7 bits: 1 completed, 2 failed.
    pub status: u8,
    /// SEGMENTS PROCESSED.
    pub segments: u16,
    /// TRANSFER COUNT in logical blocks.
    pub blocks: u32,
}

impl CopyStatus {
    /// Completed without error.
    pub const COMPLETED: u8 = 1;
    /// Ended by an error.
    pub const FAILED: u8 = 2;
    /// TRANSFER COUNT UNITS: logical blocks.
    const UNITS: u8 = 0xF1;

    /// Reads the data; `None` below 12 bytes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        Some(Self { status: u8_at(data, 4)? & 0x7F, segments: be16(data, 5)?, blocks: be32(data, 8)? })
    }

    /// The full data: 12 bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 8, self.status & 0x7F];
        out.extend(self.segments.to_be_bytes());
        out.push(Self::UNITS);
        out.extend(self.blocks.to_be_bytes());
        out
    }
}

impl CopyLimits {
    /// RECEIVE COPY OPERATING PARAMETERS data.
    #[must_use]
    pub fn operating_parameters(&self) -> Vec<u8> {
        let types = [BLOCK_TO_BLOCK, IDENTIFICATION];
        let mut out = vec![0, 0, 0, 42, 1, 0, 0, 0];
        out.extend([self.targets, self.segments].into_iter().flat_map(u16::to_be_bytes));
        out.extend([self.descriptors, self.segment].into_iter().flat_map(u32::to_be_bytes));
        // No inline data, no held data, no stream devices; then one copy at a time for each nexus.
        out.extend([0; 12]);
        out.extend([0, 0, 0, 1, self.held, 0, 0, 0, 0, 0, 0, types.len() as u8]);
        out.extend(types);
        out
    }

    /// The body of VPD page 8Fh, Third-party Copy.
    #[must_use]
    pub fn third_party_copy_page(&self) -> Vec<u8> {
        let mut parameters = vec![0; 4];
        parameters.extend([self.targets, self.segments].into_iter().flat_map(u16::to_be_bytes));
        parameters.extend(self.descriptors.to_be_bytes());
        parameters.resize(28, 0);
        let mut general = vec![0, 0, 0, 1, 0, 0, 0, 1];
        general.extend(self.segment.to_be_bytes());
        general.resize(32, 0);
        let commands = [7, 0x83, 1, 0, 0x84, 2, 0, 3];
        [
            descriptor(0x0001, &commands),
            descriptor(0x0004, &parameters),
            descriptor(0x0008, &[2, BLOCK_TO_BLOCK, IDENTIFICATION]),
            descriptor(0x000C, &[0, 0]),
            descriptor(0x8001, &general),
        ]
        .concat()
    }
}

/// A third-party copy descriptor, padded to four bytes.
fn descriptor(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len().next_multiple_of(4);
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(body);
    out.resize(4 + length, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: CopyLimits =
        CopyLimits { targets: 4, segments: 8, descriptors: 352, segment: 1 << 24, held: 16 };

    prop_compose! {
        fn target()(
            code_set in 0_u8..16, association in 0_u8..4, kind in 0_u8..16,
            bytes in prop::collection::vec(any::<u8>(), 0..=20), block_length in 0_u32..1 << 24,
        ) -> CopyTarget {
            let (code_set, kind) = (CodeSet(code_set), DesignatorType(kind));
            let association = Association(association);
            let designator = Designator { protocol: None, code_set, association, kind, bytes };
            CopyTarget { designator, block_length }
        }
    }
    prop_compose! {
        fn segment()(source: u16, destination: u16, blocks: u16, source_lba: u64, destination_lba: u64) -> CopySegment {
            CopySegment { source, destination, blocks, source_lba, destination_lba }
        }
    }
    prop_compose! {
        fn list()(
            list: u8, usage in 0_u8..4, targets in prop::collection::vec(target(), 0..=4),
            segments in prop::collection::vec(segment(), 0..=8),
        ) -> CopyList {
            CopyList { list, usage, targets, segments }
        }
    }

    proptest! {
        #[test]
        fn a_list_survives_its_bytes(list in list()) {
            prop_assert_eq!(CopyList::parse(&list.to_bytes(), &LIMITS), Ok(list));
        }

        #[test]
        fn a_cut_list_is_refused(list in list(), keep: prop::sample::Index) {
            let bytes = list.to_bytes();
            let cut = CopyList::parse(&bytes[..keep.index(bytes.len())], &LIMITS);
            prop_assert_eq!(cut, Err(FieldError::list_length()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = CopyList::parse(&bytes, &LIMITS);
        }

        #[test]
        fn the_status_survives(status in 0_u8..128, segments: u16, blocks: u32) {
            let status = CopyStatus { status, segments, blocks };
            prop_assert_eq!(CopyStatus::parse(&status.to_bytes()), Some(status));
        }
    }

    #[test]
    fn too_many_descriptors_are_told_apart_from_a_list_too_long() {
        let target = CopyList {
            targets: vec![
                CopyTarget {
                    designator: Designator {
                        protocol: None,
                        code_set: CodeSet::BINARY,
                        association: Association::LOGICAL_UNIT,
                        kind: DesignatorType::NAA,
                        bytes: vec![0x30; 8],
                    },
                    block_length: 512,
                };
                5
            ],
            ..CopyList::default()
        };
        let code = |list: &CopyList| CopyList::parse(&list.to_bytes(), &LIMITS).unwrap_err().code;
        assert_eq!(code(&target), AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS);
        let segment = CopySegment { source: 0, destination: 0, blocks: 1, source_lba: 0, destination_lba: 0 };
        let segments = CopyList { segments: vec![segment; 9], ..CopyList::default() };
        assert_eq!(code(&segments), AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS);
        let both = CopyList { segments: segments.segments, ..target };
        assert_eq!(code(&both), AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }

    #[test]
    fn reports_fill_the_lengths_they_announce() {
        let parameters = LIMITS.operating_parameters();
        assert_eq!(parameters.len(), 4 + 42);
        assert_eq!(
            (be16(&parameters, 8), be16(&parameters, 10), be32(&parameters, 12)),
            (Some(4), Some(8), Some(352))
        );
        assert_eq!(parameters[43..], [2, BLOCK_TO_BLOCK, IDENTIFICATION]);
        let page = LIMITS.third_party_copy_page();
        let (mut at, mut kinds) = (0, Vec::new());
        while at < page.len() {
            kinds.push(be16(&page, at).unwrap());
            at += 4 + usize::from(be16(&page, at + 2).unwrap());
        }
        assert_eq!((at, kinds), (page.len(), vec![0x0001, 0x0004, 0x0008, 0x000C, 0x8001]));
    }
}
