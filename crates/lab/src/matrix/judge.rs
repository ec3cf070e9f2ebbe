//! What must be true when everybody is there again.

use super::scene::{Scene, VM};
use crate::helped::HelpedHost;
use crate::stage::Host;
use crate::states::{Guest, probe};
use agent::migrate::{Report, Verdict};
use anyhow::{Context, Result, ensure};
use ledger::{Ledger, Owner, State};
use qmp::qemu::RunState;

/// One owner, with everything that the guest had, and nothing left at the other host. `ends`: how the journals say that it ended.
pub(super) fn judge(scene: &Scene, report: Option<&Report>, ends: &[Option<String>; 2]) -> Result<()> {
    scene.stage.ran_once(VM)?;
    let owner = owner(scene, report, ends)?;
    records(scene, owner)?;
    let units = scene.situation.units.clone();
    let mut ways = scene.ways_to_disks()?;
    for (place, ((nodes, unit), ways)) in scene.nodes().iter_mut().zip(&units).zip(&mut ways).enumerate() {
        let (alpha, beta) = ways;
        let found = match owner {
            Host::Alpha => nodes.check_untouched(unit.guest, alpha, beta),
            Host::Beta => nodes.check_moved(unit.guest, alpha, beta),
        };
        found.with_context(|| format!("the guest is at {}, and", owner.name()))?;
        if let Some(helped) = &scene.helped {
            guarded(helped, place, unit.guest, owner).context("the helpers")?;
        }
    }
    let wrong = scene.sight.wrong();
    ensure!(wrong.is_none(), "seen: {}", wrong.unwrap_or_default());
    Ok(())
}

/// Through its helper the guest has its registration where it is, and nowhere else.
fn guarded(helped: &[HelpedHost; 2], disk: usize, guest: Guest, owner: Host) -> Result<()> {
    for host in Host::BOTH {
        let has = probe(&mut host.of(helped).guest(disk)?, guest).context(host.name())?;
        ensure!(
            has == (host == owner),
            "{} {} the guest's key",
            host.name(),
            if has { "has" } else { "lacks" }
        );
    }
    Ok(())
}

/// Whose guest it is: where it runs; and where it does not, both journals say the same, and why it does not is known.
fn owner(scene: &Scene, report: Option<&Report>, ends: &[Option<String>; 2]) -> Result<Host> {
    let owner = journals(ends)?;
    let states = [scene.stage.run_state(VM, Host::Alpha)?, scene.stage.run_state(VM, Host::Beta)?];
    let running = |state: &Option<RunState>| *state == Some(RunState::RUNNING);
    for (host, state) in Host::BOTH.into_iter().zip(&states) {
        ensure!(!running(state) || host == owner, "it runs at {}, and is {}'s", host.name(), owner.name());
    }
    let dead = scene.victim.and_then(super::Victim::qemu);
    if let (Some(dead), Some(moment)) = (dead, scene.moment()) {
        moment.allows(scene, dead, owner)?;
    }
    let [alpha, beta] = &states;
    let own = if owner == Host::Alpha { alpha } else { beta };
    match own {
        None => {
            let killed = dead == Some(owner);
            ensure!(killed, "the QEMU of {} is gone", owner.name());
        }
        Some(_) if scene.situation.paused => ensure!(!running(own), "it was paused, and runs"),
        Some(state) => ensure!(running(own), "it does not run at {}: {state:?}", owner.name()),
    }
    if scene.victim.is_none() {
        let (ends, name) = (scene.situation.ends, owner.name());
        ensure!(owner == ends, "it is at {name}: {}", report.map_or("", |report| &report.reason));
    }
    told(report, owner)?;
    Ok(owner)
}

fn journals(ends: &[Option<String>; 2]) -> Result<Host> {
    let of = |verdict: &String| if verdict == "moved" { Host::Beta } else { Host::Alpha };
    let [alpha, beta] = ends.each_ref().map(|end| end.as_ref().map(of));
    ensure!(alpha.is_none() || beta.is_none() || alpha == beta, "the journals differ: {ends:?}");
    Ok(alpha.or(beta).unwrap_or(Host::Alpha))
}

/// Whoever ordered it was not told anything else. One that was asked to decide is told nothing.
fn told(report: Option<&Report>, owner: Host) -> Result<()> {
    let Some(report) = report else { return Ok(()) };
    let where_it_is = match report.verdict {
        Verdict::Moved => Host::Beta,
        Verdict::Kept | Verdict::Refused | Verdict::Failed => Host::Alpha,
        _ => return Ok(()),
    };
    ensure!(where_it_is == owner, "it is {}'s, and the operator was told {:?}", owner.name(), report.verdict);
    Ok(())
}

/// Neither ledger has a handover under way.
fn records(scene: &Scene, owner: Host) -> Result<()> {
    for host in Host::BOTH {
        let guest = match Ledger::read_only(&scene.stage.state(host))
            .and_then(|ledger| ledger.guest(&Owner(VM.into())))
        {
            Err(ledger::Error::Missing(_)) => continue,
            guest => guest?,
        };
        for record in guest.records() {
            let state = record.standing();
            let nothing = record.paths.iter().all(|path| path.tracked.key.is_none());
            let fits = match state {
                // So it is also at a host that died before anything was begun there.
                State::Active => host == owner || nothing,
                State::Handover => false,
                _ => host != owner,
            };
            ensure!(
                fits,
                "the guest is {}'s, and the record at {} says {state:?}",
                owner.name(),
                host.name()
            );
        }
    }
    Ok(())
}
