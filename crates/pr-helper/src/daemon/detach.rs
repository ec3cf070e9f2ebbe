//! `-d`: the program starts itself once more in the background, and ends when that one is ready.
//!
//! Not by fork(2), which is for programs without threads; and so that exit status 0 says that clients can connect. The
//! second process has the writing end of a pipe as standard input: a byte means ready, its end without a byte that the
//! start failed, for which standard error has the reason already.

use super::error::StartError;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// The hidden option of the second process.
pub(super) const FLAG: &str = "--background-process";

/// In the first process: starts the second, and waits until it is ready or has ended.
pub(super) fn spawn(arguments: &[OsString]) -> Result<ExitCode, StartError> {
    let (mut ready, tell) = io::pipe().map_err(StartError::Detach)?;
    let mut command = Command::new("/proc/self/exe");
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.arg(FLAG).stdin(Stdio::from(tell)).stdout(Stdio::null());
    // Passed sockets are for whom LISTEN_PID names, or for everybody where it is absent.
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        command.env_remove("LISTEN_PID");
    }
    let mut child = command.spawn().map_err(StartError::Detach)?;
    // The writing end in this process: the second one must hold the only one.
    drop(command);
    match ready.read(&mut [0]).map_err(StartError::Detach)? {
        0 => child.wait().map_err(StartError::Detach).map(|_| ExitCode::FAILURE),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The second process's side.
#[derive(Debug)]
pub(super) struct Detached {
    null: File,
}

impl Detached {
    /// Leaves the session, terminal and directory of the first process.
    pub(super) fn new() -> Result<Self, StartError> {
        let null = File::options().read(true).write(true).open("/dev/null").map_err(StartError::Detach)?;
        rustix::process::setsid()?;
        rustix::process::chdir("/")?;
        Ok(Self { null })
    }

    /// Tells the first process, and lets go of its terminal.
    pub(super) fn ready(self) -> Result<(), StartError> {
        rustix::io::write(io::stdin(), b"1")?;
        dup2_stdin(&self.null)?;
        dup2_stdout(&self.null)?;
        dup2_stderr(&self.null)?;
        Ok(())
    }
}
