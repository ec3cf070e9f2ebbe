//! `tenure device status|lun-add|lun-remove|lun-resize`: a device that runs, asked over its control socket.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What a device that runs can be asked.
#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// Show what its guests do: rates, latencies, and what is under way
    Status(DeviceStatusArgs),
    /// Add a LUN; running guests hear of it
    LunAdd(LunAddArgs),
    /// Remove a LUN; running guests hear of it
    LunRemove(LunNumberArgs),
    /// Look at a LUN's size anew, once its file or device has grown; running guests hear of it
    LunResize(LunNumberArgs),
}

impl DeviceVerb {
    /// Whether standard output is to be one JSON document.
    pub(super) const fn json(&self) -> bool {
        match self {
            Self::Status(args) => args.control.json,
            Self::LunAdd(args) => args.control.json,
            Self::LunRemove(args) | Self::LunResize(args) => args.control.json,
        }
    }
}

/// Which device.
#[derive(Debug, Args)]
pub struct DeviceControlArgs {
    /// The device's control socket, as its own --control says
    #[arg(long, value_name = "SOCKET")]
    pub control: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure device status`.
#[derive(Debug, Args)]
#[command(after_long_help = STATUS)]
pub struct DeviceStatusArgs {
    /// Which device.
    #[command(flatten)]
    pub control: DeviceControlArgs,
    /// Only this guest
    #[arg(long, value_name = "NAME")]
    pub guest: Option<String>,
    /// How long to look, in seconds, for the rates; 0 for averages since the LUN was added
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=3600))]
    pub interval: u64,
}

/// Arguments of `tenure device lun-add`.
#[derive(Debug, Args)]
pub struct LunAddArgs {
    /// Which device.
    #[command(flatten)]
    pub control: DeviceControlArgs,
    /// What it is, as --lun of tenure device
    #[arg(value_name = "SPEC")]
    pub spec: String,
    /// Its number [default: the first that is free]
    #[arg(long, value_name = "N")]
    pub lun: Option<u8>,
}

/// Arguments of `tenure device lun-remove` and `lun-resize`.
#[derive(Debug, Args)]
pub struct LunNumberArgs {
    /// Which device.
    #[command(flatten)]
    pub control: DeviceControlArgs,
    /// Its number
    #[arg(value_name = "N")]
    pub lun: u8,
}

const STATUS: &str = "\
Columns: READS and WRITES a second, the same in KiB, their mean latencies in microseconds, commands that
did not end GOOD since the LUN was added, commands under way, and how long the oldest of those has been.

States:
  idle       no VMM is connected
  connected  a VMM is connected, and the guest does not use its disks
  running    the guest uses its disks
  draining   the VMM has asked a ring to stop, and commands are still under way

Examples:
  tenure device status --control /run/tenure/device.sock
  tenure device status --control /run/tenure/device.sock --guest db1 --interval 10 --json";
