//! `-T`: traces by name. The names are close to those of QEMU's own client and helper.

use super::error::StartError;
use crate::DocumentError;
use crate::policy::Globs;
use std::path::{Path, PathBuf};

/// Every trace there is. They are events of the level TRACE whose name this is.
pub(super) const NAMES: [&str; 4] =
    ["pr_helper_connect", "pr_helper_execute", "pr_helper_done", "pr_helper_disconnect"];

/// Which traces are wanted, and where they go.
#[derive(Debug, Default)]
pub(super) struct Trace {
    on: [bool; NAMES.len()],
    pub(super) file: Option<PathBuf>,
    /// Names that no trace has, for a warning; of a pattern that is as good as any other.
    pub(super) unknown: Vec<String>,
}

impl Trace {
    /// Reads what was given, one text for each `-T`: comma-separated patterns, `events=FILE` with one on each line, and
    /// `file=FILE`. A pattern behind `-` takes traces out again.
    pub(super) fn parse(given: &[String]) -> Result<Self, StartError> {
        let mut trace = Self::default();
        for part in
            given.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty())
        {
            match part.split_once('=') {
                None => trace.switch(part),
                Some(("enable", pattern)) => trace.switch(pattern),
                Some(("events", file)) => trace.switch_all(Path::new(file))?,
                Some(("file", file)) => trace.file = Some(super::absolute(Path::new(file))),
                Some((other, _)) => return Err(StartError::Trace(other.to_owned())),
            }
        }
        Ok(trace)
    }

    fn switch_all(&mut self, file: &Path) -> Result<(), StartError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| DocumentError::Unreadable { path: file.to_owned(), source })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.for_each(|pattern| self.switch(pattern));
        Ok(())
    }

    fn switch(&mut self, pattern: &str) {
        if !pattern.contains(['*', '?']) && !NAMES.contains(&pattern.trim_start_matches('-')) {
            self.unknown.push(pattern.to_owned());
        }
        let (on, pattern) = pattern.strip_prefix('-').map_or((true, pattern), |pattern| (false, pattern));
        let pattern = Globs::One(pattern.to_owned());
        for (state, name) in self.on.iter_mut().zip(NAMES) {
            if pattern.matches(name) {
                *state = on;
            }
        }
    }

    /// Whether the trace of this name is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.on.iter().zip(NAMES).any(|(&on, known)| on && known == name)
    }

    /// Whether any is.
    pub(super) fn any(&self) -> bool {
        self.on.contains(&true)
    }
}

/// All names, one on a line.
pub(super) fn list() -> String {
    NAMES.map(|name| format!("{name}\n")).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(given: &[&str]) -> Vec<&'static str> {
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        let trace = Trace::parse(&given).unwrap();
        NAMES.into_iter().filter(|name| trace.wants(name)).collect()
    }

    #[test]
    fn patterns_switch_on_and_off_in_their_order() {
        assert_eq!(wanted(&["*"]), NAMES);
        assert_eq!(wanted(&["enable=pr_helper_*connect", "pr_helper_done"]), [NAMES[0], NAMES[2], NAMES[3]]);
        assert_eq!(wanted(&["*,-pr_helper_??????t"]), [NAMES[1], NAMES[2], NAMES[3]]);
        assert_eq!(wanted(&["qio_*"]), [] as [&str; 0]);
        let unknown = Trace::parse(&["pr_*,pr_helper_dnoe,-pr_helper_done".into()]).unwrap().unknown;
        assert_eq!(unknown, ["pr_helper_dnoe"]);
    }

    #[test]
    fn patterns_can_come_from_a_file_and_lines_go_to_one() {
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("events");
        std::fs::write(&events, "# all\npr_helper_*\n\n-pr_helper_done\n").unwrap();
        let given = format!("events={},file=/x", events.display());
        assert_eq!(wanted(&[&given]), [NAMES[0], NAMES[1], NAMES[3]]);
        assert_eq!(Trace::parse(&[given]).unwrap().file, Some("/x".into()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let said = |given: &str| Trace::parse(&[given.into()]).unwrap_err().to_string();
        assert!(said("format=json").contains("format="));
        assert!(said("events=/no/such").starts_with("cannot read /no/such"));
    }
}
