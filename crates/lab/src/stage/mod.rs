//! A stage: two hosts as processes of one machine, each with a `tenure agent` and QEMUs that wait for guests or run them, and
//! `tenure migrate` as the operator types it. What serves the logical units is the caller's.
//!
//! Every process is started, ended and killed by its own id, at any moment and from any thread, so that something may happen to one
//! of them in the course of a migration. Nothing outlives the stage. A guest is cheap: hundreds of cases share two agents, each with a guest
//! of its own.

mod config;
pub mod gate;
mod look;
mod qemu;

pub use config::{Disk, Guest};
pub use look::{has_key, insist};
pub use qemu::{Life, Qemus, be_a_qemu};

use crate::process::Background;
use crate::scripted::diary;
use crate::tenure::{Ran, Tenure};
use agent::migrate::{Order, Report};
use anyhow::{Context, Result, bail, ensure};
use qemu::Qemu;
use qmp::{Client, Object, Opening};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long an agent may take to answer where it waits for nothing.
const PROMPT: Duration = Duration::from_secs(20);

/// How long a migration may take in which QEMU does not answer.
const LONG: Duration = Duration::from_secs(120);

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Where guests are at first.
    Alpha,
    /// Where they go.
    Beta,
}

impl Host {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Alpha, Self::Beta];

    /// Its name, also as an initiator.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Beta => "beta",
        }
    }

    /// Its own of two.
    #[must_use]
    pub const fn of<T>(self, two: &[T; 2]) -> &T {
        let [alpha, beta] = two;
        match self {
            Self::Alpha => alpha,
            Self::Beta => beta,
        }
    }

    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Alpha => Self::Beta,
            Self::Beta => Self::Alpha,
        }
    }
}

/// How a migration ended.
#[derive(Clone, Debug)]
pub struct Migrated {
    /// `tenure migrate` itself.
    pub ran: Ran,
    /// What it told, if it told anything.
    pub report: Option<Report>,
}

impl Migrated {
    /// Exit status and reason, for a message.
    #[must_use]
    pub fn words(&self) -> String {
        let reason = self.report.as_ref().map_or(self.ran.err.trim(), |report| &report.reason);
        format!("exit {}: {reason}", self.ran.exit)
    }
}

/// The stage. All that changes is behind a lock: it is shared by the threads of a test.
#[derive(Debug)]
pub struct Stage {
    tenure: Tenure,
    qemus: Qemus,
    guests: Vec<Guest>,
    running: Mutex<BTreeMap<(String, Host), Qemu>>,
    agents: Mutex<BTreeMap<Host, Background>>,
    /// Last: the processes are gone before their files are.
    directory: TempDir,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Two hosts with these guests. Nothing runs yet.
    ///
    /// # Errors
    /// If there is no place for their files.
    pub fn set(tenure: &Tenure, qemus: Qemus, guests: Vec<Guest>) -> Result<Self> {
        let directory = TempDir::new()?;
        let (running, agents) = (Mutex::default(), Mutex::default());
        Ok(Self { tenure: tenure.clone(), qemus, guests, running, agents, directory })
    }

    /// The same, and both agents run.
    ///
    /// # Errors
    /// If they do not start.
    pub fn open(tenure: &Tenure, qemus: Qemus, guests: Vec<Guest>) -> Result<Self> {
        let stage = Self::set(tenure, qemus, guests)?;
        Host::BOTH.into_iter().try_for_each(|host| stage.start_agent(host))?;
        Ok(stage)
    }

    /// A file of the stage's.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A host's `tenure.toml`, written whenever its agent starts.
    #[must_use]
    pub fn config(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.toml", host.name()))
    }

    /// A host's state directory: ledger and journals.
    #[must_use]
    pub fn state(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.state", host.name()))
    }

    /// An agent's control socket.
    #[must_use]
    pub fn control(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.sock", host.name()))
    }

    /// Where an agent listens for its peer.
    #[must_use]
    pub fn door(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.peer", host.name()))
    }

    /// Where somebody may listen who stands between a host's door and its peer.
    #[must_use]
    pub fn between(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.between", host.name()))
    }

    /// Where a host's peer connects: its door, unless somebody listened in between when the peer's agent was started.
    pub(crate) fn way_to(&self, host: Host) -> PathBuf {
        let between = self.between(host);
        if between.exists() { between } else { self.door(host) }
    }

    /// What an agent logs.
    #[must_use]
    pub fn log(&self, host: Host) -> PathBuf {
        self.path(&format!("{}.log", host.name()))
    }

