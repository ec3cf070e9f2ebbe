//! Queues: each condition once, the 29h family first, otherwise in order of arrival.

use super::*;
use proptest::prelude::*;

const N: NexusId = NexusId(3);

fn any_condition() -> impl Strategy<Value = Attention> {
    proptest::sample::select(&Attention::ALL[..])
}

#[test]
fn discriminants_name_their_place() {
    for (at, condition) in Attention::ALL.into_iter().enumerate() {
        assert_eq!(condition as usize, at + 1);
    }
}

#[test]
fn resets_come_first() {
    let mut queues = AttentionQueues::default();
    for condition in [Attention::RegistrationsPreempted, Attention::ReportedLunsChanged, Attention::PowerOn] {
        queues.establish([N], condition);
    }
    assert_eq!(queues.take(N, false), Some(Attention::PowerOn));
    assert_eq!(queues.take(N, false), Some(Attention::RegistrationsPreempted));
    assert_eq!(queues.take(N, false), Some(Attention::ReportedLunsChanged));
    assert_eq!((queues.take(N, false), queues), (None, AttentionQueues::default()));
}

#[test]
fn taking_one_may_clear_all() {
    let mut queues = AttentionQueues::default();
    queues.establish([N, NexusId(1)], Attention::ReservationsReleased);
    queues.establish([N], Attention::RegistrationsPreempted);
    assert_eq!(queues.take(N, true), Some(Attention::ReservationsReleased));
    assert_eq!(queues.first(N), None);
    assert_eq!(queues.first(NexusId(1)), Some(Attention::ReservationsReleased));
}

#[test]
fn a_nexus_named_twice_is_told_once() {
    let mut queues = AttentionQueues::default();
    queues.establish([N, N, N], Attention::PowerOn);
    assert_eq!(queues.pending(N).count(), 1);
    assert_eq!(queues.nexuses().count(), 1);
}

proptest! {
    #[test]
    fn queues_are_ordered_bounded_and_without_duplicates(
        told in prop::collection::vec((0_u32..4, any_condition()), 0..80)
    ) {
        let mut queues = AttentionQueues::default();
        let mut model: Vec<(u32, Attention)> = Vec::new();
        for one in told {
            queues.establish([NexusId(one.0)], one.1);
            if !model.contains(&one) {
                model.push(one);
            }
        }
        for nexus in 0..4 {
            let expected: Vec<_> = model.iter().filter(|one| one.0 == nexus).map(|one| one.1).collect();
            prop_assert_eq!(queues.pending(NexusId(nexus)).collect::<Vec<_>>(), expected);
        }
    }
}
