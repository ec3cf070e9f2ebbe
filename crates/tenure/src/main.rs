//! The program `tenure`: hands its arguments to the library and ends with its exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tenure::main(std::env::args_os()) as u8)
}
