//! Device Identification, page 83h (SPC-4 7.8.6): the names of a logical unit and of the target port it
//! was asked through.

use crate::bytes::u8_at;

/// CODE SET, 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeSet(pub u8);

impl CodeSet {
    /// Binary.
    pub const BINARY: Self = Self(1);
    /// Printable ASCII.
    pub const ASCII: Self = Self(2);
    /// UTF-8.
    pub const UTF_8: Self = Self(3);
}

/// ASSOCIATION, 2 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Association(pub u8);

impl Association {
    /// The logical unit that was asked.
    pub const LOGICAL_UNIT: Self = Self(0);
    /// The target port that received the command.
    pub const TARGET_PORT: Self = Self(1);
    /// The SCSI target device.
    pub const TARGET_DEVICE: Self = Self(2);
}

/// DESIGNATOR TYPE, 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DesignatorType(pub u8);

impl DesignatorType {
    /// Vendor specific.
    pub const VENDOR: Self = Self(0);
    /// T10 vendor identification and more.
    pub const T10_VENDOR_ID: Self = Self(1);
    /// EUI-64 based.
    pub const EUI_64: Self = Self(2);
    /// NAA.
    pub const NAA: Self = Self(3);
    /// Relative target port identifier.
    pub const RELATIVE_TARGET_PORT: Self = Self(4);
    /// Target port group.
    pub const TARGET_PORT_GROUP: Self = Self(5);
    /// SCSI name string.
    pub const SCSI_NAME: Self = Self(8);
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Designator {
    /// PROTOCOL IDENTIFIER where PIV says it counts.
    pub protocol: Option<u8>,
    /// How the bytes are coded.
    pub code_set: CodeSet,
    /// What is named.
    pub association: Association,
    /// The kind of name.
    pub kind: DesignatorType,
    /// The name, at most 255 bytes.
    pub bytes: Vec<u8>,
}

impl Designator {
    /// Reads one designation descriptor; returns it and the rest. `None` if it is cut.
    pub(crate) fn parse(data: &[u8]) -> Option<(Self, &[u8])> {
        let [zero, one, _, length, rest @ ..] = data else { return None };
        let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
        let designator = Self {
            protocol: (one & 0x80 != 0).then_some(zero >> 4),
            code_set: CodeSet(zero & 0x0F),
            association: Association(one >> 4 & 0x03),
            kind: DesignatorType(one & 0x0F),
            bytes: bytes.to_vec(),
        };
        Some((designator, rest))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let length = u8::try_from(self.bytes.len()).unwrap_or(u8::MAX);
        let valid = u8::from(self.protocol.is_some()) << 7;
        let zero = self.protocol.unwrap_or(0) << 4 | self.code_set.0 & 0x0F;
        let one = valid | (self.association.0 & 0x03) << 4 | self.kind.0 & 0x0F;
        let mut out = vec![zero, one, 0, length];
        out.extend(self.bytes.iter().take(usize::from(length)));
        out
    }
}

/// The body of page 83h.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceIdentification {
    /// Designators in the order of the page.
    pub designators: Vec<Designator>,
}

impl DeviceIdentification {
    /// Reads the body of the page; a designator cut by the allocation length is dropped.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let (mut designators, mut rest) = (Vec::new(), body);
        while let Some((designator, next)) = Designator::parse(rest) {
            designators.push(designator);
            rest = next;
        }
        Self { designators }
    }

    /// The body of the page.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.designators.iter().flat_map(Designator::to_bytes).collect()
    }

    /// The names of the logical unit that are unique in the world, best first: NAA, EUI-64, SCSI name, then
    /// T10 vendor identification. Two paths with an equal name lead to the same logical unit.
    #[must_use]
    pub fn logical_unit_names(&self) -> Vec<&Designator> {
        const ORDER: [DesignatorType; 4] = [
            DesignatorType::NAA,
            DesignatorType::EUI_64,
            DesignatorType::SCSI_NAME,
            DesignatorType::T10_VENDOR_ID,
        ];
        let of_unit = |d: &&Designator| d.association == Association::LOGICAL_UNIT;
        let of_kind = |kind| self.designators.iter().filter(of_unit).filter(move |d| d.kind == kind);
        ORDER.into_iter().flat_map(of_kind).collect()
    }

    /// RELATIVE TARGET PORT IDENTIFIER of the port that was asked.
    #[must_use]
    pub fn relative_target_port(&self) -> Option<u16> {
        let port = self.designators.iter().find(|d| {
            d.kind == DesignatorType::RELATIVE_TARGET_PORT && d.association == Association::TARGET_PORT
        })?;
        Some(u16::from_be_bytes([u8_at(&port.bytes, 2)?, u8_at(&port.bytes, 3)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn designator()(
            protocol in prop::option::of(0_u8..16), code_set in 0_u8..16, association in 0_u8..4,
            kind in 0_u8..16, bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) -> Designator {
            let (code_set, kind) = (CodeSet(code_set), DesignatorType(kind));
            Designator { protocol, code_set, association: Association(association), kind, bytes }
        }
    }

    proptest! {
        #[test]
        fn designators_survive_their_bytes(designators in prop::collection::vec(designator(), 0..6)) {
            let page = DeviceIdentification { designators };
            prop_assert_eq!(DeviceIdentification::parse(&page.to_bytes()), page);
        }

        #[test]
        fn any_bytes_are_read(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let page = DeviceIdentification::parse(&body);
            prop_assert!(page.to_bytes().len() <= body.len());
        }
    }

    #[test]
    fn the_relative_port_and_the_best_name_are_found() {
        let naa = [0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
        let vendor = [0x02, 0x01, 0, 4, b'A', b'C', b'M', b'E'];
        let port = [0x51, 0x94, 0, 4, 0, 0, 0x12, 0x34];
        let page = DeviceIdentification::parse(&[&vendor[..], &naa, &port].concat());
        assert_eq!(page.relative_target_port(), Some(0x1234));
        let kinds: Vec<_> = page.logical_unit_names().iter().map(|name| name.kind).collect();
        assert_eq!(kinds, [DesignatorType::NAA, DesignatorType::T10_VENDOR_ID]);
    }
}
