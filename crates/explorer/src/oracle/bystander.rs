//! P3, and what of P2 shows in the reservation: after every command, what the other nodes can observe is what
//! they would observe in the shadow.

use super::{Promise, Tolerance, Violation};
use crate::cast::{GUEST_KEY, NONCE, nexus_name, node};
use crate::conductor::Conductor;
use crate::foreign::ForeignCommand;
use crate::shadow::Standing;
use crate::step::Play;
use crate::world::World;
use logical_unit::NexusId;
use logical_unit::profile::Audience;
use scsi::pr::{BasicParameters, InAction, Key, OutAction, PrInCdb, PrOutCdb, ReservationType};
use scsi::{AdditionalSense, Completion, DataPhase, Request, opcode};

/// The holder as the other nodes see it: the guest is one, whichever host it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Guest,
    Node(NexusId),
    Everybody,
}

fn owner(held: Option<(ReservationType, Option<NexusId>)>) -> Option<(ReservationType, Owner)> {
    held.map(|(kind, holder)| match holder {
        None => (kind, Owner::Everybody),
        Some(nexus) if nexus.0 < node(0).0 => (kind, Owner::Guest),
        Some(nexus) => (kind, Owner::Node(nexus)),
    })
}

/// After a command of ours that the device server executed; `told`: it ended GOOD and we know it.
pub(crate) fn after_own_command<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
    request: &Request,
    told: bool,
) -> Result<(), Violation> {
    if told {
        note_what_was_read(world, request);
    }
    excuse(play, world, request);
    compare_after(play, world, Some(request))
}

/// Rules about races begin anew with each look at what they are about.
fn note_what_was_read<P>(world: &mut World<P>, request: &Request) {
    if request.cdb.first() != Some(&opcode::PERSISTENT_RESERVE_IN) {
        return;
    }
    match PrInCdb::parse(&request.cdb).map(|cdb| cdb.action) {
        Ok(InAction::REPORT_CAPABILITIES) => world.excuses.aptpl_read(),
        Ok(InAction::READ_RESERVATION) => world.excuses.reservation_stale = false,
        Ok(InAction::READ_KEYS | InAction::READ_FULL_STATUS) => {
            world.excuses.sharers_being_read = world.excuses.late_sharers
        }
        _ => {}
    }
}

/// Applies the rules for races to what a command of ours did.
fn excuse<C: Conductor>(play: &Play<'_, C>, world: &mut World<C::Procedure>, request: &Request) {
    let raced = world.excuses.aptpl_stale || world.excuses.aptpl_kept;
    if world.device.aptpl() != world.shadow.device.aptpl() && raced {
        play.tolerate(Tolerance::AptplRace);
        world.excuses.aptpl_overridden = true;
    }
    if !preempts(request, GUEST_KEY) {
        return;
    }
    let late = world.excuses.late_sharers;
    for index in (0..play.scenario.nodes).filter(|index| late >> index & 1 != 0) {
        let nexus = node(index);
        if world.device.key(nexus).is_none() && world.shadow.device.key(nexus) == Some(GUEST_KEY) {
            play.tolerate(Tolerance::LateSharer);
            let held = world.shadow.device.reservation().is_some_and(|(_, holder)| holder == Some(nexus));
            if held && world.shadow.standing == Standing::Fenced {
                // It had fenced the guest and taken the reservation, which our PREEMPT took from it.
                world.nodes_attentions_forgotten(play.scenario);
                world.shadow.fenced_as(&world.device);
            } else {
                world.shadow.accept_removal(nexus);
            }
            world.device.forget_attentions(nexus);
        }
    }
    excuse_marked_holder(play, world, request);
}

/// The PREEMPT of a guest that the target had come to mark as the holder took the reservation of all registrants.
fn excuse_marked_holder<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
    request: &Request,
) {
    let (is, should) = (owner(world.device.reservation()), owner(world.shadow.device.reservation()));
    let of_all = should.is_some_and(|(_, owner)| owner == Owner::Everybody);
    if !world.excuses.reservation_stale || is == should || !of_all {
        return;
    }
    if let Ok(cdb) = PrOutCdb::parse(&request.cdb) {
        play.tolerate(Tolerance::MarkedHolder);
        world.shadow.accept_seizure(cdb.kind);
    }
}

