//! `tenure export` and `tenure import`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `tenure export`.
#[derive(Debug, Args)]
#[command(after_long_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// The guest, by the name of its record: its helper's --vm
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Where to write it; a file that is there is not overwritten
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The state directory of the helpers and the agent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tenure")]
    pub state: PathBuf,
    /// The agent's configuration, if there is one: a guest whose QEMU runs or does not answer, or whose
    /// handover is not over, is not exported
    #[arg(long, value_name = "FILE", default_value = agent::config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// The guest is stopped, where its QEMU does not answer
    #[arg(long)]
    pub stopped: bool,
}

/// Arguments of `tenure import`.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES)]
pub struct ImportArgs {
    /// What `tenure export` wrote; without it, what this host's own record remembers of the guest
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The guest, as tenure.toml calls it; the one that was exported if absent
    #[arg(long, value_name = "NAME", required_unless_present = "file")]
    pub vm: Option<String>,
    /// The agent's configuration: where the guest's logical units are, and its `reclaim`
    #[arg(long, value_name = "FILE", default_value = agent::config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Take what the guest had over from the nexus where it was last, whatever `reclaim` says: only if the guest does not
    /// run there and is never started there again
    #[arg(long)]
    pub take_over: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const EXPORT_EXAMPLES: &str = "\
For a guest that leaves without a handover: `migrate file:`, `virsh save`, a cold start elsewhere.
Stop it first. Its reservation commands here end with RESERVATION CONFLICT from then on; what it has
registered stays on the target until it is imported, here or elsewhere. No device is asked.

Examples:
  tenure export node1 /shared/node1.tenure";

const IMPORT_EXAMPLES: &str = "\
Run it before the guest is started. Each logical unit is asked. What is registered on this host's
own nexus is the guest's again. What is registered nowhere was fenced, or forgotten by the target:
the guest goes on without it (exit status 6 if it was fenced), and nothing is registered for it. What
is registered on another nexus is taken over only with --take-over or reclaim = \"take-over\", only
from where the guest was last, and all of it or nothing.

Examples:
  tenure import /shared/node1.tenure
  tenure import /shared/node1.tenure --take-over
  tenure import --vm node1                      a guest that was restarted by who watches over it";
