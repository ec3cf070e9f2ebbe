//! What a host does next, from its journal, its QEMU and what the other host tells: used at every turn of a migration
//! that does not go as planned, and by recovery.

use super::{Guest, Mark, Standing, View};
use handover::Side;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the source does when the destination's agent stays silent before `go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDoubt {
    /// The guest stays paused until the operator decides.
    #[default]
    Pause,
    /// The source takes the registrations back alone; the key is unlisted for one command.
    Resume,
}

/// One host's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// `cont` may be sent here (or the guest runs already). Destination: mark `ran` when it does.
    Run,
    /// Nothing here until the other host says more.
    StayPaused,
    /// Mark `abort`; the registrations go back to the source, which then marks `back` (at once, where it is
    /// [`Standing::untouched`]).
    RollBack,
    /// Without the other host: the registrations come here (the key is unlisted for one command). Source: mark `abort`
    /// before and `back` after it; destination: mark `taken` and `go` after it.
    TakeAlone,
    /// Mark `go`. Source: say so. Destination: `cont` follows.
    Finish,
    /// It is over, and the guest is this side's, also if it does not run any more. Mark `ran` for the destination,
    /// `back` for the source, where that is missing.
    Over(Side),
    /// The other host is needed and may never answer: the operator decides.
    Ask(Question),
}

/// What the operator has to know before deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Before `go`: the guest does not run at the destination; its registrations may be there.
    RegistrationsAway,
    /// Before `go`: the destination says that it has given up and closed its journal; its registrations may still be there.
    GivenUpThere,
    /// After `go`: the guest may run at the destination.
    MayRunThere,
    /// The destination has the registrations; whether the source let go is not known.
    MayRunAtSource,
    /// QEMU here does not answer.
    QemuSilent,
    /// The guest runs here although this host gave it away or never got it: somebody resumed it by hand.
    RunsAgainstTheRules,
    /// The guest runs at the destination, which never got it: somebody resumed it there by hand.
    RunsThere,
    /// It ran there so, and cannot be given to the destination any more: what the source has of it is old.
    RanThere,
    /// It runs at both hosts by somebody's hand.
    RunsTwice,
    /// QEMU here has sent the guest away, and not by this handover.
    WentElsewhere,
    /// The destination's agent answers, and has nothing of this handover; its registrations may be there.
    ForgottenThere,
    /// The guest runs at the source, which gave it away, or of which the operator said that it is gone: somebody resumed it there
    /// by hand.
    RunsAtSource,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RegistrationsAway => {
                "the destination's agent does not answer and may hold the registrations; the guest does not run there. \
                 Start that agent; or, if the guest's QEMU there is gone and nobody starts it again, take the registrations \
                 back without it: tenure handover resume VM --vouch"
            }
            Self::GivenUpThere => {
                "the destination's agent says that it has given the handover up, and does nothing for it any more; the \
                 registrations may still be there. Only if the guest does not run there and nobody starts it, take them back \
                 without it, for which the key is unlisted for one command: tenure handover resume VM --vouch"
            }
            Self::MayRunThere => {
                "the destination's agent does not answer, and the guest may run there. Start that agent; only if the guest \
                 certainly never ran there, its QEMU there is gone (host off, process killed) and nobody starts it again: \
                 tenure handover resume VM --vouch"
            }
            Self::MayRunAtSource => {
                "the source's agent does not answer and has not let the guest go. Start that agent; only if the guest's \
                 QEMU at the source is gone (host off, process killed) and nobody starts it again: \
                 tenure handover resume VM --vouch"
            }
            Self::QemuSilent => {
                "QEMU does not answer on its QMP socket. Look whether it lives; then: tenure handover status VM"
            }
            Self::RunsAgainstTheRules => {
                "the guest runs here although this host does not own it: somebody resumed it by hand. Stop it, then: \
                 tenure handover status VM"
            }
            Self::RunsThere => {
                "the guest runs at the destination although it was not given to it: somebody resumed it there by hand. Stop it \
                 there, and do not end that QEMU, which alone has what the guest did since; then the move is finished by: \
                 tenure handover resume VM"
            }
            Self::RanThere => {
                "the guest ran at the destination although it was not given to it: somebody resumed it there by hand. That move \
                 cannot be finished, and what QEMU has of the guest here is older than its disks: it is not let run. End the \
                 guest's QEMU on both hosts, then: tenure handover resume VM; and start the guest anew"
            }
            Self::RunsTwice => {
                "the guest runs at both hosts: somebody resumed it by hand. Stop it on one of them now; both may have written to \
                 its disks. Then: tenure handover resume VM"
            }
            Self::WentElsewhere => {
                "QEMU here has sent the guest away by a migration that is not this one, so it may run elsewhere, and is not let run \
                 here. If it does, end its QEMU here; if it certainly does not, let it run here by `cont`. Then: tenure handover \
                 resume VM"
            }
            Self::ForgottenThere => {
                "the destination's agent answers and has no journal of this handover, as if its host had been installed anew; the \
                 registrations may still be there. Only if the guest does not run there and nobody starts it, take them back \
                 without it, for which the key is unlisted for one command: tenure handover resume VM --vouch"
            }
            Self::RunsAtSource => {
                "the guest runs at the source, which had let it go: somebody resumed it there by hand, and what came here of it is \
                 old. Where this host has not taken it yet, tenure handover abort VM gives it back; else quit it here first, then at \
                 the source, and start it anew here"
            }
        })
    }
}

