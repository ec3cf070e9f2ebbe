//! Where words go: data to standard output, everything else to standard error.
//!
//! A reader that has gone away (`| head`) is no failure: what follows is dropped and the command
//! keeps its own exit status. Colour appears only on a terminal and never under `NO_COLOR`.

use crate::exit::Failure;
use anyhow::Context;
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// How much a person wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Errors only (`-q`).
    Quiet,
    /// Errors, warnings and narration.
    #[default]
    Normal,
    /// Every command sent as well (`-v`).
    Verbose,
}

/// The two output streams of one invocation.
pub struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    verbosity: Verbosity,
    interactive: bool,
    /// Standard error is one.
    terminal: bool,
    /// A line of progress stands there.
    on_a_line: bool,
}

impl Console {
    /// The process's own streams.
    #[must_use]
    pub fn standard(verbosity: Verbosity) -> Self {
        let interactive = io::stdin().is_terminal() && io::stderr().is_terminal();
        let (out, err) = (Box::new(anstream::stdout()), Box::new(anstream::stderr()));
        Self { out, err, verbosity, interactive, terminal: io::stderr().is_terminal(), on_a_line: false }
    }

    /// Streams of the caller's choice; nobody can be asked anything.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, verbosity: Verbosity) -> Self {
        Self { out, err, verbosity, interactive: false, terminal: false, on_a_line: false }
    }

    /// How much is said.
    #[must_use]
    pub const fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Writes data to standard output and flushes it, so that a waiting reader sees it at once.
    ///
    /// # Errors
    /// If standard output cannot be written, for another reason than that its reader left.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.out = Box::new(io::sink());
                Ok(())
            }
            written => Ok(written.context("standard output")?),
        }
    }

    /// Writes one JSON document on a line of its own.
    ///
    /// # Errors
    /// Like [`Console::data`].
    pub fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(document).context("JSON")?;
        self.data(&format!("{text}\n"))
    }

    /// Something the person should know although it is no error.
    pub fn warning(&mut self, text: impl AsRef<str>) {
        self.say(Verbosity::Normal, &format!("warning: {}", text.as_ref()));
    }

    /// Narration.
    pub fn note(&mut self, text: impl AsRef<str>) {
        self.say(Verbosity::Normal, text.as_ref());
    }

    /// How far something is: one line that is written over on a terminal, a line each time elsewhere; `None` ends it.
    pub fn progress(&mut self, text: Option<&str>) {
        let shown = self.verbosity >= Verbosity::Normal;
        // Narration that cannot be written must not stop a handover half-way.
        let _ = match text {
            Some(text) if shown && self.terminal => {
                write!(self.err, "\r{text}\x1b[K").and_then(|()| self.err.flush())
            }
            Some(text) if shown => writeln!(self.err, "{text}"),
            None if shown && self.on_a_line => writeln!(self.err),
            _ => Ok(()),
        };
        self.on_a_line = text.is_some() && self.terminal;
    }

    /// Detail for `-v`.
    pub fn detail(&mut self, text: impl AsRef<str>) {
        self.say(Verbosity::Verbose, text.as_ref());
    }

    /// The reason of a failure; shown under `-q` as well.
    pub fn error(&mut self, text: impl AsRef<str>) {
        self.say(Verbosity::Quiet, &format!("tenure: {}", text.as_ref()));
    }

    /// Asks before something that can fence somebody. Without a terminal nobody can answer: refused.
    ///
    /// # Errors
    /// [`Exit::Refused`](crate::exit::Exit::Refused) unless the answer is yes.
    pub fn confirm(&mut self, question: &str) -> Result<(), Failure> {
        if !self.interactive {
            return Err(Failure::refused(format!(
                "{question}\nThere is no terminal to ask on; give --yes if that is intended"
            )));
        }
        let asked = write!(self.err, "{question}\nGo on? [y/N] ").and_then(|()| self.err.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| io::stdin().read_line(&mut answer));
        match (read, answer.trim().to_lowercase().as_str()) {
            (Ok(_), "y" | "yes") => Ok(()),
            _ => Err(Failure::refused("not confirmed; nothing was sent")),
        }
    }

    // Narration that cannot be written must not stop a handover half-way.
    fn say(&mut self, level: Verbosity, text: &str) {
        if self.verbosity >= level {
            let _ = writeln!(self.err, "{text}");
        }
    }
}

#[cfg(test)]
pub mod tests {
    //! A console that remembers, and what the console promises.

    use super::*;
    use std::sync::{Arc, Mutex};

    /// Keeps what was written.
    #[derive(Clone, Default)]
    pub struct Kept(pub Arc<Mutex<Vec<u8>>>);

    impl Kept {
        /// What was written so far.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Fails every write with one kind of error.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn with_out(out: impl Write + Send + 'static) -> Console {
        Console::new(Box::new(out), Box::new(io::sink()), Verbosity::Normal)
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let mut console = with_out(Broken(ErrorKind::BrokenPipe));
        assert!(console.data("x").is_ok());
        assert!(console.data("y").is_ok());
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        assert!(with_out(Broken(ErrorKind::StorageFull)).data("x").is_err());
    }

    #[test]
    fn quiet_keeps_errors_and_drops_narration() {
        let kept = Kept::default();
        let mut console = Console::new(Box::new(io::sink()), Box::new(kept.clone()), Verbosity::Quiet);
        console.note("narration");
        console.warning("careful");
        console.error("broken");
        assert_eq!(kept.text(), "tenure: broken\n");
    }

    #[test]
    fn without_a_terminal_confirmation_is_refused_and_says_how() {
        let failure = with_out(io::sink()).confirm("CLEAR removes 3 registrations").unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Refused);
        assert!(failure.to_string().contains("--yes"), "{failure}");
    }
}
