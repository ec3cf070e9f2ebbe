//! The configuration file: the options by their long names, in TOML. libvirt starts a helper with `-k` alone, so the default
//! file is where its operator says the rest. Read before privileges are dropped.

use super::error::{StartError, told};
use super::options::Settings;
use crate::document;
use crate::policy::Rules;
use std::io::ErrorKind;
use std::path::Path;

/// Read if it is there.
const DEFAULT: &str = "/etc/tenure/pr-helper.toml";

/// What the file says; nothing where there is none and none was asked for.
pub(super) fn load(path: Option<&Path>) -> Result<Settings, StartError> {
    path.map_or_else(|| shared(Path::new(DEFAULT)), |path| Ok(document::load(path)?))
}

/// Reads the configuration and the policy that it names, as the helper would when it starts; what they come to, in words.
///
/// # Errors
/// What the helper would end with, in words.
pub fn check(path: Option<&Path>) -> Result<String, String> {
    let settings = load(path).map_err(|error| told(&error))?;
    let Some(policy) = settings.policy else { return Ok("no policy: everything is allowed".to_owned()) };
    Rules::load(&policy).map_err(|error| told(&error))?;
    Ok(format!("the policy {} can be read", policy.display()))
}

/// The file of all helpers of a host. Only one that certainly is not there says nothing: a policy that could not be read must
/// not become "everything is allowed".
fn shared(path: &Path) -> Result<Settings, StartError> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(Settings::default());
    }
    let settings: Settings = document::load(path)?;
    match settings.of_one_helper() {
        Some(key) => Err(StartError::SharedConfig { path: path.to_owned(), key }),
        None => Ok(settings),
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
    fn a_file_for_all_that_cannot_be_read_is_not_taken_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        assert!(shared(&path).is_ok());
        std::os::unix::fs::symlink("/no/such/file", &path).unwrap();
        assert!(shared(&path).is_err(), "a link that leads nowhere");
        assert!(shared(Path::new("/dev/null/c.toml")).is_err(), "no way there");
    }

    #[test]
    fn what_only_one_helper_can_have_is_not_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        for key in ["vm", "socket", "pidfile"] {
            std::fs::write(&path, format!("{key} = '/x'\n")).unwrap();
            let said = shared(&path).err().unwrap().to_string();
            assert!(said.contains(&format!("`{key}`")) && said.contains("--config"), "{said}");
            assert!(load(Some(&path)).is_ok(), "a file of its own may");
        }
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
