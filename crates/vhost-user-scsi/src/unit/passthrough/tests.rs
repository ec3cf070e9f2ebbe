//! Pass-through against a device of our own that can be taken away, exchanged and brought back.

use super::*;
use logical_unit::{ItNexus, LogicalUnit, LunSpec, NexusHandle};
use scsi::{DataPhase, IscsiName, Isid, TransportId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const BLOCK: usize = 512;
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 8, 0, 0, 1, 0];
const READY: [u8; 6] = [0; 6];

/// What stands at the path.
#[derive(Clone, Debug)]
enum Stands {
    Unit(Arc<LogicalUnit>, PathBuf),
    Nothing,
}

#[derive(Debug)]
struct Host(Arc<Mutex<Stands>>);

#[derive(Debug)]
struct Fake {
    host: Arc<Mutex<Stands>>,
    unit: Arc<LogicalUnit>,
    nexus: NexusHandle,
    disk: Disk,
}

impl Open for Host {
    fn open(&self, _path: &Path) -> io::Result<Box<dyn Device>> {
        let Stands::Unit(unit, file) = self.0.lock().unwrap().clone() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let name = IscsiName::new("iqn.2026-01.example:hba").unwrap();
        let initiator = TransportId::iscsi(name, Isid([0x80, 0, 0, 0, 0, 1]));
        let nexus = unit.attach(&ItNexus { initiator, target_port: 1 });
        let file = File::options().read(true).write(true).open(file)?;
        let disk = Disk { medium: Arc::new(file.into()), block: 512, alignment: 512, most: 64 << 10 };
        Ok(Box::new(Fake { host: Arc::clone(&self.0), unit, nexus, disk }))
    }
}

impl Device for Fake {
    fn send(&self, request: &Request, _timeout: Duration) -> Result<Completion, TransportError> {
        match &*self.host.lock().unwrap() {
            Stands::Unit(unit, _) if Arc::ptr_eq(unit, &self.unit) => {}
            _ => return Err(TransportError::NotSent(rustix::io::Errno::NXIO.into())),
        }
        let data: &[u8] = if let DataPhase::Out(data) = &request.data { data } else { &[] };
        Ok(self.unit.execute(&self.nexus, &self.unit.begin(&self.nexus, 1), &request.cdb, data))
    }

    fn reset(&self) -> io::Result<()> {
        self.unit.reset();
        Ok(())
    }

    fn disk(&self) -> Option<&Disk> {
        Some(&self.disk)
    }
}

struct World {
    folder: TempDir,
    stands: Arc<Mutex<Stands>>,
    guest: Passthrough,
}

fn unit(folder: &TempDir, name: &str) -> Stands {
    let path = folder.path().join(name);
    let spec: LunSpec = format!("file={},size=1M", path.display()).parse().unwrap();
    Stands::Unit(LogicalUnit::open(&spec).unwrap(), path)
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stands = Arc::new(Mutex::new(unit(&folder, "lun")));
        let opener = Box::new(Host(Arc::clone(&stands)));
        let guest = Passthrough::open_with(Path::new("/dev/sdx"), opener).unwrap();
        Self { folder, stands, guest }
    }

    fn put(&self, stands: Stands) -> Stands {
        std::mem::replace(&mut *self.stands.lock().unwrap(), stands)
    }

    fn admit(&self, cdb: &[u8], data_out: usize, data_in: usize) -> Admission {
        let mut padded = [0; 32];
        padded[..cdb.len()].copy_from_slice(cdb);
        self.guest.admit(&Arrival { id: 7, cdb: &padded, data_out, data_in })
    }

    fn transfer(&self, cdb: &[u8]) -> Transfer {
        match self.admit(cdb, BLOCK, 0) {
            Admission::Transfer(transfer) => transfer,
            other => panic!("{other:?}"),
        }
    }

    fn work(&self, cdb: &[u8], data_out: &[u8], data_in: usize) -> Ending {
        match self.admit(cdb, data_out.len(), data_in) {
            Admission::Work(work) => work.run(data_out),
            other => panic!("{other:?}"),
        }
    }

    /// A device that was found gone is looked for again after `pause`.
    fn look_after(&self, pause: Duration) {
        if let Place::Gone { again, .. } = &mut *self.guest.0.lock() {
            *again = Instant::now() + pause;
        }
    }
}

