//! `tenure demo`.

use super::values;
use clap::Args;
use handover::Method;
use scsi::pr::ReservationType;

/// Arguments of `tenure demo`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DemoArgs {
    /// The guest's reservation: 1, 3, 5, 6, 7 or 8
    #[arg(long = "type", value_name = "TYPE", default_value = "5", value_parser = values::valid_type)]
    pub kind: ReservationType,
    /// Ask for a method instead of taking the one the plan prefers
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,
    /// The target to behave like: spc, keep-self, lio, scst, tgt, spdk, comstar or ctl
    #[arg(long, value_name = "NAME", default_value = "spc")]
    pub profile: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Everything runs in this process over real iSCSI sockets on the loopback interface; nothing is left behind.

Examples:
  tenure demo
  tenure demo --type 7
  tenure demo --type 3 --method source-nonce
  tenure demo --profile lio --json";
