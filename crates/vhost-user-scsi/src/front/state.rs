//! The device's state in the front end's migration stream (vhost-user: SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE), for front ends that
//! carry it; QEMU does not for this device. A thread of its own reads or writes the pipe, as the front end may be slow. Used by
//! [`super::handler`].
//!
//! A front end that never ends its side costs an error: what was asked for waits for it a bounded time, and nothing is taken over later.

use crate::device::State;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// No state is longer.
const LONGEST: u64 = 64 << 20;

/// How long a front end may take for the rest of a state once it asks how that went, or is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a thread looks whether it is still waited for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// A state on its way.
#[derive(Debug)]
pub(super) struct Transit {
    ended: Receiver<io::Result<()>>,
    /// Set by whoever is first: the thread that takes the state over, or who does not want to wait for that any more.
    decided: Arc<AtomicBool>,
}

impl Transit {
    /// Writes the state to `pipe`.
    pub(super) fn save(state: Arc<dyn State>, pipe: File) -> io::Result<Self> {
        spawn(pipe, move |pipe, _| pipe.write_all(&state.save()?))
    }

    /// Reads a state from `pipe` until its end, and takes it over.
    pub(super) fn load(state: Arc<dyn State>, pipe: File) -> io::Result<Self> {
        spawn(pipe, move |pipe, decided| {
            let mut bytes = Vec::new();
            pipe.take(LONGEST + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a device state of more than 64 MiB"));
            }
            if decided.swap(true, Ordering::SeqCst) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state.load(&bytes)
        })
    }

    /// How it went.
    pub(super) fn join(self) -> io::Result<()> {
        self.join_within(PATIENCE)
    }

    fn join_within(self, patience: Duration) -> io::Result<()> {
        let died = || io::Error::other("the thread of the device state panicked");
        match self.ended.recv_timeout(patience) {
            Ok(ended) => ended,
            Err(RecvTimeoutError::Disconnected) => Err(died()),
            Err(RecvTimeoutError::Timeout) if self.decided.swap(true, Ordering::SeqCst) => {
                // It is being taken over, for which nobody else is needed.
                self.ended.recv().unwrap_or_else(|_| Err(died()))
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the front end does not end the device state"))
            }
        }
    }
}

fn spawn(
    pipe: File,
    work: impl FnOnce(&mut Pipe, &AtomicBool) -> io::Result<()> + Send + 'static,
) -> io::Result<Transit> {
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    let (sender, ended) = sync_channel(1);
    let decided = Arc::<AtomicBool>::default();
    let mut pipe = Pipe { pipe, given_up: Arc::clone(&decided) };
    let inside = Arc::clone(&decided);
    let work = move || drop(sender.send(work(&mut pipe, &inside)));
    std::thread::Builder::new().name("device-state".to_owned()).spawn(work)?;
    Ok(Transit { ended, decided })
}

/// The front end's pipe, which never blocks for longer than somebody waits.
struct Pipe {
    pipe: File,
    given_up: Arc<AtomicBool>,
}

impl Pipe {
    fn patiently<T>(
        &self,
        flags: PollFlags,
        mut attempt: impl FnMut(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        while !self.given_up.load(Ordering::SeqCst) {
            match poll(&mut [PollFd::new(&self.pipe, flags)], Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            match attempt(&self.pipe) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, |mut pipe| pipe.read(bytes))
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::OUT, |mut pipe| pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn file(end: impl Into<std::os::fd::OwnedFd>) -> File {
        File::from(end.into())
    }

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<u8>>);

    impl State for Kept {
        fn save(&self) -> io::Result<Vec<u8>> {
            Ok(self.0.lock().unwrap().clone())
        }

        fn load(&self, state: &[u8]) -> io::Result<()> {
            if state.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            *self.0.lock().unwrap() = state.to_vec();
            Ok(())
        }
    }

    #[test]
    fn a_state_goes_through_a_pipe_from_one_device_to_another() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (from, to) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
        let long = vec![7; 1 << 20];
        from.load(&long).unwrap();
        let loading = Transit::load(to.clone(), file(reader)).unwrap();
        Transit::save(from, file(writer)).unwrap().join().unwrap();
        loading.join().unwrap();
        assert_eq!(to.save().unwrap(), long);
    }

    #[test]
    fn an_unfit_state_is_an_error_of_the_check() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let loading = Transit::load(Arc::new(Kept::default()), file(reader)).unwrap();
        assert!(loading.join().is_err());
    }

    #[test]
    fn a_front_end_that_never_ends_its_state_is_given_up_and_nothing_is_taken_over_afterwards() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let kept = Arc::new(Kept::default());
        let loading = Transit::load(kept.clone(), file(reader)).unwrap();
        writer.write_all(b"half of a st").unwrap();
        let error = loading.join_within(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(writer);
        // The thread has let go of the state, one way or the other.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&kept) > 1 {
            assert!(std::time::Instant::now() < deadline, "the thread is still there");
            std::thread::yield_now();
        }
        assert_eq!(kept.save().unwrap(), b"");
        // Nobody reads what does not fit into a pipe.
        let (_reader, writer) = std::io::pipe().unwrap();
        kept.load(&vec![7; 1 << 20]).unwrap();
        let saving = Transit::save(kept.clone(), file(writer)).unwrap();
        assert_eq!(saving.join_within(Duration::ZERO).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