fn status(ending: &Ending) -> Completion {
    let Ending::Status(completion) = ending else { panic!("{ending:?}") };
    completion.clone()
}

fn sense(ending: &Ending) -> (SenseKey, AdditionalSense) {
    let sense = status(ending).decoded_sense().unwrap();
    (sense.key, sense.code)
}

#[test]
fn a_plain_transfer_goes_to_the_block_node_and_all_else_to_the_device() {
    let world = World::new();
    let transfer = world.transfer(&WRITE);
    assert_eq!((transfer.operation, transfer.offset), (Operation::Write { durable: false }, 4096));
    assert_eq!((transfer.length, transfer.alignment), (BLOCK, 512));
    File::from(transfer.medium.try_clone().unwrap()).write_all_at(&[7; BLOCK], 4096).unwrap();
    let Finished::Ended(ending) = transfer.finish.finish(Ok(())) else { panic!() };
    assert_eq!(ending, Ending::Status(Completion::good(Vec::new())));
    let mut verify = READ;
    verify[1] = 0x08;
    assert_eq!(status(&world.work(&verify, &[], BLOCK)).data, [7; BLOCK], "READ with FUA is not plain");
    assert!(matches!(world.admit(&READ, 0, BLOCK - 1), Admission::Work(_)), "there is no room");
    assert!(status(&world.work(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0)).status.is_good());
}

#[test]
fn a_transfer_that_failed_is_done_again_for_its_exact_status() {
    let world = World::new();
    let error = || Err(io::Error::from(io::ErrorKind::Other));
    let Finished::Work(work) = world.transfer(&WRITE).finish.finish(error()) else { panic!() };
    assert_eq!(work.data_out(), BLOCK);
    assert!(status(&work.run(&[9; BLOCK])).status.is_good());
    let mut beyond = WRITE;
    beyond[2] = 0x7F;
    let Finished::Work(work) = world.transfer(&beyond).finish.finish(error()) else { panic!() };
    let ending = work.run(&[9; BLOCK]);
    assert_eq!(sense(&ending), (SenseKey::ILLEGAL_REQUEST, AdditionalSense::LBA_OUT_OF_RANGE));
}

#[test]
fn a_device_that_has_gone_is_not_ready_and_comes_back_with_a_unit_attention() {
    let world = World::new();
    assert!(status(&world.work(&READY, &[], 0)).status.is_good());
    let before = world.put(Stands::Nothing);
    let not_ready = (SenseKey::NOT_READY, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE);
    assert_eq!(sense(&world.work(&READY, &[], 0)), not_ready);
    assert!(matches!(world.admit(&READ, 0, BLOCK), Admission::Work(_)), "its block node is of no use now");
    assert_eq!(sense(&world.work(&READ, &[], BLOCK)), not_ready);
    // Another logical unit under the same path is none of the guest's.
    world.put(unit(&world.folder, "other"));
    world.look_after(Duration::ZERO);
    assert_eq!(sense(&world.work(&WRITE, &[1; BLOCK], 0)), not_ready);
    assert_eq!(std::fs::read(world.folder.path().join("other")).unwrap(), vec![0; 1 << 20]);
    world.put(before);
    world.look_after(Duration::from_secs(600));
    assert_eq!(sense(&world.work(&READY, &[], 0)), not_ready, "not looked for with every command");
    world.look_after(Duration::ZERO);
    let inquiry = world.work(&[0x12, 0, 0, 0, 36, 0], &[], 36);
    assert!(status(&inquiry).status.is_good(), "INQUIRY takes no unit attention");
    assert!(matches!(world.admit(&READ, 0, BLOCK), Admission::Work(_)), "nor does a transfer pass it");
    let told = (SenseKey::UNIT_ATTENTION, AdditionalSense::POWER_ON_OR_RESET);
    assert_eq!(sense(&world.work(&READ, &[], BLOCK)), told);
    assert!(matches!(world.admit(&READ, 0, BLOCK), Admission::Transfer(_)));
}

