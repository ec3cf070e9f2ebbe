//! The unit against the target of `iscsi` over loopback.

use super::*;
use ::iscsi::target::{Target as Server, TargetConfig};
use logical_unit::{Device, LogicalUnit};
use scsi::{AdditionalSense, IscsiName, Isid, SenseKey, Status};
use std::net::SocketAddr;
use std::thread;

const BLOCK: usize = 512;
const READY: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 8, 0, 0, 1, 0];

fn name(text: &str) -> IscsiName {
    IscsiName::new(text).unwrap()
}

fn device(luns: &[&str]) -> Device {
    Device::new(luns.iter().map(|lun| LogicalUnit::open(&lun.parse().unwrap()).unwrap()).collect())
}

fn serve(address: &str, device: &Device) -> Server {
    let address: SocketAddr = address.parse().unwrap();
    Server::bind(TargetConfig::new(address, name("iqn.2026-11.example:disk"), device.clone())).unwrap()
}

fn login(server: &Server, host: &str, patience: Duration) -> Arc<Target> {
    let portal = server.local_addr().to_string();
    let isid = Isid([0x80, 0, 0, 0, 0, 1]);
    let config = SessionConfig::new(portal, name("iqn.2026-11.example:disk"), name(host), isid);
    Target::login(config, patience).unwrap()
}

fn work(unit: &IscsiUnit, id: u64, cdb: &[u8], data_out: usize, data_in: usize) -> Box<dyn Work> {
    let mut padded = [0; 32];
    padded[..cdb.len()].copy_from_slice(cdb);
    match unit.admit(&Arrival { id, cdb: &padded, data_out, data_in }) {
        Admission::Work(work) => work,
        other => panic!("{other:?}"),
    }
}

fn run(unit: &IscsiUnit, cdb: &[u8], data_out: &[u8], data_in: usize) -> Ending {
    work(unit, 1, cdb, data_out.len(), data_in).run(data_out)
}

fn status(ending: Ending) -> Completion {
    let Ending::Status(completion) = ending else { panic!("{ending:?}") };
    completion
}

fn sense(ending: Ending) -> (SenseKey, AdditionalSense) {
    let sense = status(ending).decoded_sense().unwrap();
    (sense.key, sense.code)
}

/// Past the unit attentions of a login.
fn ready(unit: &IscsiUnit) {
    assert!((0..8).any(|_| status(run(unit, &READY, &[], 0)).status.is_good()));
}

fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain");
        thread::yield_now();
    }
}

#[test]
fn commands_pass_and_what_the_target_says_comes_back_as_it_is() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M"]));
    let target = login(&server, "iqn.a", PATIENCE);
    let unit = IscsiUnit::open(&target, 0).unwrap();
    ready(&unit);
    assert!(status(run(&unit, &WRITE, &[7; BLOCK], 0)).status.is_good());
    assert_eq!(status(run(&unit, &READ, &[], BLOCK)).data, [7; BLOCK]);
    let mut beyond = READ;
    beyond[2] = 0x7F;
    let out_of_range = (SenseKey::ILLEGAL_REQUEST, AdditionalSense::LBA_OUT_OF_RANGE);
    assert_eq!(sense(run(&unit, &beyond, &[], BLOCK)), out_of_range);
    assert!(matches!(IscsiUnit::open(&target, 9), Err(TargetError::NoLogicalUnit(9))));
}

#[test]
fn each_guest_is_an_initiator_port_of_its_own() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M"]));
    let targets = ["iqn.a", "iqn.b"].map(|host| login(&server, host, PATIENCE));
    let [a, b] = targets.each_ref().map(|target| IscsiUnit::open(target, 0).unwrap());
    ready(&a);
    ready(&b);
    assert!(status(run(&a, &[0x16, 0, 0, 0, 0, 0], &[], 0)).status.is_good());
    assert_eq!(status(run(&b, &WRITE, &[1; BLOCK], 0)).status, Status::RESERVATION_CONFLICT);
    assert!(status(run(&a, &WRITE, &[1; BLOCK], 0)).status.is_good());
}

#[test]
fn a_command_under_way_keeps_nobody_waiting_and_is_aborted_at_the_target() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M,delay=300s", "memory=1M"]));
    let target = login(&server, "iqn.a", PATIENCE);
    let quick = IscsiUnit::open(&target, 1).unwrap();
    // Its INQUIRY would take as long.
    let slow = slow_unit(&target);
    thread::scope(|scope| {
        let under_way = scope.spawn(|| work(&slow, 5, &WRITE, BLOCK, 0).run(&[1; BLOCK]));
        until(|| slow.0.tasks.under_way() == 1);
        ready(&quick);
        assert!(!under_way.is_finished());
        assert_eq!(slow.manage(Function::AbortTask(5)), Managed::Complete);
        assert_eq!(under_way.join().unwrap(), Ending::Aborted);
    });
    ready(&quick);
}

