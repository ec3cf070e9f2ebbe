//! The kernel, this process, the helper's configuration, socket and state directory.

use super::Finding;
use rustix::fs::{Access, access};
use rustix::thread::{CapabilitySet, capabilities};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The helper sends its features at once.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn seccomp() -> Finding {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Finding::ok("seccomp", "the kernel has filters")
        }
        _ => Finding::warn(
            "seccomp",
            "the kernel has no filters",
            "the helper works without; use a kernel with CONFIG_SECCOMP_FILTER to have its system calls limited",
        ),
    }
}

pub(super) fn landlock() -> Finding {
    if pr_helper::privilege::has_landlock() {
        return Finding::ok("landlock", "the kernel has it");
    }
    Finding::warn(
        "landlock",
        "the kernel has none, or it is off",
        "the helper works without; add landlock to the lsm= boot option to have its files limited",
    )
}

pub(super) fn capability() -> Finding {
    match capabilities(None) {
        Ok(sets) if sets.effective.contains(CapabilitySet::SYS_RAWIO) => Finding::ok("CAP_SYS_RAWIO", "held"),
        _ => Finding::warn(
            "CAP_SYS_RAWIO",
            "not held by this process",
            "run as root to see what the helper sees; SG_IO takes it for PERSISTENT RESERVE OUT",
        ),
    }
}

/// The file and the policy that it names, as a helper reads them that starts now.
pub(super) fn configuration(path: Option<&Path>) -> Finding {
    let check =
        path.map_or_else(|| "configuration".to_owned(), |path| format!("configuration {}", path.display()));
    match pr_helper::daemon::check_configuration(path) {
        Ok(found) => Finding::ok(check, found),
        Err(why) => {
            Finding::fail(check, why, "mend the file: no helper starts, and no domain of libvirt, until then")
        }
    }
}

pub(super) fn socket(path: &Path) -> Finding {
    let check = format!("socket {}", path.display());
    match features(path) {
        Ok(features) => Finding::ok(check, format!("a helper answers, features {features:#010x}")),
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::warn(check, "not there", absent(path)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::fail(check, error.to_string(), "add the user that QEMU runs as to the socket's group")
        }
        Err(error) => Finding::fail(
            check,
            format!("no helper answers: {error}"),
            "look at journalctl -u tenure-pr-helper, and start it again",
        ),
    }
}

/// Who would make the socket.
fn absent(path: &Path) -> &'static str {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    if has("libvirt") {
        "start the domain: libvirt makes the socket by starting the helper that its qemu.conf names (pr_helper)"
    } else if has("tenure") {
        "systemctl enable --now tenure-pr-helper.socket"
    } else {
        "start the helper with -k and this path, or give doctor the path of the one that runs with --socket"
    }
}

/// The features word, with which a helper greets (QEMU's pr-helper protocol).
fn features(path: &Path) -> io::Result<u32> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    Ok(u32::from_be_bytes(word))
}

pub(super) fn state(path: &Path) -> Finding {
    let check = format!("state {}", path.display());
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            Finding::fail(check, "not a directory", "remove it, or give --state another directory")
        }
        Ok(found) if found.mode() & 0o077 != 0 => Finding::warn(
            check,
            format!("others may look into it (mode {:04o})", found.mode() & 0o7777),
            "chmod 0700 the directory: keys and guests' names are in it",
        ),
        Ok(_) if access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() => Finding::fail(
            check,
            "this process cannot write there",
            "run doctor as the user the helper starts as; else mount the file system writable, or give another --state",
        ),
        Ok(found) => Finding::ok(check, format!("there, user {}'s alone, can be written", found.uid())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Finding::ok(check, "not there yet; the helper makes it when it starts")
        }
        Err(error) => {
            Finding::fail(check, error.to_string(), "give the helper a directory it may enter, with --state")
        }
    }
}