/// Whether a command is a PREEMPT of `victim`.
pub(crate) fn preempts(request: &Request, victim: Key) -> bool {
    let (Ok(cdb), DataPhase::Out(list)) = (PrOutCdb::parse(&request.cdb), &request.data) else {
        return false;
    };
    cdb.action.is_preempt()
        && BasicParameters::parse(list).is_ok_and(|list| list.service_action_key == victim)
}

/// After a command of another node: its answers must agree, then the states.
pub(crate) fn after_foreign_command<C: Conductor>(
    play: &Play<'_, C>,
    before: &World<C::Procedure>,
    world: &mut World<C::Procedure>,
    (index, command): (u8, ForeignCommand),
    (completion, expected): (&Completion, &Completion),
) -> Result<(), Violation> {
    note_what_was_changed(play, world, before, index);
    let listed = |key| before.guests(play.scenario).any(|nexus| before.device.key(nexus) == Some(key));
    let fences = command == ForeignCommand::Fence;
    let answers_agree = completion.status == expected.status && completion.sense == expected.sense;
    let states_agree = owner(world.device.reservation()) == owner(world.shadow.device.reservation());
    if fences && listed(NONCE) && listed(GUEST_KEY) && !(answers_agree && states_agree) {
        play.tolerate(Tolerance::FencedInNonceWindow);
        world.nodes_attentions_forgotten(play.scenario);
        world.shadow.fenced_as(&world.device);
        return Ok(());
    }
    let doomed = before.shadow.standing != Standing::Registered && listed(GUEST_KEY);
    let removed_all = command == ForeignCommand::PreemptAll
        && before.shadow.standing != Standing::Registered
        && before.guests(play.scenario).any(|nexus| before.device.key(nexus).is_some());
    if (fences && doomed || removed_all) && play.scenario.profile.attentions.audience == Audience::EveryNexus
    {
        // What the PREEMPT finds is told to everybody.
        play.tolerate(Tolerance::DoomedRegistration);
        world.nodes_attentions_forgotten(play.scenario);
        play.scenario.nodes().for_each(|nexus| world.shadow.device.forget_attentions(nexus));
    }
    if !answers_agree && fences && doomed && completion.status.is_good() {
        play.tolerate(Tolerance::DoomedRegistration);
    } else if !answers_agree {
        let what = format!(
            "{} gets {} for {command} instead of {}",
            nexus_name(node(index)),
            completion.status,
            expected.status
        );
        return Err(Violation::new(Promise::NoBystander, what));
    }
    compare(play, world)
}

fn note_what_was_changed<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
    before: &World<C::Procedure>,
    index: u8,
) {
    let reserved = world.device.reservation() != before.device.reservation();
    world.excuses.reservation_stale |= reserved && play.scenario.profile.marked_holder;
    let changed = world.device.aptpl() != before.device.aptpl();
    // Where a rule excuses a difference, the change may show in the shadow alone.
    if changed || world.shadow.device.aptpl() != before.shadow.device.aptpl() {
        (world.excuses.aptpl_stale, world.excuses.aptpl_being_read) = (true, false);
        // Whoever is told of the loss now cannot know how APTPL was then.
        world.excuses.power_lost_unread |= world.excuses.power_lost;
    }
    let shares = |world: &World<C::Procedure>| world.device.key(node(index)) == Some(GUEST_KEY);
    if shares(world) && !shares(before) {
        world.excuses.late_sharers |= 1 << index;
        world.excuses.sharers_being_read &= !(1 << index);
    }
}

/// Compares all that other nodes can observe.
pub(crate) fn compare<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
) -> Result<(), Violation> {
    compare_after(play, world, None)
}

