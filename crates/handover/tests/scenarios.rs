//! The situations in which live migration of reservations went wrong elsewhere, by name; each on every kind of target
//! that can be in it.

#![expect(clippy::unwrap_used, reason = "a harness fails its test by panicking")]

mod pair;

use handover::facts::SameUnit;
use handover::{
    Action, Cause, Engine, Event, Method, Path, Phase, Procedure, Reason, Role as Standing, Settings, Side,
    Step, Verdict,
};
use logical_unit::Profile;
use logical_unit::attention::Attention;
use pair::{A, C, End, Fault, Foreign, K, N, Role, World, id, port, settings, survey, unknown_target};
use scsi::pr::{Key, request};
use scsi::{AdditionalSense, Completion, Sense};

const MOVED: End = End::Verdict(Verdict::Moved);

fn run(world: &mut World, settings: Settings) -> (End, Engine) {
    let mut engine = Engine::new(settings);
    (world.run(&mut engine), engine)
}

/// A handover that must succeed, and what it left.
fn moved(profile: &'static Profile, role: Role, shared: bool) -> World {
    let mut world = World::new(profile, role, shared, true);
    let (end, _) = run(&mut world, settings(profile, None));
    assert_eq!(end, MOVED, "{} {role:?}\n{}", profile.name, world.log.join("\n"));
    assert_eq!(world.key_of(Path::destination(0)), K);
    assert_eq!(world.gap, None);
    world
}

fn kind(world: &World) -> Option<u8> {
    world.unit.reservations().reservation().map(|held| held.kind.0)
}

#[test]
fn ctl_the_holder_of_a_registrants_only_reservation_moves_and_the_other_registrant_stays() {
    for profile in Profile::ALL {
        let world = moved(profile, Role::Holder(5), false);
        assert!(world.holds(Path::destination(0)));
        assert_eq!((kind(&world), world.unit.reservations().key_of(A)), (Some(5), pair::A_KEY));
    }
}

#[test]
fn a_a_member_stays_a_member_and_the_holder_stays_the_holder() {
    for profile in Profile::ALL {
        let world = moved(profile, Role::Member(5), false);
        assert!(world.unit.reservations().is_holder(A) && !world.holds(Path::destination(0)));
    }
}

#[test]
fn b_e_c_y_all_registrants_types_keep_their_type_and_everybody_in_it() {
    for (profile, code) in Profile::ALL.into_iter().flat_map(|profile| [(profile, 7), (profile, 8)]) {
        for role in [Role::WithOthersInAll(code), Role::AloneInAll(code)] {
            let world = moved(profile, role, false);
            assert_eq!(kind(&world), Some(code));
            assert!(world.holds(Path::destination(0)));
        }
        let world = moved(profile, Role::WithOthersInAll(code), false);
        assert!(world.unit.reservations().is_holder(A));
    }
}

#[test]
fn p_aptpl_survives_and_is_not_invented() {
    for profile in Profile::ALL {
        for aptpl in [false, true] {
            let mut world = World::new(profile, Role::Holder(5), false, aptpl);
            let (end, engine) = run(&mut world, settings(profile, None));
            assert_eq!(end, MOVED);
            let real = world.unit.reservations().aptpl();
            assert_eq!(real, aptpl && profile.support.aptpl, "{}", profile.name);
            assert!(!engine.aptpl_may_have_changed());
        }
    }
}

#[test]
fn p_an_aptpl_that_another_node_changed_meanwhile_is_reported() {
    let profile = &logical_unit::profile::SPC;
    let mut world = World::new(profile, Role::Holder(5), false, true);
    world.foreign = vec![(10, Foreign::ChangeAptpl)];
    let (end, engine) = run(&mut world, settings(profile, None));
    assert_eq!(end, MOVED);
    assert!(engine.aptpl_may_have_changed(), "{}", world.log.join("\n"));
}

