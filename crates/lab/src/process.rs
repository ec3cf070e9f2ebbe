//! Programs in the background: started, waited for with a deadline, ended by their own id.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything in a test may take to start or to end.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A child process that never outlives this value.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts a program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| name.clone())?;
        Ok(Self { child, name })
    }

    /// Starts a program and waits for the first line on its standard output.
    ///
    /// # Errors
    /// If it cannot be started, ends, or says nothing before the [`DEADLINE`].
    pub fn start_and_read_line(command: &mut Command) -> Result<(Self, String)> {
        let mut background = Self::start(command.stdout(Stdio::piped()))?;
        let output = background.child.stdout.take().context("no standard output")?;
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(output).lines();
            let _ = send.send(lines.next());
            lines.for_each(drop);
        });
        match receive.recv_timeout(DEADLINE) {
            Ok(Some(line)) => Ok((background, line?)),
            Ok(None) => bail!("{} ended before it was ready: {}", background.name, background.child.wait()?),
            Err(_) => bail!("{} was not ready in time", background.name),
        }
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the program to end, and waits for it.
    ///
    /// # Errors
    /// If it does not end before the [`DEADLINE`]; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        let status = wait_for(DEADLINE, || self.child.try_wait().ok().flatten());
        ensure!(status.is_some(), "{} did not end when asked to", self.name);
        status.context("unreachable")
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// If it does not before the [`DEADLINE`].
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = wait_for(DEADLINE, || self.child.try_wait().ok().flatten());
        status.with_context(|| format!("{} did not end in time", self.name))
    }

    /// Kills the program without warning, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        // After the child was waited for, its id may belong to somebody else: `Child` knows.
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::TERM);
            if wait_for(Duration::from_secs(2), || self.child.try_wait().ok().flatten()).is_none() {
                self.kill();
            }
        }
    }
}

/// Asks `condition` until it answers or the deadline is over.
pub fn wait_for<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = condition() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end, and gives what it wrote.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}", command.get_program(), told.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
