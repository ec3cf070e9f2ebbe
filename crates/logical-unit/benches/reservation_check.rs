//! What the reservation check costs a command: nanoseconds with 1 and with 4,096 registrants, of the check
//! alone and of a 4 KiB READ that passes it. One line of JSON for each, for `cargo xtask bench`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops where it fails")]

use logical_unit::access::{AccessGate, Decision};
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use scsi::pr::{Key, ReservationType, request};
use scsi::{DataPhase, IscsiName, Isid, Request, TransportId};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const READ_4_KIB: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const CHECKS: u32 = 20_000_000;
const READS: u32 = 500_000;

fn attach(unit: &LogicalUnit, number: u64) -> NexusHandle {
    let name = IscsiName::new("iqn.2026-01.example:bench").unwrap();
    let [.., a, b, c, d, e, f] = number.to_be_bytes();
    let initiator = TransportId::iscsi(name, Isid([a, b, c, d, e, f]));
    unit.attach(&ItNexus { initiator, target_port: 1 })
}

fn send(unit: &LogicalUnit, nexus: &NexusHandle, request: &Request) {
    let DataPhase::Out(data) = &request.data else { return };
    assert!(unit.execute(nexus, &unit.begin(nexus, 1), &request.cdb, data).status.is_good());
}

/// A logical unit under Write Exclusive - Registrants Only with so many registrants, and one of them that
/// does not hold the reservation if there are several.
fn reserved(registrants: u64) -> (Arc<LogicalUnit>, NexusHandle) {
    let unit = LogicalUnit::open(&LunSpec::memory(64 << 20)).unwrap();
    let nexuses: Vec<_> = (0..registrants).map(|number| attach(&unit, number)).collect();
    for (key, nexus) in (1..).zip(&nexuses) {
        send(&unit, nexus, &request::register(Key(0), Key(key), false));
    }
    send(&unit, nexuses.first().unwrap(), &request::reserve(Key(1), ReservationType(5)));
    (Arc::clone(&unit), nexuses.last().unwrap().clone())
}

fn nanoseconds(count: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

fn main() {
    for registrants in [1, 4096] {
        let (unit, nexus) = reserved(registrants);
        let gate = AccessGate::new(unit.inspect(|state| state.standing(nexus.id())));
        let check = nanoseconds(CHECKS, || {
            let decision = black_box(&gate).decide(unit.profile(), black_box(&READ_4_KIB));
            assert_eq!(decision, Decision::Execute);
        });
        let read = nanoseconds(READS, || {
            let task = unit.begin(&nexus, 1);
            assert!(unit.execute(&nexus, &task, black_box(&READ_4_KIB), &[]).status.is_good());
        });
        println!(r#"{{"registrants":{registrants},"check_ns":{check:.1},"read_ns":{read:.1}}}"#);
    }
}
