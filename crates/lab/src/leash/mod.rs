//! An agent on a leash: `tenure agent` itself, which before and after each step of a handover tells on a socket what it is
//! about to do or has done, and goes on only when it is told to. Whoever holds the leash can kill it, or anything else, at
//! exactly that moment.

mod cut;
mod reins;

pub use cut::{Cut, Ways};
pub use reins::{Held, Reins};

use agent::steps::{Observer, Step};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// On which side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Nothing of it was done.
    Before,
    /// It is done, and durable where it was to be.
    After,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

impl FromStr for When {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "before" => Ok(Self::Before),
            "after" => Ok(Self::After),
            _ => anyhow::bail!("neither before nor after: {text:?}"),
        }
    }
}

/// What an agent tells at a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Said {
    /// Whose handover.
    pub vm: String,
    /// On which side of the step.
    pub when: When,
    /// The step in words.
    pub step: String,
}

/// A listener that ends, and with it the thread that serves it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Listening(UnixStream);

impl Listening {
    pub(crate) fn of(listener: &UnixListener) -> Result<Self> {
        // The call that wakes an accept(2) is the same for listeners and streams.
        Ok(Self(UnixStream::from(OwnedFd::from(listener.try_clone()?))))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// The agent's end.
#[derive(Debug)]
pub struct Leash(Mutex<BufReader<UnixStream>>);

impl Leash {
    /// Whoever holds it listens there.
    ///
    /// # Errors
    /// If nobody does.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        Ok(Self(Mutex::new(BufReader::new(stream))))
    }

    /// Tells, and waits for the word to go on. Where nobody holds the other end any more it goes on.
    fn tell(&self, vm: &str, when: When, step: &Step) {
        let said = Said { vm: vm.to_owned(), when, step: step.to_string() };
        let Ok(line) = serde_json::to_string(&said) else { return };
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = stream.get_mut().write_all((line + "\n").as_bytes());
        if told.is_ok() {
            let _ = stream.read_line(&mut String::new());
        }
    }
}

impl Observer for Leash {
    fn before(&self, vm: &str, step: &Step) {
        self.tell(vm, When::Before, step);
    }

    fn after(&self, vm: &str, step: &Step) {
        self.tell(vm, When::After, step);
    }
}