impl Standing {
    /// What to do next here. The operator's word is in [`Standing::vouched`].
    #[must_use]
    pub const fn decide(&self, on_doubt: OnDoubt) -> Decision {
        match self.side {
            Side::Source => self.source(on_doubt),
            Side::Destination => self.destination(),
        }
    }

    const fn source(&self, on_doubt: OnDoubt) -> Decision {
        if self.overruled() {
            return self.given_away();
        }
        if self.has(Mark::Abort) {
            return self.going_back(on_doubt);
        }
        if self.has(Mark::Ran) || self.told(Mark::Ran) {
            return self.left();
        }
        if self.told(Mark::Abort) {
            return self.ran_all_the_same(Decision::RollBack);
        }
        if self.has(Mark::Go) {
            return self.after_go();
        }
        self.before_go(on_doubt)
    }

    const fn left(&self) -> Decision {
        match self.own.guest {
            Guest::Running => Decision::Ask(Question::RunsAgainstTheRules),
            _ => Decision::Over(Side::Destination),
        }
    }

    /// The operator gave the guest to the destination after this host had given up.
    const fn given_away(&self) -> Decision {
        match self.own.guest {
            Guest::Absent | Guest::Loading if self.told(Mark::Ran) => Decision::Over(Side::Destination),
            Guest::Absent | Guest::Loading => Decision::StayPaused,
            _ => Decision::Ask(Question::MayRunThere),
        }
    }

    /// `unless` the guest runs, or ran, at the destination, which gave it up or is not given it any more.
    const fn ran_all_the_same(&self, unless: Decision) -> Decision {
        match self.own.guest {
            Guest::Running if self.runs_at_peer() => Decision::Ask(Question::RunsTwice),
            Guest::Running if self.ran_at_peer() => Decision::Ask(Question::RanThere),
            _ if self.runs_at_peer() || self.is_old() => Decision::Ask(Question::RanThere),
            _ => unless,
        }
    }

    const fn going_back(&self, on_doubt: OnDoubt) -> Decision {
        if self.has(Mark::Back) {
            let given_away = self.told(Mark::Go) && !self.told(Mark::Abort) && !self.has(Mark::Go);
            return match self.own.guest {
                // By a word that was not true: the guest may run on both hosts.
                Guest::Paused | Guest::Running if given_away => Decision::Ask(Question::RunsAgainstTheRules),
                _ if self.runs_at_peer() => self.ran_all_the_same(Decision::Run),
                Guest::Absent | Guest::Loading => Decision::Over(Side::Source),
                Guest::Unknown => Decision::Ask(Question::QemuSilent),
                Guest::Paused | Guest::Ran if self.stays_paused => Decision::Over(Side::Source),
                Guest::Paused | Guest::Ran | Guest::Running => self.ran_all_the_same(Decision::Run),
            };
        }
        self.ran_all_the_same(self.back(on_doubt))
    }

    /// Give up: with the other host where it answers, without it where that is allowed and there is a guest to resume.
    const fn back(&self, on_doubt: OnDoubt) -> Decision {
        if self.is_old() {
            return Decision::Ask(Question::RanThere);
        }
        if self.peer.is_some() || self.untouched() {
            return Decision::RollBack;
        }
        let allowed = self.vouched || matches!(on_doubt, OnDoubt::Resume);
        match (self.own.guest, allowed) {
            (Guest::Paused | Guest::Running, true) => Decision::TakeAlone,
            _ => Decision::Ask(Question::RegistrationsAway),
        }
    }

