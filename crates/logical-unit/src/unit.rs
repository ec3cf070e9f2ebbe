//! One logical unit: admission by reservations and unit attentions, then the block device server. Shared
//! between the transport's threads.
//!
//! A command whose nexus has no unit attention waiting and is not forbidden runs without any lock that is
//! common to nexuses ([`AccessGate`](crate::access::AccessGate)). Everything else, reservations first of
//! all, is decided by [`PrUnit`] under one lock, and its effects happen before the lock is released: the
//! durable image is written, the gates are renewed, commands are aborted. So no status tells of a change
//! that a later command does not meet, or that a power loss would undo.

use crate::access::Decision;
use crate::aptpl::{self, Image};
use crate::attention::Attention;
use crate::block::{Disk, Plan, Room, Sender};
use crate::nexuses::{Nexuses, Session};
use crate::open::{OpenError, Opened};
use crate::snapshot::kept::{self, Kept};
use crate::store::Caching;
use crate::task_set::{Aborted, Executing, Leaving, Task};
use crate::{Directory, Effect, ItNexus, LunSpec, NexusId, Outcome, PrUnit, Profile};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Sense, SenseKey, Status, opcode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A logical unit, ready to serve.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) disk: Arc<Disk>,
    delay: Duration,
    profile: &'static Profile,
    /// Where the durable image is; `None` if the medium forgets with the power anyway.
    image: Option<PathBuf>,
    /// What outlives this process, where it is to.
    kept: Option<Kept>,
    target: OnceLock<String>,
    guarded: Mutex<Guarded>,
}

/// What only one thread may change at a time.
#[derive(Debug)]
struct Guarded {
    unit: PrUnit,
    nexuses: Nexuses,
}

/// A session of an I_T nexus with one logical unit; cheap to clone.
#[derive(Clone, Debug)]
pub struct NexusHandle(Arc<Session>);

impl NexusHandle {
    /// The nexus's handle inside the logical unit.
    #[must_use]
    pub fn id(&self) -> NexusId {
        self.0.id
    }

    /// The names of the nexus.
    #[must_use]
    pub fn nexus(&self) -> &ItNexus {
        &self.0.nexus
    }
}

impl LogicalUnit {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// [`OpenError`] before anything is served; nothing on disk is changed then.
    pub fn open(spec: &LunSpec) -> Result<Arc<Self>, OpenError> {
        let opened = Opened::open(spec)?;
        opened.unstamp()?;
        if let Some(image) = &opened.image {
            kept::forget(image).map_err(|source| OpenError::File { path: image.clone(), source })?;
        }
        Ok(Self::over(opened, spec.delay, None))
    }

    /// A logical unit of these parts, kept for the next process or not.
    pub(crate) fn over(opened: Opened, delay: Duration, kept: Option<Kept>) -> Arc<Self> {
        let Opened { disk, profile, unit, nexuses, image } = opened;
        let guarded = Mutex::new(Guarded { unit, nexuses });
        let (disk, target) = (Arc::new(disk), OnceLock::new());
        Arc::new(Self { disk, delay, profile, image, kept, target, guarded })
    }

    pub(crate) const fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Where its durable image is.
    pub(crate) fn image(&self) -> Option<&Path> {
        self.image.as_deref()
    }

    /// Keeps the state for the next process, where that is wanted; `false` if that would find an older one.
    fn keep(&self, guarded: &Guarded) -> bool {
        let Some(kept) = &self.kept else { return true };
        kept.store(self.describe(&guarded.unit, &guarded.nexuses).ok().as_ref())
    }

    /// The same of what it is now.
    pub(crate) fn keep_now(&self) -> bool {
        self.keep(&self.lock())
    }

    /// How the medium is reached, and why not directly if it is not.
    #[must_use]
    pub fn caching(&self) -> Caching {
        self.disk.caching()
    }

    /// Makes durable what its nexuses were told is written, before another process serves it.
    ///
    /// # Errors
    /// The system's, also of a time before: then the data are here at best.
    pub fn settle(&self) -> io::Result<()> {
        self.disk.make_durable()
    }

    /// Looks at the size of the medium anew, when somebody has made it grow. `true` if it has: then every nexus is
    /// told (CAPACITY DATA HAS CHANGED), and a transport that can should tell of it too.
    ///
    /// # Errors
    /// The system's, or that the medium is smaller than it was; the capacity then stays.
    pub fn measure(&self) -> io::Result<bool> {
        let changed = self.disk.measure()?;
        if changed {
            let guarded = &mut *self.lock();
            guarded.unit.establish_for_others(None, Attention::CapacityChanged);
            guarded.refresh_all();
            self.keep(guarded);
        }
        Ok(changed)
    }