#[test]
fn g_a_bystander_that_shares_the_key_is_untouched() {
    for profile in Profile::ALL {
        for role in Role::ALL {
            let world = moved(profile, role, true);
            assert_eq!(world.unit.reservations().key_of(C), K, "{} {role:?}", profile.name);
        }
    }
}

#[test]
fn g_preempting_a_shared_key_is_refused_with_the_reason() {
    for profile in Profile::ALL {
        let mut world = World::new(profile, Role::Holder(5), true, true);
        let (end, _) = run(&mut world, settings(profile, Some(Method::PreemptOwnKey)));
        // Where READ FULL STATUS is missing it is not even known who holds.
        let known = profile.support.read_full_status;
        let reason = if known { Reason::KeyShared } else { Reason::HolderUnknown };
        assert_eq!(end, End::Verdict(Verdict::Refused(reason)), "{}", profile.name);
    }
}

#[test]
fn without_full_status_the_nonce_tells_whether_the_source_or_a_sharer_holds() {
    let profile = &logical_unit::profile::TGT;
    for sharer_holds in [false, true] {
        let mut world = World::new(profile, Role::Registrant, true, false);
        let holder = if sharer_holds { C } else { id(Path::source(0)) };
        world.good(holder, &request::reserve(K, scsi::pr::ReservationType(5)));
        world.shadow = world.unit.clone();
        let (end, engine) = run(&mut world, settings(profile, None));
        assert_eq!((end, engine.method()), (MOVED, Method::SourceNonce), "{}", world.log.join("\n"));
        assert_eq!(world.holds(Path::destination(0)), !sharer_holds);
        assert_eq!(world.unit.reservations().is_holder(C), sharer_holds);
        assert_eq!(world.unit.reservations().key_of(C), K);
    }
}

#[test]
fn u1_a_handover_goes_back_by_the_same_procedure_with_the_sides_exchanged() {
    for profile in Profile::ALL {
        let mut world = moved(profile, Role::Holder(5), false);
        let mut back = settings(profile, None);
        (back.source, back.destination) = (back.destination, back.source);
        // The same nexuses under exchanged names.
        let mut engine = Exchanged(Engine::new(back));
        assert_eq!(world.run(&mut engine), MOVED, "{}\n{}", profile.name, world.log.join("\n"));
        assert!(world.holds(Path::source(0)));
        assert_eq!(world.key_of(Path::destination(0)), Key::NONE);
    }
}

/// A procedure whose source is the other's destination.
struct Exchanged(Engine);

impl Procedure for Exchanged {
    fn poll(&mut self) -> Step {
        let exchange = |action| match action {
            Action::Execute { id, path, request } => {
                Action::Execute { id, path: Path { side: path.side.other(), ..path }, request }
            }
            other => other,
        };
        match self.0.poll() {
            Step::Run(actions) => Step::Run(actions.into_iter().map(exchange).collect()),
            step => step,
        }
    }

    fn handle(&mut self, event: Event) {
        self.0.handle(event);
    }
}

#[test]
fn u2_unit_attentions_that_wait_for_the_destination_are_absorbed() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.attentions.reported) {
        for attention in Attention::ALL {
            let mut world = World::new(profile, Role::Holder(5), false, false);
            world.unit.establish(id(Path::destination(0)), attention);
            let (end, engine) = run(&mut world, settings(profile, None));
            assert_eq!(end, MOVED, "{} {attention:?}\n{}", profile.name, world.log.join("\n"));
            assert_eq!(engine.attentions(), [], "it was not the guest's");
        }
    }
}

#[test]
fn a_unit_attention_taken_from_the_guests_nexus_is_owed_to_the_guest_once() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.attentions.reported) {
        for (method, role) in
            [(None, Role::Member(5)), (None, Role::Holder(5)), (Some(Method::SourceNonce), Role::Holder(5))]
        {
            let mut world = World::new(profile, role, false, false);
            world.unit.establish(id(Path::source(0)), Attention::CapacityChanged);
            let (end, engine) = run(&mut world, settings(profile, method));
            assert_eq!(end, MOVED);
            let sent = world.log.iter().any(|line| line.contains("source: ") && line.contains("2a/09"));
            let owed = if sent { vec![AdditionalSense::CAPACITY_CHANGED] } else { vec![] };
            assert_eq!(engine.attentions(), owed, "{} {role:?} {method:?}", profile.name);
        }
    }
}

