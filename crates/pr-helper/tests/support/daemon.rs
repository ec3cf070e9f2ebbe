//! The real program, in a directory of its own.

use super::{Client, PATIENCE, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// Where a helper runs.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("run")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where a helper keeps what is its guest's, without `--vm`.
    pub fn records(&self) -> PathBuf {
        self.path("state/guests").join(self.path("run/sock").to_str().unwrap().replace('/', "%2F"))
    }

    /// The program with a state directory here and no configuration of this machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure-pr-helper"));
        command.args(["--config", "/dev/null", "--state"]).arg(self.path("state"));
        command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped());
        for variable in ["LISTEN_PID", "LISTEN_FDS", "NOTIFY_SOCKET", "JOURNAL_STREAM"] {
            command.env_remove(variable);
        }
        command
    }

    /// A helper that serves `sock` here, with these options as well.
    pub fn serve<S: AsRef<OsStr>>(&self, options: impl IntoIterator<Item = S>) -> Helper {
        let mut command = self.command();
        command.arg("-k").arg(self.path("run/sock")).args(options);
        Helper::start(command, self.path("run/sock"))
    }

    /// How a start that must fail ends: one line on standard error.
    pub fn refused<S: AsRef<OsStr>>(&self, options: impl IntoIterator<Item = S>) -> String {
        let output = self.command().args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }
}

/// A helper that runs.
pub struct Helper {
    pub socket: PathBuf,
    child: Child,
}

impl Helper {
    /// Starts it, and waits until it answers.
    pub fn start(mut command: Command, socket: PathBuf) -> Self {
        let mut helper = Self { child: command.spawn().unwrap(), socket };
        wait_until("the helper answers", || {
            assert_eq!(helper.child.try_wait().unwrap(), None, "{}", helper.said());
            UnixStream::connect(&helper.socket).is_ok()
        });
        // Connected to is a socket as soon as it is made; only a helper that serves greets.
        helper.client();
        helper
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the helper does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Ends it in good order, and gives what it logged.
    pub fn end(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        said
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        said
    }

    /// A line of its /proc/PID/status.
    pub fn status(&self, field: &str) -> String {
        status(self.pid(), field)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// A line of a process's /proc/PID/status.
pub fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The number in a pidfile.
pub fn pid_in(path: &Path) -> u32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}
