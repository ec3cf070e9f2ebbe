//! The unit as a queue drives it, against [`LogicalUnit::execute`] on a twin: the same answers and the same medium; and
//! what others do to transfers under way.

use super::*;
use proptest::prelude::*;
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, DataPhase, SenseKey};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BLOCK: usize = 512;

/// Buffered: what these tests move is not aligned.
fn file(folder: &TempDir, name: &str) -> Arc<LogicalUnit> {
    let spec = format!("file={},size=2M,direct=off", folder.path().join(name).display());
    open(&spec.parse().unwrap()).unwrap()
}

fn guest(unit: &Arc<LogicalUnit>, vm: &str) -> Emulated {
    Emulated::attach(unit, initiator_port(vm).unwrap())
}

fn admit(guest: &Emulated, id: u64, cdb: &[u8], data_out: usize, data_in: usize) -> Admission {
    // As from a ring: `cdb_size` bytes, the rest zeros.
    let mut padded = [0; 32];
    padded[..cdb.len()].copy_from_slice(cdb);
    guest.admit(&Arrival { id, cdb: &padded, data_out, data_in })
}

/// What a queue does: gives the status and all data-in that there is room for.
fn run(guest: &Emulated, cdb: &[u8], data_out: &[u8], data_in: usize) -> Ending {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut ending = match admit(guest, id, cdb, data_out.len(), data_in) {
        Admission::Ended(ending) => ending,
        Admission::Work(work) => {
            let taken = work.data_out();
            work.run(&data_out[..taken])
        }
        Admission::Transfer(transfer) => carry_out(transfer, data_out),
    };
    if let Ending::Status(completion) = &mut ending {
        completion.data.truncate(data_in);
    }
    ending
}

fn carry_out(transfer: Transfer, data_out: &[u8]) -> Ending {
    let Transfer { medium, operation, offset, length, finish, .. } = transfer;
    let file = File::from(medium.try_clone().unwrap());
    let mut data = vec![0; if operation == Operation::Read { length } else { 0 }];
    let result = match operation {
        Operation::Read => file.read_exact_at(&mut data, offset),
        Operation::Write { .. } => file.write_all_at(&data_out[..length], offset),
        Operation::Flush => file.sync_data(),
    };
    match finish.finish(result) {
        Finished::Ended(Ending::Status(completion)) => Ending::Status(Completion { data, ..completion }),
        other => panic!("{other:?}"),
    }
}

fn good(ending: Ending) -> Vec<u8> {
    match ending {
        Ending::Status(completion) if completion.status.is_good() => completion.data,
        other => panic!("{other:?}"),
    }
}

fn refused(ending: &Ending) -> (SenseKey, AdditionalSense) {
    let Ending::Status(completion) = ending else { panic!("{ending:?}") };
    let sense = completion.decoded_sense().unwrap();
    (sense.key, sense.code)
}

fn send(guest: &Emulated, request: &scsi::Request) -> Ending {
    match &request.data {
        DataPhase::Out(data) => run(guest, &request.cdb, data, 0),
        DataPhase::In(length) => run(guest, &request.cdb, &[], *length),
        DataPhase::None => run(guest, &request.cdb, &[], 0),
    }
}