#[test]
fn an_aborted_command_never_reaches_the_device_and_a_reset_does() {
    let world = World::new();
    let compare_and_write = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    for (function, ending) in [
        (Function::AbortTask(7), Ending::Aborted),
        (Function::AbortTaskSet, Ending::Aborted),
        (Function::LogicalUnitReset, Ending::Reset),
    ] {
        let Admission::Work(work) = world.admit(&compare_and_write, 2 * BLOCK, 0) else { panic!() };
        assert_eq!(world.guest.manage(function), Managed::Complete);
        assert_eq!(work.run(&[1; 2 * BLOCK]), ending);
    }
    let told = (SenseKey::UNIT_ATTENTION, AdditionalSense::TARGET_RESET);
    assert_eq!(sense(&world.work(&READY, &[], 0)), told);
    assert_eq!(world.guest.manage(Function::NexusReset), Managed::Rejected);
    assert_eq!(world.guest.manage(Function::ClearTaskSet), Managed::Rejected);
    world.put(Stands::Nothing);
    world.work(&READY, &[], 0);
    assert_eq!(world.guest.manage(Function::LogicalUnitReset), Managed::Lost);
}

#[test]
fn an_abort_waits_for_a_transfer_under_way() {
    let world = World::new();
    let transfer = world.transfer(&WRITE);
    std::thread::scope(|scope| {
        let abort = scope.spawn(|| world.guest.manage(Function::AbortTask(7)));
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            assert!(!abort.is_finished());
            std::thread::yield_now();
        }
        // It failed meanwhile: it is not done again for a guest that has given it up.
        let Finished::Work(work) = transfer.finish.finish(Err(io::ErrorKind::Other.into())) else { panic!() };
        assert_eq!(work.run(&[1; BLOCK]), Ending::Aborted);
        assert_eq!(abort.join().unwrap(), Managed::Complete);
    });
    assert_eq!(status(&world.work(&READ, &[], BLOCK - 1)).data.len(), BLOCK);
}

#[test]
fn the_guest_is_told_what_sg_io_moves_at_once() {
    let world = World::new();
    let told = status(&world.work(&[0x12, 1, 0xB0, 0, 64, 0], &[], 64)).data;
    assert_eq!(told[8..12], 128_u32.to_be_bytes());
    assert_eq!(told[12..16], 128_u32.to_be_bytes());
    let standard = status(&world.work(&[0x12, 0, 0, 0, 36, 0], &[], 36)).data;
    assert_eq!(standard[8..14], *b"TENURE");
    let none = Completion::good(vec![0; 64]);
    let cdb = [0x12, 1, 0xB0, 0, 64, 0];
    assert_eq!(limited(&cdb, none.clone(), 9).data[8..16], [0, 0, 0, 9, 0, 0, 0, 0]);
    assert_eq!(limited(&cdb, Completion::good(vec![0; 10]), 9).data, [0; 10]);
}

#[test]
fn what_the_kernel_refuses_is_told_by_sense() {
    use rustix::io::Errno;
    let illegal = |ending| sense(&ending).0 == SenseKey::ILLEGAL_REQUEST;
    assert!(illegal(not_taken(&Errno::PERM.into())) && illegal(not_taken(&Errno::INVAL.into())));
    assert_eq!(status(&not_taken(&Errno::BUSY.into())).status, Status::BUSY);
    assert_eq!(sense(&not_taken(&Errno::IO.into())).0, SenseKey::HARDWARE_ERROR);
    assert!(is_gone(&Errno::NODEV.into()) && is_gone(&io::ErrorKind::NotConnected.into()));
    assert!(!is_gone(&Errno::IO.into()));
}

/// The ledger's guest, and a guard that keeps it for the world's disk.
fn keep(world: &World) -> Arc<ledger::Guest> {
    let state = world.folder.path().join("state");
    std::fs::create_dir_all(&state).unwrap();
    let book = ledger::Ledger::open(&state).unwrap().guest(&ledger::Owner("db".into())).unwrap();
    let book = Arc::new(book);
    let guard = Arc::new(guard::Guard::new(Box::new(Arc::clone(&book))));
    world.guest.keep(Keeper::new(guard, world.guest.identify().unwrap().unwrap(), true));
    book
}

