//! Which blocks a medium access command names: the LOGICAL BLOCK ADDRESS and the length field in their
//! four CDB shapes (SBC-4 5). The shape is kept, so that emitting gives the same CDB back.

use crate::bytes::{array, be16, be32, be64, u8_at};

/// The CDB shape of a command that exists in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// 6 bytes: 21-bit address, length 0 means 256.
    Six,
    /// 10 bytes: 32-bit address, 16-bit length.
    Ten,
    /// 12 bytes: 32-bit address and length.
    Twelve,
    /// 16 bytes: 64-bit address, 32-bit length.
    Sixteen,
}

impl Form {
    /// The shape that the group of an operation code has (SPC-4 4.3.5.1).
    #[must_use]
    pub const fn of(opcode: u8) -> Self {
        match opcode >> 5 {
            0 => Self::Six,
            1 | 2 => Self::Ten,
            5 => Self::Twelve,
            _ => Self::Sixteen,
        }
    }

    /// Bytes of the CDB.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Ten => 10,
            Self::Twelve => 12,
            Self::Sixteen => 16,
        }
    }

    /// Where the LOGICAL BLOCK ADDRESS field begins, for field pointers.
    #[must_use]
    pub const fn address_byte(self) -> u16 {
        if matches!(self, Self::Six) { 1 } else { 2 }
    }

    /// Where the length field begins, for field pointers.
    #[must_use]
    pub const fn length_byte(self) -> u16 {
        match self {
            Self::Six => 4,
            Self::Ten => 7,
            Self::Twelve => 6,
            Self::Sixteen => 10,
        }
    }
}

/// A run of logical blocks as a CDB names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// CDB shape.
    pub form: Form,
    /// LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// Number of logical blocks; what zero means is the command's matter (READ(6) and WRITE(6) have 256 already).
    pub blocks: u32,
    /// GROUP NUMBER, 6 bits (none in 6-byte CDBs).
    pub group: u8,
}

impl Extent {
    /// Reads the fields; `None` if the CDB is cut.
    pub(crate) fn parse(cdb: &[u8], form: Form) -> Option<Self> {
        let group = |at| u8_at(cdb, at).map(|byte| byte & 0x3F);
        let (lba, blocks, group) = match form {
            Form::Six => {
                let [high, middle, low, length, _] = array(cdb, 1)?;
                let lba = u32::from_be_bytes([0, high & 0x1F, middle, low]);
                (u64::from(lba), if length == 0 { 256 } else { u32::from(length) }, 0)
            }
            Form::Ten => (be32(cdb, 2)?.into(), be16(cdb, 7)?.into(), group(6)?),
            Form::Twelve => (be32(cdb, 2)?.into(), be32(cdb, 6)?, group(10)?),
            Form::Sixteen => (be64(cdb, 2)?, be32(cdb, 10)?, group(14)?),
        };
        u8_at(cdb, form.length() - 1)?;
        Some(Self { form, lba, blocks, group })
    }

    /// A CDB with operation code, byte 1 and these fields; values too wide for the shape are cut.
    pub(crate) fn emit(&self, opcode: u8, flags: u8) -> Vec<u8> {
        let [l0, l1, l2, l3, l4, l5, l6, l7] = self.lba.to_be_bytes();
        let [n0, n1, n2, n3] = self.blocks.to_be_bytes();
        let group = self.group & 0x3F;
        match self.form {
            Form::Six => vec![opcode, flags & 0xE0 | l5 & 0x1F, l6, l7, n3, 0],
            Form::Ten => vec![opcode, flags, l4, l5, l6, l7, group, n2, n3, 0],
            Form::Twelve => vec![opcode, flags, l4, l5, l6, l7, n0, n1, n2, n3, group, 0],
            Form::Sixteen => {
                vec![opcode, flags, l0, l1, l2, l3, l4, l5, l6, l7, n0, n1, n2, n3, group, 0]
            }
        }
    }
}
