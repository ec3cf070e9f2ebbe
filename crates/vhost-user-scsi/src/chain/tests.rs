//! Chains well-formed and not, and that cutting them changes nothing.

use super::*;
use crate::memory::tests::memory_of;
use proptest::prelude::*;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const SIZE: u64 = 0x4_0000;
const TABLE: Table = Table { address: 0x1000, size: 8 };

fn put(memory: &Memory, table: u64, index: u64, (address, length, flags, next): (u64, u32, u16, u16)) {
    memory
        .write_obj(Descriptor::new(address, length, flags, next), GuestAddress(table + index * 16))
        .unwrap();
}

/// A memory whose ring table has these descriptors, from 0 on.
fn ring(descriptors: &[(u64, u32, u16, u16)]) -> Arc<Memory> {
    let (memory, _file) = memory_of(SIZE);
    for (index, &descriptor) in descriptors.iter().enumerate() {
        put(&memory, TABLE.address, index as u64, descriptor);
    }
    memory
}

fn walk(memory: &Memory, head: u16) -> Result<Chain, Error> {
    let mut chain = Chain::default();
    chain.walk(memory, TABLE, head).map(|()| chain)
}

fn segments(pieces: &[(u64, u32)]) -> Vec<Segment> {
    pieces.iter().map(|&(address, length)| Segment { address, length }).collect()
}

#[test]
fn what_is_read_and_what_is_written() {
    let memory = ring(&[
        (0x2000, 51, NEXT, 3),
        (0, 0, 0, 0),
        (0x5000, 4096, WRITE, 0),
        (0x3000, 512, NEXT, 4),
        (0x4000, 108, NEXT | WRITE, 2),
    ]);
    let chain = walk(&memory, 0).unwrap();
    assert_eq!((chain.out_length(), chain.in_length()), (563, 4204));
    assert!(chain.out_segments(51, 512).eq(segments(&[(0x3000, 512)])));
    assert!(chain.out_segments(50, 2).eq(segments(&[(0x2032, 1), (0x3000, 1)])));
    assert!(chain.in_segments(108, usize::MAX).eq(segments(&[(0x5000, 4096)])));
    assert!(chain.in_segments(107, 3).eq(segments(&[(0x406B, 1), (0x5000, 2)])));
    assert_eq!(chain.in_segments(4204, 1).count(), 0);
}

#[test]
fn a_chain_goes_on_in_an_indirect_table() {
    let memory = ring(&[(0x2000, 16, NEXT, 1), (0x8000, 48, INDIRECT, 0)]);
    put(&memory, 0x8000, 0, (0x3000, 35, NEXT, 2));
    put(&memory, 0x8000, 2, (0x4000, 200, WRITE, 0));
    let chain = walk(&memory, 0).unwrap();
    assert_eq!((chain.out_length(), chain.in_length()), (51, 200));
}

#[test]
fn a_malformed_chain_says_why() {
    let refused = |descriptors: &[_]| walk(&ring(descriptors), 0).unwrap_err();
    assert_eq!(refused(&[(0x2000, 1, NEXT, 8)]), Error::Index { index: 8, size: 8 });
    assert_eq!(walk(&ring(&[]), 8), Err(Error::Index { index: 8, size: 8 }));
    assert_eq!(refused(&[(0x2000, 1, NEXT, 1), (0x2000, 1, NEXT, 0)]), Error::Loop);
    assert_eq!(refused(&[(0x2000, 1, NEXT, 0)]), Error::Loop);
    assert_eq!(refused(&[(0x2000, 1, WRITE | NEXT, 1), (0x2000, 1, 0, 0)]), Error::Order);
    assert_eq!(refused(&[(SIZE, 1, 0, 0)]), Error::Outside { address: SIZE, length: 1 });
    assert_eq!(refused(&[(SIZE - 1, 2, 0, 0)]), Error::Outside { address: SIZE - 1, length: 2 });
    assert_eq!(refused(&[(u64::MAX, 2, 0, 0)]), Error::Outside { address: u64::MAX, length: 2 });
    assert_eq!(refused(&[(0x8000, 24, INDIRECT, 0)]), Error::Indirect);
    assert_eq!(refused(&[(0x8000, 0, INDIRECT, 0)]), Error::Indirect);
    assert_eq!(refused(&[(0x8000, 16, INDIRECT | NEXT, 1)]), Error::Indirect);
    assert_eq!(refused(&[(0x8000, 16 * 0x1_0000, INDIRECT, 0)]), Error::Indirect);
    assert_eq!(refused(&[(SIZE, 16, INDIRECT, 0)]), Error::Table(SIZE));
    assert_eq!(refused(&[(u64::MAX - 15, 32, INDIRECT, 0)]), Error::Table(u64::MAX - 15));
}

