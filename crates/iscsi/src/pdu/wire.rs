//! How fields lie in a header: the [`Field`] trait and the tables that make parse and emit of one description.
//! Used by every PDU file of this module; no access can leave the 48 bytes, whatever the offset.

use super::Bhs;
use scsi::Isid;

/// A value with a fixed place in a header.
pub(super) trait Field: Sized {
    fn read(bhs: &Bhs, at: usize) -> Self;
    /// Sets the field's bits and leaves its neighbours alone.
    fn write(&self, bhs: &mut Bhs, at: usize);
}

pub(super) fn bytes_at<const N: usize>(bhs: &Bhs, at: usize) -> [u8; N] {
    bhs.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

pub(super) fn put<const N: usize>(bhs: &mut Bhs, at: usize, bytes: [u8; N]) {
    if let Some(place) = bhs.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = bytes;
    }
}

/// The I bit: immediate delivery (RFC 7143 11.2.1.1), always bit 6 of its byte.
impl Field for bool {
    fn read(bhs: &Bhs, at: usize) -> Self {
        u8::read(bhs, at) & 0x40 != 0
    }

    fn write(&self, bhs: &mut Bhs, at: usize) {
        let [byte] = bytes_at(bhs, at);
        put(bhs, at, [byte | u8::from(*self) << 6]);
    }
}

impl<const N: usize> Field for [u8; N] {
    fn read(bhs: &Bhs, at: usize) -> Self {
        bytes_at(bhs, at)
    }

    fn write(&self, bhs: &mut Bhs, at: usize) {
        put(bhs, at, *self);
    }
}

impl Field for Isid {
    fn read(bhs: &Bhs, at: usize) -> Self {
        Self(bytes_at(bhs, at))
    }

    fn write(&self, bhs: &mut Bhs, at: usize) {
        put(bhs, at, self.0);
    }
}

macro_rules! integer_fields {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            fn read(bhs: &Bhs, at: usize) -> Self {
                Self::from_be_bytes(bytes_at(bhs, at))
            }

            fn write(&self, bhs: &mut Bhs, at: usize) {
                put(bhs, at, self.to_be_bytes());
            }
        }
    )*};
}
integer_fields!(u8, u16, u32, u64);

/// Defines an open one-byte code with named values.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $code:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$value_doc])* pub const $value: Self = Self($code);)*
        }

        impl $crate::pdu::wire::Field for $name {
            fn read(bhs: &$crate::pdu::Bhs, at: usize) -> Self {
                Self(u8::read(bhs, at))
            }

            fn write(&self, bhs: &mut $crate::pdu::Bhs, at: usize) {
                self.0.write(bhs, at);
            }
        }
    };
}

/// Defines a byte of flags: a [`code!`] whose values can be combined and asked for.
macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($body:tt)* }) => {
        $crate::pdu::wire::code! { $(#[$doc])* $name { $($body)* } }

        impl $name {
            /// Whether every bit of `other` is set.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// These flags and `other`.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// `self` if `condition` holds, else no flag at all.
            #[must_use]
            pub const fn when(self, condition: bool) -> Self {
                if condition { self } else { Self(0) }
            }
        }
    };
}

/// Defines a PDU header: its opcode and the place of each field.
macro_rules! header {
    ($(#[$doc:meta])* $name:ident = $opcode:ident {
        $($(#[$field_doc:meta])* $field:ident: $kind:ty = $at:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl $crate::pdu::Header for $name {
            const OPCODE: $crate::pdu::Opcode = $crate::pdu::Opcode::$opcode;

            fn parse(bhs: &$crate::pdu::Bhs) -> Self {
                use $crate::pdu::wire::Field;
                Self { $($field: <$kind>::read(bhs, $at),)* }
            }

            fn emit(&self) -> $crate::pdu::Bhs {
                use $crate::pdu::wire::Field;
                let mut bhs = [0; $crate::pdu::BHS_LENGTH];
                bhs[0] = Self::OPCODE.0;
                $(self.$field.write(&mut bhs, $at);)*
                bhs
            }
        }
    };
}

pub(super) use {code, flags, header};
