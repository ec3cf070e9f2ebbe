//! `tenure target`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `tenure target`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct TargetArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// The target's iSCSI name
    #[arg(long, value_name = "IQN")]
    pub target: String,
    /// A LUN: file=PATH[,size=SIZE][,direct=on|off], block=PATH,reservations=DIR[,direct=on|off] or memory=SIZE,
    /// then [,readonly=on|off][,serial=TEXT][,wwn=HEX][,profile=NAME][,delay=DURATION]; LUNs count from 0 in the order
    /// given
    #[arg(long = "lun", value_name = "SPEC", required = true)]
    pub luns: Vec<String>,
    /// Ask initiators for CHAP: a file with USER:PASSWORD on its first line
    #[arg(long, value_name = "FILE")]
    pub chap: Option<PathBuf>,
}

const EXAMPLES: &str = "\
When it is ready to serve, one JSON line on standard output says where:
  {\"schema\":1,\"ready\":true,\"listen\":\"127.0.0.1:3260\",\"target\":\"iqn.2026-11.example:disk\",\"luns\":1}
It notifies systemd too, if NOTIFY_SOCKET is set. SIGTERM and SIGINT end it in good order.

Examples:
  tenure target --listen 127.0.0.1:3260 --target iqn.2026-11.example:disk --lun memory=64M
  tenure target --listen 127.0.0.1:0 --target iqn.2026-11.example:disk \\
      --lun file=/srv/a.img,size=1G --lun memory=64M,profile=lio,delay=2ms";
