//! A helper and an agent on each host, as an operator would set them up.

use super::{Host, Hosts, Name, PATIENCE, guest};
use crate::process::wait_for;
use crate::vm::agent::Ended;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Where the guest's helper listens.
pub(super) const HELPER: &str = "/run/tenure/guest.sock";
const AGENT_SOCKET: &str = "/run/tenure/guest-agent.sock";
/// The agent's control socket.
const CONTROL: &str = "/run/tenure/agent.sock";
/// Configuration, certificates and state of a host outlive a reset of its VM.
const KEEP: &str = "/lab/keep/tenure";
/// The guest's name.
const VM: &str = "guest";
const UUID: &str = "7e4a0000-0000-4000-8000-0000000000aa";

/// What runs on a host besides QEMU.
#[derive(Clone, Copy, Debug)]
pub struct Daemons {
    /// The helper's number in the VM.
    pub helper: u32,
    /// The agent's.
    pub agent: u32,
}

impl Hosts {
    /// Makes certificates and starts helper and agent on both hosts, which know of no guest's past: those that ran are ended.
    ///
    /// # Errors
    /// If one does not become ready.
    pub fn start_agents(&mut self) -> Result<()> {
        self.hosts.iter_mut().try_for_each(Host::end_daemons)?;
        self.certificates()?;
        let peers = self.hosts.each_ref().map(|host| host.address.clone());
        let [a, b] = &peers;
        for (host, peer) in self.hosts.iter_mut().zip([b, a]) {
            host.start_daemons(peer)?;
        }
        Ok(())
    }

    fn certificates(&mut self) -> Result<()> {
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
        let to = from.other().as_str();
        let argv = ["/lab/programs/tenure", "-q", "migrate", VM, "--to", to, "--json", "--control", CONTROL];
        let ended = self.host(from).vm.run(&argv, PATIENCE)?;
        let log = |host: &Host| std::fs::read_to_string(host.vm.keep().join("agent.log")).unwrap_or_default();
        let logs = || self.hosts.each_ref().map(log).join("\n");
        let Ended { code, out, err } = &ended;
        ensure!(wanted.contains(code), "exit status {code}: {out}{err}\nthe agents say:\n{}", logs());
        Ok(())
    }
}

impl Host {
    fn start_daemons(&mut self, peer: &str) -> Result<()> {
        let keep = self.vm.keep();
        std::fs::write(keep.join("tenure/tenure.toml"), self.config(peer))?;
        self.vm.run(&["mkdir", "-p", "/run/tenure"], PATIENCE)?.good()?;
        let daemons = Daemons { helper: self.start_helper()?, agent: self.start_agent()? };
        self.daemons = Some(daemons);
        Ok(())
    }

    /// Ends helper and agent, and forgets what they knew.
    fn end_daemons(&mut self) -> Result<()> {
        let Some(Daemons { helper, agent }) = self.daemons.take() else { return Ok(()) };
        for program in [agent, helper] {
            self.end(program)?;
        }
        self.vm.run(&["rm", "-rf", &format!("{KEEP}/state"), "/run/tenure"], PATIENCE)?.good().map(drop)
    }

    /// Starts the guest's helper.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_helper(&mut self) -> Result<u32> {
        let state = format!("{KEEP}/state");
        let argv = ["/lab/programs/tenure-pr-helper", "--config", "/dev/null", "-k", HELPER, "--vm", VM];
        let argv = [&argv[..], &["--state", &state, "--agent-socket", AGENT_SOCKET]].concat();
        let helper = self.vm.start(&argv, Path::new("/lab/keep/helper.log"))?;
        self.wait_socket(helper, HELPER, "helper.log")?;
        Ok(helper)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_agent(&mut self) -> Result<u32> {
        let config = format!("{KEEP}/tenure.toml");
        let argv = ["/lab/programs/tenure", "agent", "--config", &config];
        let agent = self.vm.start(&argv, Path::new("/lab/keep/agent.log"))?;
        self.wait_socket(agent, CONTROL, "agent.log")?;
        Ok(agent)
    }

    /// Waits until the program has made its socket.
    fn wait_socket(&mut self, program: u32, socket: &str, log: &str) -> Result<()> {
        let log = self.vm.keep().join(log);
        let there = wait_for(PATIENCE, || match self.vm.status(program) {
            Ok(None) => self
                .vm
                .run(&["test", "-S", socket], PATIENCE)
                .ok()
                .filter(|ended| ended.code == 0)
                .map(|_| true),
            _ => Some(false),
        });
        let told = std::fs::read_to_string(log).unwrap_or_default();
        ensure!(there == Some(true), "{}: {socket} does not appear: {told}", self.name.as_str());
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
