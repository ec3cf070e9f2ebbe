//! The names under which things are recorded: whose record, which logical unit, which I_T nexus, which handover.

use serde::{Deserialize, Serialize};
use std::fmt;

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
