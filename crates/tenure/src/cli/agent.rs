//! `tenure agent`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `tenure agent`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct AgentArgs {
    /// This host, its peers and its guests
    #[arg(long, value_name = "FILE", default_value = ::agent::config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Say whether an agent would start with it, and end
    #[arg(long)]
    pub check: bool,
}

const EXAMPLES: &str = "\
The agent of a host moves guests to the agents of other hosts, and takes theirs. It needs no
privilege on the devices: tenure-pr-helper sends the commands. SIGHUP has it read its file again;
SIGTERM ends it. When it serves it prints one line of JSON and tells systemd.

tenure.toml:
  version = 1
  [agent]
  name = \"host-a.example.org\"        # what its certificate says; see tenure certs
  listen = \"0.0.0.0:4434\"            # where peers connect
  [[peer]]
  name = \"host-b.example.org\"
  address = \"host-b.example.org:4434\"
  [[vm]]
  name = \"db1\"
  uuid = \"6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11\"
  qmp = \"/run/qemu/db1.qmp\"          # a QMP socket of its own
  helper = \"/run/tenure/agents/db1.sock\"
  peers = [\"host-b.example.org\"]

Examples:
  tenure agent --check
  tenure agent --config /etc/tenure/tenure.toml";
