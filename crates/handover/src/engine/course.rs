//! The state that a handover and a recovery share, and how it moves: a batch is run, its answers are judged where the
//! course stands, and that decides the next batch.
//!
//! The commit and the way back are driven by beliefs (who has which key), not by history: after any answer that is not
//! clear the beliefs are learnt anew by probes, so that a lost reply, a crash and a foreign command need no steps of
//! their own.

use super::attention::Attentions;
use super::batch::{Answers, Batch};
use super::order::{Name, Order, Speech};
use crate::action::{Event, Path, Phase, Side, Step};
use crate::facts::Facts;
use crate::journal::{Entry, Stage};
use crate::known_targets::{Known, Traits};
use crate::method::Method;
use crate::role::Role;
use crate::settings::{Settings, Shared};
use crate::verdict::{Cause, Doubt, Verdict};
use scsi::pr::{Capabilities, Key};

/// Where the course stands: which batch is under way, or that it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Start,
    Survey,
    SurveyMove,
    Look(Phase),
    Aptpl(Phase),
    ProbeDestination(Phase),
    Count(Phase),
    Stand(Phase),
    Claim,
    ClaimProbe { maybe: bool },
    Inspect,
    Prove,
    Break,
    Move,
    Preempt,
    Rekey,
    Who,
    DropNonce,
    PreemptNonce,
    BlindPreempt,
    BlindCheck { executed: Option<bool> },
    BlindRename,
    IdentityProve,
    IdentityClose,
    IdentityOpen,
    IdentityCheck,
    IdentityBackClose,
    IdentityBackOpen,
    Locate,
    LocateNonce,
    LocateByReading,
    Others,
    OthersProbe,
    Check,
    CheckProbe,
    UndoLook,
    UndoWitness,
    UndoRekey,
    UndoProve,
    UndoRevert,
    UndoUnregister,
    UndoConfirm,
    UndoCount,
    FenceWho,
    FenceClean,
    FenceConfirm,
    RecoverLook,
    RecoverAptpl,
    End(Verdict),
}

/// Why the beliefs are being learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Take,
    Undo,
    Recover(Stage),
}

