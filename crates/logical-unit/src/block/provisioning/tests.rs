//! What is given back is durable where WCE = 0 says that writes are: seen by a store that counts.

use super::*;
use crate::ItNexus;
use crate::identity::Identity;
use crate::profile::SPC;
use crate::store::{MemoryStore, Run, Store};
use scsi::block::{Command, Form, ModeSelect, Operation};
use scsi::{IscsiName, Isid, Status, TransportId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A store that counts the deallocations a power loss would undo.
#[derive(Debug)]
struct Counting {
    inner: MemoryStore,
    volatile: Arc<AtomicUsize>,
}

impl Store for Counting {
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
        self.volatile.fetch_add(1, Ordering::Relaxed);
        self.inner.deallocate(offset, length)
    }
    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.inner.run_at(offset)
    }
    fn flush(&self) -> io::Result<()> {
        self.volatile.store(0, Ordering::Relaxed);
        Ok(())
    }
    fn has_volatile_cache(&self) -> bool {
        true
    }
}

#[test]
fn without_a_write_cache_what_is_given_back_is_durable_before_the_status() {
    let volatile = Arc::<AtomicUsize>::default();
    let store = Counting { inner: MemoryStore::new(1 << 20), volatile: Arc::clone(&volatile) };
    let disk = Arc::new(Disk::new(Box::new(store), Identity::random(), &SPC));
    let name = IscsiName::new("iqn.2026-01.x:a").unwrap();
    let nexus = ItNexus { initiator: TransportId::iscsi(name, Isid([0; 6])), target_port: 1 };
    let sender = Sender { nexus: &nexus, target: None, interrupted: &AtomicBool::new(false) };
    let run = |command: Command, data: &[u8]| {
        assert_eq!(disk.execute(sender, &command.to_bytes(), data).completion.status, Status::GOOD);
        volatile.load(Ordering::Relaxed)
    };
    let same = Operation::WriteSame { anchor: false, unmap: true, no_data_out: false };
    let same = Command::Access(Access::new(same, Form::Sixteen, 0, 8));
    let runs = vec![UnmapDescriptor { lba: 0, blocks: 8 }, UnmapDescriptor { lba: 16, blocks: 8 }];
    let runs = UnmapList { descriptors: runs }.to_bytes();
    let unmap = Command::Unmap(Unmap { anchor: false, group: 0, length: runs.len() as u16 });
    assert_eq!(run(same, &ZEROS), 1, "with the cache");
    assert_eq!(run(unmap, &runs), 3, "with the cache");

    let list = [&[0, 0, 0, 0, 0x08, 0x12][..], &[0; 18]].concat();
    let select = ModeSelect { form: Form::Six, page_format: true, save: false, length: 24 };
    run(Command::ModeSelect(select), &list);
    assert_eq!(run(same, &ZEROS), 0);
    assert_eq!(run(unmap, &runs), 0);
}
