//! QEMU's control socket, as far as the lab needs it: commands, and whether the guest runs.

use crate::process::Background;
use crate::vm::connect;
use anyhow::{Context, Result, bail};
use qmp::{Events, Heard};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A QMP connection past its negotiation.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
    /// Open while the guest runs.
    pub gate: Arc<Gate>,
}

impl Qmp {
    /// Connects, and waits for the process to listen.
    ///
    /// # Errors
    /// If it ends before, or does not speak QMP.
    pub fn connect(path: &Path, process: &mut Background) -> Result<Self> {
        Self::over(connect(path, process)?)
    }

    /// The same on a connection.
    ///
    /// # Errors
    /// If the other end does not speak QMP.
    pub fn over(stream: UnixStream) -> Result<Self> {
        let (send, answers) = channel();
        let gate = Arc::new(Gate::default());
        let input = stream.try_clone()?;
        let at_events = Arc::clone(&gate);
        thread::spawn(move || receive(input, &send, &at_events));
        let mut qmp = Self { stream, answers, gate };
        qmp.execute("qmp_capabilities")?;
        // The gate hears the answer.
        qmp.execute("query-status")?;
        Ok(qmp)
    }

    /// Executes a command and gives what it returned.
    ///
    /// # Errors
    /// If QEMU refuses it, ends, or does not answer.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.execute_with(command, &json!({}))
    }

    /// The same, with arguments.
    ///
    /// # Errors
    /// If QEMU refuses it, ends, or does not answer.
    pub fn execute_with(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.stream, "{}", json!({ "execute": command, "arguments": arguments }))?;
        let answer = self.answers.recv_timeout(PATIENCE).with_context(|| format!("{command}: no answer"))?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command}: {answer}"),
        }
    }
}

fn receive(stream: UnixStream, answers: &Sender<Value>, gate: &Gate) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { return };
        gate.follow(&message);
        let is_answer = message.get("return").or_else(|| message.get("error")).is_some();
        if is_answer && answers.send(message).is_err() {
            return;
        }
    }
}

/// Closed while the guest is stopped: a driver outside the vCPUs has to stop with them.
#[derive(Debug)]
pub struct Gate {
    running: Mutex<bool>,
    changed: Condvar,
}

impl Default for Gate {
    fn default() -> Self {
        Self { running: Mutex::new(true), changed: Condvar::new() }
    }
}

impl Gate {
    /// One that follows the events of a connection, closed at first if the guest does not run yet.
    #[must_use]
    pub fn following(events: Events, running: bool) -> Arc<Self> {
        let gate = Arc::new(Self { running: Mutex::new(running), changed: Condvar::new() });
        let follower = Arc::clone(&gate);
        thread::spawn(move || {
            loop {
                match events.next(Instant::now() + PATIENCE) {
                    Heard::Event(event) => follower.hear(&event.event),
                    Heard::Missed(_) | Heard::Silence => {}
                    Heard::Closed => return,
                }
            }
        });
        gate
    }

    /// Waits until the guest runs.
    ///
    /// # Errors
    /// If it is still stopped after `deadline`.
    pub fn pass(&self, deadline: Duration) -> Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(running, deadline, |running| !*running);
        let (_running, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() { bail!("the guest is stopped") } else { Ok(()) }
    }

    /// Whether the guest runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events, and what `query-status` returns, in the order in which QEMU sent them.
    fn follow(&self, message: &Value) {
        self.hear(message.get("event").and_then(Value::as_str).unwrap_or_default());
        let status = message.get("return").and_then(|status| status.get("running"));
        if let Some(running) = status.and_then(Value::as_bool) {
            self.set(running);
        }
    }

    fn hear(&self, event: &str) {
        match event {
            "STOP" => self.set(false),
            "RESUME" => self.set(true),
            _ => {}
        }
    }

    fn set(&self, running: bool) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    #[test]
    fn the_gate_closes_with_stop_and_opens_with_resume() {
        let gate = Gate::default();
        gate.pass(MOMENT).unwrap();
        gate.hear("STOP");
        gate.hear("BLOCK_JOB_READY");
        assert!(gate.pass(MOMENT).is_err());
        gate.hear("RESUME");
        gate.pass(MOMENT).unwrap();
    }

    #[test]
    fn the_gate_of_a_guest_that_was_stopped_before_is_closed() {
        let gate = Gate::default();
        gate.follow(&json!({ "return": { "status": "inmigrate", "running": false } }));
        gate.follow(&json!({ "return": {} }));
        assert!(!gate.is_open());
    }

    #[test]
    fn one_who_waits_at_the_gate_goes_on_at_resume() {
        let gate = Gate::default();
        gate.hear("STOP");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.pass(PATIENCE));
            gate.hear("RESUME");
            waiting.join().unwrap().unwrap();
        });
    }
}
