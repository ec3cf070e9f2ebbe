//! `scripted-qemu`: behaves on QMP as QEMU does through a live migration, in milliseconds, and fails where it is told to.

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match lab::scripted::run(lab::scripted::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripted-qemu: {error:#}");
            ExitCode::FAILURE
        }
    }
}
