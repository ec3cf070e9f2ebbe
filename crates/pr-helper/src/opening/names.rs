//! Which logical unit a device is, as it says itself (SPC-4 7.8).

use crate::failure;
use nexus::Nexus;
use scsi::inquiry::StandardInquiry;
use scsi::vpd::{Association, CodeSet, Designator, DesignatorType, DeviceIdentification, Page, page};
use scsi::{Completion, DataPhase, Request, SenseKey, Status, opcode};

/// Longest reply to INQUIRY that is read.
const INQUIRY_LENGTH: u16 = 4096;

/// What a device calls itself and the port it was reached through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The words of `ledger::LunId`; `None`: it has no name.
    pub(super) lun: Option<String>,
    /// The target port by name, else by its relative identifier.
    pub(super) target_port: String,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub(super) relative_target_port: Option<u16>,
}

/// Asks the device for its names: VPD page 83h, else serial number and standard INQUIRY data.
///
/// # Errors
/// What the guest is answered in place of its command: there was no answer, or none that says anything about the page
/// (busy, aborted, a unit attention, which the guest thus gets). A device that refuses the pages has no name.
pub(super) fn ask(nexus: &mut dyn Nexus) -> Result<Names, Completion> {
    let page = vital_page(nexus, page::DEVICE_IDENTIFICATION)?.unwrap_or_default();
    let page = DeviceIdentification::parse(&page);
    let lun = match page.logical_unit_names().into_iter().find_map(lun_name) {
        Some(name) => Some(name),
        None => serial_name(nexus)?,
    };
    let relative_target_port = page.relative_target_port();
    Ok(Names { lun, target_port: target_port(&page), relative_target_port })
}

fn vital_page(nexus: &mut dyn Nexus, code: u8) -> Result<Option<Vec<u8>>, Completion> {
    let [high, low] = INQUIRY_LENGTH.to_be_bytes();
    let data = inquiry(nexus, vec![opcode::INQUIRY, 1, code, high, low, 0])?;
    let page = data.and_then(|data| Page::parse(&data)).filter(|page| page.code == code);
    Ok(page.map(|page| page.body))
}

fn inquiry(nexus: &mut dyn Nexus, cdb: Vec<u8>) -> Result<Option<Vec<u8>>, Completion> {
    let request = Request { cdb, data: DataPhase::In(usize::from(INQUIRY_LENGTH)) };
    let ended = nexus.execute(&request).map_err(|error| failure::answer(&error))?;
    match ended.status {
        Status::GOOD => Ok(Some(ended.data)),
        _ if is_rejection(&ended) => Ok(None),
        _ => Err(ended),
    }
}

/// The device does not have what was asked for. Anything else says nothing about it: without this the device would for
/// one command pass for another one.
fn is_rejection(ended: &Completion) -> bool {
    let sense = ended.decoded_sense().filter(|sense| !sense.deferred);
    ended.status == Status::CHECK_CONDITION
        && sense.is_some_and(|sense| sense.key == SenseKey::ILLEGAL_REQUEST)
}

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

fn serial_name(nexus: &mut dyn Nexus) -> Result<Option<String>, Completion> {
    let Some(serial) = vital_page(nexus, page::UNIT_SERIAL_NUMBER)? else { return Ok(None) };
    let data = inquiry(nexus, vec![opcode::INQUIRY, 0, 0, 0, 96, 0])?;
    let Some(standard) = data.and_then(|data| StandardInquiry::parse(&data)) else { return Ok(None) };
    let serial = text(serial.trim_ascii());
    let made = |what: &[u8]| text(what.trim_ascii());
    let name = format!("serial.{}.{}.{serial}", made(&standard.vendor), made(&standard.product));
    Ok((!serial.is_empty()).then_some(name))
}

fn target_port(page: &DeviceIdentification) -> String {
    let ports = || page.designators.iter().filter(|name| name.association == Association::TARGET_PORT);
    let named = |kind| ports().find(move |name| name.kind == kind).map(designator_text);
    let name = named(DesignatorType::SCSI_NAME).or_else(|| named(DesignatorType::NAA));
    let relative = || page.relative_target_port().map(|port| format!("port {port}"));
    name.or_else(relative).unwrap_or_else(|| "port unknown".to_owned())
}
