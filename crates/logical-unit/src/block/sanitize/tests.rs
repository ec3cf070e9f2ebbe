//! A sanitize that takes its time and one that fails, on stores made for it.

use super::*;
use crate::ItNexus;
use crate::identity::Identity;
use crate::profile::SPC;
use crate::store::{MemoryStore, Run, Store};
use scsi::block::Command;
use scsi::{IscsiName, Isid, TransportId};
use std::io;
use std::sync::{Barrier, RwLock};

/// A store whose deallocation first meets the test, then fails if it is told to.
#[derive(Debug)]
struct Slow {
    inner: MemoryStore,
    gate: Arc<RwLock<()>>,
    fails: bool,
}

impl Store for Slow {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.inner.read_at(offset, length, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)
    }
    fn deallocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let _open = self.gate.read().unwrap();
        if self.fails { Err(io::ErrorKind::Other.into()) } else { self.inner.deallocate(offset, length) }
    }
    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.inner.run_at(offset)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn has_volatile_cache(&self) -> bool {
        false
    }
}

fn disk(fails: bool) -> (Arc<Disk>, Arc<RwLock<()>>) {
    let gate = Arc::<RwLock<()>>::default();
    let store = Slow { inner: MemoryStore::new(1 << 20), gate: Arc::clone(&gate), fails };
    (Arc::new(Disk::new(Box::new(store), Identity::random(), &SPC)), gate)
}

fn nexus() -> ItNexus {
    let name = IscsiName::new("iqn.2026-01.x:a").unwrap();
    ItNexus { initiator: TransportId::iscsi(name, Isid([0; 6])), target_port: 1 }
}

fn run(disk: &Arc<Disk>, interrupted: &AtomicBool, cdb: &[u8]) -> Option<(SenseKey, AdditionalSense)> {
    let nexus = nexus();
    let completion = disk.execute(Sender { nexus: &nexus, target: None, interrupted }, cdb, &[]).completion;
    completion.decoded_sense().map(|sense| (sense.key, sense.code))
}

fn erase(immediate: bool, allow_unrestricted_exit: bool) -> Vec<u8> {
    let (action, length, reserved) = (service_action::SANITIZE_BLOCK_ERASE, 0, false);
    Command::Sanitize(Sanitize { immediate, allow_unrestricted_exit, action, length, reserved }).to_bytes()
}

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const EXIT: [u8; 10] = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn nothing_touches_the_medium_while_it_is_sanitized_and_an_abort_does_not_end_it() {
    let (disk, gate) = disk(false);
    let no = AtomicBool::new(false);
    let closed = gate.write().unwrap();
    assert_eq!(run(&disk, &no, &erase(true, false)), None);
    let busy = Some((SenseKey::NOT_READY, AdditionalSense::SANITIZE_IN_PROGRESS));
    for cdb in [&READ[..], &[0; 6], &[0x1B, 0, 0, 0, 1, 0], &erase(false, false)] {
        assert_eq!(run(&disk, &no, cdb), busy, "{cdb:x?}");
    }
    assert_eq!(run(&disk, &no, &[0x12, 0, 0, 0, 36, 0]), None);
    disk.reset();
    assert_eq!(run(&disk, &no, &READ), busy, "a reset does not end it");
    drop(closed);
    let nexus = nexus();
    disk.sanitizing.wait(Sender { nexus: &nexus, target: None, interrupted: &no });
    assert_eq!(run(&disk, &no, &READ), None);
}

#[test]
fn an_aborted_command_leaves_and_the_work_goes_on() {
    let (disk, gate) = disk(false);
    let closed = gate.write().unwrap();
    let (interrupted, met) = (AtomicBool::new(false), Barrier::new(2));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            met.wait();
            run(&disk, &interrupted, &erase(false, false))
        });
        met.wait();
        interrupted.store(true, Ordering::Relaxed);
        assert_eq!(waiting.join().unwrap(), None);
    });
    let busy = Some((SenseKey::NOT_READY, AdditionalSense::SANITIZE_IN_PROGRESS));
    assert_eq!(run(&disk, &interrupted, &READ), busy);
    drop(closed);
}

#[test]
fn a_failure_is_kept_until_it_may_be_left() {
    let (disk, _gate) = disk(true);
    let no = AtomicBool::new(false);
    let failed = Some((SenseKey::MEDIUM_ERROR, AdditionalSense::SANITIZE_FAILED));
    assert_eq!(run(&disk, &no, &erase(false, false)), failed);
    assert_eq!(run(&disk, &no, &READ), failed);
    let refused = Some((SenseKey::ILLEGAL_REQUEST, AdditionalSense::INVALID_FIELD_IN_CDB));
    assert_eq!(run(&disk, &no, &EXIT), refused, "AUSE was not set");
    assert_eq!(run(&disk, &no, &erase(false, true)), failed, "another sanitize may be tried");
    assert_eq!(run(&disk, &no, &EXIT), None);
    assert_eq!(run(&disk, &no, &READ), None);
}

#[test]
fn a_command_admitted_just_before_neither_waits_for_the_sanitize_nor_runs_beside_it() {
    let (disk, gate) = disk(false);
    let closed = gate.write().unwrap();
    let sender_nexus = nexus();
    let interrupted = AtomicBool::new(false);
    let sender = Sender { nexus: &sender_nexus, target: None, interrupted: &interrupted };
    let Ok(Command::Access(admitted)) = disk.admit(&READ) else { panic!("READ is refused") };
    disk.start_sanitize(Work::Erase, false).unwrap();
    let refused = disk.access(sender, &admitted, &[]).unwrap_err();
    assert_eq!(refused.0.code, AdditionalSense::SANITIZE_IN_PROGRESS);
    drop(closed);
    assert_eq!(disk.sanitizing.wait(sender), Some(Phase::Idle));
}
