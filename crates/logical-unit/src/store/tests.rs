//! Both stores against one model: an array of bytes.

use super::*;
use proptest::prelude::*;
use std::path::Path;

const SIZE: u64 = 3 << 20;
const BUFFERED: Access = Access { direct: false, read_only: false };
const DIRECT: Access = Access { direct: true, read_only: false };

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, data: Vec<u8> },
    Durably { offset: u64, data: Vec<u8> },
    Deallocate { offset: u64, length: u64 },
    Read { offset: u64, length: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..SIZE, (1_u64 << 20) - 3000..(1 << 20) + 3000];
    let data = prop::collection::vec(any::<u8>(), 0..9000);
    prop_oneof![
        (offset.clone(), data.clone()).prop_map(|(offset, data)| Step::Write { offset, data }),
        (offset.clone(), data).prop_map(|(offset, data)| Step::Durably { offset, data }),
        (offset.clone(), 0_u64..40_000).prop_map(|(offset, length)| Step::Deallocate { offset, length }),
        (offset, 0_usize..20_000).prop_map(|(offset, length)| Step::Read { offset, length }),
    ]
}

/// Runs the steps on a store and on an array; both must read alike, and what reads as data must be mapped.
fn agrees_with_an_array(store: &dyn Store, steps: Vec<Step>) {
    let mut model = vec![0_u8; SIZE as usize];
    let clip = |offset: u64, length: usize| length.min((SIZE - offset) as usize);
    for step in steps {
        match step {
            Step::Write { offset, data } | Step::Durably { offset, data } => {
                let data = &data[..clip(offset, data.len())];
                store.write_at(offset, data).unwrap();
                store.write_durably(offset, data).unwrap();
                model[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            }
            Step::Deallocate { offset, length } => {
                let length = clip(offset, length as usize);
                store.deallocate(offset, length as u64).unwrap();
                model[offset as usize..offset as usize + length].fill(0);
            }
            Step::Read { offset, length } => {
                let length = clip(offset, length);
                let mut out = vec![7];
                store.read_at(offset, length, &mut out).unwrap();
                assert_eq!(out[0], 7);
                assert!(out[1..] == model[offset as usize..offset as usize + length]);
            }
        }
    }
    unmapped_runs_are_zero(store, &model);
}

fn unmapped_runs_are_zero(store: &dyn Store, model: &[u8]) {
    let mut at = 0;
    while at < SIZE {
        let run = store.run_at(at).unwrap();
        assert!(run.end > at && run.end <= SIZE);
        let zero = model[at as usize..run.end as usize].iter().all(|byte| *byte == 0);
        assert!(run.mapped || zero, "data at {at}..{} in a run that is not mapped", run.end);
        at = run.end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_reads_what_was_written(steps in prop::collection::vec(step(), 0..24)) {
        agrees_with_an_array(&MemoryStore::new(SIZE), steps);
    }

    #[test]
    fn a_file_reads_what_was_written(steps in prop::collection::vec(step(), 0..24)) {
        let folder = tempfile::tempdir().unwrap();
        agrees_with_an_array(&FileStore::open(&folder.path().join("lun"), Some(SIZE), BUFFERED).unwrap(), steps);
    }
}

#[test]
fn nothing_beyond_the_end_is_read_or_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = FileStore::open(&folder.path().join("lun"), Some(8192), BUFFERED).unwrap();
    let memory = MemoryStore::new(1 << 20);
    for (store, size) in [(&file as &dyn Store, 8192), (&memory, 1 << 20)] {
        assert_eq!(store.read_at(size, 1, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(store.run_at(size).is_err() || store.run_at(size).unwrap().end == size);
    }
    assert!(memory.write_at(1 << 20, &[1]).is_err());
}

#[test]
fn memory_gives_back_a_page_at_a_time() {
    let store = MemoryStore::new(4 << 20);
    assert_eq!(store.run_at(0).unwrap(), Run { end: 4 << 20, mapped: false });
    store.write_at(4096, &[1; 8192]).unwrap();
    assert_eq!(store.run_at(0).unwrap(), Run { end: 4096, mapped: false });
    assert_eq!(store.run_at(5000).unwrap(), Run { end: 12288, mapped: true });
    store.deallocate(4096, 4095).unwrap();
    assert!(store.run_at(4096).unwrap().mapped, "a page given back in part stays mapped");
    store.deallocate(4096, 4096).unwrap();
    assert_eq!(store.run_at(0).unwrap(), Run { end: 8192, mapped: false });
    store.deallocate(0, 4 << 20).unwrap();
    assert_eq!(store.run_at(0).unwrap(), Run { end: 4 << 20, mapped: false });
}

#[test]
fn a_file_in_use_is_refused_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lun");
    let first = FileStore::open(&path, Some(8192), BUFFERED).unwrap();
    assert!(matches!(FileStore::open(&path, None, BUFFERED), Err(FileStoreError::InUse)));
    drop(first);
    assert_eq!(FileStore::open(&path, None, BUFFERED).unwrap().size(), 8192);
}

#[test]
fn a_file_is_created_only_with_a_size_grown_and_never_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lun");
    assert!(
        matches!(FileStore::open(&path, None, BUFFERED), Err(FileStoreError::Io(e)) if e.kind() == io::ErrorKind::NotFound)
    );
    drop(FileStore::open(&path, Some(8192), BUFFERED).unwrap());
    drop(FileStore::open(&path, Some(16384), BUFFERED).unwrap());
    assert!(matches!(FileStore::open(&path, Some(8192), BUFFERED), Err(FileStoreError::Larger(16384))));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16384);
    assert!(matches!(FileStore::open(Path::new("/"), None, BUFFERED), Err(FileStoreError::NotAFile)));
}

