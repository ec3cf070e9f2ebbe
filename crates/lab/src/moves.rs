//! One `tenure handover run` for a state on a target, judged by its exit status and by what the device shows.

use crate::served::Served;
use crate::states::{GUEST, Guest, Nodes};
use crate::tenure::{Ran, Tenure};
use ::tenure::command::handover::{Order, hand_over as carry_out};
use ::tenure::console::{Console, Verbosity};
use agent::drive::Link;
use agent::drive::NoJournal;
use agent::drive::{Device, Opened};
use anyhow::{Context, Result, bail, ensure};
use handover::{Method, Verdict};
use serde_json::Value;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What became of one handover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It moved, by this method.
    Moved(String),
    /// It was refused with this reason, and nothing changed.
    Refused(String),
}

/// Sets the state up on disk `index`, moves it, and checks everything that can be seen.
///
/// # Errors
/// If the handover ended in any other way than moved or refused, or the device shows something else.
pub fn hand_over(tenure: &Tenure, served: &Served, index: u16, guest: Guest) -> Result<Became> {
    let mut nodes = Nodes::new(served, index)?;
    nodes.set_up(guest)?;
    let (from, to) = nodes.from_and_to();
    let key = GUEST.to_string();
    let ran = tenure.run(&["-q", "handover", "run", "--json", "--from", from, "--to", to, "--key", &key])?;
    judge(&ran, &mut nodes, guest).with_context(|| format!("exit {}: {}{}", ran.exit, ran.out, ran.err))
}

fn judge(ran: &Ran, nodes: &mut Nodes, guest: Guest) -> Result<Became> {
    let document = ran.json()?;
    let word = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
    ensure!(document.get("exit").and_then(Value::as_i64) == Some(i64::from(ran.exit)), "exit is not told");
    let (mut alpha, mut beta) = nodes.log_in_again()?;
    match ran.exit {
        0 => {
            nodes.check_moved(guest, &mut alpha, &mut beta)?;
            Ok(Became::Moved(word("method").context("no method")?))
        }
        4 => {
            nodes.check_untouched(guest, &mut alpha, &mut beta)?;
            Ok(Became::Refused(word("reason").filter(|reason| !reason.is_empty()).context("no reason")?))
        }
        other => bail!("a handover must not end with exit {other} here"),
    }
}

/// The same on a target to which a session, and not the initiator port, is the I_T nexus: another session of the same
/// name and ISID does not have its registration. The session that registered is handed to the very code that
/// `tenure handover run` runs.
///
/// # Errors
/// If the handover ended in any other way than moved or refused, or the device shows something else.
pub fn hand_over_in_session(served: &Served, index: u16, guest: Guest) -> Result<Became> {
    let mut nodes = Nodes::new(served, index)?;
    nodes.set_up(guest)?;
    let (source, destination) = links(&nodes, served, index)?;
    let order = Order::on(source, destination, GUEST).map_err(|failure| failure.reason)?;
    let mut console = Console::standard(Verbosity::Quiet);
    let mut ended = carry_out(order, &mut NoJournal, &mut console).map_err(|failure| failure.reason)?;
    let mut links = ended.links.values_mut();
    let (Some(alpha), Some(beta)) = (links.next(), links.next()) else { bail!("no links") };
    match ended.verdict {
        Verdict::Moved => {
            nodes.check_moved(guest, alpha, beta)?;
            Ok(Became::Moved(ended.method.context("no method")?.to_string()))
        }
        Verdict::Refused(reason) => {
            nodes.check_untouched(guest, alpha, beta)?;
            Ok(Became::Refused(reason.to_string()))
        }
        other => bail!("{other}"),
    }
}

/// The pause of a handover by `method` (the plan's own choice for `None`) between sessions that were open before, as a
/// running guest's is: round trips and time.
///
/// # Errors
/// If the guest did not move.
pub fn pause_in_session(
    served: &Served,
    index: u16,
    guest: Guest,
    method: Option<Method>,
) -> Result<(u32, Duration)> {
    let mut nodes = Nodes::new(served, index)?;
    nodes.set_up(guest)?;
    let (source, destination) = links(&nodes, served, index)?;
    let mut order = Order::on(source, destination, GUEST).map_err(|failure| failure.reason)?;
    order.settings.method = method;
    let mut console = Console::standard(Verbosity::Quiet);
    let ended = carry_out(order, &mut NoJournal, &mut console).map_err(|failure| failure.reason)?;
    ensure!(ended.verdict == Verdict::Moved, "{}", ended.verdict);
    Ok(ended.record.pause())
}

/// Alpha's session that has registered already, and a new one of beta.
fn links(nodes: &Nodes, served: &Served, index: u16) -> Result<(Link, Link)> {
    let (from, to) = nodes.from_and_to();
    let device = |text: &str| text.parse::<Device>().map_err(anyhow::Error::msg);
    let (from, to) = (device(from)?, device(to)?);
    let session = nodes.alpha();
    let nexus = session.nexus(u64::from(served.first_lun + index));
    let beta = to.open(TIMEOUT)?;
    Ok((Link::open(from, TIMEOUT, Opened::Iscsi { session, nexus }), Link::open(to, TIMEOUT, beta)))
}