fn cdb_10(code: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![code, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

const READ: u8 = 0x28;
const WRITE: u8 = 0x2A;
const SYNCHRONIZE_CACHE: u8 = 0x35;

/// Commands of two guests, with mistakes: past the end, flags that are refused, too little data, no room.
fn command() -> impl Strategy<Value = (bool, Vec<u8>, Vec<u8>, usize)> {
    let code = prop_oneof![
        4 => Just(READ), 4 => Just(WRITE), 1 => Just(SYNCHRONIZE_CACHE),
        // TEST UNIT READY, INQUIRY, READ CAPACITY(10), VERIFY, WRITE SAME, RESERVE(6), RELEASE(6), START STOP UNIT.
        1 => prop::sample::select(vec![0x00, 0x12, 0x25, 0x2F, 0x41, 0x16, 0x17, 0x1B]),
        // A SANITIZE goes on beside later commands; how a file lies on its disk is not the same for two.
        1 => any::<u8>().prop_filter("not repeatable", |code| ![0x48, 0x9E].contains(code)),
    ];
    let flags = prop_oneof![8 => Just(0_u8), 1 => Just(0x08), 1 => Just(0x18), 1 => any::<u8>()];
    let lba = prop_oneof![6 => 0..4096_u32, 1 => 4090..4100_u32, 1 => any::<u32>()];
    let blocks = prop_oneof![8 => 0..9_u16, 1 => any::<u16>()];
    let short = prop_oneof![6 => Just(0_usize), 1 => 0..1024_usize, 1 => Just(512)];
    (any::<bool>(), code, flags, lba, blocks, short, any::<u8>()).prop_map(
        |(second, code, flags, lba, blocks, short, fill)| {
            let mut cdb = cdb_10(code, lba, blocks);
            cdb[1] = flags;
            let length = (usize::from(blocks) * BLOCK).min(8192);
            let data_out = if code == READ { Vec::new() } else { vec![fill; length.saturating_sub(short)] };
            (second, cdb, data_out, length.saturating_sub(short).max(36))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_queue_and_the_device_server_give_the_same_answers_and_the_same_medium(
        commands in prop::collection::vec(command(), 1..40),
        write_exclusive in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (queued, executed) = (file(&folder, "a"), file(&folder, "b"));
        let guests = [guest(&queued, "one"), guest(&queued, "two")];
        let twins = [guest(&executed, "one"), guest(&executed, "two")];
        if write_exclusive {
            for unit in [&guests, &twins] {
                good(send(&unit[0], &request::register(Key(0), Key(1), false)));
                good(send(&unit[0], &request::reserve(Key(1), ReservationType(1))));
            }
        }
        for (second, cdb, data_out, data_in) in commands {
            let ending = run(&guests[usize::from(second)], &cdb, &data_out, data_in);
            let twin = &twins[usize::from(second)];
            let task = executed.begin(&twin.nexus, 0);
            let mut padded = cdb.clone();
            padded.resize(32, 0);
            let named = executed.data_out_length(&padded).unwrap_or(0);
            let taken = usize::try_from(named).unwrap().min(data_out.len());
            let mut wanted = executed.execute(&twin.nexus, &task, &padded, &data_out[..taken]);
            wanted.data.truncate(data_in);
            // The names of the two files differ.
            if cdb[0] != 0x12 {
                prop_assert_eq!(ending, Ending::Status(wanted), "{:02x?}", cdb);
            }
        }
        let medium = |name| std::fs::read(folder.path().join(name)).unwrap();
        prop_assert!(medium("a") == medium("b"));
    }
}

/// What the last function left for the next commands.
fn take_attentions(guest: &Emulated) {
    let ready = |ending| matches!(ending, Ending::Status(completion) if completion.status.is_good());
    assert!((0..8).any(|_| ready(run(guest, &[0; 6], &[], 0))));
}

fn write_under_way(guest: &Emulated, id: u64) -> Transfer {
    match admit(guest, id, &cdb_10(WRITE, 0, 1), BLOCK, 0) {
        Admission::Transfer(transfer) => transfer,
        other => panic!("{other:?}"),
    }
}

/// Runs `action` on a thread, sees that it waits, ends the transfer, sees that it goes on.
fn waits_for(transfer: Transfer, action: impl FnOnce() + Send) {
    let mut transfer = Some(transfer);
    thread::scope(|scope| {
        let waiting = scope.spawn(action);
        // Long enough for one that does not wait to be done; one that does is still there whenever we look.
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            assert!(!waiting.is_finished(), "the transfer is still on the medium");
            thread::yield_now();
        }
        let ending = carry_out(transfer.take().unwrap(), &[7; BLOCK]);
        good(ending);
        waiting.join().unwrap();
    });
}

#[test]
fn preempt_and_abort_of_another_guest_waits_for_a_transfer_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let unit = file(&folder, "lun");
    let (a, b) = (guest(&unit, "a"), guest(&unit, "b"));
    good(send(&a, &request::register(Key(0), Key(1), false)));
    good(send(&b, &request::register(Key(0), Key(2), false)));
    good(send(&a, &request::reserve(Key(1), ReservationType(5))));
    let mut preempt = request::preempt(Key(1), Key(2), ReservationType(5));
    preempt.cdb[1] = 5;
    waits_for(write_under_way(&b, 1), || drop(good(send(&a, &preempt))));
    // A conflict goes before the unit attention that tells of it (SAM-5 5.3.3).
    let fenced = run(&b, &cdb_10(WRITE, 0, 1), &[1; BLOCK], 0);
    assert_eq!(fenced, Ending::Status(Completion::status(Status::RESERVATION_CONFLICT)));
    let told = (SenseKey::UNIT_ATTENTION, AdditionalSense::REGISTRATIONS_PREEMPTED);
    assert_eq!(refused(&run(&b, &[0; 6], &[], 0)), told);
    assert_eq!(good(run(&a, &cdb_10(READ, 0, 1), &[], BLOCK)), [7; BLOCK]);
}

#[test]
fn every_function_that_ends_commands_waits_for_a_transfer_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let unit = file(&folder, "lun");
    let (a, b) = (guest(&unit, "a"), guest(&unit, "b"));
    use Function::{AbortTask, AbortTaskSet, ClearTaskSet, LogicalUnitReset, NexusReset};
    for (who, function) in
        [(&a, AbortTask(9)), (&a, AbortTaskSet), (&a, NexusReset), (&b, ClearTaskSet), (&b, LogicalUnitReset)]
    {
        take_attentions(&a);
        waits_for(write_under_way(&a, 9), || assert_eq!(who.manage(function), Managed::Complete));
    }
}

#[test]
fn a_command_that_waits_for_a_thread_ends_as_it_was_ended() {
    let folder = tempfile::tempdir().unwrap();
    let unit = file(&folder, "lun");
    let guest = guest(&unit, "a");
    let compare_and_write = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    for (function, ending) in [
        (Function::AbortTask(5), Ending::Aborted),
        (Function::AbortTaskSet, Ending::Aborted),
        (Function::LogicalUnitReset, Ending::Reset),
    ] {
        take_attentions(&guest);
        let Admission::Work(work) = admit(&guest, 5, &compare_and_write, 2 * BLOCK, 0) else { panic!() };
        assert_eq!(work.data_out(), 2 * BLOCK);
        guest.manage(function);
        assert_eq!(work.run(&[[0; BLOCK], [1; BLOCK]].concat()), ending);
    }
    take_attentions(&guest);
    assert_eq!(
        good(run(&guest, &cdb_10(READ, 0, 1), &[], BLOCK)),
        [0; BLOCK],
        "none of them reached the medium"
    );
}

#[test]
fn a_reset_of_the_nexus_tells_it_and_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let unit = file(&folder, "lun");
    let (a, b) = (guest(&unit, "a"), guest(&unit, "b"));
    good(run(&a, &[0x16, 0, 0, 0, 0, 0], &[], 0));
    a.manage(Function::NexusReset);
    assert_eq!(refused(&run(&a, &[0; 6], &[], 0)), (SenseKey::UNIT_ATTENTION, AdditionalSense::NEXUS_LOSS));
    good(run(&a, &[0; 6], &[], 0));
    good(run(&b, &[0; 6], &[], 0));
}

