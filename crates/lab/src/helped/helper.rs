//! The helper as a process: the service that `tenure-pr-helper` has, with the same ledger, audit and both sockets, over [`FileDisks`], and
//! without giving up privileges, of which it has none.

use super::FileDisks;
use anyhow::{Context, Result};
use clap::Parser;
use ledger::{Ledger, Owner};
use pr_helper::agent::{self, Attend};
use pr_helper::audit::{Audit, Journal};
use pr_helper::listening::listen;
use pr_helper::policy::Rules;
use pr_helper::server::{Limits, Server};
use pr_helper::service::Service;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

/// As `tenure-pr-helper` has them.
#[derive(Debug, Parser)]
pub struct Options {
    /// Listen here
    #[arg(short = 'k', long)]
    pub socket: PathBuf,
    /// Serve the agent here
    #[arg(long)]
    pub agent_socket: PathBuf,
    /// The host's state
    #[arg(long)]
    pub state: PathBuf,
    /// Whose records
    #[arg(long)]
    pub vm: String,
}

/// Serves until it is killed; prints a line when it is ready.
///
/// # Errors
/// If it cannot.
pub fn serve(options: &Options) -> Result<()> {
    let ledger = Ledger::open(&options.state)?;
    let owner = Owner(options.vm.clone());
    let guest = ledger.guest(&owner)?;
    let audit = Audit::open(&ledger.directory(&owner)?, Journal::of_service(None))?;
    let devices = Box::new(FileDisks);
    let service = Service::new(&*options.vm, Rules::default(), devices, Box::new(guest), Box::new(audit));
    let service = Arc::new(service);
    let (guests, _made) = listen(&options.socket)?;
    let (agents, _made_for_agents) = listen(&options.agent_socket)?;
    let (_stop, stopped) = UnixStream::pair()?;
    let attend = Arc::clone(&service) as Arc<dyn Attend>;
    let of_agents = agent::server(attend, rustix::process::geteuid().as_raw(), agent::limits());
    let until = stopped.try_clone()?;
    thread::spawn(move || of_agents.run(&agents, until));
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).context("nobody waits for it")?;
    Ok(Server::new(service, Limits::default()).run(&guests, stopped)?)
}
