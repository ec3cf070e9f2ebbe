//! How long the other host may take to answer: for each kind of message what may lie behind it there, so that a destination
//! that is slow is not taken for one that is gone. A host that *is* gone is noticed by the kernel's keepalive, sooner.

use crate::daemon::TAKE_OVER;
use crate::ground;
use crate::incoming::ARRIVAL;
use crate::vmm;
use peer::message::{Offer, Remains, Request};
use std::time::Duration;

/// The way there and back, and what is written there: records, journal.
const PROMPT: Duration = Duration::from_secs(10);
/// And QEMU there, whose main loop long I/O may hold up: once for each message.
const QEMU: Duration = PROMPT.saturating_add(vmm::PATIENCE);
/// And the freeze locks there.
const FREEZE: Duration = PROMPT.saturating_add(ground::FREEZE);
/// The guest arrives, and is let run.
const GO: Duration = QEMU.saturating_add(ARRIVAL.saturating_mul(2));
/// The guest is looked at there, and its logical units are frozen; to open them comes on top.
const OPEN: Duration = QEMU.saturating_add(ground::FREEZE);
/// And before that an old link ends, on which the same handover is open there.
const RECOVER: Duration = OPEN.saturating_add(TAKE_OVER);

/// What it is given. The rounds of commands have deadlines of their own.
pub(super) fn of(request: &Request) -> Duration {
    match request {
        Request::Open(open) => OPEN.saturating_add(ground::opening(open.luns.iter().map(ways).sum())),
        Request::Recover(recover) => {
            RECOVER.saturating_add(ground::opening(recover.record.luns.iter().map(left).sum()))
        }
        Request::Incoming(_) | Request::Freeze(_) | Request::Abort(_) | Request::Close(_) => QEMU,
        Request::Back(_) => FREEZE,
        Request::Go(_) => GO,
        Request::State(_) => QEMU,
        _ => PROMPT,
    }
}

/// The other host has as many, as far as this one can tell.
fn ways(offer: &Offer) -> usize {
    offer.ports.len().max(1)
}

fn left(remains: &Remains) -> usize {
    remains.ports.len().max(1)
}
