//! The device's state in the front end's migration stream (vhost-user: SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE), for front ends that
//! carry it; QEMU does not for this device. A thread of its own reads or writes the pipe, as the front end may be slow. Used by
//! [`super::handler`].

use crate::device::State;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;

/// No state is longer.
const LONGEST: u64 = 64 << 20;

/// A state on its way.
#[derive(Debug)]
pub(super) struct Transit(JoinHandle<io::Result<()>>);

impl Transit {
    /// Writes the state to `pipe`.
    pub(super) fn save(state: Arc<dyn State>, mut pipe: File) -> io::Result<Self> {
        spawn(move || pipe.write_all(&state.save()?))
    }

    /// Reads a state from `pipe` until its end, and takes it over.
    pub(super) fn load(state: Arc<dyn State>, pipe: File) -> io::Result<Self> {
        spawn(move || {
            let mut bytes = Vec::new();
            pipe.take(LONGEST + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a device state of more than 64 MiB"));
            }
            state.load(&bytes)
        })
    }

    /// How it went.
    pub(super) fn join(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the device state panicked")))
    }
}

fn spawn(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Transit> {
    std::thread::Builder::new().name("device-state".to_owned()).spawn(work).map(Transit)
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
}