#[test]
fn x2_giving_up_before_the_pause_sends_nothing_and_before_the_commit_leaves_nothing() {
    for profile in Profile::ALL {
        for stop in [Phase::Plan, Phase::Prepare, Phase::Freeze] {
            let mut world = World::new(profile, Role::Holder(5), true, true);
            let mut engine = Stopping(Engine::new(settings(profile, None)), stop);
            let end = world.run(&mut engine);
            let kept = Verdict::KeptAtSource { cause: Cause::Aborted, leftover: false };
            assert_eq!(end, End::Verdict(kept), "{} {stop}", profile.name);
            assert_eq!(world.key_of(Path::destination(0)), Key::NONE);
            assert!(world.holds(Path::source(0)));
            let registered = world.log.iter().any(|line| line.contains("OUT 0 0->"));
            assert_eq!(registered, stop == Phase::Freeze, "{}", world.log.join("\n"));
        }
    }
}

/// Gives up when a phase is over.
struct Stopping(Engine, Phase);

impl Procedure for Stopping {
    fn poll(&mut self) -> Step {
        let step = self.0.poll();
        if step == Step::PhaseDone(self.1) {
            self.0.handle(Event::Abort);
            return self.0.poll();
        }
        step
    }

    fn handle(&mut self, event: Event) {
        self.0.handle(event);
    }
}

#[test]
fn x3_a_destination_that_already_has_the_key_is_taken_as_it_is() {
    for profile in Profile::ALL {
        for role in [Role::Holder(5), Role::Member(6), Role::Registrant, Role::AloneInAll(7)] {
            let mut world = World::new(profile, role, false, false);
            world.good(id(Path::destination(0)), &request::register(Key::NONE, K, false));
            let (end, _) = run(&mut world, settings(profile, None));
            assert_eq!(end, MOVED, "{} {role:?}\n{}", profile.name, world.log.join("\n"));
            assert_eq!(world.key_of(Path::destination(0)), K);
            assert_eq!(world.key_of(Path::source(0)), Key::NONE);
        }
    }
}

#[test]
fn x3_a_handover_repeated_after_a_success_is_refused_and_leaves_what_is_there() {
    for profile in Profile::ALL {
        for role in [Role::Holder(5), Role::Registrant, Role::AloneInAll(7)] {
            let mut world = moved(profile, role, false);
            let (end, _) = run(&mut world, settings(profile, None));
            assert_eq!(
                end,
                End::Verdict(Verdict::Refused(Reason::AlreadyThere)),
                "{} {role:?}",
                profile.name
            );
            assert_eq!(world.key_of(Path::destination(0)), K);
            assert_eq!(world.key_of(Path::source(0)), Key::NONE);
        }
    }
}

#[test]
fn x3_the_same_nexus_on_both_sides_is_refused() {
    let profile = &logical_unit::profile::SPC;
    let mut same = settings(profile, None);
    same.destination = same.source.clone();
    let (end, _) = run(&mut World::new(profile, Role::Holder(5), false, false), same);
    assert_eq!(end, End::Verdict(Verdict::Refused(Reason::SameNexus)));
}

#[test]
fn n_a_guest_that_was_fenced_before_is_reported_and_nothing_is_sent() {
    for profile in Profile::ALL {
        let mut world = World::new(profile, Role::Holder(5), false, false);
        world.intervene(Foreign::PreemptGuest);
        let (end, _) = run(&mut world, settings(profile, None));
        assert_eq!(end, End::Verdict(Verdict::Fenced { nonce_left: false }), "{}", profile.name);
        assert!(!world.log.iter().any(|line| line.contains("OUT 0 0->")), "{}", world.log.join("\n"));
    }
}