#[test]
fn a_transfer_that_an_atomic_command_waits_for_does_not_make_the_queue_wait() {
    let folder = tempfile::tempdir().unwrap();
    let unit = file(&folder, "lun");
    let guest = guest(&unit, "a");
    let compare_and_write = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    let transfer = write_under_way(&guest, 1);
    thread::scope(|scope| {
        let atomic = scope.spawn(|| run(&guest, &compare_and_write, &[[7; BLOCK], [8; BLOCK]].concat(), 0));
        let deadline = Instant::now() + Duration::from_secs(10);
        // As soon as the atomic command waits, later transfers are no longer the queue's; it never waits here.
        while matches!(admit(&guest, 2, &cdb_10(READ, 0, 1), 0, BLOCK), Admission::Transfer(_)) {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        assert!(!atomic.is_finished());
        good(carry_out(transfer, &[7; BLOCK]));
        good(atomic.join().unwrap());
    });
    assert_eq!(good(run(&guest, &cdb_10(READ, 0, 1), &[], BLOCK)), [8; BLOCK]);
}

#[test]
fn a_medium_that_fails_is_told_by_sense() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(&file(&folder, "lun"), "a");
    let failed = |cdb: &[u8], error| match admit(&guest, 1, cdb, BLOCK, BLOCK) {
        Admission::Transfer(transfer) => match transfer.finish.finish(Err(io::Error::from(error))) {
            Finished::Ended(ending) => refused(&ending),
            Finished::Work(work) => panic!("{work:?}"),
        },
        other => panic!("{other:?}"),
    };
    let other = io::ErrorKind::Other;
    let unread = (SenseKey::MEDIUM_ERROR, AdditionalSense::UNRECOVERED_READ_ERROR);
    assert_eq!(failed(&cdb_10(READ, 0, 1), other), unread);
    assert_eq!(failed(&cdb_10(WRITE, 0, 1), other), (SenseKey::MEDIUM_ERROR, AdditionalSense::WRITE_ERROR));
    let full = (SenseKey::DATA_PROTECT, AdditionalSense::SPACE_ALLOCATION_FAILED);
    assert_eq!(failed(&cdb_10(WRITE, 0, 1), io::ErrorKind::StorageFull), full);
    assert_eq!(failed(&cdb_10(SYNCHRONIZE_CACHE, 0, 0), other).0, SenseKey::MEDIUM_ERROR);
}

