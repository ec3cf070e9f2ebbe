//! Hosts that send commands to a logical unit without a transport, for the integration tests.
#![allow(clippy::expect_used, reason = "a test stops where it fails")]
#![allow(dead_code, reason = "every test binary uses its own part")]

use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle, Task};
use scsi::block::{Access, Command, Form, Operation};
use scsi::{AdditionalSense, Completion, DataPhase, IscsiName, Isid, Request, SenseKey, Status, TransportId};
use std::sync::Arc;

pub(crate) const BLOCK: usize = 512;

/// A 4 MiB memory LUN.
pub(crate) fn memory() -> Arc<LogicalUnit> {
    open("memory=4M")
}

pub(crate) fn open(spec: &str) -> Arc<LogicalUnit> {
    LogicalUnit::open(&spec.parse::<LunSpec>().unwrap()).unwrap()
}

pub(crate) fn port(number: u8) -> ItNexus {
    let name = IscsiName::new("iqn.2026-01.example:host").unwrap();
    ItNexus { initiator: TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, number])), target_port: 1 }
}

/// One I_T nexus.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) handle: NexusHandle,
}

impl Host {
    pub(crate) fn new(unit: &Arc<LogicalUnit>, number: u8) -> Self {
        Self { unit: Arc::clone(unit), handle: unit.attach(&port(number)) }
    }

    pub(crate) fn begin(&self, tag: u64) -> Task {
        self.unit.begin(&self.handle, tag)
    }

    pub(crate) fn raw(&self, cdb: &[u8], data: &[u8]) -> Completion {
        self.unit.execute(&self.handle, &self.begin(1), cdb, data)
    }

    pub(crate) fn run(&self, command: Command, data: &[u8]) -> Completion {
        self.raw(&command.to_bytes(), data)
    }

    pub(crate) fn send(&self, request: &Request) -> Completion {
        let data: &[u8] = if let DataPhase::Out(data) = &request.data { data } else { &[] };
        self.raw(&request.cdb, data)
    }

    pub(crate) fn access(
        &self,
        operation: Operation,
        form: Form,
        lba: u64,
        blocks: u32,
        data: &[u8],
    ) -> Completion {
        self.run(Command::Access(Access::new(operation, form, lba, blocks)), data)
    }

    pub(crate) fn write(&self, lba: u64, data: &[u8]) {
        let blocks = u32::try_from(data.len() / BLOCK).unwrap();
        assert_eq!(good(self.access(Operation::Write, Form::Sixteen, lba, blocks, data)), []);
    }

    pub(crate) fn read(&self, lba: u64, blocks: u32) -> Vec<u8> {
        good(self.access(Operation::Read, Form::Sixteen, lba, blocks, &[]))
    }
}

/// Data-in of a command that must end GOOD.
#[track_caller]
pub(crate) fn good(completion: Completion) -> Vec<u8> {
    assert_eq!(completion.status, Status::GOOD, "{:?}", completion.decoded_sense());
    completion.data
}

/// The sense key and code of a command that must end with CHECK CONDITION.
#[track_caller]
pub(crate) fn refused(completion: &Completion) -> (SenseKey, AdditionalSense) {
    assert_eq!(completion.status, Status::CHECK_CONDITION);
    let sense = completion.decoded_sense().expect("sense data");
    (sense.key, sense.code)
}

/// Asserts ILLEGAL REQUEST with this code.
#[track_caller]
pub(crate) fn illegal(completion: &Completion, code: AdditionalSense) {
    assert_eq!(refused(completion), (SenseKey::ILLEGAL_REQUEST, code));
}
