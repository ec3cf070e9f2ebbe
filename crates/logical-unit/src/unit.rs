//! One logical unit: admission by reservations and unit attentions, then the block device server.
//! Shared between the transport's threads.

use crate::block::Disk;
use crate::lun_spec::{LunSpec, Medium};
use crate::store::MemoryStore;
use crate::task_set::{Aborted, Task, Tasks};
use crate::{ItNexus, NexusId};
use scsi::{Completion, Status};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a logical unit cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, created, grown or read.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The medium holds no complete logical block.
    #[error("{0} bytes are too small for a logical unit")]
    TooSmall(u64),
    /// No profile of this name.
    #[error("no profile is called `{0}`")]
    Profile(String),
}

/// A logical unit, ready to serve.
#[derive(Debug)]
pub struct LogicalUnit {
    disk: Disk,
    delay: Duration,
    nexuses: Mutex<BTreeMap<ItNexus, NexusHandle>>,
}

/// An I_T nexus attached to one logical unit; cheap to clone.
#[derive(Clone, Debug)]
pub struct NexusHandle {
    id: NexusId,
    tasks: Arc<Tasks>,
}

impl NexusHandle {
    /// The handle's number inside the logical unit.
    #[must_use]
    pub const fn id(&self) -> NexusId {
        self.id
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogicalUnit {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// [`OpenError`] before anything is served.
    pub fn open(spec: &LunSpec) -> Result<Arc<Self>, OpenError> {
        let size = match &spec.medium {
            Medium::File { .. } => return Err(OpenError::Profile(spec.profile.clone())),
            Medium::Memory { size } => *size,
        };
        let disk = Disk::new(Box::new(MemoryStore::new(size)))?;
        Ok(Arc::new(Self { disk, delay: spec.delay, nexuses: Mutex::default() }))
    }

    /// An I_T nexus is established: login. The same nexus gets the same handle again.
    #[must_use]
    pub fn attach(&self, nexus: &ItNexus) -> NexusHandle {
        let mut nexuses = lock(&self.nexuses);
        let id = NexusId(u32::try_from(nexuses.len()).unwrap_or(u32::MAX));
        let new = || NexusHandle { id, tasks: Arc::default() };
        nexuses.entry(nexus.clone()).or_insert_with(new).clone()
    }

    /// The I_T nexus is lost: logout or a dead connection. Its commands are aborted and its SPC-2
    /// reservation is released; registrations stay.
    pub fn nexus_lost(&self, nexus: &NexusHandle) {
        nexus.tasks.abort_all(Aborted::Silently, None);
    }

    /// Enters a command into the task set on arrival, before its data-out. `tag` is unique in the nexus.
    #[must_use]
    pub fn begin(&self, nexus: &NexusHandle, tag: u64) -> Task {
        nexus.tasks.begin(tag)
    }

    /// Executes a command whose data-out has arrived. An aborted command ends with TASK ABORTED; ask
    /// [`Task::is_aborted`] whether that status is sent at all.
    #[must_use]
    pub fn execute(&self, _nexus: &NexusHandle, task: &Task, cdb: &[u8], data_out: &[u8]) -> Completion {
        match task.enter() {
            Err(_) => Completion::status(Status::TASK_ABORTED),
            Ok(_executing) => self.disk.execute(cdb, data_out),
        }
    }

    /// The simulated latency of each command; the transport waits it out without holding up others.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// ABORT TASK: ends one command of this nexus. `false` if no such command is under way.
    pub fn abort_task(&self, nexus: &NexusHandle, tag: u64) -> bool {
        nexus.tasks.abort(tag)
    }

    /// ABORT TASK SET: ends every command of this nexus.
    pub fn abort_task_set(&self, nexus: &NexusHandle) {
        nexus.tasks.abort_all(Aborted::Silently, None);
    }

    /// CLEAR TASK SET: ends every command of every nexus.
    pub fn clear_task_set(&self, nexus: &NexusHandle) {
        self.abort_everything(nexus.id);
    }

    /// LOGICAL UNIT RESET asked for by `nexus` (SAM-5 6.3.3).
    pub fn reset(&self, nexus: &NexusHandle) {
        self.abort_everything(nexus.id);
    }

    /// TARGET WARM RESET or TARGET COLD RESET, as far as this logical unit is concerned.
    pub fn target_reset(&self) {
        self.abort_everything(NexusId(u32::MAX));
    }

    /// Power off and on again: everything volatile is gone.
    pub fn power_cycle(&self) {
        self.abort_everything(NexusId(u32::MAX));
    }

    fn abort_everything(&self, _by: NexusId) {
        let handles: Vec<_> = lock(&self.nexuses).values().cloned().collect();
        for handle in handles {
            handle.tasks.abort_all(Aborted::Silently, None);
        }
    }
}
