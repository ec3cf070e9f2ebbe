//! A way between two agents that can be cut.

use super::Listening;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

#[derive(Debug, Default)]
struct Open {
    cut: bool,
    refused: usize,
    streams: Vec<UnixStream>,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.ways.cut();
    }
}

/// What was connected through it, and whether it is open: shared with whoever cuts it.
#[derive(Clone, Debug, Default)]
pub struct Ways(Arc<Mutex<Open>>);

impl Ways {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing passes any more, and every connection ends on both sides, whatever is under way in it.
    pub fn cut(&self) {
        let mut open = self.open();
        (open.cut, open.refused) = (true, 0);
        for stream in open.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many came to it since it was cut.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.open().refused
    }

    /// New connections pass again.
    pub fn mend(&self) {
        self.open().cut = false;
    }

    /// Takes a pair in, unless the way is cut.
    fn admit(&self, near: &UnixStream, far: &UnixStream) -> Option<()> {
        let mut open = self.open();
        if open.cut {
            open.refused += 1;
            return None;
        }
        let pair = [near.try_clone().ok()?, far.try_clone().ok()?];
        open.streams.extend(pair);
        Some(())
    }
}

/// Listens at one socket and passes everything on to another.
#[derive(Debug)]
pub struct Cut {
    ways: Ways,
    _listening: Listening,
}

impl Cut {
    /// Between `near`, where the one agent connects, and `far`, where the other listens (now or later). With `ways` several can be
    /// cut together.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn between(near: &Path, far: &Path, ways: &Ways) -> Result<Self> {
        let listener = UnixListener::bind(near).with_context(|| near.display().to_string())?;
        let listening = Listening::of(&listener)?;
        let (far, own) = (far.to_owned(), ways.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = pass(&stream, &far, &own);
            }
        });
        Ok(Self { ways: ways.clone(), _listening: listening })
    }

    /// Its ways.
    #[must_use]
    pub const fn ways(&self) -> &Ways {
        &self.ways
    }
}

/// Where the other end does not listen, or the way is cut, the connection ends at once.
fn pass(near: &UnixStream, far: &Path, ways: &Ways) -> Option<()> {
    let far = UnixStream::connect(far).ok()?;
    ways.admit(near, &far)?;
    for (from, to) in [(near, &far), (&far, near)] {
        let (from, to) = (from.try_clone().ok()?, to.try_clone().ok()?);
        thread::spawn(move || copy(from, to));
    }
    Some(())
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let Some(read) = bytes.get(..length) else { break };
        if to.write_all(read).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn echo(socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || copy(stream.try_clone().unwrap(), stream));
            }
        });
    }

    #[test]
    fn what_is_under_way_ends_with_the_cut_and_nothing_new_passes_until_it_is_mended() {
        let directory = TempDir::new().unwrap();
        let [near, far] = ["near", "far"].map(|name| directory.path().join(name));
        echo(&far);
        let ways = Ways::default();
        let cut = Cut::between(&near, &far, &ways).unwrap();
        let ask = || {
            let mut stream = UnixStream::connect(&near).unwrap();
            let mut answer = Vec::new();
            let _ = stream.write_all(b"a");
            let mut one = [0];
            if matches!(stream.read(&mut one), Ok(1)) {
                answer.push(one[0]);
            }
            (answer, stream)
        };
        let (answer, mut stream) = ask();
        assert_eq!(answer, b"a");
        cut.ways().cut();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        assert!(ask().0.is_empty());
        cut.ways().mend();
        assert_eq!(ask().0, b"a");
    }
}
