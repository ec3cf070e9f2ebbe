//! The log of `tenure agent` and `tenure device`: one line on standard error for each event, with a priority where the journal reads them.

use crate::console::Verbosity;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Characters of a line at most: what a peer says is in some.
const LONGEST: usize = 1000;

/// Takes the events of all threads from now on.
pub(super) fn to_standard_error(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::ERROR,
        Verbosity::Normal => LevelFilter::INFO,
        Verbosity::Verbose => LevelFilter::DEBUG,
    };
    // Fails if there is one already, which then stays: in a test, say.
    let _ = tracing::subscriber::set_global_default(Log { level, journal: is_journal() });
}

/// Whether standard error is the stream that `JOURNAL_STREAM` names: the variable is inherited also where the stream is not.
fn is_journal() -> bool {
    let stream =
        std::fs::metadata("/proc/self/fd/2").map(|stream| format!("{}:{}", stream.dev(), stream.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| stream.is_ok_and(|stream| stream == named))
}

struct Log {
    level: LevelFilter,
    journal: bool,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let line = line(event, self.journal);
        // What cannot be logged stops nobody.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn line(event: &Event<'_>, journal: bool) -> String {
    let mut text = Text::default();
    event.record(&mut text);
    let Text { message, fields } = text;
    let whole = format!("{message}{fields}");
    let clean = whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST);
    let (severity, word) = match *event.metadata().level() {
        Level::ERROR => (3, "error: "),
        Level::WARN => (4, "warning: "),
        Level::INFO => (6, ""),
        _ => (7, ""),
    };
    let prefix = if journal { format!("<{severity}>") } else { format!("tenure agent: {word}") };
    format!("{prefix}{}\n", clean.collect::<String>())
}

/// The message, then `name=value` for each field.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
