//! Mode parameters (SPC-4 7.5): the header in its two sizes, the block descriptor, and pages.
//! Read from MODE SELECT and sent by MODE SENSE.

use super::block::Form;
use crate::bytes::{array, be16, u8_at};
use crate::field::FieldError;

/// Page codes and the positions of bits that others look at.
pub mod page {
    #![expect(missing_docs, reason = "the names are the standard's")]
    pub const READ_WRITE_ERROR_RECOVERY: u8 = 0x01;
    pub const DISCONNECT_RECONNECT: u8 = 0x02;
    pub const CACHING: u8 = 0x08;
    pub const CONTROL: u8 = 0x0A;
    pub const INFORMATIONAL_EXCEPTIONS: u8 = 0x1C;
    pub const ALL: u8 = 0x3F;
    pub const ALL_SUBPAGES: u8 = 0xFF;
}

/// DEVICE-SPECIFIC PARAMETER of a block device: write protected.
pub const WRITE_PROTECTED: u8 = 0x80;
/// DEVICE-SPECIFIC PARAMETER of a block device: DPO and FUA are supported.
pub const DPO_FUA: u8 = 0x10;

/// One mode page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// PS: the page can be saved (reserved in MODE SELECT).
    pub saveable: bool,
    /// PAGE CODE, 6 bits.
    pub code: u8,
    /// SUBPAGE CODE, if the page has the long header.
    pub subpage: Option<u8>,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Page {
    /// The bytes of the page. A body too long for its header is cut.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = u8::from(self.saveable) << 7 | self.code & 0x3F;
        let mut out = vec![head];
        let room = if let Some(subpage) = self.subpage {
            let length = u16::try_from(self.body.len()).unwrap_or(u16::MAX);
            out.splice(0..1, [head | 0x40, subpage]);
            out.extend(length.to_be_bytes());
            usize::from(length)
        } else {
            let length = u8::try_from(self.body.len()).unwrap_or(u8::MAX);
            out.push(length);
            usize::from(length)
        };
        out.extend(self.body.iter().take(room));
        out
    }

    /// Bytes of the header.
    #[must_use]
    pub const fn header_length(&self) -> usize {
        if self.subpage.is_some() { 4 } else { 2 }
    }

    /// Reads one page; returns it and the rest. `None` if it is cut.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<(Self, &[u8])> {
        let head = u8_at(data, 0)?;
        let (subpage, length, start) = if head & 0x40 == 0 {
            (None, usize::from(u8_at(data, 1)?), 2)
        } else {
            (Some(u8_at(data, 1)?), usize::from(be16(data, 2)?), 4)
        };
        let (body, rest) = data.get(start..)?.split_at_checked(length)?;
        let page = Self { saveable: head & 0x80 != 0, code: head & 0x3F, subpage, body: body.to_vec() };
        Some((page, rest))
    }
}

/// The header, at most one short block descriptor, and pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModeParameters {
    /// MEDIUM TYPE.
    pub medium_type: u8,
    /// DEVICE-SPECIFIC PARAMETER.
    pub device_specific: u8,
    /// LONGLBA: the block descriptor has 16 bytes (ten-byte commands).
    pub long_lba: bool,
    /// The block descriptor, 8 or 16 bytes, or nothing.
    pub block_descriptor: Vec<u8>,
    /// Pages in order.
    pub pages: Vec<Page>,
}

impl ModeParameters {
    /// The full data of a MODE SENSE of this form.
    #[must_use]
    pub fn to_bytes(&self, form: Form) -> Vec<u8> {
        let pages: Vec<u8> = self.pages.iter().flat_map(Page::to_bytes).collect();
        let descriptor = self.block_descriptor.len();
        let mut out = if form == Form::Six {
            let length = u8::try_from(3 + descriptor + pages.len()).unwrap_or(u8::MAX);
            vec![length, self.medium_type, self.device_specific, u8::try_from(descriptor).unwrap_or(0)]
        } else {
            let [high, low] = u16::try_from(6 + descriptor + pages.len()).unwrap_or(u16::MAX).to_be_bytes();
            let mut head =
                vec![high, low, self.medium_type, self.device_specific, u8::from(self.long_lba), 0];
            head.extend(u16::try_from(descriptor).unwrap_or(0).to_be_bytes());
            head
        };
        out.extend(&self.block_descriptor);
        out.extend(pages);
        out
    }

