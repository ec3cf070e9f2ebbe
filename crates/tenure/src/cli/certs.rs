//! `tenure certs`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `tenure certs`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CertsArgs {
    /// What to make.
    #[command(subcommand)]
    pub verb: CertsVerb,
}

/// What to make.
#[derive(Debug, Subcommand)]
pub enum CertsVerb {
    /// Make an authority: its certificate, which every host gets, and its key, which none gets
    Ca(FilesArgs),
    /// Make a host's certificate and key
    Host(HostArgs),
}

/// Where the files are.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Where the authority's files are, and new files go
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// How long the certificate is valid [default: 3650 for the authority, 825 for a host]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: Option<u32>,
}

/// Arguments of `tenure certs host`.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// The host's name, as its own tenure.toml and its peers' call it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where.
    #[command(flatten)]
    pub files: FilesArgs,
}

const EXAMPLES: &str = "\
Agents show each other certificates of one authority and check each other's name. This makes both
for people who have no authority of their own; certificates from elsewhere do as well, with the
host's name as DNS name and good for both ends of TLS. No file is ever overwritten.

Examples:
  tenure certs ca --dir /root/tenure-ca
  tenure certs host host-a.example.org --dir /root/tenure-ca
  tenure certs host host-b.example.org --dir /root/tenure-ca";
