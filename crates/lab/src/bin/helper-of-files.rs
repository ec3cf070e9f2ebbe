//! `helper-of-files`: the helper's server over files that stand for disks, for hosts that are processes of one machine.

use clap::Parser;
use lab::helped::{Options, serve};

fn main() -> anyhow::Result<()> {
    serve(&Options::parse())
}
