//! A handover run from both ends: what it costs, and what is left when the link, a journal or a host fails it.

mod rig;

use agent::conduct::{Ask, Decision, Done, Order, Refusal, Reply, Stop};
use handover::known_targets::KnownTargets;
use handover::verdict::Cause;
use handover::{Ending, Method, Path, Phase, UnitIndex, Verdict};
use logical_unit::Profile;
use rig::pair::{Foreign, K, N, Role, World, settings};
use rig::{Ran, Rig, Trouble};
use scsi::pr::Key;

#[expect(clippy::unwrap_used, reason = "not itself marked as a test")]
fn spc() -> &'static Profile {
    Profile::by_name("spc").unwrap()
}

type Lie<T> = fn(&mut T);

fn holders(count: usize) -> Rig {
    Rig::of(count, spc(), Role::Holder(5))
}

#[test]
fn every_role_on_every_target_moves_with_one_unit_with_two_and_with_64() {
    for profile in Profile::ALL {
        for (role, count) in Role::ALL.into_iter().flat_map(|role| [1, 2, 64].map(|count| (role, count))) {
            let rig = Rig::of(count, profile, role);
            let ran = rig.run();
            let what = format!("{} {role:?} {count}", profile.name);
            assert_eq!(ran.end, Ok(Ending::Moved), "{what}");
            rig.check(&ran.verdicts(), &what);
            let (trips, _, appends) = ran.pause();
            let nonce =
                ran.leader.group().engines().any(|(_, engine)| engine.method() == Method::SourceNonce);
            assert!(trips <= 4 + u32::from(nonce), "{what}: {trips} round trips in the pause");
            assert_eq!(appends, 3, "{what}");
        }
    }
}

#[test]
fn units_of_every_role_and_target_move_together() {
    let (mut worlds, mut orders) = (Vec::new(), Vec::new());
    for (profile, role) in Profile::ALL.iter().flat_map(|profile| Role::ALL.map(|role| (profile, role))) {
        worlds.push(World::new(profile, role, false, true));
        orders.push(settings(profile, None));
    }
    let rig = Rig::new(worlds, orders);
    let ran = rig.run();
    assert_eq!(ran.end, Ok(Ending::Moved));
    rig.check(&ran.verdicts(), "together");
    assert_eq!(ran.pause().0, 5, "round trips in the pause, with a nonce");
}

#[test]
fn sixty_four_units_cost_the_orders_of_one() {
    let of = |count| {
        let ran = holders(count).run();
        assert_eq!(ran.end, Ok(Ending::Moved));
        (ran.pause(), ran.orders)
    };
    let (pause, orders) = of(1);
    assert_eq!(of(64), (pause, orders));
    assert_eq!(pause, (4, 7, 3), "round trips, orders, appends");
}

fn sound(rig: &Rig, ran: &Ran, what: &str) {
    match &ran.end {
        Ok(Ending::InDoubt) => {}
        Ok(_) => rig.check(&ran.verdicts(), what),
        Err(stop) => unreachable!("{what}: {stop}"),
    }
}

#[test]
fn a_link_that_breaks_at_any_order_or_reply_leaves_what_a_recovery_puts_in_order() {
    for (profile, role) in [
        ("spc", Role::Holder(5)),
        ("tgt", Role::Holder(1)),
        ("lio", Role::Member(6)),
        ("spdk", Role::AloneInAll(7)),
    ] {
        let profile = Profile::by_name(profile).unwrap();
        let orders = Rig::of(2, profile, role).run().orders;
        for at in 1..=orders {
            for trouble in [Trouble::OrderLost(at), Trouble::ReplyLost(at)] {
                let mut rig = Rig::of(2, profile, role);
                rig.trouble = Some(trouble);
                let ran = rig.run();
                assert!(matches!(ran.end, Err(Stop::Lost(_))), "{:?}", ran.end);
                let what = format!("{} {role:?} order {at} of {orders}", profile.name);
                let recovered = rig.recover([true, true]);
                sound(&rig, &recovered, &what);
                assert_ne!(recovered.end, Ok(Ending::InDoubt), "{what}");
            }
        }
    }
}

