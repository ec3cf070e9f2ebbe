//! `tenure audit`.

use super::values;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `tenure audit`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct AuditArgs {
    /// The state directory of tenure-pr-helper
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tenure")]
    pub state: PathBuf,
    /// Only the commands of this guest
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// Only what is younger, like 30s, 10m, 2h or 7d
    #[arg(long, value_name = "AGE", value_parser = values::age)]
    pub since: Option<Duration>,
    /// Go on with what is added, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Print JSON: one document, with --follow one for each event
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tenure audit --vm db-1 --since 1h
  tenure audit --follow --json";