#[test]
fn a_reset_ends_what_is_under_way_and_says_so() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M,delay=300s"]));
    let target = login(&server, "iqn.a", PATIENCE);
    let slow = slow_unit(&target);
    thread::scope(|scope| {
        let under_way = scope.spawn(|| work(&slow, 5, &WRITE, BLOCK, 0).run(&[1; BLOCK]));
        until(|| slow.0.tasks.under_way() == 1);
        // Once more should it come before the command.
        until(|| {
            assert_eq!(slow.manage_without_waiting(), Managed::Complete);
            under_way.is_finished()
        });
        assert_eq!(under_way.join().unwrap(), Ending::Reset);
    });
    assert_eq!(slow.manage(Function::NexusReset), Managed::Rejected);
}

impl IscsiUnit {
    /// LOGICAL UNIT RESET at the target alone.
    fn manage_without_waiting(&self) -> Managed {
        self.0.resets.fetch_add(1, Ordering::AcqRel);
        let reset = self.0.target.present().unwrap().reset_logical_unit(self.0.lun);
        if reset.unwrap() == TaskResponse::FUNCTION_COMPLETE { Managed::Complete } else { Managed::Rejected }
    }
}

/// LUN 0, which takes its time.
fn slow_unit(target: &Arc<Target>) -> IscsiUnit {
    let unit = IscsiUnit::unseen(target, 0);
    unit.0.names.set(Names::new()).unwrap();
    unit.0.verified.store(1, Ordering::Release);
    unit
}

#[test]
fn a_lost_connection_is_made_anew_and_the_same_logical_unit_goes_on() {
    let (device, other) = (device(&["memory=1M"]), device(&["memory=1M"]));
    let server = serve("127.0.0.1:0", &device);
    let address = server.local_addr().to_string();
    let target = login(&server, "iqn.a", PATIENCE);
    let unit = IscsiUnit::open(&target, 0).unwrap();
    ready(&unit);
    assert!(status(run(&unit, &WRITE, &[7; BLOCK], 0)).status.is_good());
    server.shutdown();
    until(|| target.present().is_none());
    let server = serve(&address, &device);
    assert_eq!(status(run(&unit, &READ, &[], BLOCK)).data, [7; BLOCK]);
    server.shutdown();
    until(|| target.present().is_none());
    let _server = serve(&address, &other);
    let communication = AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE;
    assert_eq!(sense(run(&unit, &WRITE, &[8; BLOCK], 0)), (SenseKey::NOT_READY, communication));
}

#[test]
fn what_cannot_be_sent_is_lost_after_a_while_and_at_once_when_the_identity_is_given_away() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M"]));
    let target = login(&server, "iqn.a", Duration::from_millis(50));
    let unit = IscsiUnit::open(&target, 0).unwrap();
    ready(&unit);
    target.give_away().unwrap();
    until(|| server.connections() == 0);
    assert_eq!(run(&unit, &READY, &[], 0), Ending::Lost);
    assert_eq!(server.connections(), 0, "nobody has logged in again");
    target.take_back();
    ready(&unit);
    server.shutdown();
    until(|| target.present().is_none());
    assert_eq!(run(&unit, &READY, &[], 0), Ending::Lost);
}

#[test]
fn nobody_logs_in_to_a_target_that_is_still_another_hosts() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M"]));
    let (portal, target) = (server.local_addr().to_string(), name("iqn.2026-11.example:disk"));
    let config = SessionConfig::new(portal, target, name("iqn.a"), Isid([0x80, 0, 0, 0, 0, 1]));
    let target = Target::away(config, Duration::from_millis(50));
    let unit = IscsiUnit::unseen(&target, 0);
    assert_eq!(run(&unit, &READY, &[], 0), Ending::Lost);
    assert!(unit.identify().is_err());
    assert_eq!((server.connections(), target.is_connected()), (0, false));
    target.take_back();
    ready(&unit);
    assert_eq!(unit.identify().unwrap().unwrap().port.initiator, Some(target.initiator_port()));
}