    const fn after_go(&self) -> Decision {
        if matches!(self.own.guest, Guest::Running) {
            return Decision::Ask(Question::RunsAgainstTheRules);
        }
        match self.peer {
            Some(_) if self.told(Mark::Go) => Decision::StayPaused,
            Some(_) if self.runs_at_peer() => Decision::Ask(Question::RunsThere),
            Some(View { guest: Guest::Absent | Guest::Loading, .. }) if self.is_old() => {
                Decision::Ask(Question::RanThere)
            }
            Some(_) => Decision::Finish,
            None if self.vouched && self.is_old() => Decision::Ask(Question::RanThere),
            None if self.vouched && matches!(self.own.guest, Guest::Paused | Guest::Absent) => {
                Decision::TakeAlone
            }
            None => Decision::Ask(Question::MayRunThere),
        }
    }

    const fn before_go(&self, on_doubt: OnDoubt) -> Decision {
        let Some(peer) = self.peer else { return self.back(on_doubt) };
        if self.told(Mark::Go) {
            return Decision::StayPaused;
        }
        let taken = self.has(Mark::Taken) && self.told(Mark::Taken);
        match (self.own.guest, peer.guest) {
            (Guest::Unknown, _) => Decision::Ask(Question::QemuSilent),
            (Guest::Running, Guest::Running) => Decision::Ask(Question::RunsTwice),
            (_, Guest::Running) if taken => Decision::Ask(Question::RunsThere),
            (Guest::Paused | Guest::Absent, Guest::Paused | Guest::Ran) if taken => Decision::Finish,
            _ => self.ran_all_the_same(Decision::RollBack),
        }
    }

    const fn destination(&self) -> Decision {
        if self.has(Mark::Abort) {
            return self.given_up();
        }
        if self.overruled() {
            return Decision::RollBack;
        }
        if self.has(Mark::Ran) {
            return Decision::Over(Side::Destination);
        }
        if self.has(Mark::Go) {
            return self.arrived();
        }
        if matches!(self.own.guest, Guest::Running) {
            return Decision::Ask(Question::RunsAgainstTheRules);
        }
        self.undecided()
    }

    const fn given_up(&self) -> Decision {
        match self.own.guest {
            Guest::Running => Decision::Ask(Question::RunsAgainstTheRules),
            _ if self.told(Mark::Back) || self.has(Mark::Back) => Decision::Over(Side::Source),
            _ => Decision::RollBack,
        }
    }

    /// The guest is this host's. Where it is gone it may have run before it went, so nobody else gets it.
    const fn arrived(&self) -> Decision {
        match self.own.guest {
            _ if self.runs_there() => Decision::Ask(Question::RunsAgainstTheRules),
            Guest::Paused | Guest::Ran if self.runs_at_peer() => Decision::Ask(Question::RunsAtSource),
            Guest::Paused if self.stays_paused => Decision::Over(Side::Destination),
            Guest::Paused | Guest::Ran | Guest::Running => Decision::Run,
            Guest::Unknown => Decision::Ask(Question::QemuSilent),
            Guest::Absent | Guest::Loading => Decision::Over(Side::Destination),
        }
    }

    /// The source took the guest back and runs it.
    const fn runs_there(&self) -> bool {
        self.told(Mark::Back) && self.runs_at_peer()
    }

    const fn undecided(&self) -> Decision {
        if self.told(Mark::Abort) {
            return Decision::RollBack;
        }
        let given = self.told(Mark::Go) || self.vouched;
        match (self.own.guest, self.peer) {
            (Guest::Paused | Guest::Ran, _) if given && self.runs_at_peer() => {
                Decision::Ask(Question::RunsAtSource)
            }
            (Guest::Paused | Guest::Ran, Some(_)) if self.told(Mark::Go) => Decision::Finish,
            (Guest::Paused | Guest::Ran, _) if self.vouched => Decision::TakeAlone,
            (Guest::Absent, Some(_)) => Decision::RollBack,
            (_, Some(_)) => Decision::StayPaused,
            (_, None) => Decision::Ask(Question::MayRunAtSource),
        }
    }
}
