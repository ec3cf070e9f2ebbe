//! The privileged program `tenure-pr-helper`: hands its arguments to the library and ends with its exit status.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    pr_helper::daemon::main(std::env::args_os())
}