#[test]
fn logins_that_fail_become_rarer_until_one_succeeds() {
    let device = device(&["memory=1M"]);
    let server = serve("127.0.0.1:0", &device);
    let address = server.local_addr().to_string();
    let target = login(&server, "iqn.a", PATIENCE);
    server.shutdown();
    until(|| target.present().is_none());
    for expected in [PAUSE, PAUSE * 2, PAUSE * 4] {
        assert_eq!(target.lock().pause, expected);
        assert!(target.enter().is_err());
    }
    target.lock().pause = LONGEST_PAUSE;
    assert!(target.enter().is_err());
    assert_eq!(target.lock().pause, LONGEST_PAUSE);
    let _server = serve(&address, &device);
    target.enter().unwrap();
    assert_eq!(target.lock().pause, PAUSE);
}

#[test]
fn what_ends_with_the_session_is_known_before_it_ends() {
    let [reserve, release] = [0x16, 0x17].map(|code: u8| [code, 0, 0, 0, 0, 0]);
    let device = device(&["memory=1M"]);
    let server = serve("127.0.0.1:0", &device);
    let address = server.local_addr().to_string();
    let target = login(&server, "iqn.a", PATIENCE);
    let unit = IscsiUnit::open(&target, 0).unwrap();
    ready(&unit);
    let reserves = || assert!(status(run(&unit, &reserve, &[], 0)).status.is_good());
    assert!(!unit.is_reserved());
    reserves();
    assert!(unit.is_reserved());
    assert!(status(run(&unit, &release, &[], 0)).status.is_good());
    assert!(!unit.is_reserved());
    reserves();
    assert_eq!(unit.manage(Function::LogicalUnitReset), Managed::Complete);
    assert!(!unit.is_reserved());
    ready(&unit);
    reserves();
    server.shutdown();
    until(|| target.present().is_none());
    let _server = serve(&address, &device);
    ready(&unit);
    assert!(!unit.is_reserved());
}

#[test]
fn the_unit_attentions_that_wait_are_taken_and_those_of_a_login_are_told_from_others() {
    let device = device(&["memory=1M"]);
    let server = serve("127.0.0.1:0", &device);
    let target = login(&server, "iqn.a", PATIENCE);
    let unit = IscsiUnit::open(&target, 0).unwrap();
    ready(&unit);
    assert!(matches!(unit.take_attentions(), (none, Ok(())) if none.is_empty()));
    assert_eq!(unit.manage(Function::LogicalUnitReset), Managed::Complete);
    let (taken, ended) = unit.take_attentions();
    ended.unwrap();
    let codes: Vec<_> = taken.iter().map(|sense| scsi::Sense::parse(sense).unwrap().code).collect();
    assert_eq!(codes, [AdditionalSense::TARGET_RESET]);
    assert!(!is_of_a_login(&taken[0]));
    let told = |code| is_of_a_login(&Completion::check(&scsi::Sense::unit_attention(code)).sense);
    assert!(told(AdditionalSense::NEXUS_LOSS) && told(AdditionalSense::POWER_ON_OR_RESET));
    assert!(!told(AdditionalSense::REGISTRATIONS_PREEMPTED) && !told(AdditionalSense::POWER_ON));
    assert!(matches!(unit.take_attentions(), (none, Ok(())) if none.is_empty()));
    server.shutdown();
    target.give_away().unwrap_or(());
    assert!(unit.take_attentions().1.is_err());
}

#[test]
fn a_parameter_list_that_the_guest_has_not_all_of_is_known_before_anything_is_sent() {
    let server = serve("127.0.0.1:0", &device(&["memory=1M"]));
    let unit = IscsiUnit::open(&login(&server, "iqn.a", PATIENCE), 0).unwrap();
    assert_eq!(unit.data_out_length(&[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), Some(24));
    assert_eq!(unit.data_out_length(&WRITE), None, "how long its blocks are it alone knows");
}

#[test]
fn a_logout_that_was_not_confirmed_is_not_taken_for_one_later() {
    let device = device(&["memory=1M"]);
    let server = serve("127.0.0.1:0", &device);
    let address = server.local_addr().to_string();
    let target = login(&server, "iqn.a", PATIENCE);
    drop(server);
    for _ in 0..2 {
        assert!(target.give_away().is_err());
    }
    let server = serve(&address, &device);
    // By now the guest is elsewhere.
    let elsewhere = login(&server, "iqn.a", PATIENCE);
    target.leave().unwrap();
    assert!(elsewhere.give_away().is_ok(), "who leaves makes no session, which would end that one");
    target.give_away().unwrap();
    assert!(!target.is_connected());
}
