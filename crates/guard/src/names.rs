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
pub(crate) struct Names {
    /// The words of `ledger::LunId`; `None`: it has no name.
    pub(crate) lun: Option<String>,
    /// The target port by name, else by its relative identifier.
    pub(crate) target_port: String,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub(crate) relative_target_port: Option<u16>,
}

/// Asks the device for its names: VPD page 83h, else serial number and standard INQUIRY data.
///
/// # Errors
/// What the guest is answered in place of its command: there was no answer, or none that says anything about the page
/// (busy, aborted, a unit attention, which the guest thus gets). A device that refuses the pages has no name.
pub(crate) fn ask(nexus: &mut dyn Nexus) -> Result<Names, Completion> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use nexus::TransportError;

    /// A device that answers INQUIRY with the pages it has.
    struct Named(Vec<(u8, Vec<u8>)>);

    impl Nexus for Named {
        fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
            if request.cdb[1] == 0 {
                let mut standard = vec![0; 36];
                standard.splice(8..32, *b"TENURE  DISK            ");
                return Ok(Completion::good(standard));
            }
            let found = self.0.iter().find(|(code, _)| *code == request.cdb[2]);
            let page = |(code, body): &(u8, Vec<u8>)| Page { peripheral: 0, code: *code, body: body.clone() };
            Ok(found.map(page).map_or_else(failure::not_allowed, |page| Completion::good(page.to_bytes())))
        }
    }

    fn name(pages: Vec<(u8, Vec<u8>)>) -> Option<String> {
        ask(&mut Named(pages)).unwrap().lun
    }

    #[test]
    fn the_best_designator_names_the_logical_unit() {
        let naa = [0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
        let vendor = [0x02, 0x01, 0, 4, b'A', b'C', b'M', b'E'];
        let both = [&vendor[..], &naa].concat();
        assert_eq!(name(vec![(0x83, both)]).as_deref(), Some("naa.6001020304050607"));
        assert_eq!(name(vec![(0x83, vendor.to_vec())]).as_deref(), Some("t10.ACME"));
    }

    #[test]
    fn without_a_designator_the_serial_number_names_it_and_without_that_nothing_does() {
        assert_eq!(name(vec![(0x80, b" 42 ".to_vec())]).as_deref(), Some("serial.TENURE.DISK.42"));
        assert_eq!(name(vec![(0x80, b"  ".to_vec())]), None);
        assert_eq!(name(vec![]), None);
    }
}
