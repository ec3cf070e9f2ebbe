//! How the outside runs programs in the VM: one JSON document per line over a virtio-serial port.
//!
//! Each [`Ask`] is answered with an [`Answer`]. When it starts, after a reset too, the agent sends `{"ready":true}`.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What the agent says when it is there.
pub(crate) const READY: &str = "{\"ready\":true}\n";

/// Between looks for a file that is to appear.
const LOOK: Duration = Duration::from_millis(10);

/// What the agent is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Run a program to its end.
    Run { argv: Vec<String> },
    /// Start a program, both outputs into `log`, and go on.
    Start { argv: Vec<String>, log: PathBuf },
    /// Send a signal to a program that was started, unless it has ended.
    Signal { id: u32, signal: i32 },
    /// Whether such a program has ended, and how.
    Status { id: u32 },
    /// Kill such a program, and wait until it is gone.
    End { id: u32 },
    /// Wait until such a program has made a file, or has ended: in here it costs no process to look.
    Appear { path: PathBuf, id: u32, within: Duration },
    /// Make an empty directory, whatever was there.
    Empty { directory: PathBuf },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ended(Ended),
    Started(u32),
    /// Exit status, or a signal's number below zero; nothing while the program runs.
    Status(Option<i32>),
    There(bool),
    Done,
    Failed(String),
}

/// How a program in the VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status; a signal's number below zero if one ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Serves the port until the VM ends: the first process never returns from here but by an error.
///
/// # Errors
/// If the port cannot be opened, read or written.
pub fn serve(port: &Path) -> Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(port);
    let mut device = device.with_context(|| port.display().to_string())?;
    device.write_all(READY.as_bytes())?;
    let mut input = BufReader::new(Patient(device.try_clone()?));
    let mut programs = Programs::default();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let mut answer = serde_json::to_string(&programs.answer(&line))?;
        answer.push('\n');
        device.write_all(answer.as_bytes())?;
    }
}

/// A virtio-serial port reads as ended while nobody is connected outside; that is no reason to give up.
struct Patient<R>(R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 => std::thread::sleep(Duration::from_millis(50)),
                length => return Ok(length),
            }
        }
    }
}

/// Those that were started and go on.
#[derive(Debug, Default)]
struct Programs(HashMap<u32, Child>);

impl Programs {
    fn answer(&mut self, line: &str) -> Answer {
        self.obey(line).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")))
    }

    fn obey(&mut self, line: &str) -> Result<Answer> {
        match serde_json::from_str(line)? {
            Ask::Run { argv } => run(&argv).map(Answer::Ended),
            Ask::Start { argv, log } => self.start(&argv, &log).map(Answer::Started),
            Ask::Signal { id, signal } => self.signal(id, signal).map(Answer::Status),
            Ask::Status { id } => self.status(id).map(Answer::Status),
            Ask::End { id } => self.end(id).map(|status| Answer::Status(Some(status))),
            Ask::Appear { path, id, within } => self.appears(&path, id, within).map(Answer::There),
            Ask::Empty { directory } => empty(&directory).map(|()| Answer::Done),
        }
    }

    fn start(&mut self, argv: &[String], log: &Path) -> Result<u32> {
        let log = File::create(log).with_context(|| log.display().to_string())?;
        let child = command(argv)?.stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| argv.join(" "))?;
        let id = child.id();
        self.0.insert(id, child);
        Ok(id)
    }

    fn status(&mut self, id: u32) -> Result<Option<i32>> {
        let child = self.0.get_mut(&id).with_context(|| format!("{id} was not started here"))?;
        Ok(child.try_wait()?.map(code))
    }

    fn end(&mut self, id: u32) -> Result<i32> {
        self.signal(id, Signal::KILL.as_raw())?;
        let child = self.0.get_mut(&id).with_context(|| format!("{id} was not started here"))?;
        Ok(code(child.wait()?))
    }

    fn appears(&mut self, path: &Path, id: u32, within: Duration) -> Result<bool> {
        let end = Instant::now() + within;
        while Instant::now() < end && self.status(id)?.is_none() {
            if path.exists() {
                return Ok(true);
            }
            std::thread::sleep(LOOK);
        }
        Ok(false)
    }

    fn signal(&mut self, id: u32, signal: i32) -> Result<Option<i32>> {
        let ended = self.status(id)?;
        if ended.is_none() {
            let Some(signal) = Signal::from_named_raw(signal) else { bail!("no signal {signal}") };
            kill_process(i32::try_from(id).ok().and_then(Pid::from_raw).context("no process")?, signal)?;
        }
        Ok(ended)
    }
}