/// What does not follow from the device: agreed before the pause, or found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Terms {
    pub(crate) key: Option<Key>,
    pub(crate) method: Method,
    pub(crate) role: Role,
    pub(crate) aptpl: bool,
    /// PRGENERATION when the guest was last seen registered.
    pub(crate) generation: u32,
    /// The source's registered paths.
    pub(crate) source_paths: u8,
    /// The source's path that holds the reservation, where it is known.
    pub(crate) holder: Option<u8>,
    /// The destination's paths that had the key before us.
    pub(crate) destination_had: u8,
    /// PRGENERATION when a reading that tells nexuses apart last showed the source registered while APTPL was off.
    pub(crate) seen: Option<u32>,
    /// The target forgot what was registered before the last look.
    pub(crate) forgot: bool,
    /// The source itself saw, before the pause, that the destination's first port had not the guest's key.
    pub(crate) port_vacant: bool,
    /// The source itself saw it registered there since: that port is the destination's.
    pub(crate) port_proved: bool,
    /// The destination's further paths may have been registered by us.
    pub(crate) others_begun: bool,
    /// The destination's further paths that are not registered yet.
    pub(crate) others_open: u8,
    /// Those of them that did not answer.
    pub(crate) others_lost: u8,
    /// This is a recovery: what an earlier process sent is not known.
    pub(crate) recovering: bool,
    /// This is a recovery, and the guest may run at the source, whose nexus is not to be asked then.
    pub(crate) given_back: bool,
    pub(crate) sharers: u16,
    pub(crate) shared: bool,
    pub(crate) traits: Traits,
    pub(crate) move_reported: Known,
    /// PRGENERATION from which own commands are counted, to tell that another node registered meanwhile.
    pub(crate) mark: u32,
    /// PRGENERATION of the last look inside the pause, and what own commands have added to it at most.
    pub(crate) looked_at: u32,
    /// Own commands since then that advanced it.
    pub(crate) own: u8,
    /// The device supports APTPL.
    pub(crate) persist_capable: bool,
    /// The role rests on a reading that ties the reservation to the nexus.
    pub(crate) role_sure: bool,
    /// READ FULL STATUS tells the nexuses apart here.
    pub(crate) full_status: bool,
    /// READ FULL STATUS and READ KEYS were of the same PRGENERATION, and showed the source registered.
    pub(crate) seen_together: bool,
    /// The claim had one clear outcome, so that PRGENERATION may be reckoned with.
    pub(crate) clean: bool,
    /// Methods that this target rejected in this handover.
    pub(crate) excluded: u8,
    /// Times that something had to be sorted out.
    pub(crate) attempts: u8,
    /// PREEMPT AND ABORT was rejected.
    pub(crate) no_abort: bool,
    /// Method *destination nonce*: the PREEMPT has succeeded.
    pub(crate) preempted: bool,
    /// Method *source nonce*: a command was sent after which the nonce is gone and the destination has everything.
    pub(crate) nonce_spent: bool,
    pub(crate) taking: bool,
    pub(crate) committed: bool,
    pub(crate) journaled: bool,
    pub(crate) journal_failed: bool,
    pub(crate) aborted: bool,
    pub(crate) aptpl_doubt: bool,
    pub(crate) leftover: bool,
    pub(crate) nonce_left: bool,
    /// How often the guest's key was still listed at the end, beyond its own registrations and those of known sharers.
    pub(crate) surplus: u16,
    pub(crate) prefer_destination: bool,
    pub(crate) destination_alive: bool,
    pub(crate) cause: Cause,
    pub(crate) purpose: Purpose,
}

/// The destination's registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    Nothing,
    Key,
    Nonce,
}

/// Who has which key, as last seen or brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Beliefs {
    /// The source's paths with the guest's key.
    pub(crate) key: u8,
    /// The source's paths with the nonce.
    pub(crate) nonce: u8,
    pub(crate) destination: Held,
    pub(crate) source_lost: bool,
    pub(crate) destination_lost: bool,
}

/// A handover or a recovery under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Course {
    pub(crate) settings: Shared,
    pub(crate) facts: Option<Box<Facts>>,
    pub(crate) terms: Terms,
    pub(crate) beliefs: Beliefs,
    pub(crate) batch: Batch,
    pub(crate) attentions: Attentions,
    pub(crate) at: At,
}

impl Course {
    pub(crate) fn new(settings: Settings) -> Self {
        let terms = Terms::new(&settings);
        let beliefs = Beliefs {
            key: 0,
            nonce: 0,
            destination: Held::Nothing,
            source_lost: false,
            destination_lost: false,
        };
        let attentions = Attentions::new();
        let settings = Shared::new(settings);
        Self { settings, facts: None, terms, beliefs, batch: Batch::default(), attentions, at: At::Start }
    }

    /// See [`crate::Procedure::poll`].
    pub(crate) fn poll(&mut self) -> Step {
        loop {
            let speech = Speech {
                settings: &self.settings,
                key: self.terms.key.unwrap_or_default(),
                aptpl: self.terms.aptpl,
            };
            if let Some(step) = self.batch.poll(&speech) {
                return step;
            }
            match self.at {
                At::Stand(phase) => return Step::PhaseDone(phase),
                At::End(verdict) => return Step::Finished(verdict),
                _ => self.advance(),
            }
        }
    }

