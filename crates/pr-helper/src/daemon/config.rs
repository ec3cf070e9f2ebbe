//! The configuration file: the options by their long names, in TOML. libvirt starts a helper with `-k` alone, so the default
//! file is where its operator says the rest. Read before privileges are dropped.

use super::error::StartError;
use super::options::Settings;
use crate::document;
use std::path::Path;

/// Read if it is there.
const DEFAULT: &str = "/etc/tenure/pr-helper.toml";

/// What the file says; nothing where there is none and none was asked for.
pub(super) fn load(path: Option<&Path>) -> Result<Settings, StartError> {
    match path {
        Some(path) => Ok(document::load(path)?),
        None if Path::new(DEFAULT).exists() => Ok(document::load(Path::new(DEFAULT))?),
        None => Ok(Settings::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, crate::DocumentError> {
        document::parse(text, Path::new("c.toml"))
    }

    #[test]
    fn every_option_has_its_key() {
        let text = "socket = '/s'\npidfile = '/p'\nuser = 'u'\ngroup = 'g'\nstate = '/st'\npolicy = '/po'\n\
                    vm = 'v'\nmetrics = 'unix:/m'\nagent-socket = '/a'\nagent-user = 'a'\ntrace = ['pr_*']\nverbose = 2\nquiet = false\n";
        let read = parse(text).unwrap();
        assert_eq!((read.vm.as_deref(), read.verbose), (Some("v"), 2));
        assert_eq!(read.metrics, "unix:/m".parse().ok());
        assert_eq!(parse("").unwrap().socket, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        let said = |text| parse(text).unwrap_err().to_string();
        assert!(said("vm = 'v'\nsockte = '/s'").starts_with("c.toml:2:1: unknown key `sockte`"));
        assert!(said("sockte = '/s'").ends_with("did you mean `socket`?"));
        assert!(said("vm = 'v'\n metrics = 'x'").starts_with("c.toml:2:12: metrics are served on"));
        assert!(said("verbose = 'x'").starts_with("c.toml:1:11: "));
    }
}
