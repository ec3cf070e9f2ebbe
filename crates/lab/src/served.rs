//! A target in another process, and the URLs under which its LUNs are reached; or a vhost-user device, and its sockets.

use crate::process::Background;
use std::path::PathBuf;

/// A vhost-user device that serves guests until this value is dropped.
#[derive(Debug)]
pub struct Device {
    /// The process that serves them.
    pub process: Background,
    /// Where each guest's front end connects.
    pub sockets: Vec<PathBuf>,
    /// The initiator port that each guest is.
    pub initiators: Vec<String>,
}

/// A target that is served until this value is dropped.
#[derive(Debug)]
pub struct Served {
    /// The process that serves it.
    pub process: Background,
    /// `HOST:PORT`.
    pub portal: String,
    /// The target's name.
    pub iqn: String,
    /// The number of the first LUN that is a disk.
    pub first_lun: u16,
}

impl Served {
    /// The URL of the `index`th disk, as libiscsi and QEMU write it.
    #[must_use]
    pub fn url(&self, index: u16) -> String {
        format!("iscsi://{}/{}/{}", self.portal, self.iqn, self.first_lun + index)
    }

    /// The DEVICE of the `index`th disk for the initiator `name`, with an ISID that depends on nothing but the name.
    #[must_use]
    pub fn device(&self, index: u16, name: &str) -> String {
        let isid = name.bytes().fold(0u32, |sum, byte| (sum * 31 + u32::from(byte)) & 0x00FF_FFFF);
        let initiator = format!("iqn.2026-11.example.tenure:{name}");
        format!("{}?initiator={initiator}&isid=80000{isid:07x}", self.url(index))
    }
}
