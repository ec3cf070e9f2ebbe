//! A helper and an agent on each host, as an operator would set them up.

use super::leash::Leash;
use super::{Host, Hosts, Name, PATIENCE, PROGRAM, both, guest};
use ::agent::journal::Journals;
use anyhow::{Context, Result, ensure};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Where sockets are.
const RUN: &str = "/run/tenure";
/// Where the guest's helper listens.
pub(super) const HELPER: &str = "/run/tenure/guest.sock";
const AGENT_SOCKET: &str = "/run/tenure/guest-agent.sock";
/// The agent's control socket.
pub(super) const CONTROL: &str = "/run/tenure/agent.sock";
/// Configuration, certificates and state of a host outlive a reset of its VM.
const KEEP: &str = "/lab/keep/tenure";
/// How long a migration may take in which everybody waits for somebody.
const LONG: Duration = Duration::from_secs(300);
/// Between looks whether a command has ended: each costs the VM something.
const LOOK: Duration = Duration::from_millis(40);
/// The guest's name.
pub(super) const VM: &str = "guest";
const UUID: &str = "7e4a0000-0000-4000-8000-0000000000aa";

/// Where an agent on a leash finds whoever holds it.
const LEASH: &str = "/run/tenure/leash";

/// What runs on a host besides QEMU.
#[derive(Clone, Copy, Debug)]
pub struct Daemons {
    /// The helper's number in the VM.
    pub helper: u32,
    /// The agent's.
    pub agent: u32,
    /// Whoever holds the agent's leash.
    holder: Option<u32>,
}

/// A command in a host's VM that goes on while other things happen.
#[derive(Debug)]
pub(super) struct Ordered {
    host: Name,
    program: u32,
    log: PathBuf,
}

/// An agent's words on one host: how the last handover of its journal ended, or that it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// There was none.
    None,
    /// It is neither finished nor undone.
    Open,
    /// Its verdict.
    Over(String),
}

impl Hosts {
    /// Makes certificates and starts helper and agent on both hosts, which know of no guest's past: those that ran are ended.
    /// `leashed`: the agents stand still where they are told to.
    ///
    /// # Errors
    /// If one does not become ready.
    pub fn start_agents(&mut self, leashed: bool) -> Result<()> {
        self.certificates()?;
        let [of_a, of_b] = self.hosts.each_ref().map(|host| host.address.clone());
        let [a, b] = &mut self.hosts;
        let started = thread::scope(|scope| {
            let starting = [(a, of_b), (b, of_a)].map(|(host, peer)| {
                scope.spawn(move || {
                    host.end_daemons()?;
                    host.start_daemons(&peer, leashed)
                })
            });
            both(starting.map(thread::ScopedJoinHandle::join))
        });
        started.map(drop)
    }

    /// Those of the first course are good for all.
    fn certificates(&mut self) -> Result<()> {
        if self.hosts.iter().all(|host| host.vm.keep().join("tenure/host-key.pem").exists()) {
            return Ok(());
        }
        let directory = tempfile::tempdir()?;
        let certs = |words: &[&str]| {
            let mut command = Command::new(self.programs.join("tenure"));
            let output =
                command.args(["-q", "certs"]).args(words).arg("--dir").arg(directory.path()).output()?;
            ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            anyhow::Ok(())
        };
        certs(&["ca"])?;
        for name in Name::ALL {
            certs(&["host", name.as_str()])?;
        }
        for host in &self.hosts {
            let keep = host.vm.keep().join("tenure");
            std::fs::create_dir_all(&keep)?;
            let own = |kind: &str| format!("{}{kind}.pem", host.name.as_str());
            for (from, to) in
                [("ca.pem".into(), "ca.pem"), (own(""), "host.pem"), (own("-key"), "host-key.pem")]
            {
                let from = directory.path().join(from);
                std::fs::copy(&from, keep.join(to)).with_context(|| from.display().to_string())?;
            }
        }
        Ok(())
    }

    /// `tenure migrate` from one host to the other.
    ///
    /// # Errors
    /// If it does not end with one of these.
    pub(super) fn migrate(&mut self, from: Name, wanted: &[i32]) -> Result<()> {
        let ordered = self.order_migration(from)?;
        self.wait_ended(&ordered, wanted).map(drop)
    }

    /// The same, and it goes on while other things happen.
    pub(super) fn order_migration(&mut self, from: Name) -> Result<Ordered> {
        let to = from.other().as_str();
        self.order(from, &["migrate", VM, "--to", to])
    }

    /// A command of `tenure`'s to a host's agent.
    pub(super) fn order(&mut self, host: Name, words: &[&str]) -> Result<Ordered> {
        let argv = [&["/lab/programs/tenure", "-q"], words, &["--json", "--control", CONTROL]].concat();
        let name = format!("{}.log", words.iter().take(2).copied().collect::<Vec<_>>().join("-"));
        let host = self.host(host);
        let program = host.vm.start(&argv, &Path::new("/lab/keep").join(&name))?;
        Ok(Ordered { host: host.name, program, log: host.vm.keep().join(name) })
    }

    /// Whether a command has ended.
    pub(super) fn ended(&mut self, ordered: &Ordered) -> Result<Option<i32>> {
        self.host(ordered.host).vm.status(ordered.program)
    }

    /// Waits for its end, and gives its exit status.
    pub(super) fn wait_ended(&mut self, ordered: &Ordered, wanted: &[i32]) -> Result<i32> {
        let end = Instant::now() + LONG;
        let code = loop {
            if let Some(code) = self.ended(ordered)? {
                break code;
            }
            ensure!(Instant::now() < end, "it does not end");
            thread::sleep(LOOK);
        };
        let told = std::fs::read_to_string(&ordered.log).unwrap_or_default();
        ensure!(wanted.contains(&code), "exit status {code}: {told}\nthe agents say:\n{}", self.words());
        Ok(code)
    }

