//! `tenure status`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `tenure status`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct StatusArgs {
    /// The state directory of the helpers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tenure")]
    pub state: PathBuf,
    /// Only this guest: its --vm name, or the path of its helper's socket
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Roles:
  holder           it is the single reservation holder
  all-registrants  it is one of the holders, like every registrant
  member           it is registered, and another nexus is the holder
  registrant-only  it is registered, and no reservation is known
  unregistered     it has no registration

States:
  active      the guest runs here and has what is shown
  handover    it is being handed over to another host, or a handover was interrupted
  moved       it was handed over to another host
  fenced      another initiator removed its registration
  lost        the target forgot it
  unverified  it must be asked of the device, which happens before the guest's next command

Nothing is asked of any device, and nothing is changed. The directory is readable by root alone.

Examples:
  tenure status
  tenure status --vm node1 --json";
