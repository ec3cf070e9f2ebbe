//! The QEMUs of a stage: stand-ins, as processes that can be killed, or, where no program of theirs was built, as threads.

use super::{Host, Stage, locked};
use crate::process::{Background, DEADLINE, wait_for};
use crate::scripted::{self, Options};
use crate::tenure::Tenure;
use anyhow::{Context, Result, bail, ensure};
use qmp::qemu::{Qemu as Client, RunState};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a QEMU may take for a command.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the QEMUs of a stage are.
#[derive(Clone, Debug)]
pub enum Qemus {
    /// Processes of this program, `scripted-qemu`.
    Processes(PathBuf),
    /// Processes of this test program, which run the test of that name and nothing else: it calls [`be_a_qemu`].
    OfThisTest(&'static str),
    /// Threads of this process, which cannot be killed.
    Threads,
}

/// Says to a process of [`Qemus::OfThisTest`] what it is.
const WORDS: &str = "TENURE_SCRIPTED_QEMU";

/// The stand-in that this process was started to be.
///
/// # Errors
/// It was started for something else, or the stand-in fails.
pub fn be_a_qemu() -> Result<()> {
    let words = std::env::var(WORDS).context("only the other tests start this one")?;
    let words: Vec<String> = serde_json::from_str(&words)?;
    scripted::run(options(words)?)
}

fn options(words: Vec<String>) -> Result<Options> {
    let words = ["scripted-qemu".to_owned()].into_iter().chain(words);
    Ok(<Options as clap::Parser>::try_parse_from(words)?)
}

fn wait_until_it_answers(socket: &Path) -> Result<()> {
    let answers = || UnixStream::connect(socket).is_ok().then_some(());
    wait_for(DEADLINE, answers).with_context(|| format!("nobody listens on {}", socket.display()))
}

/// What a QEMU is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its guest runs from the beginning.
    Runs,
    /// It has a guest that was never let run.
    Paused,
    /// It waits for a guest that comes.
    Waits,
}

impl Life {
    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Runs => &[],
            Self::Paused => &["-S"],
            Self::Waits => &["--incoming", "-S"],
        }
    }
}

#[derive(Debug)]
pub(super) enum Qemu {
    Process(Background),
    Thread(Option<JoinHandle<Result<()>>>, PathBuf),
}

impl Qemu {
    fn start(tenure: &Tenure, qemus: &Qemus, words: Vec<String>, socket: &Path) -> Result<Self> {
        match qemus {
            Qemus::Processes(program) => {
                let mut command = tenure.beside(program);
                command.args(words).stderr(Stdio::null());
                Ok(Self::Process(Background::start_and_read_line(&mut command)?.0))
            }
            Qemus::OfThisTest(test) => {
                let mut command = tenure.beside(&std::env::current_exe()?);
                command.args([test, "--exact", "--ignored", "--nocapture", "--quiet"]);
                command
                    .env(WORDS, serde_json::to_string(&words)?)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                let process = Background::start(&mut command)?;
                wait_until_it_answers(socket)?;
                Ok(Self::Process(process))
            }
            Qemus::Threads => {
                let options = options(words)?;
                let thread = thread::spawn(move || scripted::run(options));
                wait_until_it_answers(socket)?;
                Ok(Self::Thread(Some(thread), socket.to_owned()))
            }
        }
    }

