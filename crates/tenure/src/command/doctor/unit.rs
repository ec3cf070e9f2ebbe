//! One logical unit: can it be reached, does it say who it is, does it have persistent reservations.

use super::Finding;
use agent::drive::Device;
use nexus::{Nexus, retry_unit_attention};
use scsi::pr::{InAction, ReadKeys, request};
use scsi::vpd::{DeviceIdentification, Page, page};
use scsi::{DataPhase, Request, Status};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// More unit attentions than a logical unit has pending after a reset.
const RETRIES: usize = 5;
const ALLOCATION: u16 = 4096;

/// Everything to be said of one logical unit.
pub(super) fn examine(device: &Device) -> Vec<Finding> {
    let mut nexus = match device.open(TIMEOUT) {
        Ok(nexus) => nexus,
        Err(failure) => {
            let advice = "give a SCSI disk that this user may open for reading and writing";
            return vec![Finding::fail(device.to_string(), failure.to_string(), advice)];
        }
    };
    examine_nexus(&device.to_string(), &mut nexus)
}

/// The same where the way is open.
pub(super) fn examine_nexus(device: &str, nexus: &mut dyn Nexus) -> Vec<Finding> {
    vec![identity(device, nexus), reservations(device, nexus)]
}

fn identity(device: &str, nexus: &mut dyn Nexus) -> Finding {
    let check = format!("{device} identity");
    let advice = "without VPD page 83h the record hangs on vendor, product and serial number";
    let [high, low] = ALLOCATION.to_be_bytes();
    let cdb = vec![0x12, 1, page::DEVICE_IDENTIFICATION, high, low, 0];
    let inquiry = Request { cdb, data: DataPhase::In(ALLOCATION.into()) };
    let data = match good(nexus, &inquiry) {
        Ok(data) => data,
        Err(why) => return Finding::warn(check, why, advice),
    };
    let names = Page::parse(&data).map(|page| DeviceIdentification::parse(&page.body)).unwrap_or_default();
    match names.logical_unit_names().first() {
        Some(name) => {
            let hex: String = name.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Finding::ok(check, format!("designator type {}, {hex}", name.kind.0))
        }
        None => Finding::warn(check, "page 83h names no logical unit", advice),
    }
}

fn reservations(device: &str, nexus: &mut dyn Nexus) -> Finding {
    let check = format!("{device} reservations");
    let data = match good(nexus, &request::read(InAction::READ_KEYS, ALLOCATION)) {
        Ok(data) => data,
        Err(why) => {
            return Finding::fail(
                check,
                why,
                "READ KEYS must work; use a target with persistent reservations",
            );
        }
    };
    match ReadKeys::parse(&data) {
        Some(keys) => {
            let count = keys.keys.len();
            Finding::ok(check, format!("READ KEYS works, {count} registered, generation {}", keys.generation))
        }
        None => Finding::fail(check, "READ KEYS was answered with too little", "look at the target's log"),
    }
}

/// The data of a command that ended GOOD, or what it ended with.
fn good(nexus: &mut dyn Nexus, request: &Request) -> Result<Vec<u8>, String> {
    let completion =
        retry_unit_attention(nexus, request, RETRIES).map_err(|error| error.to_string())?.completion;
    match completion.status {
        Status::GOOD => Ok(completion.data),
        status => Err(format!("{status}")),
    }
}