#[test]
fn a_lost_target_is_not_called_fenced() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.attentions.reported) {
        let mut world = World::new(profile, Role::Holder(5), false, false);
        let read_both = if profile.support.read_full_status { 8 } else { 7 };
        world.faults = vec![(read_both, Fault::PowerCycle)];
        let (end, _) = run(&mut world, settings(profile, None));
        assert_eq!(end, End::Verdict(Verdict::Lost), "{}\n{}", profile.name, world.log.join("\n"));
    }
}

#[test]
fn fenced_inside_the_nonce_window_exclusive_types_are_freed_and_registrants_only_types_kept() {
    for profile in Profile::ALL {
        for code in [1, 3, 5, 6] {
            let mut world = World::new(profile, Role::Holder(code), false, false);
            let window = find(profile, code, "4b->4e");
            world.foreign = vec![(window + 1, Foreign::PreemptGuest)];
            let (end, _) = run(&mut world, settings(profile, Some(Method::SourceNonce)));
            let nonce_left = code >= 5;
            assert_eq!(
                end,
                End::Verdict(Verdict::Fenced { nonce_left }),
                "{}\n{}",
                profile.name,
                world.log.join("\n")
            );
            assert_eq!(world.key_of(Path::source(0)), if nonce_left { N } else { Key::NONE });
            assert_eq!(world.key_of(Path::destination(0)), Key::NONE);
        }
    }
}

/// The number of the first action whose words contain `text`.
fn find(profile: &'static Profile, code: u8, text: &str) -> usize {
    let mut world = World::new(profile, Role::Holder(code), false, false);
    run(&mut world, settings(profile, Some(Method::SourceNonce)));
    let line = world.log.iter().find(|line| line.contains(text)).unwrap();
    line.split(':').next().unwrap().trim().parse().unwrap()
}

#[test]
fn of_an_unknown_target_nothing_is_assumed() {
    for profile in Profile::ALL {
        for role in Role::ALL {
            for shared in [false, true] {
                let mut world = World::new(profile, role, shared, true);
                let (end, engine) = run(&mut world, unknown_target(settings(profile, None)));
                assert_eq!(end, MOVED, "{} {role:?}\n{}", profile.name, world.log.join("\n"));
                assert_ne!(engine.method(), Method::PreemptOwnKey);
                let proved = world.log.iter().any(|line| line.contains("source: OUT 0 4b->4b"));
                assert!(proved, "the source proves itself\n{}", world.log.join("\n"));
            }
        }
    }
}

#[test]
fn a_dead_source_needs_permission_and_gets_moved_with_it() {
    for profile in Profile::ALL {
        for role in Role::ALL {
            let mut dead = settings(profile, None);
            dead.source_alive = false;
            let mut world = World::new(profile, role, false, false);
            let (end, _) = run(&mut world, dead.clone());
            assert_eq!(end, End::Verdict(Verdict::Refused(Reason::AbsenceNotAllowed)), "{}", profile.name);
            dead.allow_absence = true;
            let (end, engine) = run(&mut world, dead);
            // Whoever is not the holder relies on the target to refuse a PREEMPT of an unknown key.
            let refuses = !matches!(profile.name, "spdk" | "keep-self");
            let told = profile.support.read_full_status;
            let provable = told && (refuses || matches!(role, Role::Holder(_)));
            let expected = if provable { Verdict::Moved } else { Verdict::Refused(Reason::ProofMissing) };
            assert_eq!(end, End::Verdict(expected), "{} {role:?}\n{}", profile.name, world.log.join("\n"));
            assert!(!world.log.iter().any(|line| line.contains(" source: ")), "the source is dead");
            if provable {
                assert_eq!(engine.method(), Method::DestinationNonce);
                assert_eq!(world.key_of(Path::destination(0)), K);
                assert_eq!(world.key_of(Path::source(0)), Key::NONE);
            }
        }
    }
}