fn compare_after<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
    own: Option<&Request>,
) -> Result<(), Violation> {
    for nexus in play.scenario.nodes() {
        registration(world, nexus)?;
        attentions(play, world, nexus, own)?;
    }
    reservation(play, world)?;
    // Without a registration APTPL means nothing until the next REGISTER sets it.
    let anybody = world.shadow.device.registrations().next().is_some();
    let agree = world.device.aptpl() == world.shadow.device.aptpl();
    world.excuses.aptpl_overridden &= !agree;
    if anybody && !agree && !world.excuses.aptpl_overridden {
        let what = format!("APTPL is {} instead of {}", world.device.aptpl(), world.shadow.device.aptpl());
        return Err(Violation::new(Promise::NoBystander, what));
    }
    Ok(())
}

fn registration<P>(world: &World<P>, nexus: NexusId) -> Result<(), Violation> {
    let (is, should) = (world.device.key(nexus), world.shadow.device.key(nexus));
    if is == should {
        return Ok(());
    }
    let text = |key: Option<Key>| key.map_or("no key".to_owned(), |key| format!("{key:?}"));
    let what = format!("{} is registered with {} instead of {}", nexus_name(nexus), text(is), text(should));
    Err(Violation::new(Promise::NoBystander, what))
}

/// Takes the unit attentions of a node on both sides and compares them.
fn attentions<C: Conductor>(
    play: &Play<'_, C>,
    world: &mut World<C::Procedure>,
    nexus: NexusId,
    own: Option<&Request>,
) -> Result<(), Violation> {
    let is = world.device.take_attentions(nexus);
    let should = world.shadow.device.take_attentions(nexus);
    if is == should {
        return Ok(());
    }
    if should.is_empty() && own.is_some_and(|own| announced(play, own, &is)) {
        play.tolerate(Tolerance::TargetAnnounces);
        return Ok(());
    }
    let what = format!("{} gets unit attentions {is:?} instead of {should:?}", nexus_name(nexus));
    Err(Violation::new(Promise::NoBystander, what))
}

/// Whether this target tells everybody of what our command did, where the standard names nobody.
fn announced<C>(play: &Play<'_, C>, request: &Request, heard: &[AdditionalSense]) -> bool {
    let habits = play.scenario.profile.attentions;
    let (Ok(cdb), DataPhase::Out(list)) = (PrOutCdb::parse(&request.cdb), &request.data) else {
        return false;
    };
    let unregisters = BasicParameters::parse(list).is_ok_and(|list| list.service_action_key.is_none());
    let every_unregistration = habits.unregister.contains(ReservationType(0));
    let unregistration = cdb.action == OutAction::REGISTER && unregisters && every_unregistration;
    let removal = cdb.action.is_preempt() && habits.audience == Audience::EveryNexus;
    unregistration && heard == [AdditionalSense::RESERVATIONS_RELEASED]
        || removal && heard == [habits.preempted.code()]
}

fn reservation<C: Conductor>(play: &Play<'_, C>, world: &World<C::Procedure>) -> Result<(), Violation> {
    let (is, should) = (owner(world.device.reservation()), owner(world.shadow.device.reservation()));
    if is == should {
        return Ok(());
    }
    let doomed = world.shadow.standing != Standing::Registered
        && world.guests(play.scenario).any(|nexus| world.device.key(nexus).is_some());
    if doomed && should.is_none() && is.is_some_and(|(_, owner)| owner == Owner::Everybody) {
        play.tolerate(Tolerance::DoomedRegistration);
        return Ok(());
    }
    let text = |held: Option<(ReservationType, Owner)>| match held {
        None => "none".to_owned(),
        Some((kind, Owner::Guest)) => format!("{kind} held by the guest"),
        Some((kind, Owner::Everybody)) => format!("{kind} held by all registrants"),
        Some((kind, Owner::Node(nexus))) => format!("{kind} held by {}", nexus_name(nexus)),
    };
    let promise = if is.is_none() { Promise::NoGap } else { Promise::NoBystander };
    Err(Violation::new(promise, format!("the reservation is {} instead of {}", text(is), text(should))))
}