    fn is_gone(&mut self) -> bool {
        match self {
            Self::Process(process) => !process.is_running(),
            Self::Thread(thread, _) => thread.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if let Self::Thread(thread, socket) = self {
            let _ = Client::connect(socket, PATIENCE).map(|client| client.quit());
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

impl Stage {
    /// The QMP socket of a guest's QEMU.
    #[must_use]
    pub fn qmp(&self, name: &str, host: Host) -> PathBuf {
        self.path(&format!("{name}.{}.qmp", host.name()))
    }

    /// Its second one, for whoever looks at it beside the agent: a QMP socket serves one client at a time.
    #[must_use]
    pub fn second_qmp(&self, name: &str, host: Host) -> PathBuf {
        self.path(&format!("{name}.{}.look", host.name()))
    }

    /// Starts a guest's QEMU on a host, with further arguments (`--fault` and such), and waits until it answers.
    ///
    /// # Errors
    /// If there is no such guest, one runs already, or it does not start.
    pub fn start_qemu(&self, name: &str, host: Host, life: Life, more: &[&str]) -> Result<()> {
        let guest = self.guest(name)?;
        let socket = self.qmp(name, host);
        let (uuid, qmp) = (guest.uuid(), socket.display().to_string());
        let second = self.second_qmp(name, host).display().to_string();
        let diary = self.diary_path(name).display().to_string();
        let own =
            ["--uuid", &uuid, "--name", host.name(), "--qmp", &qmp, "--qmp", &second, "--diary", &diary];
        let words = own.iter().chain(life.words()).chain(more).map(|word| (*word).to_owned()).collect();
        let mut running = locked(&self.running);
        let at = (name.to_owned(), host);
        ensure!(
            running.get_mut(&at).is_none_or(Qemu::is_gone),
            "{name} has a QEMU on {} already",
            host.name()
        );
        running.insert(at, Qemu::start(&self.tenure, &self.qemus, words, &self.second_qmp(name, host))?);
        Ok(())
    }

    /// Has a guest's QEMU end, as an operator would, and waits for it. One that is gone is no fault.
    ///
    /// # Errors
    /// If it does not end.
    pub fn quit_qemu(&self, name: &str, host: Host) -> Result<()> {
        let Some(mut qemu) = locked(&self.running).remove(&(name.to_owned(), host)) else { return Ok(()) };
        if qemu.is_gone() {
            return Ok(());
        }
        // It may end before it has answered.
        let _ = self.client(name, host).map(|client| client.quit());
        wait_for(DEADLINE, || qemu.is_gone().then_some(())).context("QEMU does not end")
    }

    /// Kills a guest's QEMU.
    ///
    /// # Errors
    /// If there is none, or it is a thread.
    pub fn kill_qemu(&self, name: &str, host: Host) -> Result<()> {
        match locked(&self.running).get_mut(&(name.to_owned(), host)) {
            Some(Qemu::Process(process)) => {
                process.kill();
                Ok(())
            }
            _ => bail!("no process of {name} on {}", host.name()),
        }
    }

    /// The process of a guest's QEMU.
    ///
    /// # Errors
    /// If there is none, or it is a thread.
    pub fn qemu_id(&self, name: &str, host: Host) -> Result<u32> {
        match locked(&self.running).get(&(name.to_owned(), host)) {
            Some(Qemu::Process(process)) => Ok(process.id()),
            _ => bail!("no process of {name} on {}", host.name()),
        }
    }

    /// Has a guest stop, as an operator would.
    ///
    /// # Errors
    /// If its QEMU does not.
    pub fn stop_guest(&self, name: &str, host: Host) -> Result<()> {
        Ok(self.client(name, host)?.stop()?)
    }

    /// How a guest stands on a host; `None`: its QEMU is gone.
    ///
    /// # Errors
    /// If a QEMU that is there does not answer.
    pub fn run_state(&self, name: &str, host: Host) -> Result<Option<RunState>> {
        if self.is_gone(name, host) {
            return Ok(None);
        }
        let told = self.client(name, host).and_then(|client| Ok(client.status()?));
        match told {
            Ok(status) => Ok(Some(status.status)),
            // It may be on its way out.
            Err(silent) => match wait_for(PATIENCE, || self.is_gone(name, host).then_some(())) {
                Some(()) => Ok(None),
                None => Err(silent),
            },
        }
    }

    fn is_gone(&self, name: &str, host: Host) -> bool {
        locked(&self.running).get_mut(&(name.to_owned(), host)).is_none_or(Qemu::is_gone)
    }

    fn client(&self, name: &str, host: Host) -> Result<Client> {
        Ok(Client::connect(&self.second_qmp(name, host), PATIENCE)?)
    }
}
