//! The command tree. Only words live here; what a command does is in the module of its name.

mod agent;
mod audit;
mod certs;
mod demo;
mod device;
mod device_verb;
mod doctor;
mod export;
mod handover;
mod migrate;
mod pr;
mod status;
mod target;
mod values;

pub use agent::AgentArgs;
pub use audit::AuditArgs;
pub use certs::{CertsArgs, CertsVerb, FilesArgs, HostArgs};
pub use demo::DemoArgs;
pub use device::{AioArg, DeviceArgs, OnErrorArg, PeeringArgs};
pub use device_verb::{DeviceControlArgs, DeviceStatusArgs, DeviceVerb, LunAddArgs, LunNumberArgs};
pub use doctor::DoctorArgs;
pub use export::{ExportArgs, ImportArgs};
pub use handover::{HandoverArgs, HandoverVerb, MoveArgs};
pub use migrate::{AbortArgs, ControlArgs, Doubt, FreezeArgs, GuestArgs, MigrateArgs, ResumeArgs, TakeArgs};
pub use pr::{ConfirmArgs, PrArgs, PrVerb, PreemptArgs, ReadArgs, RegisterArgs};
pub use status::StatusArgs;
pub use target::TargetArgs;

use crate::console::Verbosity;
use crate::exit;
use clap::{ArgAction, Args, Parser, Subcommand};

/// Keeps a virtual machine's SCSI persistent reservations with it.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, propagate_version = true, arg_required_else_help = true)]
#[command(long_about = LONG, after_long_help = after_help())]
pub struct Cli {
    /// How much to say.
    #[command(flatten)]
    pub voice: Voice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// `-q` and `-v`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Voice {
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show every command that is sent
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

impl Voice {
    /// The level these flags ask for.
    #[must_use]
    pub const fn level(self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        }
    }
}

/// What `tenure` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on this machine: two hosts, a cluster peer, one live handover
    Demo(DemoArgs),
    /// Send one persistent reservation command to a logical unit
    Pr(PrArgs),
    /// Serve software LUNs with complete persistent reservations over iSCSI
    Target(TargetArgs),
    /// Give guests virtio-scsi disks with reservations of their own, over vhost-user
    Device(Box<DeviceArgs>),
    /// Move one registration, and the reservation it may hold, to another I_T nexus
    Handover(HandoverArgs),
    /// Move a running guest to another host with its reservations
    Migrate(MigrateArgs),
    /// Show what each guest of this host has registered and holds
    Status(StatusArgs),
    /// Say what this machine lacks for the helper, and what to do
    Doctor(DoctorArgs),
    /// Show which reservation commands guests sent through tenure-pr-helper
    Audit(AuditArgs),
    /// Run the daemon of this host that moves guests to other hosts and takes theirs
    Agent(AgentArgs),
    /// Write down what a stopped guest has, to be imported where it is started again
    Export(ExportArgs),
    /// Claim what a guest had where it was last, before it is started here
    Import(ImportArgs),
    /// Make certificates for the agents, for people who have no authority of their own
    Certs(CertsArgs),
}

impl Command {
    /// Whether standard output is to be one JSON document.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Demo(args) => args.json,
            Self::Pr(args) => args.json,
            Self::Status(args) => args.json,
            Self::Migrate(args) => args.control.json,
            Self::Handover(HandoverArgs {
                verb: HandoverVerb::Status(args) | HandoverVerb::Release(args),
            }) => args.control.json,
            Self::Handover(HandoverArgs { verb: HandoverVerb::Resume(args) }) => args.guest.control.json,
            Self::Handover(HandoverArgs { verb: HandoverVerb::Abort(args) }) => args.guest.control.json,
            Self::Handover(HandoverArgs { verb: HandoverVerb::Freeze(args) }) => args.guest.control.json,
            Self::Handover(HandoverArgs { verb: HandoverVerb::Take(args) }) => args.guest.control.json,
            Self::Target(_) | Self::Agent(_) | Self::Certs(_) | Self::Export(_) => false,
            Self::Device(args) => match &args.verb {
                Some(verb) => verb.json(),
                None => false,
            },
            Self::Import(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Audit(args) => args.json,
            Self::Handover(HandoverArgs { verb: HandoverVerb::Plan(args) | HandoverVerb::Run(args) }) => {
                args.json
            }
        }
    }
}

const LONG: &str = "\
Keeps a virtual machine's SCSI persistent reservations with it.

Moves a registration, and the reservation it may hold, from one I_T nexus to another without a gap,
without harming other registrants and without bringing back what somebody fenced. Serves LUNs with
complete persistent reservations, and speaks to any LUN that has them.

A DEVICE is /dev/sdX, /dev/sgN or
iscsi://[USER%PASSWORD@]HOST[:PORT]/IQN/LUN?initiator=IQN&isid=HEX12.";

const EXAMPLES: &str = "\
Examples:
  tenure demo
  tenure target --listen 127.0.0.1:3260 --target iqn.2026-11.example:disk --lun memory=64M
  tenure pr read-keys /dev/sg2
  tenure pr reserve 'iscsi://127.0.0.1/iqn.2026-11.example:disk/0?initiator=iqn.2026-11.example:a' \\
      --key 0xa --type 5
  tenure handover plan --from /dev/sg2 --to /dev/sg3 --key 0xa";

fn after_help() -> String {
    format!("{EXAMPLES}\n\n{}", exit::TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn quiet_and_verbose_exclude_each_other() {
        assert!(Cli::try_parse_from(["tenure", "-q", "-v", "demo"]).is_err());
    }
}
