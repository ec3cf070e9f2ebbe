//! Death between any two stores, and regions that lie.

use super::cells::{Cell, Cells};
use super::*;
use crate::memory::tests::memfd;
use proptest::prelude::*;
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

const ENTRIES: u16 = 8;
const START: u16 = 0xFFFD;

/// Something that another process can see happen, and what it is of the model.
#[derive(Clone, Copy, Debug)]
enum Step {
    Store(Cell, u64),
    /// The used ring's index after this head was published.
    Publish(u16),
}

type Journal = Rc<RefCell<Vec<Step>>>;

/// A part in ordinary memory that writes down what is stored.
#[derive(Clone, Debug)]
struct Recording {
    image: Vec<u8>,
    journal: Journal,
}

fn width(cell: Cell) -> usize {
    match cell {
        Cell::Inflight(_) => 1,
        Cell::Counter(_) => 8,
        _ => 2,
    }
}

fn put(image: &mut [u8], cell: Cell, value: u64) {
    image[cell.offset()..][..width(cell)].copy_from_slice(&value.to_ne_bytes()[..width(cell)]);
}

impl Cells for Recording {
    fn load(&self, cell: Cell) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        bytes[..width(cell)].copy_from_slice(&self.image[cell.offset()..][..width(cell)]);
        Ok(u64::from_ne_bytes(bytes))
    }

    fn store(&mut self, cell: Cell, value: u64) -> Result<(), Error> {
        put(&mut self.image, cell, value);
        self.journal.borrow_mut().push(Step::Store(cell, value));
        Ok(())
    }
}

fn recording(image: Vec<u8>) -> (Queue<Recording>, Journal) {
    let journal = Journal::default();
    (Queue::new(Recording { image, journal: Rc::clone(&journal) }, ENTRIES), journal)
}

fn empty() -> Vec<u8> {
    vec![0; usize::try_from(part_of(ENTRIES)).unwrap()]
}

/// The shared region with these bytes.
fn region_of(image: &[u8]) -> (Arc<Region>, File) {
    let file = Region::create(1, ENTRIES).unwrap();
    file.write_all_at(image, 0).unwrap();
    let length = Region::length(1, ENTRIES).unwrap();
    (Region::accept(file.try_clone().unwrap(), 0, length, 1, ENTRIES).unwrap(), file)
}

/// What must be found after the first `steps`: the order of taking, without what the used ring tells of.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    heads: Vec<u16>,
    used_index: u16,
}

fn after(steps: &[Step]) -> (Vec<u8>, Model) {
    let (mut image, mut model) = (empty(), Model { used_index: START, ..Model::default() });
    for &step in steps {
        match step {
            Step::Store(cell, value) => {
                put(&mut image, cell, value);
                if let (Cell::Inflight(head), 1) = (cell, value) {
                    model.heads.push(head);
                }
            }
            Step::Publish(head) => {
                model.heads.retain(|&other| other != head);
                model.used_index = model.used_index.wrapping_add(1);
            }
        }
    }
    (image, model)
}

fn expected(model: &Model) -> Recovered {
    let count = u16::try_from(model.heads.len()).unwrap();
    Recovered { heads: model.heads.clone(), next_avail: model.used_index.wrapping_add(count) }
}

#[derive(Clone, Debug)]
enum Do {
    Take(u16),
    /// So many of those in flight, from so many on; and whether the ring breaks before the last.
    Complete(usize, usize, bool),
}

fn script() -> impl Strategy<Value = Vec<Do>> {
    let one = prop_oneof![
        3 => (0..ENTRIES).prop_map(Do::Take),
        2 => (1..5_usize, 0..4_usize, any::<bool>()).prop_map(|(count, from, breaks)| Do::Complete(count, from, breaks)),
    ];
    prop::collection::vec(one, 1..25)
}

