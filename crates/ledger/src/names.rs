//! The names under which things are recorded: whose record, which logical unit, which I_T nexus, which handover.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes that a name may have.
const LONGEST: usize = 4096;

/// A file name for an owner or a logical unit: bytes outside `[A-Za-z0-9._-]` and a leading dot as `%HH`. A long one is cut
/// and ends with a checksum of the whole, so that it does not tell everything; the file itself does.
#[must_use]
pub fn file_name(name: &str) -> String {
    let plain = |at: usize, byte: u8| {
        byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && at > 0)
    };
    let escape = |(at, byte): (usize, u8)| {
        if plain(at, byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    let mut escaped: String = name.bytes().enumerate().map(escape).collect();
    if escaped.len() > 200 {
        escaped.truncate(180);
        escaped.push_str(&format!("~{:08x}", crc32c::crc32c(name.as_bytes())));
    }
    escaped
}

/// Whether a name can be recorded.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    let what = match name.len() {
        0 => "a name must not be empty",
        length if length > LONGEST => "a name has at most 4096 bytes",
        _ if name.contains('\0') => "a name must not contain a NUL",
        _ => return Ok(()),
    };
    Err(Error::Name { name: name.chars().take(80).collect(), what })
}

/// Whose record: `--vm NAME`, else the path of the listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(pub String);

/// A logical unit by its best designator of VPD page 83h (`naa.…`, `eui.…`, `t10.…`, `name.…`), else by vendor, product and
/// serial number (`serial.VENDOR.PRODUCT.SERIAL`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LunId(pub String);

/// An I_T nexus of this host to a logical unit, as stable as the host can name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathId(pub String);

/// A handover, the same on both hosts: 128 random bits, in JSON 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandoverId(pub u128);

impl HandoverId {
    /// Reads what `Display` writes: exactly 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for HandoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for HandoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