#[test]
fn a_journal_that_fails_on_either_host_leaves_one_owner_or_a_doubt_that_recovery_ends() {
    for (host, at) in [0, 1].into_iter().flat_map(|host| (1..=4).map(move |at| (host, at))) {
        let mut rig = holders(3);
        rig.journals[host].fails_at = Some(at);
        let ran = rig.run();
        let what = format!("host {host}, append {at}");
        sound(&rig, &ran, &what);
        let kept = Ok(if at > 3 {
            Ending::Moved
        } else if at == 3 {
            Ending::InDoubt
        } else {
            Ending::Kept
        });
        assert_eq!(ran.end, kept, "{what}");
        let recovered = rig.recover([true, true]);
        sound(&rig, &recovered, &what);
        assert_ne!(recovered.end, Ok(Ending::InDoubt), "{what}");
    }
}

#[test]
fn a_follower_that_lies_is_stopped_and_nothing_more_is_sent() {
    let lies: [(&str, Lie<Reply>); 6] = [
        ("another round", |reply| reply.round += 1),
        ("an older round", |reply| reply.round -= 1),
        ("standing", |reply| reply.done = Done::Standing),
        ("no reports", |reply| reply.done = Done::Reports(Vec::new())),
        ("reports of the leader's actions", |reply| {
            if let Done::Reports(reports) = &mut reply.done {
                reports.iter_mut().for_each(|report| report.unit = UnitIndex(99));
            }
        }),
        ("a report twice", |reply| {
            if let Done::Reports(reports) = &mut reply.done {
                reports.extend(reports.first().cloned());
            }
        }),
    ];
    // The order after the entries of phase Freeze: the destination registers.
    let at = 8;
    for (what, lie) in lies {
        let mut rig = holders(2);
        rig.trouble = Some(Trouble::FollowerLies(at, lie));
        let mut ran = rig.run();
        assert!(matches!(ran.end, Err(Stop::Unfit(_))), "{what}: {:?}", ran.end);
        assert_eq!(ran.leader.advance(), Err(Stop::Stopped));
        let recovered = rig.recover([true, true]);
        sound(&rig, &recovered, what);
        assert_eq!(recovered.end, Ok(Ending::Kept), "{what}");
    }
}

#[test]
fn a_leader_that_lies_is_refused_and_nothing_is_sent_for_it() {
    let lies: [(&str, Lie<Order>); 9] = [
        ("another digest", |order| order.digest ^= 1),
        ("a round that is not next", |order| order.round += 1),
        ("a round that was", |order| order.round -= 1),
        ("a command before its entry", |order| order.ask = Ask::Round),
        ("an entry where none is", |order| order.ask = Ask::Journal),
        ("a phase that is not over", |order| order.decisions.push(Decision::Proceed)),
        ("a reading that is not due", |order| order.decisions.push(Decision::Refresh)),
        ("an end", |order| order.ask = Ask::Stand),
        ("a journal that failed", |order| order.decisions.insert(0, Decision::JournalFailed)),
    ];
    let orders = holders(2).run().orders;
    let mut refused = 0;
    for (what, lie) in lies {
        for at in 1..=orders {
            let mut rig = holders(2);
            rig.trouble = Some(Trouble::LeaderLies(at, lie));
            let ran = rig.run();
            if let Err(stop) = &ran.end {
                assert!(matches!(stop, Stop::Refused(_)), "{what} {at}: {stop}");
                refused += 1;
            }
            let recovered = rig.recover([true, true]);
            sound(&rig, &recovered, &format!("{what} {at}"));
        }
    }
    assert!(refused > 9 * 8, "{refused} refused");
}

#[test]
fn the_leader_begins_no_change_to_which_the_follower_has_not_agreed() {
    let rig = || {
        Rig::new(
            vec![World::new(spc(), Role::Member(5), false, true)],
            vec![settings(spc(), Some(Method::SourceNonce))],
        )
    };
    let orders = rig().run().orders;
    let lie: Lie<Order> = |order| order.digest ^= 1;
    let left = (1..=orders).map(|at| {
        let mut rig = rig();
        rig.trouble = Some(Trouble::LeaderLies(at, lie));
        assert!(matches!(rig.run().end, Err(Stop::Refused(Refusal::Disagree(_)))), "{at}");
        rig.worlds[0].lock().unwrap().key_of(Path::source(0))
    });
    let left: Vec<_> = left.collect();
    let with = |key| left.iter().filter(|left| **left == key).count();
    // Refused are the round in which it changes to the nonce, agreed before with its entry, and that in which it drops it.
    assert_eq!(with(N), 2, "{left:?}");
    assert!(with(K) > 2 && with(Key::NONE) > 0, "{left:?}");
}