/// Runs a script; what happened, one step at a time.
fn run(script: &[Do]) -> Vec<Step> {
    let (mut queue, journal) = recording(empty());
    queue.recover(START, ENTRIES).unwrap();
    let (mut in_flight, mut used): (Vec<u16>, u16) = (Vec::new(), START);
    for step in script {
        match *step {
            Do::Take(head) if in_flight.contains(&head) => {
                assert!(matches!(queue.take(head), Err(Error::Taken(at)) if at == head));
            }
            Do::Take(head) => {
                queue.take(head).unwrap();
                in_flight.push(head);
            }
            Do::Complete(count, from, breaks) => {
                let from = from.min(in_flight.len());
                in_flight.rotate_left(from);
                let batch: Vec<u16> = in_flight.iter().copied().take(count).collect();
                let whole = batch.len() - usize::from(breaks && !batch.is_empty());
                let result = queue.complete(&batch, |position| {
                    if position == whole {
                        return Err(Error::Loop);
                    }
                    journal.borrow_mut().push(Step::Publish(batch[position]));
                    used = used.wrapping_add(1);
                    Ok(used)
                });
                assert_eq!(result.is_err(), whole < batch.len());
                in_flight.drain(..whole);
            }
        }
    }
    journal.take()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The one promise of this module.
    #[test]
    fn death_after_any_store_loses_and_repeats_nothing(script in script()) {
        let steps = run(&script);
        for died in 0..=steps.len() {
            let (image, model) = after(&steps[..died]);
            let (region, _file) = region_of(&image);
            let found = region.queue(0).unwrap().recover(model.used_index, ENTRIES).unwrap();
            prop_assert_eq!(&found, &expected(&model), "died after {} of {:?}", died, steps);

            // Recovery dies too, after any of its own stores, and is done again.
            let (mut queue, journal) = recording(image.clone());
            queue.recover(model.used_index, ENTRIES).unwrap();
            for again in 0..journal.borrow().len() {
                let mut image = image.clone();
                for step in &journal.borrow()[..again] {
                    if let Step::Store(cell, value) = *step { put(&mut image, cell, value); }
                }
                let found = recording(image).0.recover(model.used_index, ENTRIES).unwrap();
                prop_assert_eq!(&found, &expected(&model));
            }

            // And what is taken then comes after what was.
            let mut model = model;
            if let Some(head) = (0..ENTRIES).find(|head| !model.heads.contains(head)) {
                queue.take(head).unwrap();
                model.heads.push(head);
                let image = queue.cells().image.clone();
                let found = recording(image).0.recover(model.used_index, ENTRIES).unwrap();
                prop_assert_eq!(&found, &expected(&model));
            }
        }
    }

    /// Any bytes at all.
    #[test]
    fn a_region_of_any_bytes_is_refused_or_makes_sense(
        bytes in prop::collection::vec(prop_oneof![4 => 0..9_u8, 1 => any::<u8>()], 192),
        version in prop_oneof![4 => Just(1_u16), 1 => any::<u16>()],
        used in prop_oneof![0..9_u16, any::<u16>()],
    ) {
        let mut bytes = bytes;
        put(&mut bytes, Cell::Version, version.into());
        put(&mut bytes, Cell::Entries, ENTRIES.into());
        let (region, _file) = region_of(&bytes);
        if let Ok(found) = region.queue(0).unwrap().recover(used, ENTRIES) {
            prop_assert!(found.heads.len() <= ENTRIES.into());
            prop_assert!(found.heads.iter().all(|&head| head < ENTRIES));
            let again = region.queue(0).unwrap().recover(used, ENTRIES).unwrap();
            prop_assert_eq!(found, again);
        }
    }
}

/// vhost-user, inflight I/O tracking: the layout, number by number.
#[test]
fn the_layout_is_the_specifications() {
    let (region, file) = region_of(&empty());
    let mut queue = region.queue(0).unwrap();
    queue.recover(7, ENTRIES).unwrap();
    queue.take(5).unwrap();
    queue.take(2).unwrap();
    queue.complete::<Error>(&[5], |_| Ok(8)).unwrap();
    let mut bytes = [0; 192];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let mut golden = vec![0; 8];
    golden.extend([1_u16, 8, 5, 8].iter().flat_map(|number| number.to_ne_bytes()));
    golden.resize(192, 0);
    golden[16 + 2 * 16] = 1;
    golden[16 + 2 * 16 + 8..][..8].copy_from_slice(&1_u64.to_ne_bytes());
    assert_eq!(bytes[..], golden[..]);
    assert_eq!(
        region.queue(0).unwrap().recover(8, ENTRIES).unwrap(),
        Recovered { heads: vec![2], next_avail: 9 }
    );
}

#[test]
fn each_queue_has_a_part_of_its_own() {
    assert_eq!(Region::length(3, 8).unwrap(), 3 * 192);
    assert_eq!(Region::length(1, 128).unwrap(), 2112);
    let file = Region::create(3, 8).unwrap();
    let region = Region::accept(file.try_clone().unwrap(), 0, 576, 3, 8).unwrap();
    let mut queue = region.queue(1).unwrap();
    queue.recover(0, 8).unwrap();
    queue.take(0).unwrap();
    let mut bytes = [0; 576];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes[..192], &bytes[384..]), (&[0; 192][..], &[0; 192][..]));
    assert_eq!(bytes[192 + 16], 1);
    assert!(matches!(region.queue(3), Err(Error::NoQueue(3))));
    assert!(rustix::fs::ftruncate(&file, 0).is_err(), "it is sealed");
}

