//! What the kernel knows of a device's way (sysfs): its node, whether it is a multipath map, and the initiator port.
//!
//! What is not there stays unknown; nothing here is an error.

use scsi::{IscsiName, Isid, TransportId};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where sysfs is.
pub const SYS: &str = "/sys";

/// How many device-mapper devices are looked at one below the other.
const DEEPEST: u8 = 8;

/// A device by its number.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Where sysfs is; [`SYS`].
    pub sys: &'a Path,
    /// Its number.
    pub number: u64,
    /// A block device, and no character device.
    pub block: bool,
}

impl Host<'_> {
    fn link(&self) -> PathBuf {
        let (major, minor) = (rustix::fs::major(self.number), rustix::fs::minor(self.number));
        let kind = if self.block { "block" } else { "char" };
        self.sys.join(format!("dev/{kind}/{major}:{minor}"))
    }

    /// The device's directory, without links.
    fn directory(&self) -> Option<PathBuf> {
        fs::canonicalize(self.link()).ok()
    }

    /// Inode and time of the device's directory, neither of which a later device under the same number has: sysfs numbers
    /// directories upwards, and one that is made anew is younger. A number is not given away while a descriptor
    /// of the device is open, so that what is found while one is belongs to it.
    #[must_use]
    pub fn incarnation(&self) -> Option<(u64, i64, i64)> {
        let found = fs::metadata(self.link()).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    }

    /// The device node.
    #[must_use]
    pub fn node(&self) -> String {
        let directory = self.directory();
        let name = directory.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        let number = || format!("{}:{}", rustix::fs::major(self.number), rustix::fs::minor(self.number));
        name.map_or_else(number, |name| format!("/dev/{name}"))
    }

    /// A map of dm-multipath, or whatever device-mapper has put on top of one: it passes a command on to where it lies.
    /// What cannot be told is taken for one: refusing is the mistake that can be mended.
    #[must_use]
    pub fn is_multipath(&self) -> bool {
        let device = self.link();
        match device.exists() {
            true => self.block && is_multipath(&device, DEEPEST),
            false => self.block && is_device_mapper(rustix::fs::major(self.number)),
        }
    }

    /// How the target names the initiator port, where the transport tells: Fibre Channel, SAS, and iSCSI where the session's
    /// ISID is known to the kernel.
    #[must_use]
    pub fn initiator(&self) -> Option<TransportId> {
        let directory = self.directory()?;
        let adapter = component(&directory, "host")?;
        if let Some(session) = component(&directory, "session") {
            return self.session(session).port();
        }
        let name = || read_number(&self.class("fc_host", adapter).join("port_name"));
        name().map(TransportId::FibreChannel).or_else(|| self.sas_address(adapter).map(TransportId::Sas))
    }

    /// This side's end of the way in words that outlive a reboot, unlike the adapter's number, and that differ for
    /// two ways where the kernel can tell them apart.
    #[must_use]
    pub fn initiator_words(&self) -> String {
        let Some(directory) = self.directory() else { return "adapter unknown".to_owned() };
        let place = self.place(&directory);
        match component(&directory, "session").map(|session| self.session_words(session)) {
            Some(words) => format!("{place} {words}"),
            None => place,
        }
    }

    /// Where the adapter is plugged in.
    fn place(&self, directory: &Path) -> String {
        let devices = fs::canonicalize(self.sys.join("devices")).unwrap_or_default();
        let inside = directory.strip_prefix(&devices).unwrap_or(directory);
        let is_adapter = |part: &&Path| part.file_name().is_some_and(|name| is_numbered(name, "host"));
        let above = inside.ancestors().find(is_adapter).and_then(Path::parent);
        above.unwrap_or(inside).to_string_lossy().into_owned()
    }

    fn class(&self, class: &str, name: &str) -> PathBuf {
        self.sys.join("class").join(class).join(name)
    }

    /// The adapter's SAS address: its own word for it, else its phys', if they have the same. (A phy of an expander has two
    /// colons in its name.)
    fn sas_address(&self, adapter: &str) -> Option<u64> {
        fs::metadata(self.class("sas_host", adapter)).ok()?;
        if let Some(own) = read_number(&self.class("scsi_host", adapter).join("host_sas_address")) {
            return Some(own);
        }
        let prefix = format!("phy-{}:", adapter.strip_prefix("host")?);
        let own = |name: &String| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains(':'));
        let phys = entries(&self.sys.join("class/sas_phy"));
        let mut addresses = phys
            .iter()
            .filter(|name| own(name))
            .map(|phy| read_number(&self.class("sas_phy", phy).join("sas_address")));
        let first = addresses.next()??;
        addresses.all(|other| other == Some(first)).then_some(first)
    }

    fn session(&self, session: &str) -> Session {
        let read = |what| read_line(&self.class("iscsi_session", session).join(what)).unwrap_or_default();
        Session {
            initiator: read("initiatorname"),
            isid: read("isid"),
            interface: read("ifacename"),
            target: read("targetname"),
            group: read("tpgt"),
        }
    }

    /// The session's names, and, behind another that has the same, its place in their order.
    fn session_words(&self, session: &str) -> String {
        let own = self.session(session);
        let number = |name: &str| name.strip_prefix("session").and_then(|digits| digits.parse::<u64>().ok());
        let all = entries(&self.sys.join("class/iscsi_session"));
        let earlier =
            all.iter().filter(|other| number(other) < number(session) && self.session(other) == own);
        let words = format!("{} {} {}", own.initiator, own.interface, own.isid);
        match earlier.count() {
            0 => words.trim_end().to_owned(),
            before => format!("{} #{}", words.trim_end(), before + 1),
        }
    }
}

