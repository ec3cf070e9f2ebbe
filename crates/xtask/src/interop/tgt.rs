//! Handovers on Debian's `tgt`.
//!
//! To tgt a session is the I_T nexus: another session of the same initiator name and ISID does not have its
//! registration. Therefore alpha's session registers first and is then handed to the very code that
//! `tenure handover run` runs; beta and the bystanders are ordinary.

use crate::report::Done;
use anyhow::{Context, Result, ensure};
use lab::moves::{Became, hand_over_in_session};
use lab::served::Served;
use lab::states::{GUEST, Guest, Nodes, Standing, login};
use lab::tenure::Tenure;
use lab::tgt::Tgt;
use lab::{kept, logins};
use tenure::exit::Exit;

/// Of a guest between two devices.
const MOVES: u32 = 10;

/// Every state, with a bystander that shares the key and without.
///
/// # Errors
/// Names the first state that does not move, or harms somebody.
pub(super) fn handovers() -> Result<Done> {
    let states = Standing::all();
    let tgt = Tgt::start(u16::try_from(2 * states.len())?, 4)?;
    let guests =
        [false, true].into_iter().flat_map(|shared| states.iter().map(move |standing| (*standing, shared)));
    let mut moved = Vec::new();
    for (index, (standing, shared)) in guests.enumerate() {
        let became = hand_over_in_session(&tgt.served, u16::try_from(index)?, Guest::new(standing, shared))
            .with_context(|| format!("{standing}, shared {shared}"))?;
        ensure!(shared || matches!(became, Became::Moved(_)), "{standing}: {became:?}");
        moved.push(matches!(became, Became::Moved(_)));
    }
    let refused = moved.iter().filter(|moved| !**moved).count();
    Ok(Done::Passed(format!("{} moved, {refused} refused", moved.len() - refused)))
}

/// A guest of `tenure device` there: what it registers is recorded, and gone when another node fences it.
///
/// # Errors
/// If not.
pub(super) fn keeps(tenure: &Tenure) -> Result<Done> {
    let tgt = Tgt::start(1, 4)?;
    let (lun, other) = (tgt.served.device(0, "db1"), tgt.served.device(0, "other"));
    Ok(Done::Passed(kept::run_in_one_session(tenure, &lun, &other)?))
}

/// What it and `tenure target` keep of an initiator port without a session.
///
/// # Errors
/// If it is not what is known of them.
pub(super) fn logins(tenure: &Tenure) -> Result<Done> {
    let look = |served: &Served| logins::judged(&served.device(0, "moving"), &served.device(0, "other"));
    let theirs = look(&Tgt::start(1, 4)?.served).context("tgt")?;
    let ours = look(&tenure.target(&["memory=4M"])?).context("tenure target")?;
    Ok(Done::Passed(format!("tgt: {theirs}; tenure target: {ours}")))
}

/// A guest that moves between two devices, as of two hosts, and is fenced while it does: on `tenure target` with its initiator port, and on tgt, where
/// its registration is handed from one nexus to the other.
///
/// # Errors
/// If anything of it is not as it must be.
pub(super) fn moves(tenure: &Tenure) -> Result<Done> {
    let moved = |served: &Served| {
        let (lun, other) = (served.url(0), served.device(0, "other"));
        kept::moves::between(tenure, [&lun, &lun], &other, MOVES)
    };
    let theirs = moved(&Tgt::start(1, 4)?.served).context("tgt")?;
    let ours = moved(&tenure.target(&["memory=4M"])?).context("tenure target")?;
    Ok(Done::Passed(format!("tgt: {theirs}; tenure target: {ours}")))
}

/// What `tenure handover run` itself does there: its session cannot have the registration, and it takes nobody's.
///
/// # Errors
/// If it says that it moved, or leaves anything changed.
pub(super) fn refusal(tenure: &Tenure) -> Result<Done> {
    let tgt = Tgt::start(1, 4)?;
    let guest = Guest::new(Standing::Registrant, false);
    let mut nodes = Nodes::new(&tgt.served, 0)?;
    nodes.set_up(guest)?;
    let mut alpha = nodes.alpha().nexus(u64::from(tgt.served.first_lun));
    let (from, to) = nodes.from_and_to();
    let to = to.to_owned();
    // Another ISID leaves alpha's own session alone.
    let from = from.replace("isid=80000", "isid=80001");
    let key = GUEST.to_string();
    let ran =
        tenure.run(&["-q", "handover", "run", "--json", "--from", &from, "--to", &to, "--key", &key])?;
    let honest = [Exit::Failed, Exit::Refused, Exit::Fenced].map(|exit| exit as i32);
    ensure!(honest.contains(&ran.exit), "{ran:?}");
    let reason = ran.json()?.get("reason").and_then(|reason| Some(reason.as_str()?.to_owned()));
    let reason = reason.filter(|reason| !reason.is_empty()).with_context(|| format!("no reason: {ran:?}"))?;
    let mut beta = login(&to)?;
    nodes.check_untouched(guest, &mut alpha, &mut beta)?;
    Ok(Done::Passed(format!("exit {}: {reason}", ran.exit)))
}
