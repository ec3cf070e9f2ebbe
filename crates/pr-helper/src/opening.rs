//! What stands behind a descriptor that a client sent: whether it is a SCSI device, which logical unit it is, and through
//! which I_T nexus. Asked anew for each command, because the descriptor is all there is to go by: a name would be stale
//! after a device was replaced. Used by `service`; tests put a device server of their own in its place.

use crate::failure;
use handover::Port;
use ledger::{LunId, PathId};
use nexus::linux::SgDevice;
use nexus::{Nexus, TransportError};
use rustix::fd::OwnedFd;
use scsi::inquiry::StandardInquiry;
use scsi::vpd::{Association, CodeSet, Designator, DesignatorType, DeviceIdentification, Page, page};
use scsi::{Completion, DataPhase, Request, opcode};
use std::fs;
use std::path::PathBuf;

/// Longest reply to INQUIRY that is read.
const INQUIRY_LENGTH: u16 = 4096;

/// A logical unit and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The logical unit.
    pub lun: LunId,
    /// The I_T nexus.
    pub path: PathId,
    /// The device node.
    pub node: String,
    /// How the target names the nexus, as far as this side knows; both names are needed for READ FULL STATUS.
    pub port: Port,
}

/// A descriptor that can be used.
pub struct Opened {
    /// What it leads to; `None` for a device that has no name of its own, of which nothing can be recorded.
    pub identity: Option<Identity>,
    /// The way to it.
    pub nexus: Box<dyn Nexus>,
    /// It is a dm-multipath map: a command goes to one of several nexuses, whichever the map likes.
    pub multipath: bool,
}

/// Opens descriptors.
pub trait OpenLun: Send + Sync {
    /// Looks at `fd`. `changes`: a PERSISTENT RESERVE OUT is to be sent.
    ///
    /// # Errors
    /// What the client is answered: not a device, or opened for reading only.
    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Completion>;
}

/// SCSI devices of Linux.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxDevices;

impl OpenLun for LinuxDevices {
    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Completion> {
        let mut device = SgDevice::from_fd(fd).map_err(|_| failure::not_a_device())?;
        if changes && !device.is_writable() {
            return Err(failure::not_allowed());
        }
        let number = device.number().unwrap_or_default();
        let (adapter, node) = (adapter(number), node(number));
        let identity = identify(&mut device, &adapter, node).map_err(|error| failure::answer(&error))?;
        Ok(Opened { identity, multipath: is_multipath(number), nexus: Box::new(device) })
    }
}

/// Asks the device for its names (SPC-4 7.8.6): VPD page 83h, else serial number and standard INQUIRY data.
///
/// # Errors
/// [`TransportError`] if there was no answer. A device that refuses the pages has no name: `None`.
pub fn identify(
    nexus: &mut dyn Nexus,
    adapter: &str,
    node: String,
) -> Result<Option<Identity>, TransportError> {
    let names = vital_page(nexus, page::DEVICE_IDENTIFICATION)?.unwrap_or_default();
    let names = DeviceIdentification::parse(&names);
    let lun = match names.logical_unit_names().into_iter().find_map(lun_name) {
        Some(name) => Some(name),
        None => serial_name(nexus)?,
    };
    let path = PathId(format!("{adapter} {}", target_port_name(&names)));
    let port = Port { initiator: nexus.initiator_port(), target_port: names.relative_target_port() };
    Ok(lun.map(|name| Identity { lun: LunId(name), path, node, port }))
}

fn vital_page(nexus: &mut dyn Nexus, code: u8) -> Result<Option<Vec<u8>>, TransportError> {
    let [high, low] = INQUIRY_LENGTH.to_be_bytes();
    let data = inquiry(nexus, vec![opcode::INQUIRY, 1, code, high, low, 0])?;
    let page = data.and_then(|data| Page::parse(&data)).filter(|page| page.code == code);
    Ok(page.map(|page| page.body))
}

fn inquiry(nexus: &mut dyn Nexus, cdb: Vec<u8>) -> Result<Option<Vec<u8>>, TransportError> {
    let request = Request { cdb, data: DataPhase::In(usize::from(INQUIRY_LENGTH)) };
    let ended = nexus.execute(&request)?;
    Ok(ended.status.is_good().then_some(ended.data))
}

/// The words of `ledger::LunId`.
fn lun_name(name: &Designator) -> Option<String> {
    let prefix = match name.kind {
        DesignatorType::NAA => "naa",
        DesignatorType::EUI_64 => "eui",
        DesignatorType::SCSI_NAME => "name",
        DesignatorType::T10_VENDOR_ID => "t10",
        _ => return None,
    };
    (!name.bytes.is_empty()).then(|| format!("{prefix}.{}", designator_text(name)))
}

fn designator_text(name: &Designator) -> String {
    match name.code_set {
        CodeSet::ASCII | CodeSet::UTF_8 => text(&name.bytes),
        _ => name.bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Text of a device: what is no printable character is escaped, so that no name passes for another.
fn text(bytes: &[u8]) -> String {
    bytes.trim_ascii_end().escape_ascii().to_string().trim_end_matches("\\x00").to_owned()
}

fn serial_name(nexus: &mut dyn Nexus) -> Result<Option<String>, TransportError> {
    let Some(serial) = vital_page(nexus, page::UNIT_SERIAL_NUMBER)? else { return Ok(None) };
    let data = inquiry(nexus, vec![opcode::INQUIRY, 0, 0, 0, 96, 0])?;
    let Some(standard) = data.and_then(|data| StandardInquiry::parse(&data)) else { return Ok(None) };
    let serial = text(serial.trim_ascii());
    let made = |what: &[u8]| text(what.trim_ascii());
    let name = format!("serial.{}.{}.{serial}", made(&standard.vendor), made(&standard.product));
    Ok((!serial.is_empty()).then_some(name))
}

/// The target port by name, else by its relative identifier.
fn target_port_name(names: &DeviceIdentification) -> String {
    let ports = || names.designators.iter().filter(|name| name.association == Association::TARGET_PORT);
    let named = |kind| ports().find(move |name| name.kind == kind).map(designator_text);
    let name = named(DesignatorType::SCSI_NAME).or_else(|| named(DesignatorType::NAA));
    let relative = || names.relative_target_port().map(|port| format!("port {port}"));
    name.or_else(relative).unwrap_or_else(|| "port unknown".to_owned())
}

fn sysfs(number: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if block.exists() { block } else { PathBuf::from(format!("/sys/dev/char/{major}:{minor}")) }
}

/// Where the host adapter is plugged in, which outlives a reboot, unlike its number.
fn adapter(number: u64) -> String {
    let Ok(device) = fs::canonicalize(sysfs(number)) else { return "adapter unknown".to_owned() };
    let device = device.to_string_lossy();
    let place = device.split("/host").next().unwrap_or_default();
    place.trim_start_matches("/sys/devices/").to_owned()
}

fn node(number: u64) -> String {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let name = fs::canonicalize(sysfs(number)).ok();
    let name = name.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

/// Any device-mapper device that has "mpath-" in its UUID, partitions of maps included; and any at all if sysfs cannot
/// be read: refusing is the mistake that can be mended.
fn is_multipath(number: u64) -> bool {
    match fs::read_to_string(sysfs(number).join("dm/uuid")) {
        Ok(uuid) => uuid.contains("mpath-"),
        Err(_) => is_device_mapper(rustix::fs::major(number)) && !sysfs(number).exists(),
    }
}

fn is_device_mapper(major: u32) -> bool {
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    devices.lines().any(|line| line.trim() == format!("{major} device-mapper"))
}

#[cfg(test)]
mod tests;