#[test]
fn a_table_in_a_table_in_the_end_is_an_error() {
    let memory = ring(&[(0x8000, 16, INDIRECT, 0)]);
    put(&memory, 0x8000, 0, (0x8000, 16, INDIRECT, 0));
    assert_eq!(walk(&memory, 0), Err(Error::Indirect));
}

#[test]
fn a_chain_longer_than_the_kernel_takes_is_an_error() {
    let memory = ring(&[(0x8000, 16 * 2000, INDIRECT, 0)]);
    for index in 0..2000 {
        put(&memory, 0x8000, index, (0x2000, 1, NEXT, u16::try_from(index + 1).unwrap()));
    }
    assert_eq!(walk(&memory, 0), Err(Error::TooMany));
    put(&memory, 0x8000, 1023, (0x2000, 1, 0, 0));
    assert_eq!(walk(&memory, 0).unwrap().out_length(), 1024);
}

#[test]
fn more_bytes_than_a_chain_may_have_are_an_error() {
    let (memory, _file) = memory_of(1 << 31);
    for index in 0..3 {
        put(&memory, TABLE.address, index, (0, 1 << 31, NEXT, u16::try_from(index + 1).unwrap()));
    }
    assert_eq!(walk(&memory, 0), Err(Error::TooLong));
}

#[test]
fn after_an_error_there_is_what_was_understood_and_nothing_of_before() {
    let memory = ring(&[(0x2000, 51, NEXT, 1), (0x4000, 108, NEXT | WRITE, 2), (SIZE, 1, WRITE, 0)]);
    let mut chain = Chain::default();
    chain.walk(&memory, TABLE, 2).unwrap_err();
    assert_eq!(chain, Chain::default());
    assert!(chain.walk(&memory, TABLE, 0).is_err());
    assert_eq!((chain.out_length(), chain.in_length()), (51, 108));
    chain.walk(&memory, TABLE, 9).unwrap_err();
    assert_eq!((chain.out_length(), chain.in_length()), (0, 0));
}

proptest! {
    /// VIRTIO_F_ANY_LAYOUT: wherever a driver cuts, the same bytes are read and written.
    #[test]
    fn the_cuts_between_descriptors_do_not_matter(
        out in prop::collection::vec(0..40_u32, 0..4),
        room in prop::collection::vec(0..40_u32, 0..4),
        skip in 0..100_usize,
        length in 0..100_usize,
    ) {
        let (memory, _file) = memory_of(SIZE);
        let (mut expected, mut places) = (Vec::new(), Vec::new());
        let all = out.len() + room.len();
        for (index, &size) in out.iter().chain(&room).enumerate() {
            let address = 0x2000 + 0x100 * index as u64;
            let bytes: Vec<u8> = (0..size).map(|at| (at as u8).wrapping_add(index as u8 * 50)).collect();
            memory.write(address, &bytes).unwrap();
            let flags = if index < out.len() { expected.extend(bytes); 0 } else { WRITE };
            if flags == WRITE { places.extend((0..u64::from(size)).map(|at| address + at)); }
            let next = if index + 1 < all { NEXT } else { 0 };
            put(&memory, TABLE.address, index as u64, (address, size, flags | next, index as u16 + 1));
        }
        prop_assume!(all > 0);
        let chain = walk(&memory, 0).unwrap();
        let mut read = vec![0; length];
        let count = chain.read(&memory, skip, &mut read).unwrap();
        let end = expected.len().min(skip + length);
        prop_assert_eq!(&read[..count], expected.get(skip..end).unwrap_or_default());
        let data: Vec<u8> = (0..length).map(|at| 200 ^ at as u8).collect();
        let written = chain.write(&memory, skip, &data).unwrap();
        prop_assert_eq!(written, places.len().saturating_sub(skip).min(length));
        for (at, &place) in places.iter().skip(skip).take(length).enumerate() {
            let mut byte = [0];
            memory.read(place, &mut byte).unwrap();
            prop_assert_eq!(byte[0], data[at]);
        }
    }
}
