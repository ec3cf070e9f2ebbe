//! Memory tables that are right, wrong and pulled away.

use super::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::unix::fs::FileExt;
use std::process::Command;

/// A file in memory, of that length.
pub(crate) fn memfd(length: u64) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(length).unwrap();
    file
}

fn layout(guest: u64, length: u64, user: u64, offset: u64) -> Layout {
    Layout { guest, length, user, offset }
}

fn nothing() -> Memory {
    Memory::new(Arc::new(DirtyLog::default()))
}

/// One region at guest address 0.
pub(crate) fn memory_of(length: u64) -> (Arc<Memory>, File) {
    let file = memfd(length);
    let memory = nothing().with(layout(0, length, 0x7000_0000, 0), file.try_clone().unwrap()).unwrap();
    (Arc::new(memory), file)
}

/// Two regions side by side from two files, and one far off whose file offset is within a page.
fn three() -> (Memory, [File; 3]) {
    let files = [memfd(0x2000), memfd(0x2000), memfd(0x3000)];
    let table = [
        (layout(0x10_0000, 0x1000, 0x9000_0000, 0x10), files[2].try_clone().unwrap()),
        (layout(0x1000, 0x2000, 0x8000_0000, 0), files[0].try_clone().unwrap()),
        (layout(0x3000, 0x2000, 0x8000_2000, 0), files[1].try_clone().unwrap()),
    ];
    (nothing().with_table(table).unwrap(), files)
}

#[test]
fn a_copy_reaches_the_files_over_the_border_of_two_regions() {
    let (memory, files) = three();
    memory.write(0x2FFE, b"abcd").unwrap();
    let mut two = [0; 2];
    files[0].read_exact_at(&mut two, 0x1FFE).unwrap();
    assert_eq!(&two, b"ab");
    files[1].read_exact_at(&mut two, 0).unwrap();
    assert_eq!(&two, b"cd");
    memory.write(0x10_0000, b"x").unwrap();
    files[2].read_exact_at(&mut two[..1], 0x10).unwrap();
    assert_eq!(two[0], b'x');
    let mut four = [0; 4];
    memory.read(0x2FFE, &mut four).unwrap();
    assert_eq!(&four, b"abcd");
}

#[test]
fn what_is_not_memory_is_an_error() {
    let (memory, _files) = three();
    let mut byte = [0];
    for address in [0, 0xFFF, 0x5000, 0xF_FFFF, 0x10_1000, u64::MAX] {
        assert!(memory.read(address, &mut byte).is_err(), "{address:#x}");
        assert!(memory.write(address, &byte).is_err(), "{address:#x}");
        assert!(!memory.has(Segment { address, length: 1 }));
    }
    assert!(memory.write(0x4FFF, b"ab").is_err(), "its second byte is outside");
    assert!(memory.has(Segment { address: 0x1000, length: 0x4000 }));
    assert!(!memory.has(Segment { address: 0x1000, length: 0x4001 }));
}

#[test]
fn a_table_that_overlaps_overflows_or_is_not_in_its_file_is_refused() {
    let (memory, _files) = three();
    let refused = |layout| memory.with(layout, memfd(0x1000)).map(drop).unwrap_err();
    for guest in [0x1000, 0x1800, 0x2FFF, 0x4FFF, 0x10_0FFF, 0xF_F001, 0x1] {
        let error = refused(layout(guest, 0x1000, 0, 0));
        assert!(matches!(error, Error::Overlap(at) if at == guest), "{guest:#x}: {error}");
    }
    assert!(matches!(refused(layout(u64::MAX - 0xFFF, 0x1001, 0, 0)), Error::Overflow));
    assert!(matches!(refused(layout(0x20_0000, 0x1000, u64::MAX, 0)), Error::Overflow));
    assert!(matches!(refused(layout(0x20_0000, 0, 0, 0)), Error::Empty));
    assert!(matches!(refused(layout(0x20_0000, 0x1001, 0, 0)), Error::BeyondFile { .. }));
    assert!(matches!(refused(layout(0x20_0000, 0x1000, 0, 1)), Error::BeyondFile { .. }));
    assert!(memory.with(layout(0x20_0000, 0x1000, 0, u64::MAX), memfd(0x1000)).is_err());
    assert!(memory.with(layout(0x20_0000, 1 << 62, 0, 0), memfd(0x1000)).is_err());
    let pipe = File::from(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().0));
    assert!(memory.with(layout(0x20_0000, 0x1000, 0, 0), pipe).is_err());
    assert!(memory.with(layout(0, 0x1000, 0, 0), memfd(0x1000)).is_ok(), "right before another");
}