fn out(world: &World, request: &Request) -> Status {
    let DataPhase::Out(list) = &request.data else { panic!("{request:?}") };
    status(&world.work(&request.cdb, list, 0)).status
}

#[test]
fn what_the_guest_of_a_disk_registers_is_recorded_and_asked_for_when_the_disk_was_away() {
    use scsi::pr::{Key, ReservationType, request};
    let (world, key, kind) = (World::new(), Key(7), ReservationType(5));
    let book = keep(&world);
    let tracked = || {
        let record = book.records().pop().unwrap();
        let path = record.paths.first().unwrap();
        (record.standing(), path.tracked.key, path.tracked.held)
    };
    assert!(status(&world.work(&READY, &[], 0)).status.is_good());
    assert_eq!(out(&world, &request::register(Key::NONE, key, false)), Status::GOOD);
    assert_eq!(out(&world, &request::reserve(key, kind)), Status::GOOD);
    assert_eq!(tracked(), (ledger::State::Active, Some(key), Some(kind)));
    assert!(matches!(world.admit(&READ, 0, BLOCK), Admission::Work(_)), "it may be owed something");
    assert!(status(&world.work(&READ, &[], BLOCK)).status.is_good());
    assert!(matches!(world.admit(&READ, 0, BLOCK), Admission::Transfer(_)), "it is not: the fast path again");
    let before = world.put(Stands::Nothing);
    let not_ready = (SenseKey::NOT_READY, AdditionalSense::LOGICAL_UNIT_COMMUNICATION_FAILURE);
    assert_eq!(sense(&world.work(&READY, &[], 0)), not_ready);
    // Meanwhile it is fenced; its nexus, a new one to this device, hears nothing of it.
    let Stands::Unit(unit, _) = &before else { panic!() };
    let other = TransportId::iscsi(IscsiName::new("iqn.b").unwrap(), Isid([0x80, 0, 0, 0, 0, 2]));
    let other = unit.attach(&ItNexus { initiator: other, target_port: 1 });
    for request in [request::register(Key::NONE, Key(9), false), request::preempt(Key(9), key, kind)] {
        let DataPhase::Out(list) = &request.data else { panic!() };
        while !unit.execute(&other, &unit.begin(&other, 1), &request.cdb, list).status.is_good() {}
    }
    world.put(before);
    world.look_after(Duration::ZERO);
    for _ in 0..8 {
        let ended = out(&world, &request::reserve(key, kind));
        assert_ne!(ended, Status::GOOD);
    }
    assert_eq!(tracked(), (ledger::State::Fenced, None, None));
}

#[test]
fn parameters_that_another_host_changed_are_told_by_the_event_queue_as_well() {
    use crate::event::{Event, Events};
    let (world, events) = (World::new(), Arc::new(Events::default()));
    world.guest.listen(Teller::new(Arc::clone(&events), 3));
    assert!(status(&world.work(&READY, &[], 0)).status.is_good());
    let Stands::Unit(unit, _) = world.stands.lock().unwrap().clone() else { panic!() };
    let other = TransportId::iscsi(IscsiName::new("iqn.b").unwrap(), Isid([0x80, 0, 0, 0, 0, 2]));
    let other = unit.attach(&ItNexus { initiator: other, target_port: 1 });
    // MODE SELECT (6) of the Caching page with the write cache off.
    let mut page = vec![0; 24];
    (page[4], page[5]) = (0x08, 0x12);
    let select = [0x15, 0x10, 0, 0, 24, 0];
    assert!(unit.execute(&other, &unit.begin(&other, 1), &select, &page).status.is_good());
    let changed = AdditionalSense::new(0x2A, 0x01);
    assert_eq!(sense(&world.work(&READY, &[], 0)), (SenseKey::UNIT_ATTENTION, changed));
    let told = events.next(|_| true).and_then(|report| report.event);
    assert_eq!(told, Some(Event::Changed(3, changed)));
}