#[test]
fn what_forbids_a_handover_is_said_and_nothing_is_changed() {
    let profile = &logical_unit::profile::SPC;
    let refuse = |edit: &dyn Fn(&mut Settings), reason| {
        let mut settings = settings(profile, None);
        edit(&mut settings);
        let mut world = World::new(profile, Role::Holder(5), false, false);
        let (end, _) = run(&mut world, settings);
        assert_eq!(end, End::Verdict(Verdict::Refused(reason)));
        assert_eq!(world.unit.reservations().registrations(), world.shadow.reservations().registrations());
    };
    let unit = |same| move |settings: &mut Settings| settings.survey.as_mut().unwrap().same_unit = same;
    refuse(&unit(SameUnit::Different), Reason::DifferentUnits);
    refuse(&unit(SameUnit::Unknown), Reason::UnknownUnit);
    refuse(&|settings| settings.nonce = K, Reason::NonceTaken);
    refuse(&|settings| settings.nonce = pair::A_KEY, Reason::NonceTaken);
    refuse(&|settings| settings.nonce = Key::NONE, Reason::NonceTaken);
    refuse(&|settings| settings.source.clear(), Reason::Paths);
    refuse(&|settings| settings.destination = vec![port(Path::destination(0)); 9], Reason::Paths);
    refuse(&|settings| settings.key = Some(Key::NONE), Reason::NotRegistered);
    refuse(&|settings| settings.key = Some(Key(0xDEAD)), Reason::OtherKey);
    refuse(&|settings| settings.method = Some(Method::MakeBeforeBreak), Reason::SourceHolds);
    let unnamed = |settings: &mut Settings| {
        settings.key = None;
        settings.source = vec![handover::Port::default()];
    };
    refuse(&unnamed, Reason::KeyUnknown);
}

#[test]
fn the_key_and_role_are_learnt_by_full_status() {
    for profile in Profile::ALL.into_iter().filter(|profile| profile.support.read_full_status) {
        let mut learning = settings(profile, None);
        learning.key = None;
        let mut world = World::new(profile, Role::Holder(6), true, false);
        let mut engine = Engine::new(learning);
        let mut plan = None;
        while plan.is_none() {
            match engine.poll() {
                Step::Run(actions) => feed(&mut world, &mut engine, actions),
                _ => plan = engine.plan(),
            }
        }
        let plan = plan.unwrap();
        assert_eq!(plan.role, Standing::Holder(scsi::pr::ReservationType(6)), "{}", profile.name);
        assert_eq!(world.run(&mut engine), MOVED);
    }
}

fn feed(world: &mut World, engine: &mut Engine, actions: Vec<Action>) {
    for action in actions {
        if let Action::Execute { id: number, path, request } = action {
            let outcome = handover::Outcome::Done(world.send(id(path), &request));
            engine.handle(Event::Completed { id: number, outcome });
        }
    }
}

#[test]
fn the_plan_previews_the_very_commands_that_are_sent() {
    for profile in Profile::ALL {
        for role in Role::ALL {
            let mut world = World::new(profile, role, false, true);
            let mut engine = Engine::new(settings(profile, None));
            while engine.plan().is_none() {
                let Step::Run(actions) = engine.poll() else { panic!("no plan") };
                feed(&mut world, &mut engine, actions);
            }
            let plan = engine.plan().unwrap();
            let changes = |request: &scsi::Request| request.cdb.first() == Some(&0x5f);
            let preview: Vec<_> = plan
                .commands
                .iter()
                .filter_map(|command| {
                    let request = command.request.clone().filter(changes)?;
                    Some(format!("{}: {}", command.path, pair::words(&request)))
                })
                .collect();
            world.log.clear();
            assert_eq!(world.run(&mut engine), MOVED);
            let begun = world.log.iter().position(|line| line.contains("journal Freeze")).unwrap();
            let sent: Vec<_> = world
                .log
                .iter()
                .skip(begun)
                .filter(|line| line.contains("OUT ") && line.contains("GOOD"))
                .map(|line| line.split_once(": ").unwrap().1.split(" -> ").next().unwrap().to_owned())
                .collect();
            assert_eq!(preview, sent, "{} {role:?}", profile.name);
        }
    }
}