    /// Reads a MODE SELECT parameter list, or MODE SENSE data that is complete.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if the header, the block descriptor or a page is cut;
    /// INVALID FIELD IN PARAMETER LIST at the block descriptor length if that is not 0, 8 or 16.
    pub fn parse(data: &[u8], form: Form) -> Result<Self, FieldError> {
        let cut = FieldError::list_length();
        let (medium_type, device_specific, long_lba, length, start) = if form == Form::Six {
            let [_, medium, specific, length] = array(data, 0).ok_or(cut)?;
            (medium, specific, false, usize::from(length), 4)
        } else {
            let [_, _, medium, specific, flags, _, high, low] = array(data, 0).ok_or(cut)?;
            (medium, specific, flags & 0x01 != 0, usize::from(u16::from_be_bytes([high, low])), 8)
        };
        let legal = if long_lba { length == 0 || length == 16 } else { length == 0 || length == 8 };
        if !legal {
            return Err(FieldError::parameter(if form == Form::Six { 3 } else { 6 }));
        }
        let (descriptor, mut rest) =
            data.get(start..).and_then(|rest| rest.split_at_checked(length)).ok_or(cut)?;
        let mut pages = Vec::new();
        while !rest.is_empty() {
            let (page, next) = Page::parse(rest).ok_or(cut)?;
            pages.push(page);
            rest = next;
        }
        Ok(Self { medium_type, device_specific, long_lba, block_descriptor: descriptor.to_vec(), pages })
    }
}

/// What the Control page (SPC-4 7.5.8) says, read from its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Control {
    /// D_SENSE: sense data has descriptor format.
    pub descriptor_sense: bool,
    /// QERR, 2 bits.
    pub queue_error: u8,
    /// SWP: software write protect.
    pub write_protect: bool,
    /// TAS: a command aborted from another I_T nexus ends with TASK ABORTED.
    pub task_aborted_status: bool,
}

impl Control {
    /// Byte and bit of D_SENSE in the body of the page.
    pub const D_SENSE: (usize, u8) = (0, 0x04);
    /// Byte and bits of QERR.
    pub const QERR: (usize, u8) = (1, 0x06);
    /// Byte and bit of SWP.
    pub const SWP: (usize, u8) = (2, 0x08);
    /// Byte and bit of TAS.
    pub const TAS: (usize, u8) = (3, 0x40);

    /// Reads the body of the page; what is cut counts as zero.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let bits = |(at, mask): (usize, u8)| u8_at(body, at).unwrap_or(0) & mask;
        Self {
            descriptor_sense: bits(Self::D_SENSE) != 0,
            queue_error: bits(Self::QERR) >> 1,
            write_protect: bits(Self::SWP) != 0,
            task_aborted_status: bits(Self::TAS) != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn page()(saveable: bool, code in 0_u8..0x3F, subpage: Option<u8>, body in prop::collection::vec(any::<u8>(), 0..40)) -> Page {
            Page { saveable, code, subpage, body }
        }
    }

    prop_compose! {
        fn parameters()(
            medium_type: u8, device_specific: u8, long_lba: bool, described: bool, pages in prop::collection::vec(page(), 0..4),
        ) -> ModeParameters {
            let length = if !described { 0 } else if long_lba { 16 } else { 8 };
            ModeParameters { medium_type, device_specific, long_lba, block_descriptor: vec![7; length], pages }
        }
    }

    proptest! {
        #[test]
        fn ten_byte_parameters_survive(parameters in parameters()) {
            let bytes = parameters.to_bytes(Form::Ten);
            prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
            prop_assert_eq!(ModeParameters::parse(&bytes, Form::Ten), Ok(parameters));
        }

        #[test]
        fn six_byte_parameters_survive(parameters in parameters()) {
            prop_assume!(!parameters.long_lba);
            let bytes = parameters.to_bytes(Form::Six);
            prop_assert_eq!(usize::from(bytes[0]), bytes.len() - 1);
            prop_assert_eq!(ModeParameters::parse(&bytes, Form::Six), Ok(parameters));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..40), six: bool) {
            let form = if six { Form::Six } else { Form::Ten };
            if let Ok(parameters) = ModeParameters::parse(&data, form) {
                prop_assert!(parameters.to_bytes(form).len() <= data.len());
            }
        }
    }

    #[test]
    fn a_cut_page_is_a_list_length_error() {
        let data = [0, 0, 0, 0, 0x0A, 0x0A, 1, 2];
        assert_eq!(ModeParameters::parse(&data, Form::Six), Err(FieldError::list_length()));
        assert_eq!(ModeParameters::parse(&[0, 0, 0, 5], Form::Six), Err(FieldError::parameter(3)));
    }

    #[test]
    fn the_control_page_is_read_bit_by_bit() {
        let all = Control {
            descriptor_sense: true,
            queue_error: 3,
            write_protect: true,
            task_aborted_status: true,
        };
        assert_eq!(Control::parse(&[0x04, 0x06, 0x08, 0x40]), all);
        assert_eq!(Control::parse(&[0xFB, 0xF9, 0xF7, 0xBF]), Control::default());
        assert_eq!(Control::parse(&[]), Control::default());
    }
}
