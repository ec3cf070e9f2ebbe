//! A whole logical unit in memory under arbitrary command sequences, in every profile: every command is
//! answered, and sense data comes with CHECK CONDITION alone.
#![no_main]

use fuzz::command::Step;
use fuzz::names::{NEXUSES, nexus};
use libfuzzer_sys::fuzz_target;
use logical_unit::{LogicalUnit, LunSpec, NexusHandle, Profile};
use scsi::{DataPhase, Sense, Status};

fn step(unit: &LogicalUnit, nexuses: &mut [NexusHandle], step: &Step) {
    let at = |number: &u8| usize::from(number % NEXUSES);
    match step {
        Step::Command(sender, command) => {
            let request = command.request();
            let data = if let DataPhase::Out(data) = &request.data { data.as_slice() } else { &[] };
            let task = unit.begin(&nexuses[at(sender)], 1);
            let done = unit.execute(&nexuses[at(sender)], &task, &request.cdb, data);
            assert_eq!(Sense::parse(&done.sense).is_some(), done.status == Status::CHECK_CONDITION);
        }
        Step::Lost(number) => unit.nexus_lost(&nexuses[at(number)]),
        Step::Attach(number) => nexuses[at(number)] = unit.attach(&nexus(*number)),
        Step::Reset => unit.reset(),
        Step::TargetReset => unit.target_reset(),
        Step::PowerCycle => unit.power_cycle(),
        Step::LoseReservations => unit.lose_reservation_information(),
    }
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (profile, steps) = input;
    let profile = Profile::ALL[usize::from(profile) % Profile::ALL.len()];
    let spec: LunSpec = format!("memory=1M,profile={}", profile.name).parse().expect("a legal specification");
    let unit = LogicalUnit::open(&spec).expect("memory can be had");
    unit.identify("iqn.2026-01.example:target", &[1, 2]);
    let mut nexuses: Vec<NexusHandle> = (0..NEXUSES).map(|number| unit.attach(&nexus(number))).collect();
    for one in steps.iter().take(128) {
        step(&unit, &mut nexuses, one);
    }
});
