//! The stripes by a property, the holders of one stripe by walking every state they can reach, the guards by
//! threads that must wait.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

proptest! {
    #[test]
    fn every_block_has_its_stripe_once_and_in_order(lba in 0..u64::MAX / 2, blocks in 0..300 * WIDTH) {
        let list: Vec<_> = Stripes::of(lba, blocks).numbers().collect();
        let wanted: BTreeSet<_> = (lba / WIDTH..=(lba + blocks.max(1) - 1) / WIDTH).map(|s| s % STRIPES).collect();
        prop_assert_eq!(list, wanted.into_iter().collect::<Vec<_>>());
    }

    /// What is refused leaves nothing behind: afterwards the whole medium is free.
    #[test]
    fn whatever_was_taken_is_given_back(extents in prop::collection::vec((0..200 * WIDTH, 1..80 * WIDTH), 1..12)) {
        let locks = ExtentLocks::default();
        let guards: Vec<_> = extents.iter().map(|(lba, blocks)| locks.try_share(*lba, *blocks)).collect();
        prop_assert!(guards.iter().all(Option::is_some));
        drop(guards);
        let alone = locks.exclude(extents[0].0, 1);
        for (lba, blocks) in &extents {
            let _ = locks.try_share(*lba, *blocks);
        }
        drop(alone);
        let idle = |stripe: &Stripe| *stripe.lock() == Holders::default();
        prop_assert!(locks.0.iter().all(idle));
    }
}

/// One command at a stripe, as the code drives it: each step is one critical section of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// Has not come yet.
    Away,
    /// Counted as waiting; asks when it is woken.
    Asleep,
    /// Is to ask (again).
    Awake,
    Inside,
    Gone,
}

/// Every order of the steps of up to four commands on one stripe. A step that leaves somebody asleep who could go on
/// and whom nobody wakes is a deadlock.
fn walk(modes: &[Mode]) {
    let start = (vec![Place::Away; modes.len()], [0_u32; 4]);
    let (mut seen, mut open) = (HashSet::new(), vec![start]);
    while let Some((places, packed)) = open.pop() {
        if !seen.insert((places.clone(), packed)) {
            continue;
        }
        let inside =
            |mode| (0..modes.len()).filter(|at| places[*at] == Place::Inside && modes[*at] == mode).count();
        let (shared, alone) = (inside(Mode::Shared), inside(Mode::Alone));
        assert!(alone == 0 || alone == 1 && shared == 0, "{modes:?} {places:?}");
        let mut moved = false;
        for at in 0..modes.len() {
            if let Some(next) = step(modes, &places, packed, at) {
                moved = true;
                open.push(next);
            }
        }
        assert!(
            moved || places.iter().all(|place| *place == Place::Gone),
            "stuck: {modes:?} {places:?} {packed:?}"
        );
    }
}

fn step(modes: &[Mode], places: &[Place], packed: [u32; 4], at: usize) -> Option<(Vec<Place>, [u32; 4])> {
    let [sharing, alone, wanted_alone, wanted_shared] = packed;
    let mut holders = Holders { sharing, alone: alone == 1, wanted_alone, wanted_shared };
    let mut places = places.to_vec();
    let exclusive = modes[at] == Mode::Alone;
    match places[at] {
        Place::Asleep | Place::Gone => return None,
        Place::Away => {
            *(if exclusive { &mut holders.wanted_alone } else { &mut holders.wanted_shared }) += 1;
            places[at] = Place::Awake;
        }
        Place::Awake if exclusive && holders.try_exclude() => {
            holders.wanted_alone -= 1;
            places[at] = Place::Inside;
        }
        Place::Awake if !exclusive && holders.try_share() => {
            holders.wanted_shared -= 1;
            places[at] = Place::Inside;
        }
        Place::Awake => places[at] = Place::Asleep,
        Place::Inside => {
            places[at] = Place::Gone;
            if holders.release(modes[at]) {
                places
                    .iter_mut()
                    .filter(|place| **place == Place::Asleep)
                    .for_each(|place| *place = Place::Awake);
            }
        }
    }
    let Holders { sharing, alone, wanted_alone, wanted_shared } = holders;
    Some((places, [sharing, alone.into(), wanted_alone, wanted_shared]))
}

#[test]
fn in_every_order_an_atomic_command_is_alone_and_nobody_waits_for_ever() {
    use Mode::{Alone, Shared};
    for modes in [
        &[Shared, Alone][..],
        &[Alone, Alone, Shared],
        &[Shared, Shared, Alone],
        &[Alone, Shared, Alone, Shared],
        &[Alone, Alone, Alone, Shared],
        &[Shared, Shared, Shared, Alone],
    ] {
        walk(modes);
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain");
        thread::yield_now();
    }
}

#[test]
fn an_atomic_command_has_its_blocks_alone() {
    let locks = ExtentLocks::default();
    let alone = locks.exclude(0, 8);
    assert!(locks.is_excluded(0) && !locks.is_excluded(WIDTH));
    assert!(locks.try_share(0, 8).is_none());
    assert!(locks.try_share(WIDTH - 1, 8).is_none(), "in part");
    assert!(locks.try_share(WIDTH, 8).is_some());
    drop(alone);
    let shared = locks.try_share(0, 8);
    assert!(shared.is_some() && locks.try_share(0, 8).is_some());
}

#[test]
fn an_atomic_command_that_waits_is_next() {
    let locks = ExtentLocks::default();
    let transfer = locks.try_share(0, 8).unwrap();
    thread::scope(|scope| {
        let atomic = scope.spawn(|| drop(locks.exclude(0, 8)));
        until(|| locks.0[0].lock().wanted_alone == 1);
        assert!(locks.try_share(0, 8).is_none(), "a queue's thread would put it off, or wait for it");
        assert!(!atomic.is_finished());
        // Elsewhere, as a transfer ends that began on another thread.
        scope.spawn(move || drop(transfer));
    });
    assert!(locks.try_share(0, 8).is_some());
}

#[test]
fn commands_of_many_threads_see_no_atomic_one_half_done() {
    let (locks, pair) = (ExtentLocks::default(), [AtomicU64::new(0), AtomicU64::new(0)]);
    let over = AtomicBool::new(false);
    // The second block of the pair is a stripe later; some extents wrap around.
    let extents = [(0, WIDTH + 1), (WIDTH * (STRIPES - 1), WIDTH * 3), (0, WIDTH * STRIPES)];
    thread::scope(|scope| {
        let writers: Vec<_> = extents
            .into_iter()
            .map(|(lba, blocks)| {
                let (locks, pair) = (&locks, &pair);
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let _alone = locks.exclude(lba, blocks);
                        let value = pair[0].load(Ordering::Relaxed) + 1;
                        pair.iter().for_each(|half| half.store(value, Ordering::Relaxed));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _shared = locks.share(0, WIDTH + 1);
                assert_eq!(pair[0].load(Ordering::Relaxed), pair[1].load(Ordering::Relaxed));
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(pair[0].load(Ordering::Relaxed), 6000);
}