/// Names of an iSCSI session; empty where unknown.
#[derive(PartialEq, Eq)]
struct Session {
    initiator: String,
    isid: String,
    interface: String,
    target: String,
    group: String,
}

impl Session {
    fn port(&self) -> Option<TransportId> {
        let digits: String = self.isid.chars().filter(char::is_ascii_hexdigit).collect();
        Some(TransportId::iscsi(IscsiName::new(&self.initiator).ok()?, Isid::from_hex(&digits)?))
    }
}

/// The innermost part of a path that is `word` and a number.
fn component<'a>(path: &'a Path, word: &str) -> Option<&'a str> {
    let names = path.ancestors().filter_map(Path::file_name);
    names.filter(|name| is_numbered(name, word)).find_map(|name| name.to_str())
}

fn is_numbered(name: &std::ffi::OsStr, word: &str) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix(word));
    number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn entries(directory: &Path) -> Vec<String> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// An attribute; the kernel's words for "none" are none.
fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.trim();
    (!line.is_empty() && line != "<NULL>" && line != "(null)").then(|| line.to_owned())
}

/// A name of 64 bits in hexadecimal; none has the value 0.
fn read_number(path: &Path) -> Option<u64> {
    let line = read_line(path)?;
    u64::from_str_radix(line.trim_start_matches("0x"), 16).ok().filter(|number| *number != 0)
}

/// `device`: its directory. Multipath tools give a map, and kpartx a partition of one, a UUID that says so.
fn is_multipath(device: &Path, deeper: u8) -> bool {
    let below = || fs::read_dir(device.join("slaves")).map(|slaves| slaves.collect::<Result<Vec<_>, _>>());
    match fs::read_to_string(device.join("dm/uuid")) {
        Ok(uuid) if uuid.contains("mpath-") || deeper == 0 => true,
        Ok(_) => match below() {
            Ok(Ok(slaves)) => slaves.iter().any(|slave| is_multipath(&slave.path(), deeper - 1)),
            _ => true,
        },
        // Whether the directory is there can be asked even where it may not be read.
        Err(_) => device.join("dm").exists(),
    }
}

fn is_device_mapper(major: u32) -> bool {
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    devices.lines().any(|line| line.trim() == format!("{major} device-mapper"))
}

#[cfg(test)]
mod tests;
