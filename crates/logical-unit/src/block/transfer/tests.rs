//! Which commands have their blocks alone while they write: seen by a store that looks at the locks.

use super::*;
use crate::ItNexus;
use crate::identity::Identity;
use crate::profile::SPC;
use crate::store::{MemoryStore, Run, Store};
use scsi::block::Form;
use scsi::{IscsiName, Isid, TransportId};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// A store that notes, for each write, whether its block was excluded.
#[derive(Debug)]
struct Watching {
    inner: MemoryStore,
    disk: Arc<OnceLock<Weak<Disk>>>,
    seen: Arc<Mutex<Vec<bool>>>,
}

impl Store for Watching {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.inner.read_at(offset, length, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let disk = self.disk.get().and_then(Weak::upgrade).unwrap();
        self.seen.lock().unwrap().push(disk.locks.is_excluded(offset / BLOCK));
        self.inner.write_at(offset, data)
    }
    fn deallocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.deallocate(offset, length)
    }
    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.inner.run_at(offset)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn has_volatile_cache(&self) -> bool {
        true
    }
}

#[test]
fn atomic_commands_have_their_blocks_alone_and_ordinary_writes_share() {
    let (own, seen) = (Arc::<OnceLock<Weak<Disk>>>::default(), Arc::<Mutex<Vec<bool>>>::default());
    let store =
        Watching { inner: MemoryStore::new(1 << 20), disk: Arc::clone(&own), seen: Arc::clone(&seen) };
    let disk = Arc::new(Disk::new(Box::new(store), Identity::random(), &SPC));
    own.set(Arc::downgrade(&disk)).unwrap();
    let name = IscsiName::new("iqn.2026-01.x:a").unwrap();
    let nexus = ItNexus { initiator: TransportId::iscsi(name, Isid([0; 6])), target_port: 1 };
    let sender = Sender { nexus: &nexus, target: None, interrupted: &AtomicBool::new(false) };
    let cases = [
        (Operation::Write, 1, false),
        (Operation::WriteSame { anchor: false, unmap: false, no_data_out: false }, 1, false),
        (Operation::WriteAtomic { boundary: 0 }, 1, true),
        (Operation::OrWrite, 1, true),
        (Operation::CompareAndWrite, 2, true),
        (Operation::WriteAndVerify { byte_check: 0 }, 1, true),
    ];
    for (operation, times, alone) in cases {
        let access = Access::new(operation, Form::Sixteen, 5, 1);
        disk.access(sender, &access, &vec![0; times * BLOCK as usize]).unwrap();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [alone], "{operation:?}");
    }
}
