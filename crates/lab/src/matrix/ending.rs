//! Where a guest may end whose QEMU was killed: what is known of the handover in the moment of the death says it.
//!
//! | who died | how far it was | the guest ends |
//! |---|---|---|
//! | the source's QEMU | the destination does not have all of the guest | the source's, with its QEMU gone |
//! | the source's QEMU | the switchover was asked for, the destination may have it yet | either of these |
//! | the source's QEMU | the destination has all of it | the destination's, and runs there |
//! | the destination's QEMU | no `go` in the destination's journal | the source's, and runs there, all handed back |
//! | the destination's QEMU | its `go` is being written: the guest was there when that was allowed | either, as the journal says |
//! | the destination's QEMU | `go` is in its journal, so it may have run there | the destination's, with its QEMU gone |
//!
//! "Runs" is "stands paused" where it was paused before.

use super::case::Case;
use super::scene::{Scene, VM};
use crate::leash::When;
use crate::stage::Host;
use agent::journal::Journals;
use agent::ownership::{Mark, Marks};
use anyhow::{Result, ensure};
use qmp::qemu::RunState;

/// The handover in the moment in which somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The destination's journal says `go`.
    go: bool,
    /// It comes to that without another look at its QEMU.
    going: bool,
    /// All of the guest is at the destination.
    whole: bool,
    /// The source's QEMU was told to switch over, or is being told.
    switching: bool,
}

impl Moment {
    pub(super) fn of(scene: &Scene, case: &Case) -> Result<Self> {
        let marks = |host: Host| marks(scene, host);
        let there = scene.stage.run_state(VM, Host::Beta)?;
        let going = (case.host, case.when, case.step.as_str()) == (Host::Beta, When::Before, "mark-go");
        let whole = there.is_some_and(|state| [RunState::PAUSED, RunState::RUNNING].contains(&state));
        // It is told to only with both promises on disk.
        Ok(Self {
            go: marks(Host::Beta).has(Mark::Go),
            going,
            whole,
            switching: marks(Host::Alpha).has(Mark::Taken),
        })
    }

    /// Where the guest must end whose QEMU on `dead` was killed; none where both are right.
    fn owner(self, dead: Host) -> Option<Host> {
        let sure = match dead {
            _ if self.go => Host::Beta,
            Host::Alpha if self.whole => Host::Beta,
            Host::Alpha if self.switching => return None,
            Host::Beta if self.going => return None,
            Host::Alpha | Host::Beta => Host::Alpha,
        };
        Some(sure)
    }

    /// The guest is `owner`'s, and `dead`'s QEMU was killed.
    pub(super) fn allows(self, scene: &Scene, dead: Host, owner: Host) -> Result<()> {
        let must = self.owner(dead);
        ensure!(
            must.is_none_or(|must| must == owner),
            "the QEMU of {} was killed at {self:?}, and the guest is {}'s",
            dead.name(),
            owner.name()
        );
        // Where it ends with the QEMU that is gone, that is nobody's choice: the journal said so before, or there was nothing else.
        let go = marks(scene, Host::Beta).has(Mark::Go);
        ensure!(go == (owner == Host::Beta), "it is {}'s, and go at the destination: {go}", owner.name());
        Ok(())
    }
}

/// The promises in a host's journal, of its last handover.
fn marks(scene: &Scene, host: Host) -> Marks {
    let log = Journals::new(&scene.stage.state(host), host.name()).read(VM);
    log.ok().and_then(|log| log.handovers().last().map(|last| last.promises())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Moment = Moment { go: false, going: false, whole: false, switching: false };

    #[test]
    fn a_guest_is_nobodys_choice_once_the_destination_may_have_run_it() {
        let gone = Moment { go: true, ..EARLY };
        assert_eq!(Host::BOTH.map(|dead| gone.owner(dead)), [Some(Host::Beta); 2]);
        let whole = Moment { whole: true, switching: true, ..EARLY };
        assert_eq!(Host::BOTH.map(|dead| whole.owner(dead)), [Some(Host::Beta), Some(Host::Alpha)]);
        assert_eq!(Host::BOTH.map(|dead| EARLY.owner(dead)), [Some(Host::Alpha); 2]);
    }

    #[test]
    fn only_a_switchover_and_a_go_under_way_may_end_in_two_ways() {
        let switching = Moment { switching: true, ..EARLY };
        assert_eq!(Host::BOTH.map(|dead| switching.owner(dead)), [None, Some(Host::Alpha)]);
        let going = Moment { going: true, whole: true, switching: true, ..EARLY };
        assert_eq!(Host::BOTH.map(|dead| going.owner(dead)), [Some(Host::Beta), None]);
    }
}