#[test]
fn more_regions_than_there_are_slots_for_are_refused() {
    let file = memfd(0x1000);
    let mut memory = nothing();
    for number in 0..REGIONS_MAX as u64 {
        memory = memory.with(layout(number << 12, 0x1000, 0, 0), file.try_clone().unwrap()).unwrap();
    }
    assert!(matches!(memory.with(layout(1 << 40, 0x1000, 0, 0), file), Err(Error::TooMany)));
}

fn share_of(bytes: u64, regions: usize) -> (Memory, Arc<Share>) {
    let share = Arc::new(Share::new(bytes, regions));
    (Memory::within(Arc::clone(&share), Arc::default()), share)
}

/// Sparse files cost a front end nothing, and addresses are the whole process's.
#[test]
fn a_table_is_within_its_share() {
    let (memory, _share) = share_of(0x10_0000, 2);
    let memory = memory.with(layout(0, 0x1000, 0, 0), memfd(1 << 46)).unwrap();
    for length in [0xF_F001, 1 << 45, u64::MAX - 0x1000] {
        let refused = memory.with(layout(0x1000, length, 0, 0), memfd(1 << 46)).unwrap_err();
        assert!(matches!(refused, Error::TooLong { most: 0x10_0000, .. }), "{length:#x}: {refused}");
    }
    let full = memory.with(layout(0x1000, 0xF_F000, 0, 0), memfd(0xF_F000)).unwrap();
    assert!(matches!(full.with(layout(0x10_0000, 0x1000, 0, 0), memfd(0x1000)), Err(Error::TooMany)));
    let refused = nothing().with(layout(0, BYTES_MAX + 1, 0, 0), memfd(1 << 46)).unwrap_err();
    assert!(matches!(refused, Error::TooLong { most: BYTES_MAX, .. }));
}

/// A request that does not end holds the table that it began with.
#[test]
fn tables_that_live_on_count_until_they_are_gone() {
    let (memory, _share) = share_of(0x10_0000, 2);
    let table = || [(layout(0, 0x10_0000, 0, 0), memfd(0x10_0000))];
    let first = memory.with_table(table()).unwrap();
    let second = first.with_table(table()).unwrap();
    let refused = second.with_table(table()).unwrap_err();
    assert!(matches!(refused, Error::TooLong { length: 0x10_0000, most: 0 }), "{refused}");
    drop(first);
    second.with_table(table()).unwrap();
    let small =
        |at: u64| [(layout(at, 0x1000, 0, 0), memfd(0x1000)), (layout(0, 0x1000, 0, 0), memfd(0x1000))];
    let third = memory.with_table(small(0x1000)).unwrap();
    assert!(matches!(memory.with_table(small(0x1000)), Err(Error::TooMany)), "three of four regions");
    drop((second, third));
    let (one, other) = (memory.with_table(small(0x1000)).unwrap(), memory.with_table(small(0x2000)).unwrap());
    assert!(matches!(memory.with_table(small(0x1000)), Err(Error::TooMany)));
    drop((one, other));
    memory.with_table(table()).unwrap();
}

#[test]
fn a_file_that_somebody_else_answers_for_is_not_memory() {
    let file = File::open("/proc/self/status").unwrap();
    let refused = nothing().with(layout(0, 0x1000, 0, 0), file).unwrap_err();
    assert!(matches!(refused, Error::NotLocal), "{refused}");
}

#[test]
fn a_region_that_is_removed_and_then_found_torn_is_told_of_also_when_it_is_gone() {
    let (memory, file) = memory_of(0x8000);
    let here = memory.layouts().next().unwrap();
    for replaced in [true, false] {
        file.set_len(0x8000).unwrap();
        let old = nothing().with(here, file.try_clone().unwrap()).unwrap();
        let new = if replaced {
            old.with_table([(here, memfd(0x8000))]).unwrap()
        } else {
            old.without(here).unwrap()
        };
        let newer = new.with(layout(0x10_0000, 0x1000, 0, 0), memfd(0x1000)).unwrap();
        file.set_len(0).unwrap();
        assert!(!newer.is_torn(), "nobody has looked");
        old.read(0x5000, &mut [0]).unwrap();
        assert!(new.is_torn() && newer.is_torn(), "a request of the old table has read zeros");
        drop(old);
        assert!(new.is_torn() && newer.is_torn());
    }
}

