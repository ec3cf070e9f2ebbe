//! `tenure doctor`.

use agent::drive::Device;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `tenure doctor`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Logical units to look at
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<Device>,
    /// The helper's socket
    #[arg(short = 'k', long, value_name = "PATH", default_value = "/run/tenure/pr-helper.sock")]
    pub socket: PathBuf,
    /// The state directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tenure")]
    pub state: PathBuf,
    /// The helper's configuration file [default: /etc/tenure/pr-helper.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Looks and reads only: no registration is made, no file written. Each line is ok, warn or fail, and says what to
do. The exit status is 1 if a line is fail.

Examples:
  tenure doctor
  tenure doctor /dev/sdb /dev/sg2 --json
  tenure doctor -k /var/lib/libvirt/qemu/domain-1-vm/pr-helper0.sock";