    /// See [`crate::Procedure::handle`].
    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Completed { id, outcome } => {
                let (settings, key) = (&self.settings, self.terms.key);
                self.batch.complete(id, outcome, settings, key, &mut self.attentions);
                if let (Some(capabilities), At::Inspect) = (self.batch.capabilities(), self.at) {
                    // A REGISTER of this batch that must be repeated sends what is true now.
                    self.adopt_aptpl(capabilities);
                }
            }
            Event::JournalFailed => self.fail_journal(),
            Event::Abort => self.abort(),
            Event::Proceed => self.proceed(),
            Event::Refresh => {
                if self.at == At::Stand(Phase::Prepare) {
                    self.look(Phase::Prepare);
                }
            }
        }
    }

    fn proceed(&mut self) {
        let At::Stand(phase) = self.at else { return };
        match phase {
            Phase::Plan => self.look(Phase::Prepare),
            Phase::Prepare => self.freeze(),
            Phase::Freeze => self.take(),
            Phase::Take => self.verify(),
            Phase::Verify => self.at = At::Stand(Phase::Release),
            Phase::Release => self.at = At::End(Verdict::Moved),
        }
    }

    fn abort(&mut self) {
        self.terms.aborted = true;
        match self.at {
            At::Stand(Phase::Plan | Phase::Prepare) => self.at = At::End(kept(Cause::Aborted)),
            At::Stand(Phase::Freeze) => self.undo(Cause::Aborted),
            _ => {}
        }
    }

    /// A final entry only spares a recovery; without it the verdict stands.
    fn fail_journal(&mut self) {
        self.terms.journal_failed = true;
        self.batch.fail_journal();
        if self.at == At::Stand(Phase::Verify) {
            self.doubt(Doubt::JournalFailed);
        }
    }

    fn advance(&mut self) {
        let answers = self.batch.take();
        let unregistrations = !self.terms.traits.counts_unregistrations.is_no();
        self.terms.own = self.terms.own.saturating_add(answers.counted(unregistrations));
        self.terms.looked_at = self.terms.looked_at.wrapping_add(u32::from(answers.counted(true)));
        if answers.journal_failed {
            return self.unjournaled();
        }
        if let (Some(keys), false) = (answers.keys(), self.at == At::RecoverLook) {
            self.reckon_foreign(keys.generation);
        }
        match self.at {
            At::Start => self.survey(),
            At::Survey
            | At::SurveyMove
            | At::Look(_)
            | At::Aptpl(_)
            | At::ProbeDestination(_)
            | At::Count(_) => self.read(&answers),
            At::Claim | At::ClaimProbe { .. } | At::Inspect | At::Prove => self.frozen(&answers),
            At::Break | At::Move | At::Preempt | At::Rekey | At::Who | At::DropNonce | At::PreemptNonce => {
                self.taken(&answers);
            }
            At::BlindPreempt | At::BlindCheck { .. } | At::BlindRename => self.blindly_taken(&answers),
            At::IdentityProve
            | At::IdentityClose
            | At::IdentityOpen
            | At::IdentityCheck
            | At::IdentityBackClose
            | At::IdentityBackOpen => self.identified(&answers),
            At::Locate | At::LocateNonce | At::LocateByReading => self.located(&answers),
            At::Others | At::OthersProbe | At::Check | At::CheckProbe => self.verified(&answers),
            At::UndoLook
            | At::UndoWitness
            | At::UndoRekey
            | At::UndoProve
            | At::UndoRevert
            | At::UndoUnregister
            | At::UndoConfirm
            | At::UndoCount => {
                self.undone(&answers);
            }
            At::FenceWho | At::FenceClean | At::FenceConfirm => self.fenced(&answers),
            At::RecoverLook | At::RecoverAptpl => self.recovered(&answers),
            At::Stand(_) | At::End(_) => {}
        }
    }

    /// The entry before this batch was not written, so nothing of the batch was sent.
    fn unjournaled(&mut self) {
        match self.at {
            At::Claim | At::IdentityProve => {
                if self.terms.attempts > 0 {
                    self.reckon_blindly();
                }
                self.at = At::End(kept(Cause::JournalFailed));
            }
            // Without the entry a recovery would take the destination's missing key for a fencing.
            At::UndoUnregister => self.leave_destination(),
            _ if !self.terms.committed && self.beliefs.nonce == 0 && self.method_undoable() => {
                self.undo(Cause::JournalFailed);
            }
            _ => self.doubt(Doubt::JournalFailed),
        }
    }

    fn method_undoable(&self) -> bool {
        let untouched = self.beliefs.key == self.terms.source_paths;
        match self.terms.method {
            Method::Identity => false,
            Method::DestinationNonce => !self.terms.preempted,
            _ => untouched,
        }
    }

    /// Sends a batch.
    pub(crate) fn run(&mut self, at: At, orders: impl IntoIterator<Item = (Path, Order)>) {
        self.batch = Batch::new(orders, None);
        self.at = at;
    }

    /// Sends a batch behind a journal entry.
    pub(crate) fn run_journaled(
        &mut self,
        stage: Stage,
        at: At,
        orders: impl IntoIterator<Item = (Path, Order)>,
    ) {
        self.terms.journaled = true;
        self.batch = Batch::new(orders, Some(self.entry(stage)));
        self.at = at;
    }

    /// Ends with a verdict, journalled if anything was.
    pub(crate) fn finish(&mut self, stage: Stage, verdict: Verdict) {
        self.at = At::End(verdict);
        self.batch = Batch::default();
        if self.terms.journaled {
            self.batch = Batch::new([], Some(self.entry(stage)));
        }
    }

    /// Ends without an owner. The journal stays as it is, for recovery.
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        self.reckon_blindly();
        self.batch = Batch::default();
        self.at = At::End(Verdict::InDoubt(doubt));
    }

    pub(crate) fn entry(&self, stage: Stage) -> Entry {
        let terms = &self.terms;
        // A recovery must be able to tell whether another node sent anything beside the PREEMPT.
        let blind = stage == Stage::Take && terms.method == Method::DestinationNonce;
        Entry {
            stage,
            method: terms.method,
            key: terms.key.unwrap_or_default(),
            nonce: self.settings.nonce,
            role: terms.role,
            aptpl: terms.aptpl,
            generation: if blind { terms.looked_at } else { terms.generation },
            source_paths: terms.source_paths,
            holder: terms.holder,
            destination_had: terms.destination_had,
            sharers: terms.sharers,
        }
    }

    /// Takes over PTPL_A as it is now, for the REGISTERs to come.
    pub(crate) fn learn_aptpl(&mut self, answers: &Answers) {
        match answers.capabilities() {
            Some(capabilities) => self.adopt_aptpl(capabilities),
            None => self.reckon_blindly(),
        }
    }

    pub(crate) const fn adopt_aptpl(&mut self, capabilities: Capabilities) {
        self.terms.aptpl_doubt |= capabilities.persist_active != self.terms.aptpl;
        self.terms.aptpl = capabilities.persist_active;
        if capabilities.persist_active {
            self.terms.seen = None;
        }
    }

    /// Own commands were sent and nothing can be read afterwards.
    pub(crate) const fn reckon_blindly(&mut self) {
        self.terms.aptpl_doubt |= self.terms.persist_capable;
    }

    /// More has been counted than own commands account for: another node registered, perhaps with another APTPL.
    fn reckon_foreign(&mut self, generation: u32) {
        let advance = generation.wrapping_sub(self.terms.mark);
        let foreign = advance > u32::from(self.terms.own) || self.attentions.reset_lately;
        self.terms.aptpl_doubt |= self.terms.persist_capable && foreign;
    }

    /// One order for each of the source's paths in `mask`.
    pub(crate) fn on_source(mask: u8, order: Order) -> impl Iterator<Item = (Path, Order)> {
        let paths = (0..8u8).filter(move |index| mask >> index & 1 == 1);
        paths.map(move |index| (Path::source(index), order))
    }

    /// One order for each of the destination's paths but the first and those that had the key before us.
    pub(crate) fn on_further_destinations(&self, order: Order) -> Vec<(Path, Order)> {
        let had = self.terms.destination_had;
        let paths = (0u8..).zip(&self.settings.destination).skip(1);
        let paths = paths.filter(|(index, _)| had & super::batch::bit(*index) == 0);
        paths.map(|(index, _)| (Path::destination(index), order)).collect()
    }

    /// The destination's first path had the key before us.
    pub(crate) const fn adopted(&self) -> bool {
        self.terms.destination_had & 1 != 0
    }

    /// Whether the source's nexuses may be asked.
    pub(crate) fn source_speaks(&self) -> bool {
        self.settings.source_alive && !self.terms.given_back
    }

    /// The path that acts for the source alone.
    pub(crate) fn holder(&self) -> Path {
        Path::source(self.terms.holder.unwrap_or(0))
    }

    /// The key under which the destination registers.
    pub(crate) const fn claimed(&self) -> Name {
        match self.terms.method {
            Method::DestinationNonce => Name::Nonce,
            _ => Name::Guest,
        }
    }

    /// The nexus that reads before the pause.
    pub(crate) fn reader(&self) -> Path {
        if self.settings.by_identity() { Path::source(0) } else { Path::destination(0) }
    }

    /// See [`crate::Engine::shift_generation`].
    pub(crate) fn shift_generation(&mut self, by: u32) {
        self.terms.generation = self.terms.generation.wrapping_sub(by);
        self.terms.mark = self.terms.mark.wrapping_sub(by);
        self.terms.looked_at = self.terms.looked_at.wrapping_sub(by);
        self.terms.seen = self.terms.seen.map(|seen| seen.wrapping_sub(by));
        self.batch.shift_generation(by);
        if let Some(facts) = &mut self.facts {
            facts.shift_generation(by);
        }
    }
}

