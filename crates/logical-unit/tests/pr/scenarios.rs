//! Which test proves which tricky scenario of reservation handling; the table is checked against the sources.

const SOURCES: [&str; 7] = [
    include_str!("registration.rs"),
    include_str!("reservation.rs"),
    include_str!("preempt.rs"),
    include_str!("durability.rs"),
    include_str!("errors.rs"),
    include_str!("wire.rs"),
    include_str!("random.rs"),
];

/// Scenario number and the test that proves it.
const TABLE: [(u8, &str); 50] = [
    (1, "register_no_key_unregistered_changes_nothing"),
    (2, "register_with_key_unregistered_conflicts"),
    (3, "register_same_key_keeps_holder_and_counts"),
    (4, "holder_changes_key_and_reservation_shows_it"),
    (5, "ignore_accepts_any_reservation_key"),
    (6, "ignore_unregisters_and_releases"),
    (7, "unregistering_holder_tells_registrants_of_shared_types_only"),
    (8, "all_registrants_reservation_lives_with_its_last_registrant"),
    (9, "all_registrants_reserve_by_another_registrant"),
    (10, "reserve_twice_is_good_and_not_counted"),
    (11, "reserve_scope_and_type_before_key"),
    (12, "release_by_bystander_ignores_type_but_not_key"),
    (13, "release_with_wrong_type_is_invalid_release"),
    (14, "release_under_all_registrants_tells_all_others"),
    (15, "clear_by_non_holder_removes_everything"),
    (16, "preempt_of_unknown_key_conflicts"),
    (17, "preempt_of_no_key"),
    (18, "preempt_all_registrants_into_single"),
    (19, "preempt_own_key_under_all_registrants_with_others"),
    (20, "preempt_own_key_under_all_registrants_alone"),
    (21, "preempt_key_shared_by_all_registrants"),
    (22, "preempt_own_key_as_holder"),
    (23, "preempt_own_key_without_reservation"),
    (24, "preempt_own_key_beside_another_holder"),
    (25, "preempt_holder_with_same_key_keeps_sender"),
    (26, "preempt_holder_key_shared_with_third_nexus"),
    (27, "preempt_changing_type_takes_access_at_once"),
    (28, "preempt_that_only_removes_ignores_scope_and_type"),
    (29, "preempt_by_unregistered_conflicts"),
    (30, "preempt_and_abort_names_whose_commands_end"),
    (31, "move_with_and_without_unreg"),
    (32, "move_to_registered_own_port_and_all_registrants"),
    (33, "move_descriptor_errors"),
    (34, "spec_i_pt_lists"),
    (35, "all_target_ports_reservation_is_of_one_nexus"),
    (36, "all_target_ports_unregister_with_and_without_bit"),
    (37, "last_aptpl_decides_for_everybody"),
    (38, "power_cycle_with_aptpl_keeps_all_but_generation"),
    (39, "resets_and_nexus_loss_leave_reservations"),
    (40, "read_keys_and_full_status_every_allocation_length"),
    (41, "read_reservation_allocation_lengths"),
    (42, "parameter_list_lengths"),
    (43, "spc2_reservation_excludes_all_pr_commands"),
    (44, "spc2_reserve_beside_registrations"),
    (45, "generation_wraps"),
    (46, "preempted_nexus_sees_conflict_then_attention"),
    (47, "two_attentions_and_the_commands_between"),
    (48, "more_registrations_than_can_be_read"),
    (49, "random_interleavings_keep_the_invariants"),
    (50, "tracker_follows_what_was_good"),
];

#[test]
fn every_scenario_has_its_test() {
    for (at, (number, name)) in TABLE.iter().enumerate() {
        assert_eq!(usize::from(*number), at + 1, "the table is complete and in order");
        let found = SOURCES.iter().filter(|source| {
            let definition = format!("fn {name}(");
            let Some((before, _)) = source.split_once(&definition) else { return false };
            before.trim_end().ends_with("#[test]")
        });
        assert_eq!(found.count(), 1, "scenario {number}: {name}");
    }
}
