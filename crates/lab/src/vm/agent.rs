//! How the outside runs programs in the VM: one JSON document per line over a virtio-serial port.
//!
//! `{"argv":[…]}` is answered with an [`Ended`]. When it starts, after a reset too, the agent sends `{"ready":true}`.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the agent says when it is there.
pub(crate) const READY: &str = "{\"ready\":true}\n";

/// A program to run to its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) argv: Vec<String>,
}

/// How a program in the VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status; −1 if a signal ended it or it could not be started.
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
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let mut answer = serde_json::to_string(&run(&line))?;
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

fn run(line: &str) -> Ended {
    attempt(line).unwrap_or_else(|error| Ended { code: -1, out: String::new(), err: format!("{error:#}") })
}

fn attempt(line: &str) -> Result<Ended> {
    let Run { argv } = serde_json::from_str(line)?;
    let (program, arguments) = argv.split_first().context("no program")?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| program.clone())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
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

    #[test]
    fn a_program_is_run_to_its_end_with_both_outputs() {
        let ended = run(r#"{"argv":["sh","-c","echo out; echo err >&2; exit 3"]}"#);
        assert_eq!(ended, Ended { code: 3, out: "out\n".into(), err: "err\n".into() });
        assert!(ended.good().unwrap_err().to_string().contains("err"));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_answered() {
        for line in ["", "nonsense", r#"{"argv":[]}"#, r#"{"argv":["/no/such/program"]}"#] {
            let ended = run(line);
            assert_eq!(ended.code, -1, "{line}");
            assert!(!ended.err.is_empty(), "{line}");
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