/// Turned back without a trace.
pub(crate) const fn kept(cause: Cause) -> Verdict {
    Verdict::KeptAtSource { cause, leftover: false }
}

impl Terms {
    fn new(settings: &Settings) -> Self {
        Self {
            key: settings.key,
            method: settings.method.unwrap_or(Method::SourceNonce),
            role: Role::Unregistered,
            aptpl: false,
            generation: 0,
            source_paths: 0,
            holder: None,
            destination_had: 0,
            seen: None,
            forgot: false,
            port_vacant: false,
            port_proved: false,
            others_begun: false,
            others_open: 0,
            others_lost: 0,
            recovering: false,
            given_back: false,
            sharers: 0,
            shared: false,
            traits: Traits::default(),
            move_reported: Known::Unknown,
            mark: 0,
            looked_at: 0,
            own: 0,
            persist_capable: false,
            role_sure: false,
            full_status: false,
            seen_together: false,
            clean: false,
            excluded: 0,
            attempts: 0,
            no_abort: false,
            preempted: false,
            nonce_spent: false,
            taking: false,
            committed: false,
            journaled: false,
            journal_failed: false,
            aborted: false,
            aptpl_doubt: false,
            leftover: false,
            nonce_left: false,
            surplus: 0,
            prefer_destination: false,
            destination_alive: true,
            cause: Cause::Aborted,
            purpose: Purpose::Take,
        }
    }
}

/// How often one course sorts out an unclear answer before it gives up.
pub(crate) const MAX_ATTEMPTS: u8 = 4;

/// All of `count` paths, as a mask.
pub(crate) fn all_paths(count: usize) -> u8 {
    let count = u32::try_from(count).unwrap_or(8).min(8);
    u8::try_from((1u16 << count) - 1).unwrap_or(u8::MAX)
}

/// Whether the answers of a whole side are lost.
pub(crate) fn lost(answers: &Answers, side: Side, mask: u8) -> bool {
    mask != 0 && answers.mask(side, super::batch::Answer::is_lost) & mask != 0
}
