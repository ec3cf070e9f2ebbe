//! The SCSI target device (SAM-5 4.6): logical units behind LUNs, and the answers that belong to none of
//! them: REPORT LUNS, and commands to a LUN that does not exist. Used by the transports.

use crate::unit::{LogicalUnit, NexusHandle};
use crate::{ItNexus, Task};
use scsi::block::Command;
use scsi::inquiry::{NO_LOGICAL_UNIT, StandardInquiry, padded};
use scsi::{AdditionalSense, Completion, FieldError, Sense, SenseKey, opcode};
use std::sync::Arc;

/// Logical units, numbered from 0.
#[derive(Clone, Debug, Default)]
pub struct Device {
    units: Arc<[Arc<LogicalUnit>]>,
}

impl Device {
    /// The logical units in LUN order, at most 16,384 of them are reachable.
    #[must_use]
    pub fn new(units: Vec<Arc<LogicalUnit>>) -> Self {
        Self { units: units.into() }
    }

    /// All logical units in LUN order.
    #[must_use]
    pub fn units(&self) -> &[Arc<LogicalUnit>] {
        &self.units
    }

    /// The logical unit behind an eight-byte LUN (SAM-5 4.7), single-level, peripheral or flat addressing.
    #[must_use]
    pub fn unit(&self, lun: [u8; 8]) -> Option<&Arc<LogicalUnit>> {
        let [high, low, 0, 0, 0, 0, 0, 0] = lun else { return None };
        let number = match high >> 6 {
            0b00 if high == 0 => usize::from(low),
            0b01 => usize::from(u16::from_be_bytes([high & 0x3F, low])),
            _ => return None,
        };
        self.units.get(number)
    }

    /// Names the target device and its ports to every logical unit, for VPD page 83h and for
    /// registrations through other ports. Before the first session.
    pub fn identify(&self, target: &str, target_ports: &[u16]) {
        self.units.iter().for_each(|unit| unit.identify(target, target_ports));
    }

    /// Establishes an I_T nexus to every logical unit; handles in LUN order.
    #[must_use]
    pub fn attach(&self, nexus: &ItNexus) -> Vec<NexusHandle> {
        self.units.iter().map(|unit| unit.attach(nexus)).collect()
    }

    /// Executes one command: REPORT LUNS here, anything else by the logical unit that `task` belongs to.
    #[must_use]
    pub fn execute(
        &self,
        unit: &LogicalUnit,
        nexus: &NexusHandle,
        task: &Task,
        cdb: &[u8],
        data_out: &[u8],
    ) -> Completion {
        match cdb.first() {
            Some(&opcode::REPORT_LUNS) => report_luns(cdb, self.numbers()),
            _ => unit.execute(nexus, task, cdb, data_out),
        }
    }

    /// The answer to a command for a LUN that does not exist (SPC-4 6.6, 6.33, SAM-5 5.12).
    #[must_use]
    pub fn execute_missing(&self, cdb: &[u8]) -> Completion {
        execute_missing(cdb, self.numbers())
    }

    fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        (0..self.units.len()).map_while(|number| u16::try_from(number).ok())
    }
}

/// The answer to a command for a LUN that does not exist in a device whose LUNs have these `numbers` (SPC-4 6.6, 6.33, SAM-5 5.12).
#[must_use]
pub fn execute_missing(cdb: &[u8], numbers: impl Iterator<Item = u16>) -> Completion {
    match cdb.first() {
        Some(&opcode::REPORT_LUNS) => report_luns(cdb, numbers),
        Some(&opcode::INQUIRY) => no_logical_unit(cdb),
        _ => {
            let code = AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED;
            Completion::check(&Sense::new(SenseKey::ILLEGAL_REQUEST, code))
        }
    }
}

/// REPORT LUNS (SPC-4 6.33): the same for every LUN it is sent to, existing or not.
#[must_use]
pub fn report_luns(cdb: &[u8], numbers: impl Iterator<Item = u16>) -> Completion {
    let command = match Command::parse(cdb) {
        Ok(Command::ReportLuns(command)) => command,
        Ok(_) => return refused(FieldError::cdb(0)),
        Err(error) => return refused(error),
    };
    let luns: Vec<u8> = match command.select {
        0 | 2 => numbers.flat_map(lun).collect(),
        1 => Vec::new(),
        _ => return refused(FieldError::cdb(2)),
    };
    let mut data = Vec::with_capacity(8 + luns.len());
    data.extend(u32::try_from(luns.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend([0; 4]);
    data.extend(luns);
    data.truncate(command.allocation_length as usize);
    Completion::good(data)
}

/// The LUN of a number: peripheral addressing below 256, flat above (SAM-5 4.7.7).
fn lun(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let method = if number < 256 { 0 } else { 0x40 };
    [method | high, low, 0, 0, 0, 0, 0, 0]
}

fn refused(error: FieldError) -> Completion {
    Completion::check(&error.sense())
}

/// INQUIRY data that says that there is no logical unit; there are no vital product data pages.
fn no_logical_unit(cdb: &[u8]) -> Completion {
    let command = match Command::parse(cdb) {
        Ok(Command::Inquiry(command)) if !command.evpd && command.page == 0 => command,
        Ok(_) => return refused(FieldError::cdb(2)),
        Err(error) => return refused(error),
    };
    let inquiry = StandardInquiry {
        peripheral: NO_LOGICAL_UNIT,
        removable: false,
        version: 0x06,
        normal_aca: false,
        hierarchical: false,
        target_port_groups: 0,
        third_party_copy: false,
        protect: false,
        command_queue: true,
        vendor: padded("TENURE"),
        product: padded(""),
        revision: padded(""),
        version_descriptors: Vec::new(),
    };
    let mut data = inquiry.to_bytes();
    data.truncate(command.allocation_length.into());
    Completion::good(data)
}