    /// How this logical unit behaves.
    #[must_use]
    pub const fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// Names the target device and its ports; the first name stays. Before the first session, or
    /// registrations through other ports would not be found.
    pub fn identify(&self, target: &str, target_ports: &[u16]) {
        self.target.get_or_init(|| target.to_owned());
        self.lock().nexuses.set_target_ports(target_ports);
    }

    /// An I_T nexus is established: login. The same names are the same nexus again.
    #[must_use]
    pub fn attach(&self, nexus: &ItNexus) -> NexusHandle {
        let guarded = &mut *self.lock();
        let session = guarded.nexuses.attach(nexus);
        guarded.unit.attach(session.id);
        guarded.refresh(session.id);
        NexusHandle(session)
    }

    /// The I_T nexus is lost: logout or a dead connection. Its commands are aborted and its SPC-2
    /// reservation is released; registrations stay. Later commands of this handle are aborted too. For the next process
    /// it is not lost by the end of this one.
    pub fn nexus_lost(&self, nexus: &NexusHandle) {
        nexus.0.tasks.close();
        let guarded = &mut *self.lock();
        if guarded.nexuses.detach(&nexus.0) {
            guarded.unit.nexus_lost(nexus.0.id);
            guarded.refresh_all();
            guarded.nexuses.forget_strangers(&guarded.unit);
        }
    }

    /// Enters a command into the task set on arrival, before its data-out. `tag` is unique in the nexus.
    #[must_use]
    pub fn begin(&self, nexus: &NexusHandle, tag: u64) -> Task {
        nexus.0.tasks.begin(tag)
    }

    /// Executes a command whose data-out has arrived, all of it as the initiator sent it. An aborted
    /// command ends with TASK ABORTED; ask [`Task::is_aborted`] whether that status is sent at all.
    #[must_use]
    pub fn execute(&self, nexus: &NexusHandle, task: &Task, cdb: &[u8], data_out: &[u8]) -> Completion {
        let completion = match self.decide(nexus, cdb) {
            Decision::Execute => match task.enter() {
                Ok(executing) => self.run(nexus, executing, cdb, data_out),
                Err(_) => Completion::status(Status::TASK_ABORTED),
            },
            Decision::Conflict => Completion::status(Status::RESERVATION_CONFLICT),
            Decision::Consult => self.consult(nexus, task, cdb, data_out),
        };
        self.in_chosen_format(completion)
    }

    /// The check that takes no lock.
    pub(crate) fn decide(&self, nexus: &NexusHandle, cdb: &[u8]) -> Decision {
        nexus.0.gate.decide(self.profile, cdb)
    }

    /// A transfer that the caller may carry out, if `cdb` is one.
    pub(crate) fn plan(&self, cdb: &[u8], room: Room) -> Option<Plan> {
        self.disk.plan(cdb, room)
    }

    /// The block device server executes an admitted command.
    fn run(&self, nexus: &NexusHandle, executing: Executing, cdb: &[u8], data_out: &[u8]) -> Completion {
        let target = self.target.get().map(String::as_str);
        let sender = Sender { nexus: &nexus.0.nexus, target, interrupted: executing.interrupted() };
        let executed = self.disk.execute(sender, cdb, data_out);
        // Only now: whoever aborts commands waits for this one with the lock held.
        drop(executing);
        if executed.modes_changed {
            let guarded = &mut *self.lock();
            guarded.unit.establish_for_others(Some(nexus.0.id), Attention::ModeParametersChanged);
            guarded.refresh_all();
            self.keep(guarded);
        } else if cdb.first() == Some(&opcode::START_STOP_UNIT) {
            self.keep_now();
        }
        executed.completion
    }

