//! What must hold when a procedure has ended: P4's single owner, P5's truthful verdict, P6's fidelity.

use super::{Promise, Tolerance, Violation};
use crate::cast::{GUEST_KEY, Host, NONCE};
use crate::conductor::Conductor;
use crate::moves::is_open;
use crate::scenario::Scenario;
use crate::shadow::Standing;
use crate::step::Play;
use crate::world::World;
use handover::{Method, Verdict};
use logical_unit::NexusId;
use scsi::pr::{Key, ReservationType};

/// Checks a state in which a verdict has been given.
pub(super) fn check<C: Conductor>(
    play: &Play<'_, C>,
    world: &World<C::Procedure>,
    verdict: Verdict,
) -> Result<(), Violation> {
    let scenario = play.scenario;
    truthful(play, world, verdict)?;
    if is_open(verdict) {
        return open(play, world, verdict);
    }
    let owner = match verdict {
        Verdict::Moved => Some(Host::Destination),
        Verdict::KeptAtSource { .. } | Verdict::Refused(_) => Some(Host::Source),
        Verdict::Fenced { .. } | Verdict::Lost | Verdict::InDoubt(_) => None,
    };
    match (owner, world.shadow.standing) {
        (Some(owner), Standing::Registered) => owned(scenario, world, owner),
        _ => gone(scenario, world, verdict),
    }
}

/// P5: the verdict says what happened.
fn truthful<C: Conductor>(
    play: &Play<'_, C>,
    world: &World<C::Procedure>,
    verdict: Verdict,
) -> Result<(), Violation> {
    let standing = world.shadow.standing;
    let wrong = match verdict {
        Verdict::Fenced { .. }
            if standing == Standing::Lost && !play.scenario.profile.attentions.reported =>
        {
            play.tolerate(Tolerance::SilentTarget);
            false
        }
        Verdict::Fenced { .. } if standing == Standing::Lost => !excused_loss(play, world),
        Verdict::Fenced { .. } => standing != Standing::Fenced,
        // Whether a guest that nobody has registered was fenced before the target forgot all cannot be told.
        Verdict::Lost if !world.shadow.forgotten => {
            let unread = world.excuses.power_lost_unread;
            unread.then(|| play.tolerate(Tolerance::PersistenceUnread));
            !unread
        }
        _ => false,
    };
    let what = || format!("verdict {verdict:?} while the guest is {standing:?}");
    if wrong { Err(Violation::new(Promise::CrashSafe, what())) } else { Ok(()) }
}

/// Whether nobody can tell that the target forgot: then the guest is rightly taken for fenced.
fn excused_loss<C: Conductor>(play: &Play<'_, C>, world: &World<C::Procedure>) -> bool {
    let excuses = world.excuses;
    let rule = match (excuses.power_lost_unread, excuses.word_lost) {
        (true, _) => Tolerance::PersistenceUnread,
        (false, true) => Tolerance::WordOfPowerLost,
        (false, false) => return false,
    };
    play.tolerate(rule);
    true
}

/// A verdict that leaves something open needs a cause, and nobody runs the guest in doubt.
fn open<C: Conductor>(
    play: &Play<'_, C>,
    world: &World<C::Procedure>,
    verdict: Verdict,
) -> Result<(), Violation> {
    // Without the source another node's command beside the PREEMPT leaves in doubt whom it found.
    let blind = play.scenario.method == Some(Method::DestinationNonce) || play.scenario.source_dead;
    if !world.disturbed && !blind {
        return Err(Violation::new(Promise::CrashSafe, format!("{verdict:?} although nothing failed")));
    }
    let in_doubt = matches!(verdict, Verdict::InDoubt(_));
    play.tolerate(if in_doubt { Tolerance::InDoubt } else { Tolerance::Unreachable });
    Ok(())
}

/// P4 and P6: exactly the owner's nexuses are registered, with the guest's key and its role.
fn owned<P>(scenario: &Scenario, world: &World<P>, owner: Host) -> Result<(), Violation> {
    let own = world.nexuses_at(scenario, owner);
    for nexus in world.guests(scenario) {
        match (own.contains(&nexus), world.device.key(nexus)) {
            (true, Some(GUEST_KEY)) | (false, None) => {}
            (true, key) => return Err(wrong_key(owner, key)),
            (false, Some(key)) => return leak(world, owner, nexus, key),
        }
    }
    let held = |held: Option<(ReservationType, Option<NexusId>)>, mine: &dyn Fn(NexusId) -> bool| {
        held.map(|(kind, holder)| (kind, holder.map(mine)))
    };
    let is = held(world.device.reservation(), &|nexus| own.contains(&nexus));
    let guests: Vec<_> = scenario.guest_nexuses().collect();
    let should = held(world.shadow.device.reservation(), &|nexus| guests.contains(&nexus));
    if is != should {
        return Err(Violation::new(Promise::Fidelity, "the guest's role is not what it was"));
    }
    Ok(())
}

fn wrong_key(owner: Host, key: Option<Key>) -> Violation {
    let what = match key {
        Some(key) => format!("the {} is registered with {key:?}", owner.name()),
        None => format!("a path of the {} is not registered", owner.name()),
    };
    Violation::new(Promise::Fidelity, what)
}

/// A registration beside the owner's is a leak, unless its host cannot be reached yet.
fn leak<P>(world: &World<P>, owner: Host, nexus: NexusId, key: Key) -> Result<(), Violation> {
    let host = match owner {
        Host::Source => Host::Destination,
        Host::Destination => Host::Source,
    };
    if !world.reaches(host) {
        return Ok(());
    }
    let what = format!("{} leaks {key:?}", crate::cast::nexus_name(nexus));
    Err(Violation::new(Promise::OneOwner, what))
}

/// P1 at the end: nobody has a registration of a guest that was removed, but for the nonce of a
/// holder that was fenced under it (types 5 and 6).
fn gone<P>(scenario: &Scenario, world: &World<P>, verdict: Verdict) -> Result<(), Violation> {
    if world.shadow.standing == Standing::Registered {
        return Err(Violation::new(Promise::CrashSafe, format!("{verdict:?} while the guest is registered")));
    }
    for host in Host::BOTH.into_iter().filter(|host| world.reaches(*host)) {
        for nexus in world.nexuses_at(scenario, host) {
            let Some(key) = world.device.key(nexus) else { continue };
            if key == NONCE && nonce_may_stay(world, nexus, verdict) {
                continue;
            }
            let what = format!("the {} has {key:?} registered after the guest was removed", host.name());
            return Err(Violation::new(Promise::NoUnfencing, what));
        }
    }
    Ok(())
}

fn nonce_may_stay<P>(world: &World<P>, nexus: NexusId, verdict: Verdict) -> bool {
    let holds = world
        .device
        .reservation()
        .is_some_and(|(kind, holder)| kind.is_registrants_only() && holder == Some(nexus));
    holds && verdict == (Verdict::Fenced { nonce_left: true })
}