#[test]
fn a_replayed_order_is_refused_whatever_it_is() {
    let rig = holders(1);
    let ran = rig.run();
    let (_, mut link, ..) = ran.leader.into_parts();
    let told = link.told.lock().unwrap().clone();
    for order in told.iter().rev().skip(1) {
        let reply = link.follower.lock().unwrap().handle(order);
        assert!(matches!(reply, Err(Refusal::OutOfOrder { .. } | Refusal::Stopped)), "{reply:?}");
    }
    link.orders = 0;
}

#[test]
fn programs_that_know_targets_differently_stop_before_anything_is_changed() {
    let mut rig = holders(2);
    rig.other_table = Some(KnownTargets::none());
    let ran = rig.run();
    assert!(matches!(ran.end, Err(Stop::Refused(Refusal::Disagree(_)))), "{:?}", ran.end);
    assert!(!ran.leader.group().touched());
}

#[test]
fn a_follower_that_wants_out_before_the_commit_gets_out_and_after_it_does_not() {
    for phase in [Phase::Plan, Phase::Prepare, Phase::Freeze, Phase::Take, Phase::Verify] {
        let mut rig = holders(2);
        rig.wants_out_at = Some(phase);
        let ran = rig.run();
        let expected = if phase < Phase::Freeze { Ending::Kept } else { Ending::Moved };
        assert_eq!(ran.end, Ok(expected), "{phase}");
        rig.check(&ran.verdicts(), "wants out");
    }
}

#[test]
fn given_up_at_a_phase_both_hosts_turn_back() {
    for phase in [Phase::Plan, Phase::Prepare, Phase::Freeze] {
        let mut rig = holders(2);
        rig.abort_at = Some(phase);
        let ran = rig.run();
        assert_eq!(ran.end, Ok(Ending::Kept));
        let kept = Verdict::KeptAtSource { cause: Cause::Aborted, leftover: false };
        assert_eq!(ran.verdicts(), [Some(kept); 2]);
        rig.check(&ran.verdicts(), "given up");
    }
}

#[test]
fn a_command_that_may_still_be_executed_is_never_reported_and_its_unit_ends_in_doubt() {
    for (host, at) in [0, 1].into_iter().flat_map(|host| (1..=30).map(move |at| (host, at))) {
        let mut rig = holders(2);
        rig.dangles_at[host] = Some(at);
        let ran = rig.run();
        let doubts =
            ran.verdicts().iter().filter(|verdict| matches!(verdict, Some(Verdict::InDoubt(_)))).count();
        match ran.end {
            Ok(Ending::InDoubt) => assert_eq!(doubts, 1),
            Ok(Ending::Moved) => assert_eq!(doubts, 0, "it was never sent"),
            other => panic!("{other:?}"),
        }
        let recovered = rig.recover([true, true]);
        sound(&rig, &recovered, "dangling");
    }
}

#[test]
fn the_way_back_is_led_by_the_same_host() {
    let rig = holders(3);
    let ran = rig.run();
    assert_eq!(ran.end, Ok(Ending::Moved));
    let back = rig.run_back(&ran.verdicts());
    assert_eq!(back.end, Ok(Ending::Moved));
    for unit in 0..3 {
        assert_eq!(rig.owners(unit), (true, false));
    }
}

#[test]
fn a_guest_fenced_on_one_unit_between_any_two_commands_is_never_registered_again() {
    for (profile, role) in
        [("spc", Role::Holder(5)), ("tgt", Role::Holder(1)), ("spdk", Role::WithOthersInAll(8))]
    {
        let profile = Profile::by_name(profile).unwrap();
        let commands = {
            let rig = Rig::of(2, profile, role);
            rig.run();
            rig.worlds[1].lock().unwrap().actions
        };
        assert!(commands > 15, "{commands}");
        for at in 0..commands {
            let rig = Rig::of(2, profile, role);
            rig.worlds[1].lock().unwrap().foreign = vec![(at, Foreign::PreemptGuest)];
            let ran = rig.run();
            let what = format!("{} {role:?} command {at}", profile.name);
            assert_eq!(rig.owners(1), (false, false), "{what}");
            assert_eq!(rig.worlds[1].lock().unwrap().foreign_mismatch, None, "{what}");
            let moved = rig.owners(0) == (false, true);
            assert_eq!(ran.end, Ok(if moved { Ending::Moved } else { Ending::Kept }), "{what}");
        }
    }
}