    /// The reservation machine decides, and executes what is its own.
    fn consult(&self, nexus: &NexusHandle, task: &Task, cdb: &[u8], data_out: &[u8]) -> Completion {
        let mut guard = self.lock();
        let Ok(executing) = task.enter() else { return Completion::status(Status::TASK_ABORTED) };
        let is_order = cdb.first() == Some(&opcode::PERSISTENT_RESERVE_OUT);
        let data = if is_order { DataPhase::Out(data_out.to_vec()) } else { DataPhase::None };
        let request = Request { cdb: cdb.to_vec(), data };
        let guarded = &mut *guard;
        let may_change = is_order || cdb.first().is_some_and(|code| SPC2.contains(code));
        let before = (may_change && self.image.is_some()).then(|| guarded.unit.clone());
        let known = guarded.nexuses.len();
        let (outcome, effects) = guarded.unit.execute(&mut guarded.nexuses, nexus.0.id, &request);
        // A unit attention that is told here is told again by the next process, until something else is kept: better twice than never.
        let done = |ended: &Completion| ended.status == Status::GOOD;
        let changed = may_change && matches!(&outcome, Outcome::Complete(ended) if done(ended));
        // Before the durable image: what is kept is never older than that.
        let kept = !changed || self.keep(guarded);
        let durable = kept && (!effects.contains(&Effect::Persist) || self.persist(guarded));
        if let (false, Some(before)) = (durable, before) {
            guarded.unit = before;
            self.keep(guarded);
        }
        if guarded.nexuses.len() > known {
            // A command that was refused after it had named nexuses must not fill the directory with them.
            guarded.nexuses.forget_strangers(&guarded.unit);
        }
        if !durable {
            return Completion::check(&INTERNAL_FAILURE);
        }
        let leaving = self.carry_out(guarded, &effects, nexus.0.id, task);
        if changed {
            // With the unit attentions of those whose commands were aborted.
            self.keep(guarded);
        }
        // Whoever is aborted may be on a slow medium: the others' reservations are not to wait for that. Nobody waits in a circle: each
        // waits only for commands that had entered under the lock before it.
        drop(guard);
        leaving.wait();
        match outcome {
            Outcome::Complete(completion) => completion,
            Outcome::Execute => self.run(nexus, executing, cdb, data_out),
        }
    }