    /// The guests.
    #[must_use]
    pub fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// The guest of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn guest(&self, name: &str) -> Result<&Guest> {
        self.guests.iter().find(|guest| guest.name == name).with_context(|| format!("no guest {name}"))
    }

    /// A program that ends where the stage's do.
    #[must_use]
    pub fn beside(&self, program: &Path) -> Command {
        self.tenure.beside(program)
    }

    /// Starts a host's agent, and waits until it serves.
    ///
    /// # Errors
    /// If it runs already, or does not get ready.
    pub fn start_agent(&self, host: Host) -> Result<()> {
        self.start_agent_as(host, &mut self.tenure.command(&["agent"]))
    }

    /// The same, as this program, which has `tenure agent`'s arguments and prints its line.
    ///
    /// # Errors
    /// If it runs already, or does not get ready.
    pub fn start_agent_as(&self, host: Host, command: &mut Command) -> Result<()> {
        let mut agents = locked(&self.agents);
        ensure!(!agents.contains_key(&host), "the agent of {} runs already", host.name());
        std::fs::write(self.config(host), config::text(self, host))?;
        command.arg("--config").arg(self.config(host));
        let started = Background::start_and_read_line(command.stderr(self.log_file(host)?));
        let log = || std::fs::read_to_string(self.log(host)).unwrap_or_default();
        let (agent, _) = started.with_context(log)?;
        agents.insert(host, agent);
        Ok(())
    }

    fn log_file(&self, host: Host) -> Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(self.log(host))?)
    }

    /// Asks a host's agent to end, and waits for it.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub fn stop_agent(&self, host: Host) -> Result<ExitStatus> {
        self.taken(host)?.stop()
    }

    /// Kills a host's agent.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_agent(&self, host: Host) -> Result<()> {
        self.taken(host)?.kill();
        Ok(())
    }

    fn taken(&self, host: Host) -> Result<Background> {
        locked(&self.agents).remove(&host).with_context(|| format!("no agent runs on {}", host.name()))
    }

    /// The agent's process.
    ///
    /// # Errors
    /// If none was started.
    pub fn agent_id(&self, host: Host) -> Result<u32> {
        let agents = locked(&self.agents);
        Ok(agents.get(&host).with_context(|| format!("no agent runs on {}", host.name()))?.id())
    }

    /// `tenure migrate NAME --to …`, as the operator of `from` types it, with further arguments.
    ///
    /// # Errors
    /// If the program cannot be run, or its exit status is not that of its document.
    pub fn migrate(&self, name: &str, from: Host, more: &[&str]) -> Result<Migrated> {
        let control = self.control(from).display().to_string();
        let words = ["-q", "migrate", name, "--to", from.other().name(), "--control", &control, "--json"];
        let ran = self.tenure.run(&[&words[..], more].concat())?;
        let report: Option<Report> =
            if ran.out.is_empty() { None } else { Some(serde_json::from_value(ran.json()?)?) };
        let told = report.as_ref().map_or(ran.exit, |report| i32::from(report.exit));
        ensure!(told == ran.exit, "exit {}, and the document says {told}", ran.exit);
        Ok(Migrated { ran, report })
    }

    /// The same by an order that `tenure migrate` cannot give: one that waits less long for what does not answer.
    ///
    /// # Errors
    /// If the agent refuses the order itself, or does not come to an end.
    pub fn order(&self, from: Host, order: &Order) -> Result<Report> {
        let Value::Object(order) = serde_json::to_value(order)? else { bail!("an order is an object") };
        Ok(serde_json::from_value(self.ask_within(LONG, from, "migrate", order)?)?)
    }

    /// Says something to a host's agent over its control socket.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub fn ask(&self, host: Host, command: &str, arguments: Object) -> Result<Value> {
        self.ask_within(PROMPT, host, command, arguments)
    }

    fn ask_within(&self, time: Duration, host: Host, command: &str, arguments: Object) -> Result<Value> {
        let deadline = Instant::now() + time;
        let client = Client::connect(&self.control(host), &Opening::default(), deadline)?;
        Ok(client.execute(command, arguments, deadline)?)
    }

    /// Asks for the end of a migration under way.
    ///
    /// # Errors
    /// If none is, or the agent does not answer.
    pub fn cancel(&self, name: &str, from: Host) -> Result<()> {
        self.ask(from, "migrate-cancel", object(&[("vm", name)])).map(drop)
    }

    /// What a host's journal has on a guest, and how the guest stands there: `query-vm`.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub fn status(&self, name: &str, host: Host) -> Result<Value> {
        self.ask(host, "query-vm", object(&[("vm", name)]))
    }

    /// When and where a guest ran.
    ///
    /// # Errors
    /// If the diary cannot be read.
    pub fn diary(&self, name: &str) -> Result<Vec<diary::Line>> {
        diary::read(&self.diary_path(name))
    }

    /// No guest of that name ever ran twice at a time.
    ///
    /// # Errors
    /// When it did.
    pub fn ran_once(&self, name: &str) -> Result<()> {
        let lines = self.diary(name)?;
        let twice = diary::ran_twice(&lines);
        ensure!(twice.is_none(), "the guest ran twice at a time: {lines:?}");
        Ok(())
    }

    fn diary_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.diary"))
    }
}

fn object(words: &[(&str, &str)]) -> Object {
    words.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
}
