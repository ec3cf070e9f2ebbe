//! `tenure pr VERB DEVICE`: `sg_persist`'s verbs, on any DEVICE.

use super::values;
use agent::drive::Device;
use clap::{Args, Subcommand};
use scsi::TransportId;
use scsi::pr::{Key, ReservationType};
use std::time::Duration;

/// Arguments of `tenure pr`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_long_help = EXAMPLES)]
pub struct PrArgs {
    /// The service action.
    #[command(subcommand)]
    pub verb: PrVerb,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for the logical unit
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = values::duration)]
    pub timeout: Duration,
    /// How often to send a command again that met a unit attention
    #[arg(long, global = true, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub retries: u8,
}

const EXAMPLES: &str = "\
Examples:
  tenure pr read-full-status /dev/sg2
  tenure pr register /dev/sg2 --new-key 0xa --aptpl
  tenure pr reserve /dev/sg2 --key 0xa --type we-ro
  tenure pr preempt /dev/sg2 --key 0xa --victim 0xb --type 5 --yes --json

Keys are hexadecimal. A unit attention means that the command was not executed: it is reported and the
command is sent again, at most --retries times.";

/// Service actions of PERSISTENT RESERVE IN and OUT.
#[derive(Debug, Subcommand)]
pub enum PrVerb {
    /// List the registered keys
    ReadKeys(ReadArgs),
    /// Show the reservation
    ReadReservation(ReadArgs),
    /// Show what the device server supports
    ReportCapabilities(ReadArgs),
    /// List every registration with its initiator port
    ReadFullStatus(ReadArgs),
    /// Register a key, change it, or remove it (new key 0)
    Register(RegisterArgs),
    /// Register a key whatever this nexus had before
    RegisterIgnore(RegisterArgs),
    /// Make a reservation
    Reserve(HeldArgs),
    /// Give the reservation up
    Release(HeldArgs),
    /// Remove every registration and the reservation
    Clear(ClearArgs),
    /// Remove another's registrations by key, and take over its reservation
    Preempt(PreemptArgs),
    /// Like preempt, and abort the victim's commands
    PreemptAbort(PreemptArgs),
    /// Move the reservation to another initiator port
    RegisterMove(RegisterMoveArgs),
    /// Replace a reservation that the device server lost
    ReplaceLost(ReplaceArgs),
}

/// A verb that needs only the device.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The logical unit
    pub device: Device,
}

/// `register` and `register-ignore`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// The logical unit
    pub device: Device,
    /// The key this nexus has now; 0 if none (register-ignore does not look at it)
    #[arg(long, alias = "param-rk", value_name = "KEY", default_value = "0", value_parser = values::key)]
    pub key: Key,
    /// The key to have; 0 unregisters
    #[arg(long, alias = "param-sark", value_name = "KEY", value_parser = values::key)]
    pub new_key: Key,
    /// Keep registrations and reservation through power loss (APTPL)
    #[arg(long, alias = "param-aptpl")]
    pub aptpl: bool,
    /// Register on every target port (ALL_TG_PT)
    #[arg(long, alias = "param-alltgpt")]
    pub all_target_ports: bool,
    /// Register this initiator port too (SPEC_I_PT); may be repeated
    #[arg(long, value_name = "PORT")]
    pub initiator_port: Vec<TransportId>,
}

/// `reserve` and `release`.
#[derive(Debug, Args)]
pub struct HeldArgs {
    /// The logical unit
    pub device: Device,
    /// This nexus's key
    #[arg(long, alias = "param-rk", value_name = "KEY", value_parser = values::key)]
    pub key: Key,
    /// The reservation's type: 1, 3, 5, 6, 7 or 8
    #[arg(long = "type", alias = "prout-type", value_name = "TYPE", value_parser = values::any_type)]
    pub kind: ReservationType,
}

/// `clear`.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// The logical unit
    pub device: Device,
    /// This nexus's key
    #[arg(long, alias = "param-rk", value_name = "KEY", value_parser = values::key)]
    pub key: Key,
    /// Whether to ask.
    #[command(flatten)]
    pub confirm: ConfirmArgs,
}

/// `preempt` and `preempt-abort`.
#[derive(Debug, Args)]
pub struct PreemptArgs {
    /// The logical unit
    pub device: Device,
    /// This nexus's key
    #[arg(long, alias = "param-rk", value_name = "KEY", value_parser = values::key)]
    pub key: Key,
    /// The key whose registrations are removed
    #[arg(long, alias = "param-sark", value_name = "KEY", value_parser = values::key)]
    pub victim: Key,
    /// The type of the reservation to have afterwards: 1, 3, 5, 6, 7 or 8
    #[arg(long = "type", alias = "prout-type", value_name = "TYPE", value_parser = values::any_type)]
    pub kind: ReservationType,
    /// Whether to ask.
    #[command(flatten)]
    pub confirm: ConfirmArgs,
}

/// `register-move`.
#[derive(Debug, Args)]
pub struct RegisterMoveArgs {
    /// The logical unit
    pub device: Device,
    /// This nexus's key
    #[arg(long, alias = "param-rk", value_name = "KEY", value_parser = values::key)]
    pub key: Key,
    /// The key the destination gets
    #[arg(long, alias = "param-sark", value_name = "KEY", value_parser = values::key)]
    pub new_key: Key,
    /// The destination's initiator port, e.g. iqn.2026-11.example:b,i,0x00023d000001
    #[arg(long, value_name = "PORT")]
    pub initiator_port: TransportId,
    /// The destination's RELATIVE TARGET PORT IDENTIFIER
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub relative_target_port: u16,
    /// Unregister this nexus in the same command
    #[arg(long, alias = "unreg")]
    pub unregister: bool,
    /// Keep registrations and reservation through power loss (APTPL)
    #[arg(long, alias = "param-aptpl")]
    pub aptpl: bool,
}

/// `replace-lost`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The logical unit
    pub device: Device,
    /// The key to have
    #[arg(long, alias = "param-sark", value_name = "KEY", value_parser = values::key)]
    pub new_key: Key,
    /// The reservation's type: 1, 3, 5, 6, 7 or 8
    #[arg(long = "type", alias = "prout-type", value_name = "TYPE", value_parser = values::any_type)]
    pub kind: ReservationType,
}

/// `--yes`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ConfirmArgs {
    /// Do not ask; this can fence another node
    #[arg(long)]
    pub yes: bool,
}