fn empty(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(directory),
    }
    .with_context(|| directory.display().to_string())
}

/// Exit status, or a signal's number below zero.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or(i32::MIN)
}

fn command(argv: &[String]) -> Result<Command> {
    let (program, arguments) = argv.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

fn run(argv: &[String]) -> Result<Ended> {
    let output = command(argv)?.output().with_context(|| argv.join(" "))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended { code: code(output.status), out: text(&output.stdout), err: text(&output.stderr) })
}

impl Ended {
    /// The standard output of a program that ended well.
    ///
    /// # Errors
    /// With what it wrote to standard error, if it did not.
    pub fn good(self) -> Result<String> {
        ensure!(self.code == 0, "exit status {}: {}{}", self.code, self.err.trim(), self.out.trim());
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{DEADLINE, wait_for};

    #[test]
    fn a_program_is_run_to_its_end_with_both_outputs() {
        let answer =
            Programs::default().answer(r#"{"run":{"argv":["sh","-c","echo out; echo err >&2; exit 3"]}}"#);
        let ended = Ended { code: 3, out: "out\n".into(), err: "err\n".into() };
        assert!(ended.clone().good().unwrap_err().to_string().contains("err"));
        assert_eq!(answer, Answer::Ended(ended));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_answered() {
        for line in ["", "nonsense", r#"{"run":{"argv":[]}}"#, r#"{"run":{"argv":["/no/such/program"]}}"#] {
            let answer = Programs::default().answer(line);
            assert!(matches!(&answer, Answer::Failed(why) if !why.is_empty()), "{line}: {answer:?}");
        }
    }

    #[test]
    fn a_program_that_was_started_goes_on_until_a_signal_ends_it() {
        let mut programs = Programs::default();
        let log = tempfile::NamedTempFile::new().unwrap();
        let argv = ["sh", "-c", "echo begun; exec sleep 60"].map(str::to_owned);
        let id = programs.start(&argv, log.path()).unwrap();
        let begun = || std::fs::read_to_string(log.path()).unwrap() == "begun\n";
        wait_for(DEADLINE, || begun().then_some(())).unwrap();
        assert_eq!(programs.status(id).unwrap(), None);
        assert_eq!(programs.signal(id, Signal::KILL.as_raw()).unwrap(), None);
        let ended = wait_for(DEADLINE, || programs.status(id).unwrap());
        assert_eq!(ended, Some(-Signal::KILL.as_raw()));
        // Its number may be somebody else's by now.
        assert_eq!(programs.signal(id, Signal::KILL.as_raw()).unwrap(), ended);
        assert!(programs.signal(1, Signal::KILL.as_raw()).is_err());
    }

    #[test]
    fn a_program_is_ended_and_gone_when_that_is_answered() {
        let mut programs = Programs::default();
        let argv = ["sleep", "60"].map(str::to_owned);
        let id = programs.start(&argv, Path::new("/dev/null")).unwrap();
        assert_eq!(programs.end(id).unwrap(), -Signal::KILL.as_raw());
        assert_eq!(programs.status(id).unwrap(), Some(-Signal::KILL.as_raw()));
        assert_eq!(programs.end(id).unwrap(), -Signal::KILL.as_raw());
        assert!(programs.end(1).is_err());
    }

    #[test]
    fn a_file_is_waited_for_until_it_is_there_or_its_program_has_ended_or_the_time_is_over() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let mut programs = Programs::default();
        let mut appears = |script: &str, within| {
            let argv = ["sh", "-c", script, "sh", &path.display().to_string()].map(str::to_owned);
            let id = programs.start(&argv, Path::new("/dev/null")).unwrap();
            let there = programs.appears(&path, id, within).unwrap();
            programs.end(id).unwrap();
            there
        };
        assert!(!appears("exit 1", DEADLINE));
        assert!(!appears("exec sleep 60", LOOK * 3));
        assert!(appears("echo >\"$1\"; exec sleep 60", DEADLINE));
    }

    #[test]
    fn a_directory_is_empty_whatever_was_there() {
        let parent = tempfile::TempDir::new().unwrap();
        let directory = parent.path().join("run");
        for _ in 0..2 {
            empty(&directory).unwrap();
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
            std::fs::write(directory.join("old"), "").unwrap();
        }
    }

    #[test]
    fn a_port_that_nobody_listens_to_yet_is_waited_for() {
        struct Late(u8);
        impl Read for Late {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                self.0 += 1;
                Ok(usize::from(self.0 > 2))
            }
        }
        assert_eq!(Patient(Late(0)).read(&mut [0]).unwrap(), 1);
    }
}
