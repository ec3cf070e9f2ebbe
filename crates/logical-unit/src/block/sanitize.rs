//! SANITIZE (SBC-4 4.11, 5.24): overwrite and block erase of the whole medium.
//!
//! The work runs in a thread of its own, because nothing but its end ends it: neither an abort of the
//! command nor a reset. Meanwhile commands that touch the medium are not ready. Without IMMED the command
//! waits for the work. A failure is kept until the service action that leaves it.

use super::refusal::{Answer, Refusal};
use super::{BLOCK, Disk, Sender};
use scsi::block::{Sanitize, service_action};
use scsi::{AdditionalSense, FieldError, SenseKey};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How soon a waiting command sees that it was aborted.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where the sanitize stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// None is under way, and the last one, if any, succeeded.
    #[default]
    Idle,
    /// One is under way.
    Running,
    /// One failed; whether EXIT FAILURE MODE may leave that (AUSE).
    Failed { unrestricted: bool },
}

/// The sanitize of one logical unit.
#[derive(Debug, Default)]
pub(crate) struct Sanitizing {
    phase: Mutex<Phase>,
    ended: Condvar,
    /// The phase, for commands that only want to know whether they may run: 0 idle, 1 running, 2 failed.
    seen: AtomicU8,
}

impl Sanitizing {
    /// What keeps a command from the medium.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let (key, code) = match self.seen.load(Ordering::Acquire) {
            0 => return Ok(()),
            1 => (SenseKey::NOT_READY, AdditionalSense::SANITIZE_IN_PROGRESS),
            _ => (SenseKey::MEDIUM_ERROR, AdditionalSense::SANITIZE_FAILED),
        };
        Err(Refusal::new(key, code))
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to the phase that `next` makes of the present one, in one step.
    fn change(&self, next: impl FnOnce(Phase) -> Result<Phase, Refusal>) -> Result<(), Refusal> {
        let mut phase = self.lock();
        *phase = next(*phase)?;
        let seen = match *phase {
            Phase::Idle => 0,
            Phase::Running => 1,
            Phase::Failed { .. } => 2,
        };
        self.seen.store(seen, Ordering::Release);
        self.ended.notify_all();
        Ok(())
    }

    fn set(&self, phase: Phase) {
        let _ = self.change(|_| Ok(phase));
    }

    /// Waits for the end. `None` if the command that waits was aborted.
    fn wait(&self, sender: Sender<'_>) -> Option<Phase> {
        let mut phase = self.lock();
        while *phase == Phase::Running {
            if sender.is_interrupted() {
                return None;
            }
            let woken = self.ended.wait_timeout(phase, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            phase = woken.0;
        }
        Some(*phase)
    }
}

/// What is done to every block.
#[derive(Clone, Debug)]
enum Work {
    Erase,
    /// One block to write, for each pass.
    Overwrite(Vec<Vec<u8>>),
}

impl Disk {
    pub(super) fn sanitize(
        self: &Arc<Self>,
        sender: Sender<'_>,
        command: &Sanitize,
        data_out: &[u8],
    ) -> Answer {
        if command.reserved {
            return Err(FieldError::cdb(1).into());
        }
        let work = match command.action {
            service_action::SANITIZE_OVERWRITE => overwrite(command, data_out)?,
            _ if command.length != 0 => return Err(FieldError::cdb(7).into()),
            service_action::SANITIZE_BLOCK_ERASE => Work::Erase,
            service_action::SANITIZE_EXIT_FAILURE_MODE => return self.exit_failure_mode(),
            _ => return Err(FieldError::cdb_bit(1, 4).into()),
        };
        self.start_sanitize(work, command.allow_unrestricted_exit)?;
        if command.immediate {
            return Ok(Vec::new());
        }
        match self.sanitizing.wait(sender) {
            Some(Phase::Failed { .. }) => {
                Err(Refusal::new(SenseKey::MEDIUM_ERROR, AdditionalSense::SANITIZE_FAILED))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn start_sanitize(self: &Arc<Self>, work: Work, unrestricted: bool) -> Result<(), Refusal> {
        self.sanitizing.change(|phase| match phase {
            Phase::Running => Err(Refusal::new(SenseKey::NOT_READY, AdditionalSense::SANITIZE_IN_PROGRESS)),
            Phase::Idle | Phase::Failed { .. } => Ok(Phase::Running),
        })?;
        let disk = Arc::clone(self);
        let started = thread::Builder::new().name("sanitize".to_owned()).spawn(move || {
            let done = disk.perform(&work);
            disk.sanitizing.set(if done.is_ok() { Phase::Idle } else { Phase::Failed { unrestricted } });
        });
        started.map(drop).map_err(|_| {
            self.sanitizing.set(Phase::Idle);
            Refusal::new(SenseKey::HARDWARE_ERROR, AdditionalSense::INTERNAL_TARGET_FAILURE)
        })
    }

    /// Waits for the commands that are on the medium already. The locks are not kept: who takes one later
    /// finds the sanitize by itself ([`Disk::share`]) and must not wait for it, perhaps for hours.
    fn perform(&self, work: &Work) -> Answer {
        drop(self.locks.exclude(0, self.blocks()));
        match work {
            Work::Erase => drop(self.give_back(0, self.blocks())?),
            Work::Overwrite(passes) => {
                for block in passes {
                    self.repeat(&AtomicBool::new(false), 0, self.blocks(), block)?;
                }
            }
        }
        self.flush()
    }

    fn exit_failure_mode(&self) -> Answer {
        self.sanitizing.change(|phase| match phase {
            Phase::Failed { unrestricted: false } => Err(FieldError::cdb_bit(1, 4).into()),
            Phase::Failed { unrestricted: true } => Ok(Phase::Idle),
            Phase::Idle | Phase::Running => Ok(phase),
        })?;
        Ok(Vec::new())
    }
}

/// The passes of an overwrite: the initialization pattern as often as OVERWRITE COUNT says, with INVERT
/// every other time its complement.
fn overwrite(command: &Sanitize, data_out: &[u8]) -> Result<Work, Refusal> {
    let length = usize::from(command.length);
    if length < 5 || length > BLOCK as usize + 4 {
        return Err(FieldError::cdb(7).into());
    }
    let list = data_out.get(..length).ok_or(FieldError::list_length())?;
    let [flags, _, high, low, pattern @ ..] = list else { return Err(FieldError::list_length().into()) };
    let (count, wanted) = (flags & 0x1F, usize::from(u16::from_be_bytes([*high, *low])));
    if count == 0 {
        return Err(FieldError::parameter_bit(0, 4).into());
    }
    let pattern = pattern.get(..wanted).filter(|pattern| !pattern.is_empty());
    let pattern = pattern.ok_or(FieldError::parameter(2))?;
    let block: Vec<u8> = pattern.iter().copied().cycle().take(BLOCK as usize).collect();
    let inverted: Vec<u8> = block.iter().map(|byte| !byte).collect();
    let pass =
        |number: u8| if flags & 0x80 != 0 && number % 2 == 1 { inverted.clone() } else { block.clone() };
    Ok(Work::Overwrite((0..count).map(pass).collect()))
}

#[cfg(test)]
mod tests;