#[test]
fn a_target_that_never_stops_reporting_unit_attentions_ends_the_handover() {
    let profile = &logical_unit::profile::SPC;
    let mut engine = Engine::new(settings(profile, None));
    let attention = Completion::check(&Sense::unit_attention(AdditionalSense::CAPACITY_CHANGED));
    let mut batches = 0;
    let verdict = loop {
        batches += 1;
        assert!(batches < 50, "it does not give up");
        match engine.poll() {
            Step::Run(actions) => {
                for action in actions {
                    if let Action::Execute { id, .. } = action {
                        let outcome = handover::Outcome::Done(attention.clone());
                        engine.handle(Event::Completed { id, outcome });
                    }
                }
            }
            Step::Finished(verdict) => break verdict,
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(verdict, Verdict::Refused(Reason::Unreachable));
    assert_eq!(batches, 7, "five repetitions, and no more");
}

#[test]
fn reports_that_make_no_sense_are_ignored() {
    let mut engine = Engine::new(settings(&logical_unit::profile::SPC, None));
    let before = engine.clone();
    for event in [Event::Proceed, Event::Refresh, completed(0), completed(255)] {
        engine.handle(event);
    }
    assert_eq!(engine, before);
}

fn completed(number: u8) -> Event {
    let outcome = handover::Outcome::Done(Completion::good(Vec::new()));
    Event::Completed { id: handover::CommandId(number), outcome }
}

#[test]
fn the_static_reads_find_units_ports_and_move_support() {
    let profile = &logical_unit::profile::SPC;
    for (same, expected) in [(true, MOVED), (false, End::Verdict(Verdict::Refused(Reason::DifferentUnits)))] {
        let mut settings = settings(profile, None);
        settings.survey = None;
        settings.destination[0].target_port = None;
        let mut world = World::new(profile, Role::Holder(5), false, false);
        let mut engine = Surveyed(Engine::new(settings), same);
        assert_eq!(world.run(&mut engine), expected, "{}", world.log.join("\n"));
        if same {
            assert_eq!(engine.0.method(), Method::RegisterAndMove, "needs the port and the support");
        }
    }
    assert_eq!(survey(profile).same_unit, SameUnit::Same);
}

/// Answers INQUIRY and REPORT SUPPORTED OPERATION CODES as a block device server would.
struct Surveyed(Engine, bool);

impl Procedure for Surveyed {
    fn poll(&mut self) -> Step {
        let Step::Run(actions) = self.0.poll() else { return self.0.poll() };
        let mut rest = Vec::new();
        for action in actions {
            match answer(&action, self.1) {
                Some(event) => self.0.handle(event),
                None => rest.push(action),
            }
        }
        if rest.is_empty() { self.poll() } else { Step::Run(rest) }
    }

    fn handle(&mut self, event: Event) {
        self.0.handle(event);
    }
}

fn answer(action: &Action, same: bool) -> Option<Event> {
    let Action::Execute { id, path, request } = action else { return None };
    let data = match request.cdb.as_slice() {
        [0x12, 0, ..] => [vec![0; 8], b"TENURE  LOGICAL UNIT    0001".to_vec()].concat(),
        [0x12, 1, 0x83, ..] => {
            let serial = u8::from(same || path.side == Side::Source);
            vec![0, 0x83, 0, 20, 1, 3, 0, 8, 0x60, 0, 0, 0, 0, 0, 0, serial, 0x51, 0x94, 0, 4, 0, 0, 0, 1]
        }
        [0xa3, 0x0c, ..] => vec![0, 3, 0, 10],
        _ => return None,
    };
    Some(Event::Completed { id: *id, outcome: handover::Outcome::Done(Completion::good(data)) })
}