    /// Writes the durable image. `false` if that failed; the old image is then still in force.
    fn persist(&self, guarded: &Guarded) -> bool {
        let Some(path) = &self.image else { return true };
        let saved = aptpl::save(path, &Image::of(&guarded.unit, &guarded.nexuses));
        if let Err(error) = &saved {
            let why = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, why, "a change of reservations was refused");
        }
        saved.is_ok()
    }

    /// Gates first: a command of a preempted nexus that comes while its others are being aborted must
    /// find the new reservation. Whose end is to be waited for without the lock.
    fn carry_out(&self, guarded: &mut Guarded, effects: &[Effect], sender: NexusId, task: &Task) -> Leaving {
        let mut leaving = Leaving::default();
        for effect in effects {
            match effect {
                Effect::Refresh(nexus) => guarded.refresh(*nexus),
                Effect::RefreshAll => guarded.refresh_all(),
                Effect::Persist | Effect::Abort { .. } => {}
            }
        }
        for effect in effects {
            if let Effect::Abort { nexuses } = effect {
                leaving.add(self.abort_commands(guarded, nexuses, sender, task));
            }
        }
        if effects.contains(&Effect::RefreshAll) {
            guarded.nexuses.forget_strangers(&guarded.unit);
        }
        leaving
    }

    /// Ends the commands of `nexuses` but for `task`, which asked for it (SPC-4 5.13.11.2.6, SAM-5 5.3.1). Those on the medium are
    /// still to be waited for.
    fn abort_commands(
        &self,
        guarded: &mut Guarded,
        nexuses: &[NexusId],
        sender: NexusId,
        task: &Task,
    ) -> Leaving {
        let (how, mut all) = (self.abort_for_others(), Leaving::default());
        for nexus in nexuses {
            let mut any = false;
            for session in guarded.nexuses.sessions_of(*nexus) {
                let (aborted, leaving) = session.tasks.give_up_all(how, Some(task));
                any |= aborted;
                all.add(leaving);
            }
            if any && how == Aborted::Silently && *nexus != sender {
                guarded.unit.establish(*nexus, Attention::CommandsCleared);
                guarded.refresh(*nexus);
            }
        }
        all
    }

    /// How a command ends that another nexus aborts.
    fn abort_for_others(&self) -> Aborted {
        if self.disk.task_aborted_status() { Aborted::TaskAbortedStatus } else { Aborted::Silently }
    }

    /// Descriptor format if the Control page says so.
    pub(crate) fn in_chosen_format(&self, mut completion: Completion) -> Completion {
        let failed = completion.status == Status::CHECK_CONDITION;
        if failed
            && self.disk.descriptor_sense()
            && let Some(sense) = completion.decoded_sense()
        {
            completion.sense = sense.to_descriptor();
        }
        completion
    }

    /// The simulated latency of each command; the transport waits it out without holding up others.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// How many bytes of data-out this CDB names, if it is a command of this device: what a transport
    /// compares with what the initiator announced.
    #[must_use]
    pub fn data_out_length(&self, cdb: &[u8]) -> Option<u64> {
        crate::block::data_out_length(cdb)
    }

    /// How many bytes of the medium this CDB has [`LogicalUnit::execute`] hold in memory, if it is a READ.
    #[must_use]
    pub fn read_length(&self, cdb: &[u8]) -> Option<u64> {
        crate::block::read_length(cdb)
    }

    /// ABORT TASK: ends one command of this nexus. `false` if no such command is under way.
    #[must_use]
    pub fn abort_task(&self, nexus: &NexusHandle, tag: u64) -> bool {
        nexus.0.tasks.abort(tag)
    }

    /// ABORT TASK SET: ends every command of this nexus.
    pub fn abort_task_set(&self, nexus: &NexusHandle) {
        nexus.0.tasks.abort_all(Aborted::Silently, None);
    }

    /// CLEAR TASK SET: ends every command of every nexus (SAM-5 7.4).
    pub fn clear_task_set(&self, nexus: &NexusHandle) {
        let guarded = &mut *self.lock();
        let how = self.abort_for_others();
        let sessions: Vec<_> = guarded.nexuses.sessions().cloned().collect();
        for session in sessions {
            let own = session.id == nexus.0.id;
            let how = if own { Aborted::Silently } else { how };
            if session.tasks.abort_all(how, None) && !own && how == Aborted::Silently {
                guarded.unit.establish(session.id, Attention::CommandsCleared);
                guarded.refresh(session.id);
            }
        }
        self.keep(guarded);
    }

    /// I_T NEXUS RESET (SAM-5 7.6): the nexus's commands and its SPC-2 reservation end, as with the loss of the nexus; its
    /// registration stays, it is told, and it goes on.
    pub fn reset_nexus(&self, nexus: &NexusHandle) {
        let guarded = &mut *self.lock();
        for session in guarded.nexuses.sessions_of(nexus.0.id) {
            session.tasks.abort_all(Aborted::Reset, None);
        }
        guarded.unit.nexus_lost(nexus.0.id);
        guarded.unit.attach(nexus.0.id);
        guarded.unit.establish(nexus.0.id, Attention::NexusLoss);
        guarded.refresh_all();
        self.keep(guarded);
    }

    /// LOGICAL UNIT RESET (SAM-5 6.3.3): every command ends without status, SPC-2 reservations and mode
    /// pages go, registrations stay, every nexus is told.
    pub fn reset(&self) {
        self.reset_with(PrUnit::logical_unit_reset);
    }

    /// TARGET WARM RESET or TARGET COLD RESET, as far as this logical unit is concerned.
    pub fn target_reset(&self) {
        self.reset_with(PrUnit::target_reset);
    }

    /// Power off and on again: everything volatile is gone, the medium stays.
    pub fn power_cycle(&self) {
        self.reset_with(PrUnit::power_cycle);
    }

    /// The device server loses its reservation information, as after a failure of its memory.
    pub fn lose_reservation_information(&self) {
        let guarded = &mut *self.lock();
        let _ = guarded.unit.lose_reservation_information();
        self.keep(guarded);
        self.persist(guarded);
        guarded.refresh_all();
    }

    fn reset_with(&self, reset: fn(&mut PrUnit)) {
        let guarded = &mut *self.lock();
        for session in guarded.nexuses.sessions() {
            session.tasks.abort_all(Aborted::Reset, None);
        }
        self.disk.reset();
        reset(&mut guarded.unit);
        guarded.refresh_all();
        guarded.nexuses.forget_strangers(&guarded.unit);
        self.keep(guarded);
    }

    /// The state of the reservations, and who is who in it.
    pub(crate) fn with_reservations<T>(&self, look: impl FnOnce(&PrUnit, &dyn Directory) -> T) -> T {
        let guarded = self.lock();
        look(&guarded.unit, &guarded.nexuses)
    }

    /// The state of the reservations, for reports and tests.
    pub fn inspect<T>(&self, look: impl FnOnce(&PrUnit) -> T) -> T {
        look(&self.lock().unit)
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guarded {
    fn refresh(&self, nexus: NexusId) {
        let standing = self.unit.standing(nexus);
        self.nexuses.sessions_of(nexus).iter().for_each(|session| session.gate.set(standing));
    }

    fn refresh_all(&self) {
        self.nexuses.sessions().for_each(|session| session.gate.set(self.unit.standing(session.id)));
    }
}

/// Commands of SPC-2 reservations.
const SPC2: [u8; 4] = [opcode::RESERVE_6, opcode::RELEASE_6, opcode::RESERVE_10, opcode::RELEASE_10];

/// The durable image could not be written: the command did not happen.
const INTERNAL_FAILURE: Sense =
    Sense::new(SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE);