#[test]
fn a_write_is_durable_with_fua_and_without_a_write_cache() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(&file(&folder, "lun"), "a");
    let durable = |cdb: &[u8]| match admit(&guest, 1, cdb, BLOCK, 0) {
        Admission::Transfer(Transfer { operation: Operation::Write { durable }, .. }) => durable,
        other => panic!("{other:?}"),
    };
    let (write, mut fua) = (cdb_10(WRITE, 0, 1), cdb_10(WRITE, 0, 1));
    fua[1] = 0x08;
    assert!(!durable(&write) && durable(&fua));
    // MODE SELECT(6), Caching page with WCE = 0.
    let mut list = vec![0, 0, 0, 0, 0x08, 0x12];
    list.resize(24, 0);
    good(run(&guest, &[0x15, 0x10, 0, 0, 24, 0], &list, 0));
    assert!(durable(&write));
}

#[test]
fn the_initiator_port_follows_from_the_name_of_the_vm_alone() {
    let name = |vm: &str| match initiator_port(vm) {
        Some(TransportId::Iscsi { name, isid: Some(Isid([0x80, 0, 0, 0, 0, 0])) }) => name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(name("db-1.example"), "iqn.2026-01.invalid.tenure:vm:db-1.example");
    assert_eq!(name("DB 1"), format!("iqn.2026-01.invalid.tenure:vm:db-1:{:016x}", number("DB 1")));
    assert_ne!(name("DB 1"), name("db 1"));
    let long = "x".repeat(1000);
    assert_ne!(name(&long), name(&format!("{long}y")));
    assert_eq!(initiator_port(&long).unwrap().to_bytes().len() % 4, 0);
    assert_eq!(initiator_port(""), None);
}
