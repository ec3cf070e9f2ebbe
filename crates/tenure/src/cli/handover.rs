//! `tenure handover plan|run|status|resume|abort|freeze|take|release`.

use super::{AbortArgs, FreezeArgs, GuestArgs, ResumeArgs, TakeArgs, values};
use agent::drive::Device;
use clap::{Args, Subcommand};
use handover::Method;
use scsi::pr::Key;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `tenure handover`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct HandoverArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: HandoverVerb,
}

/// What to do about a handover.
#[derive(Debug, Subcommand)]
pub enum HandoverVerb {
    /// Read, decide, and print the exact commands that a run would send; changes nothing
    Plan(MoveArgs),
    /// Move the registration; ends with a verdict
    Run(MoveArgs),
    /// Show what the local agent knows of a guest's last handover between hosts, and how the guest stands
    Status(GuestArgs),
    /// Have the local agent finish or undo a guest's unfinished handover between hosts
    Resume(ResumeArgs),
    /// Have the local agent end a guest's unfinished handover between hosts, and undo it
    Abort(AbortArgs),
    /// At the source: a guest that somebody else moves stands still; have its reservations stand still too
    Freeze(FreezeArgs),
    /// At the destination: take the registrations of a guest that was frozen for this host
    Take(TakeArgs),
    /// At the source: the guest runs at its new host; remove what may be left of it here
    Release(GuestArgs),
}

/// From where to where, and how.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MoveArgs {
    /// The source nexus; repeat for every path the guest is registered on
    #[arg(long, value_name = "DEVICE", required = true)]
    pub from: Vec<Device>,
    /// The destination nexus; repeat for further paths
    #[arg(long, value_name = "DEVICE", required = true)]
    pub to: Vec<Device>,
    /// The guest's key, where the target has no READ FULL STATUS to learn it from
    #[arg(long, value_name = "KEY", value_parser = values::key)]
    pub key: Option<Key>,
    /// Use this method or refuse, instead of taking the one the plan prefers
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,
    /// The initiator name and ISID, the same on both sides, belong to this guest alone (method identity)
    #[arg(long)]
    pub identity: bool,
    /// Allow a moment in which the guest's key is not listed (source dead: destination nonce)
    #[arg(long)]
    pub allow_gap: bool,
    /// More known targets: lines of `VENDOR[ / PRODUCT[ / REVISION]]: NAME=yes|no|unknown ...`
    #[arg(long, value_name = "FILE")]
    pub targets: Option<PathBuf>,
    /// Where the journal is kept; an open journal there is recovered first
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// How long to wait for one command
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = values::duration)]
    pub timeout: Duration,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
The guest must be paused, or its VMM stopped, before `run`: this command moves the reservation, not the guest.
Both DEVICEs are nexuses of this machine to the same logical unit. Run again after a success it is refused (exit status 4):
the destination has the key already, and the source has none.

Examples:
  tenure handover plan --from /dev/sg2 --to /dev/sg3
  tenure handover run --from 'iscsi://10.0.0.1/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:a' \\
      --to 'iscsi://10.0.0.1/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:b' --key 0xa --json";
