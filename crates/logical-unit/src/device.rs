//! The SCSI target device (SAM-5 4.6): logical units behind LUNs, and the answers that belong to none of
//! them: REPORT LUNS, and commands to a LUN that does not exist. Used by the transports.

use crate::unit::{LogicalUnit, NexusHandle};
use crate::{ItNexus, Task};
use scsi::{AdditionalSense, Completion, Sense, SenseKey, opcode};
use std::sync::Arc;

/// Logical units, numbered from 0.
#[derive(Clone, Debug, Default)]
pub struct Device {
    units: Arc<[Arc<LogicalUnit>]>,
}

impl Device {
    /// The logical units in LUN order, at most 256 of them are reachable.
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
            Some(&opcode::REPORT_LUNS) => self.report_luns(cdb),
            _ => unit.execute(nexus, task, cdb, data_out),
        }
    }

    /// The answer to a command for a LUN that does not exist (SPC-4 6.6, 6.33, SAM-5 5.12).
    #[must_use]
    pub fn execute_missing(&self, cdb: &[u8]) -> Completion {
        match cdb.first() {
            Some(&opcode::REPORT_LUNS) => self.report_luns(cdb),
            Some(&opcode::INQUIRY) => {
                let mut data = vec![0x7F, 0, 0x06, 0x02, 31];
                data.resize(36, 0);
                let allocation =
                    cdb.get(3..5).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
                data.truncate(allocation);
                Completion::good(data)
            }
            _ => {
                let code = AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED;
                Completion::check(&Sense::new(SenseKey::ILLEGAL_REQUEST, code))
            }
        }
    }

    fn report_luns(&self, cdb: &[u8]) -> Completion {
        let count = self.units.len();
        let mut data = Vec::with_capacity(8 + 8 * count);
        data.extend(u32::try_from(8 * count).unwrap_or(u32::MAX).to_be_bytes());
        data.extend([0; 4]);
        for number in 0..count {
            data.extend([0, u8::try_from(number).unwrap_or(u8::MAX), 0, 0, 0, 0, 0, 0]);
        }
        let allocation = cdb.get(6..10).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
        data.truncate(allocation);
        Completion::good(data)
    }
}
