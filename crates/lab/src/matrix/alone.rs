//! A host that is never back: the operator of the other one decides, and what must be true then.

use super::case::Word;
use super::scene::{RECOVERY, Scene, VM};
use crate::stage::Host;
use crate::states::{GUEST, Guest, good, probe};
use agent::migrate::{Report, Verdict};
use anyhow::{Context, Result, bail, ensure};
use iscsi::initiator::IscsiNexus;
use qmp::qemu::RunState;
use scsi::pr::{Key, request};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// Says the word at the host that is left until nothing is open in its journal; and the other word where this one decides nothing. Gives
/// what was answered to the last. Whoever vouches has said that the guest is to run here: as long as all of it stands here that word is
/// said again, and nothing is given up.
pub(super) fn decide(scene: &Scene, at: Host, mut word: Word) -> Result<Option<String>> {
    let end = Instant::now() + RECOVERY;
    let held_to = word == Word::Vouch && stands(scene, at)?;
    let mut said = None;
    while scene.is_open(at)? {
        if Instant::now() >= end {
            bail!("unfinished at {}: {}", at.name(), said.unwrap_or_default());
        }
        match say(scene, at, word) {
            Ok(report) => {
                let runs = scene.stage.run_state(VM, at)? == Some(RunState::RUNNING);
                if !held_to || runs {
                    word = next(word, report.verdict);
                }
                said = Some(format!("{:?}: {}", report.verdict, report.reason));
            }
            // It is put in order by itself at the moment.
            Err(error) => said = Some(format!("{error:#}")),
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(said)
}

/// All of the guest is at this host, where it runs or can be let run.
fn stands(scene: &Scene, at: Host) -> Result<bool> {
    let waits = [RunState::INMIGRATE, RunState::PRELAUNCH];
    Ok(scene.stage.run_state(VM, at)?.is_some_and(|state| !waits.contains(&state)))
}

/// What an operator tries next: where the guest is kept, or nothing is proved, to end it; and to vouch where it is in doubt what to end.
const fn next(word: Word, told: Verdict) -> Word {
    match (word, told) {
        (Word::Vouch, Verdict::InDoubt | Verdict::Kept) => Word::Release,
        (Word::Release, Verdict::Refused | Verdict::InDoubt) => Word::Vouch,
        _ => word,
    }
}

fn say(scene: &Scene, at: Host, word: Word) -> Result<Report> {
    let (command, order) = match word {
        Word::Vouch => ("handover-resume", json!({ "vm": VM, "vouched": true })),
        Word::Release => ("handover-abort", json!({ "vm": VM, "release": true })),
    };
    let Value::Object(order) = order else { bail!("no order") };
    Ok(serde_json::from_value(scene.tell(at, command, order)?)?)
}

/// At most one host has the guest's registration; where the guest runs it has all that it had, and where it does not it has nothing. A
/// fenced guest has nothing anywhere, and nobody else lost or gained anything. What the source was told to be left perhaps, the key on the
/// nexuses of a destination that is gone, is removed first, as whoever looks after the storage does it.
pub(super) fn judge(scene: &Scene, at: Host, word: Word, said: Option<&str>) -> Result<()> {
    scene.stage.ran_once(VM)?;
    let runs = scene.stage.run_state(VM, at)? == Some(RunState::RUNNING);
    vouched(scene, at, word, runs).with_context(|| said.unwrap_or("nobody was asked").to_owned())?;
    let mut ways = scene.ways_to_disks()?;
    let (fenced, units) = (scene.situation.fenced, scene.situation.units.clone());
    for ((nodes, unit), ways) in scene.nodes().iter_mut().zip(&units).zip(&mut ways) {
        let (alpha, beta) = ways;
        let found = match (fenced, runs, at) {
            (true, ..) => nodes.check_fenced(unit.guest),
            (_, true, Host::Alpha) => {
                forget(beta, unit.guest).and_then(|()| nodes.check_untouched(unit.guest, alpha, beta))
            }
            (_, true, Host::Beta) => nodes.check_moved(unit.guest, alpha, beta),
            (_, false, _) => {
                let own: &mut dyn nexus::Nexus = if at == Host::Alpha { alpha } else { beta };
                nodes.check_given_up(unit.guest, own)
            }
        };
        found.with_context(|| format!("{} is left, the guest {}", at.name(), state(runs)))?;
    }
    ensure!(
        scene.stage.run_state(VM, at.other())?.is_none(),
        "somebody started the guest at {}",
        at.other().name()
    );
    Ok(())
}

/// Whoever vouches has the guest run where all of it stands. It must not where this host had given it away for good before, as its journal
/// says: it ran at the other one.
fn vouched(scene: &Scene, at: Host, word: Word, runs: bool) -> Result<()> {
    let gave_away =
        || Ok::<_, anyhow::Error>(at == Host::Alpha && scene.verdict(at)?.as_deref() == Some("moved"));
    let must = word == Word::Vouch && !runs && stands(scene, at)? && !gave_away()?;
    ensure!(
        !must,
        "the operator vouched at {}, where all of the guest stands, and it does not run",
        at.name()
    );
    Ok(())
}

/// REGISTER to none, of a nexus that has the key: the guest's other one keeps what it holds.
fn forget(gone: &mut IscsiNexus, guest: Guest) -> Result<()> {
    if !probe(gone, guest)? {
        return Ok(());
    }
    good(gone, &request::register(GUEST, Key::NONE, guest.aptpl))
}

const fn state(runs: bool) -> &'static str {
    if runs { "runs there" } else { "does not run" }
}