/// Whole blocks, as the block layer asks for them, on a file with direct I/O.
fn whole_blocks() -> impl Strategy<Value = Step> {
    let (offset, blocks) = (0..SIZE / 512, 0..64_usize);
    prop_oneof![
        (offset.clone(), blocks.clone(), any::<u8>())
            .prop_map(|(at, blocks, fill)| Step::Write { offset: at * 512, data: vec![fill; blocks * 512] }),
        (offset.clone(), blocks.clone())
            .prop_map(|(at, blocks)| Step::Deallocate { offset: at * 512, length: blocks as u64 * 512 }),
        (offset, blocks).prop_map(|(at, blocks)| Step::Read { offset: at * 512, length: blocks * 512 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_file_with_direct_io_reads_what_was_written(steps in prop::collection::vec(whole_blocks(), 0..24)) {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(&folder.path().join("lun"), Some(SIZE), DIRECT).unwrap();
        // Where the file system has none this is the test above once more.
        prop_assert!(!matches!(store.caching(), Caching::Memory));
        agrees_with_an_array(&store, steps);
    }
}

#[test]
fn a_file_always_has_a_cache_to_flush_and_what_has_grown_is_noticed_on_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lun");
    let store = FileStore::open(&path, Some(8192), DIRECT).unwrap();
    assert!(store.has_volatile_cache());
    let other = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    other.set_len(16384).unwrap();
    assert_eq!(store.size(), 8192);
    assert_eq!((store.measure().unwrap(), store.size()), (16384, 16384));
    other.set_len(512).unwrap();
    assert_eq!((store.measure().unwrap(), store.size()), (512, 16384));
}

#[test]
fn only_a_block_device_is_served_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lun");
    drop(FileStore::open(&path, Some(8192), BUFFERED).unwrap());
    assert!(matches!(FileStore::open_block(&path, DIRECT), Err(FileStoreError::NotABlockDevice)));
    assert!(matches!(
        FileStore::open_block(Path::new("/dev/null"), DIRECT),
        Err(FileStoreError::NotABlockDevice)
    ));
}