#[test]
fn a_region_that_is_removed_stays_for_requests_under_way() {
    let (memory, _files) = three();
    let old = Arc::new(memory);
    let under_way = Vectors::new(Arc::clone(&old), [Segment { address: 0x1000, length: 16 }]).unwrap();
    let new = old.without(layout(0x1000, 0x2000, 0x8000_0000, 0)).unwrap();
    assert!(new.read(0x1000, &mut [0]).is_err());
    old.write(0x1000, b"still").unwrap();
    assert!(new.without(layout(0x1000, 0x2000, 0x8000_0000, 0)).is_err(), "it is gone already");
    assert!(new.without(layout(0x3000, 0x1000, 0x8000_2000, 0)).is_err(), "another length");
    drop(old);
    under_way.memory().read(0x1000, &mut [0; 5]).unwrap();
}

#[test]
fn the_front_ends_addresses_are_the_guests_where_they_are_one_piece() {
    let (memory, _files) = three();
    assert_eq!(memory.guest_address(0x8000_0000, 1).unwrap(), 0x1000);
    assert_eq!(memory.guest_address(0x8000_1FFF, 2).unwrap(), 0x2FFF, "over the border, one piece in both");
    assert_eq!(memory.guest_address(0x9000_0010, 0xFF0).unwrap(), 0x10_0010);
    for (user, length) in [
        (0x7FFF_FFFF, 1),
        (0x8000_4000, 1),
        (0x8000_3FFF, 2),
        (0x9000_0010, 0xFF1),
        (u64::MAX, 1),
        (0x8000_0000, u64::MAX),
    ] {
        assert!(memory.guest_address(user, length).is_err(), "{user:#x} {length:#x}");
    }
}

#[test]
fn the_front_ends_addresses_that_go_apart_in_the_guest_are_no_ring() {
    let table = [
        (layout(0x1000, 0x1000, 0x8000_0000, 0), memfd(0x1000)),
        (layout(0x2000, 0x1000, 0x9000_0000, 0), memfd(0x1000)),
        (layout(0x8000, 0x1000, 0x8000_1000, 0), memfd(0x1000)),
    ];
    let memory = nothing().with_table(table).unwrap();
    assert_eq!(memory.guest_address(0x8000_1000, 1).unwrap(), 0x8000);
    assert!(memory.guest_address(0x8000_0FFF, 2).is_err(), "guest addresses go on, and are other memory");
}

#[test]
fn pieces_for_the_kernel_are_those_of_the_segments() {
    let (memory, files) = three();
    let memory = Arc::new(memory);
    let segments = [Segment { address: 0x2000, length: 0x2000 }, Segment { address: 0x10_0000, length: 5 }];
    let mut vectors = Vectors::new(Arc::clone(&memory), segments).unwrap();
    assert_eq!((vectors.count(), vectors.length()), (3, 0x2005));
    assert!(!vectors.is_aligned(512) && vectors.is_aligned(1));
    vectors.advance(0x1004);
    assert_eq!((vectors.count(), vectors.length()), (2, 0x1001));
    vectors.advance(0xFFC);
    assert_eq!((vectors.count(), vectors.length()), (1, 5));
    vectors.advance(50);
    assert_eq!((vectors.count(), vectors.length()), (0, 0));
    assert!(Vectors::new(Arc::clone(&memory), [Segment { address: 0x4000, length: 0x1001 }]).is_err());
    let many = vec![Segment { address: 0x1000, length: 1 }; VECTORS_MAX + 1];
    assert!(matches!(Vectors::new(memory, many), Err(Error::TooMany)));
    drop(files);
}

#[test]
fn gather_and_scatter_stop_where_either_side_ends() {
    let (memory, _file) = memory_of(0x1000);
    let pieces = [(0x10, 3), (0x100, 0), (0x20, 4)].map(|(address, length)| Segment { address, length });
    assert_eq!(memory.scatter(pieces, b"abcdefghij").unwrap(), 7);
    let mut back = [0; 5];
    assert_eq!(memory.gather(pieces, &mut back).unwrap(), 5);
    assert_eq!(&back, b"abcde");
    let outside = [Segment { address: 0xFFF, length: 2 }];
    assert!(memory.scatter(outside, b"ab").is_err());
    assert_eq!(memory.scatter(outside, b"a").unwrap(), 1);
}

