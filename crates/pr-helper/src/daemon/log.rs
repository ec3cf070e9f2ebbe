//! The log: one line for each event, on standard error, where `qemu-pr-helper` puts it; in the system log, where nobody reads that:
//! in the background, and under libvirt, which reads what goes wrong at the start and then closes its end.
//!
//! Much of what is logged a guest can cause at any rate, so lines are limited: a burst, then a count of those left out. Errors
//! have a limit of their own. Traces that were asked for by name are not limited. Small on purpose: the privileged
//! program needs no more than this of a subscriber.

use super::error::StartError;
use super::name::Name;
use super::options::Options;
use super::trace::Trace;
use guard::limit::Limit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Characters of a line at most.
const LONGEST: usize = 600;
/// Lines that are written at once, and per second for ever.
const BURST: u32 = 100;
const PER_SECOND: u32 = 5;
/// The system log (syslog(3)), also as it is seen where libvirt has put a /dev of its own, and its facility for daemons.
const SYSTEM_LOG: [&str; 2] = ["/dev/log", "/run/systemd/journal/dev-log"];
const FACILITY: u8 = 3 << 3;

/// Where lines go, and which.
pub(super) struct Log {
    name: Name,
    level: LevelFilter,
    trace: Trace,
    trace_file: Option<File>,
    /// Standard error is the journal's, which reads a priority from `<N>` in front of a line.
    journal: bool,
    system: Option<UnixDatagram>,
    /// The terminal is gone.
    away: AtomicBool,
    limits: Mutex<Limits>,
}

struct Limits {
    errors: Limit,
    others: Limit,
}

impl Log {
    /// Takes the events of all threads from now on.
    pub(super) fn install(options: &mut Options) -> Result<&'static Self, StartError> {
        let trace = std::mem::take(&mut options.trace);
        let trace_file = trace.file.as_deref().map(append).transpose()?;
        let now = Instant::now();
        let limit = || Limit::new(BURST, PER_SECOND, now);
        let log: &'static Self = Box::leak(Box::new(Self {
            name: options.name,
            level: options.level,
            trace,
            trace_file,
            journal: std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == standard_error()),
            system: SYSTEM_LOG.iter().find_map(|path| system_log(path).ok()),
            away: AtomicBool::new(false),
            limits: Mutex::new(Limits { errors: limit(), others: limit() }),
        }));
        // Fails if there is one already, which then stays: in a test, say.
        let _ = tracing::subscriber::set_global_default(Listening(log));
        for name in &log.trace.unknown {
            tracing::warn!("trace event {name:?} does not exist; see -T help");
        }
        Ok(log)
    }

    /// Standard error is no longer there.
    pub(super) fn leave_terminal(&self) {
        self.away.store(true, Ordering::Relaxed);
    }

    /// How many lines were left out before this one; `None` to leave this one out too.
    fn admit(&self, level: Level) -> Option<u64> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = if level == Level::ERROR { &mut limits.errors } else { &mut limits.others };
        limit.admit(Instant::now())
    }

    /// What cannot be logged stops nobody.
    fn write(&self, level: Level, text: &str) {
        if self.away.load(Ordering::Relaxed) || self.print(level, text).is_err() {
            let line =
                format!("<{}>{}[{}]: {text}", FACILITY | severity(level), self.name, std::process::id());
            let _ = self.system.as_ref().map(|system| system.send(line.as_bytes()));
        }
    }

    /// One write, of less than a pipe takes whole, and only where it is taken at once: a pipe that nobody reads must not hold
    /// up the guest whose command is logged.
    fn print(&self, level: Level, text: &str) -> io::Result<()> {
        let (name, severity) = (self.name, severity(level));
        let line = match self.journal {
            true => format!("<{severity}>{name}: {text}\n"),
            false => format!("{name}: {}{text}\n", word(level)),
        };
        let mut stderr = io::stderr().lock();
        let mut room = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut room, Some(&Timespec::default()))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => stderr.write_all(line.as_bytes()),
        }
    }

    fn is_trace(&self, metadata: &Metadata<'_>) -> bool {
        self.trace.any() && self.trace.wants(metadata.name())
    }
}

fn append(path: &Path) -> Result<File, StartError> {
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|source| StartError::TraceFile { path: path.to_owned(), source })
}

fn system_log(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// As `JOURNAL_STREAM` names the journal's stream: the variable is inherited also where the stream is not.
fn standard_error() -> String {
    rustix::fs::fstat(io::stderr())
        .map(|stream| format!("{}:{}", stream.st_dev, stream.st_ino))
        .unwrap_or_default()
}

/// Severities of the system log.
const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// What `qemu-pr-helper` puts in front.
const fn word(level: Level) -> &'static str {
    match level {
        Level::WARN => "warning: ",
        Level::INFO => "info: ",
        _ => "",
    }
}

/// The process's subscriber.
struct Listening(&'static Log);

impl Subscriber for Listening {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0.level || self.0.is_trace(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.trace.any() { LevelFilter::TRACE } else { self.0.level })
    }

    fn event(&self, event: &Event<'_>) {
        let (log, metadata) = (self.0, event.metadata());
        let text = line(event);
        if log.is_trace(metadata) {
            match &log.trace_file {
                Some(file) => {
                    let mut file: &File = file;
                    let _ = writeln!(file, "{text}");
                }
                None => log.write(Level::TRACE, &text),
            }
        } else if let Some(left_out) = log.admit(*metadata.level()) {
            if left_out > 0 {
                log.write(Level::WARN, &format!("{left_out} lines left out"));
            }
            log.write(*metadata.level(), &text);
        }
    }

    // There are no spans in this program.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message, or the trace's name, then the fields.
fn line(event: &Event<'_>) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    if text.message.is_empty() {
        text.message.push_str(event.metadata().name());
    }
    let line = text.message + &text.fields;
    // Names of devices and clients may be in it, and one event is one line.
    line.chars().take(LONGEST).fold(String::with_capacity(line.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes everything that is written to it.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let _ = match field.name() {
            name @ ("cmd" | "sa" | "status") => write!(self.fields, " {name}=0x{value:02x}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn away_from_its_terminal_it_speaks_to_the_system_log() {
        let (system, daemon) = UnixDatagram::pair().unwrap();
        let (now, limit) = (Instant::now(), Limit::new(BURST, PER_SECOND, Instant::now()));
        let log = Log {
            name: Name::Tenure,
            level: LevelFilter::WARN,
            trace: Trace::default(),
            trace_file: None,
            journal: false,
            system: Some(system),
            away: AtomicBool::new(false),
            limits: Mutex::new(Limits { errors: Limit::new(1, 1, now), others: limit }),
        };
        log.leave_terminal();
        log.write(Level::WARN, "careful");
        let mut line = [0; 100];
        let length = daemon.recv(&mut line).unwrap();
        let expected = format!("<28>tenure-pr-helper[{}]: careful", std::process::id());
        assert_eq!(String::from_utf8_lossy(&line[..length]), expected);
        assert_eq!((log.admit(Level::ERROR), log.admit(Level::ERROR)), (Some(0), None));
        assert_eq!(log.admit(Level::WARN), Some(0), "errors do not use up what others may");
    }
}