    /// What all agents said so far.
    pub(super) fn words(&self) -> String {
        let of = |host: &Host| {
            let log = |number| host.vm.keep().join(format!("agent-{number}.log"));
            (0..host.started)
                .filter_map(|number| std::fs::read_to_string(log(number)).ok())
                .collect::<String>()
        };
        self.hosts.each_ref().map(of).join("\n")
    }
}

impl Ordered {
    /// What it says.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl Host {
    fn start_daemons(&mut self, peer: &str, leashed: bool) -> Result<()> {
        let keep = self.vm.keep();
        std::fs::write(keep.join("tenure/tenure.toml"), self.config(peer))?;
        self.vm.empty(RUN)?;
        let holder = if leashed { Some(self.hold_leash()?) } else { None };
        let (helper, agent) = (self.spawn_helper()?, self.spawn_agent()?);
        self.daemons = Some(Daemons { helper, agent, holder });
        self.wait_socket(helper, HELPER, "helper.log")?;
        self.wait_socket(agent, CONTROL, &format!("agent-{}.log", self.started - 1))
    }

    /// Starts whoever holds the leash of this host's agent.
    fn hold_leash(&mut self) -> Result<u32> {
        let [told, orders] = ["steps", "stops"];
        let keep = self.vm.keep();
        self.leash = Some(Leash::new(&keep.join(told), &keep.join(orders))?);
        let [told, orders] = [told, orders].map(|name| format!("/lab/keep/{name}"));
        let argv = [PROGRAM, "leash", "--socket", LEASH, "--told", &told, "--orders", &orders];
        let holder = self.vm.start(&argv, Path::new("/lab/keep/leash.log"))?;
        self.wait_socket(holder, LEASH, "leash.log")?;
        Ok(holder)
    }

    /// Ends helper and agent, and forgets what they knew.
    fn end_daemons(&mut self) -> Result<()> {
        self.leash = None;
        let Some(Daemons { helper, agent, holder }) = self.daemons.take() else { return Ok(()) };
        for program in [agent, helper].into_iter().chain(holder) {
            self.vm.end(program)?;
        }
        match std::fs::remove_dir_all(self.vm.keep().join("tenure/state")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Kills the helper and starts it again.
    pub(super) fn restart_helper(&mut self) -> Result<()> {
        let before = self.daemons.context("there are no daemons")?;
        self.vm.end(before.helper)?;
        let helper = self.spawn_helper()?;
        self.daemons = Some(Daemons { helper, ..before });
        Ok(())
    }

    /// Kills the agent and starts it again.
    pub(super) fn restart_agent(&mut self) -> Result<()> {
        let before = self.daemons.context("there are no daemons")?;
        self.vm.end(before.agent)?;
        let agent = self.spawn_agent()?;
        self.daemons = Some(Daemons { agent, ..before });
        Ok(())
    }

    fn spawn_helper(&mut self) -> Result<u32> {
        let state = format!("{KEEP}/state");
        let argv = ["/lab/programs/tenure-pr-helper", "--config", "/dev/null", "-k", HELPER, "--vm", VM];
        let argv = [&argv[..], &["--state", &state, "--agent-socket", AGENT_SOCKET]].concat();
        self.vm.start(&argv, Path::new("/lab/keep/helper.log"))
    }

    fn spawn_agent(&mut self) -> Result<u32> {
        let config = format!("{KEEP}/tenure.toml");
        let argv: &[&str] = match self.leash {
            None => &["/lab/programs/tenure", "agent", "--config", &config],
            Some(_) => &["/lab/programs/agent-on-a-leash", "--leash", LEASH, "--config", &config],
        };
        let log = format!("/lab/keep/agent-{}.log", self.started);
        self.started += 1;
        self.vm.start(argv, Path::new(&log))
    }

    /// How the last handover of this host's journal ended.
    pub(super) fn ending(&self) -> Result<Ending> {
        let journals = Journals::new(&self.vm.keep().join("tenure/state"), self.name.as_str());
        let last = journals.read(VM)?.handovers().last().map(|last| last.verdict.clone());
        Ok(match last {
            None => Ending::None,
            Some(None) => Ending::Open,
            Some(Some(verdict)) => Ending::Over(verdict),
        })
    }

    /// Waits until the program has made its socket.
    fn wait_socket(&mut self, program: u32, socket: &str, log: &str) -> Result<()> {
        let log = self.vm.keep().join(log);
        let there = self.vm.appears(socket, program, PATIENCE)?;
        let told = std::fs::read_to_string(log).unwrap_or_default();
        ensure!(there, "{}: {socket} does not appear: {told}", self.name.as_str());
        Ok(())
    }

    fn config(&self, peer_address: &str) -> String {
        let (own, peer) = (self.name.as_str(), self.name.other().as_str());
        let (qmp, address) = (format!("{}/qmp", guest::DIRECTORY), &self.address);
        format!(
            r#"version = 1

[agent]
name = "{own}"
state = "{KEEP}/state"
socket = "{CONTROL}"
listen = "0.0.0.0:4434"

[agent.certificates]
authority = "{KEEP}/ca.pem"
certificate = "{KEEP}/host.pem"
key = "{KEEP}/host-key.pem"

[[peer]]
name = "{peer}"
address = "{peer_address}:4434"

[[vm]]
name = "{VM}"
uuid = "{UUID}"
qmp = "{qmp}"
peers = ["{peer}"]
migrate = "on"
helper = "{AGENT_SOCKET}"
incoming = "tcp:{address}:4444"
"#
        )
    }
}