#[test]
fn every_write_is_marked_at_the_guests_address() {
    let (memory, _files) = three();
    let log = memory.log();
    log.set_base(memfd(64), 0, 64).unwrap();
    log.turn(true);
    memory.write(0x10_0FF0, b"x").unwrap();
    assert!(log.is_marked(0x10_0000), "the file offset within a page does not shift it");
    memory.write_obj(7_u16, GuestAddress(0x2FFF)).unwrap();
    assert!(log.is_marked(0x2000) && log.is_marked(0x3000), "over the border of two regions");
    memory.store(7_u16, GuestAddress(0x4000), std::sync::atomic::Ordering::Release).unwrap();
    assert!(log.is_marked(0x4000));
    memory.mark([Segment { address: 0x1FFF, length: 1 }]);
    assert!(log.is_marked(0x1000));
    memory.read(0x3000, &mut [0; 8]).unwrap();
    assert_eq!(log.take_missed(), None);
}

#[test]
fn a_truncated_file_reads_zeros_and_is_known_as_torn() {
    let (memory, file) = memory_of(0x8000);
    let (other, _whole) = memory_of(0x1000);
    memory.write(0x1000, b"kept").unwrap();
    memory.write(0x5000, b"gone").unwrap();
    ftruncate(&file, 0x2000).unwrap();
    assert!(!memory.is_torn(), "nobody has looked");
    let mut four = [1; 4];
    memory.read(0x5000, &mut four).unwrap();
    assert_eq!(four, [0; 4]);
    assert!(memory.is_torn() && !other.is_torn());
    memory.write(0x7FFF, b"x").unwrap();
    memory.read(0x1000, &mut four).unwrap();
    assert_eq!(&four, b"kept", "what is in the file is still the file's");
    memory.read(0x3000, &mut four).unwrap();
    assert_eq!(four, [0; 4], "a page before the first that was missed");
}

#[test]
fn what_is_behind_a_missing_page_is_not_hidden() {
    let (memory, file) = memory_of(0x8000);
    ftruncate(&file, 0x2000).unwrap();
    memory.read(0x3000, &mut [0]).unwrap();
    ftruncate(&file, 0x8000).unwrap();
    file.write_all_at(b"data", 0x5000).unwrap();
    let mut four = [0; 4];
    memory.read(0x5000, &mut four).unwrap();
    assert_eq!(&four, b"data", "a write of it to a medium must not find zeros");
    assert!(memory.is_torn());
}

#[test]
fn several_threads_may_find_the_same_page_missing() {
    let (memory, file) = memory_of(0x8000);
    ftruncate(&file, 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                for at in 0..0x800_u64 {
                    let mut two = [1; 2];
                    memory.read((at * 0x333 + thread) % 0x7FFF, &mut two).unwrap();
                    assert_eq!(two, [0; 2]);
                }
            });
        }
    });
    assert!(memory.is_torn());
}

#[test]
fn the_kernel_gets_an_error_and_no_signal() {
    let (memory, file) = memory_of(0x2000);
    let vectors = Vectors::new(Arc::clone(&memory), [Segment { address: 0x1000, length: 16 }]).unwrap();
    ftruncate(&file, 0x1000).unwrap();
    let zeros = memfd(16);
    assert_eq!(sys::read_into(&zeros, &vectors).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    assert!(!memory.is_torn());
}

const CHILD: &str = "TENURE_TEST_SIGBUS_OF_SOMEBODY_ELSE";

/// A SIGBUS that is not ours ends a process as if we had never been there.
#[test]
fn a_fault_elsewhere_goes_on_as_by_default() {
    if std::env::var_os(CHILD).is_some() {
        let (memory, file) = memory_of(0x1000);
        ftruncate(&file, 0).unwrap();
        memory.read(0, &mut [0]).unwrap();
        assert!(memory.is_torn(), "ours is survived in a process of its own");
        return sys::fault_elsewhere();
    }
    let name = "memory::tests::a_fault_elsewhere_goes_on_as_by_default";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
    assert_eq!(signal, Some(libc::SIGBUS), "{}", String::from_utf8_lossy(&child.stderr));
}