#[test]
fn a_region_of_impossible_size_is_refused() {
    assert!(matches!(Region::create(0, 8), Err(Error::Size { .. })));
    assert!(matches!(Region::create(8, 0), Err(Error::Size { .. })));
    assert!(matches!(Region::create(u16::MAX, u16::MAX), Err(Error::Size { .. })));
    let short = Region::accept(memfd(4096), 0, 575, 3, 8);
    assert!(matches!(short, Err(Error::Short { needed: 576, length: 575 })));
    assert!(matches!(Region::accept(memfd(100), 0, 576, 3, 8), Err(Error::Memory(_))));
    assert!(matches!(Region::accept(memfd(4096), u64::MAX, 576, 3, 8), Err(Error::Memory(_))));
    // An offset at which its numbers are not aligned.
    let odd = Region::accept(memfd(4096), 1, 576, 3, 8).unwrap();
    assert!(matches!(odd.queue(0).unwrap().recover(0, 8), Err(Error::Memory(_))));
}

/// A used region with one head in flight, changed by `lie`.
fn lying(lie: &[(Cell, u64)], used: u16) -> Error {
    let (mut queue, _) = recording(empty());
    queue.recover(0, ENTRIES).unwrap();
    queue.take(3).unwrap();
    let mut image = queue.cells().image.clone();
    for &(cell, value) in lie {
        put(&mut image, cell, value);
    }
    let (region, file) = region_of(&image);
    let error = region.queue(0).unwrap().recover(used, ENTRIES).unwrap_err();
    let mut now = image.clone();
    file.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(now, image, "refused, and nothing changed");
    error
}

#[test]
fn a_region_that_lies_is_an_error() {
    assert!(matches!(lying(&[(Cell::Version, 2)], 0), Error::Version(2)));
    assert!(matches!(lying(&[(Cell::Entries, 9)], 0), Error::Entries(9)));
    assert!(matches!(lying(&[(Cell::Inflight(1), 2)], 0), Error::Flag(1)));
    assert!(matches!(lying(&[], 9), Error::Batch(9)));
    assert!(matches!(lying(&[(Cell::LastBatchHead, 8)], 1), Error::Head(8)));
    assert!(matches!(lying(&[(Cell::LastBatchHead, 3), (Cell::Next(3), 3)], 2), Error::Loop));
    assert!(matches!(lying(&[(Cell::Next(0), 77)], 2), Error::Head(77)));
    assert!(matches!(lying(&[(Cell::Counter(3), u64::MAX)], 0), Error::Counter));
    let (region, _file) = region_of(&empty());
    let mut queue = region.queue(0).unwrap();
    assert!(matches!(queue.take(0), Err(Error::Head(0))), "before recovery nothing is taken");
    queue.recover(0, ENTRIES).unwrap();
    queue.take(6).unwrap();
    assert!(matches!(region.queue(0).unwrap().recover(0, 6), Err(Error::Head(6))), "a smaller ring");
}

#[test]
fn what_is_not_in_flight_is_not_given_back() {
    let (mut queue, journal) = recording(empty());
    queue.recover(0, ENTRIES).unwrap();
    queue.take(1).unwrap();
    queue.take(2).unwrap();
    journal.take();
    for heads in [&[3][..], &[1, 3], &[1, 1], &[8], &[u16::MAX]] {
        let result = queue.complete::<Error>(heads, |_| panic!("published"));
        assert!(matches!(result, Err(Error::NotTaken(_))), "{heads:?}");
    }
    assert!(journal.borrow().is_empty());
    queue.complete::<Error>(&[2, 1], |position| Ok(u16::try_from(position).unwrap() + 1)).unwrap();
    queue.complete::<Error>(&[], |_| panic!("published")).unwrap();
    assert_eq!(queue.take(1).is_ok(), queue.take(2).is_ok());
}

#[test]
fn a_ring_that_was_drained_and_set_up_anew_starts_from_where_it_is() {
    let (mut queue, _) = recording(empty());
    queue.recover(500, ENTRIES).unwrap();
    queue.take(1).unwrap();
    queue.complete::<Error>(&[1], |_| Ok(501)).unwrap();
    let found = queue.recover(0, ENTRIES).unwrap();
    assert_eq!(found, Recovered { heads: vec![], next_avail: 0 });
}
