//! Descriptor chains in a guest memory of any content: each ends, with buffers that are guest memory and lengths that add up, or says
//! what is wrong with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::sync::{Arc, OnceLock};
use vhost_user_scsi::chain::{Chain, DESCRIPTORS_MAX, Table};
use vhost_user_scsi::log::DirtyLog;
use vhost_user_scsi::memory::{Layout, Memory, Segment, Vectors};

const SIZE: u16 = 16;
const ROOM: u64 = 0x2000;

/// Two pieces with a hole between them, so that addresses can be wrong in the middle.
fn memory() -> &'static Arc<Memory> {
    static MEMORY: OnceLock<Arc<Memory>> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let piece = |guest| {
            let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd"));
            file.set_len(ROOM).expect("room");
            (Layout { guest, length: ROOM, user: guest, offset: 0 }, file)
        };
        let none = Memory::new(Arc::new(DirtyLog::default()));
        Arc::new(none.with_table([piece(0), piece(2 * ROOM)]).expect("two regions"))
    })
}

fn check(memory: &Arc<Memory>, chain: &Chain) {
    let segments: Vec<Segment> = chain.out_segments(0, usize::MAX).chain(chain.in_segments(0, usize::MAX)).collect();
    assert!(segments.len() <= DESCRIPTORS_MAX);
    let total: usize = segments.iter().map(|segment| segment.length as usize).sum();
    assert_eq!(total, chain.out_length() + chain.in_length());
    assert!(segments.iter().all(|&segment| segment.length > 0 && memory.has(segment)));
    if let Ok(vectors) = Vectors::new(Arc::clone(memory), segments) {
        assert_eq!(vectors.length(), total);
    }
    let mut header = [0; 51];
    assert_eq!(chain.read(memory, 0, &mut header).expect("guest memory"), chain.out_length().min(51));
}

fuzz_target!(|bytes: &[u8]| {
    let memory = memory();
    let (low, high) = bytes.split_at(bytes.len().min(ROOM as usize));
    memory.write(0, low).expect("as long as the region at most");
    memory.write(2 * ROOM, &high[..high.len().min(ROOM as usize)]).expect("as long as the region at most");
    let mut chain = Chain::default();
    for head in 0..=SIZE {
        let walked = chain.walk(memory, Table { address: 0, size: SIZE }, head);
        check(memory, &chain);
        // What is written changes what the next head finds; so much the better.
        if walked.is_ok() {
            let written = chain.write(memory, 0, &[0xA5; 108]).expect("guest memory");
            assert_eq!(written, chain.in_length().min(108));
        }
    }
    assert!(!memory.is_torn());
});
