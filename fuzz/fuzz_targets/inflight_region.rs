//! An in-flight region of any content: it is refused, or what it tells makes sense, is told again, and goes on to work.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use vhost_user_scsi::inflight::{Error, Region};

const ENTRIES: u16 = 8;

fn region() -> &'static (Arc<Region>, std::fs::File) {
    static REGION: OnceLock<(Arc<Region>, std::fs::File)> = OnceLock::new();
    REGION.get_or_init(|| {
        let file = Region::create(1, ENTRIES).expect("a region");
        let length = Region::length(1, ENTRIES).expect("of that length");
        let same = file.try_clone().expect("a descriptor");
        (Region::accept(same, 0, length, 1, ENTRIES).expect("our own"), file)
    })
}

fuzz_target!(|input: (u16, u16, bool, [u8; 176])| {
    let (used, ring_size, likely, mut bytes) = input;
    if likely {
        // Version 1 and the right number of descriptors: a fuzzer should not have to guess those.
        bytes[8..10].copy_from_slice(&1_u16.to_ne_bytes());
        bytes[10..12].copy_from_slice(&ENTRIES.to_ne_bytes());
    }
    let (region, file) = region();
    file.write_all_at(&bytes, 0).expect("room");
    let mut queue = region.queue(0).expect("the only one");
    let Ok(found) = queue.recover(used, ring_size) else { return };
    assert!(found.heads.iter().all(|&head| head < ENTRIES.min(ring_size)));
    assert_eq!(found.next_avail, used.wrapping_add(found.heads.len() as u16));
    let again = region.queue(0).expect("the only one").recover(used, ring_size);
    assert_eq!(again.expect("as before"), found);
    for head in 0..ENTRIES {
        assert_eq!(queue.take(head).is_err(), found.heads.contains(&head));
    }
    let all: Vec<u16> = (0..ENTRIES).rev().collect();
    let publish = |position: usize| Ok::<_, Error>(used.wrapping_add(position as u16 + 1));
    queue.complete(&all, publish).expect("all are in flight");
    let last = used.wrapping_add(ENTRIES);
    let empty = region.queue(0).expect("the only one").recover(last, ring_size).expect("drained");
    assert!(empty.heads.is_empty() && empty.next_avail == last);
});
