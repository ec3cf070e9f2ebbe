//! The helper's socket: made at `-k`, or passed by the service manager (sd_listen_fds(3)).

use super::error::StartError;
use super::options::Options;
use crate::listening::{Made, listen};
use listenfd::ListenFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Characters after which libvirt cuts a domain's name in the names of its directories. A name of fewer bytes is whole.
const LIBVIRT_NAME: usize = 20;

/// A socket that is listened on.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    owner: String,
    made: Option<Made>,
}

impl Socket {
    /// The socket that was passed, else the one the options name.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        match activated(options)? {
            Some(_) if options.socket.is_some() => Err(StartError::BothSockets),
            Some(listener) => Self::passed(listener),
            None => Self::bind(&options.socket.clone().unwrap_or_else(|| options.name.socket().into())),
        }
    }

    fn passed(listener: UnixListener) -> Result<Self, StartError> {
        let address = listener.local_addr().map_err(StartError::Activated)?;
        let path = address.as_pathname().map(Path::to_owned);
        let path = path.or_else(|| Some(abstract_name(&address)?.into())).ok_or(StartError::NoOwner)?;
        Ok(Self { listener, owner: owner(&path), path, made: None })
    }

    fn bind(path: &Path) -> Result<Self, StartError> {
        if !path.is_absolute() {
            return Err(StartError::RelativeSocket(path.to_owned()));
        }
        let (listener, made) = listen(path)?;
        Ok(Self { listener, path: path.to_owned(), owner: owner(path), made: Some(made) })
    }

    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose record is kept where `--vm` does not say.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The file that is removed at the end; none if the service manager has made it.
    pub(super) fn made(&self) -> Option<&Path> {
        self.made.as_ref().map(Made::path)
    }
}

/// What the service manager passed to this process, or to the one that sent it to the background.
fn activated(options: &Options) -> Result<Option<UnixListener>, StartError> {
    let ours = match std::env::var("LISTEN_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => options.detached,
    };
    if !ours {
        return Ok(None);
    }
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => Ok(None),
        1 => passed.take_unix_listener(0).map_err(StartError::Activated),
        many => Err(StartError::TooManySockets(many)),
    }
}

fn abstract_name(address: &std::os::unix::net::SocketAddr) -> Option<String> {
    use std::os::linux::net::SocketAddrExt;
    address.as_abstract_name().map(|name| format!("@{}", name.escape_ascii()))
}

/// Whose record is kept under this path: the path, but for what libvirt puts into it at each start of a domain. A path that is
/// no text is escaped, and says so: no other, which begins with a slash, becomes the same.
fn owner(path: &Path) -> String {
    match path.to_str() {
        Some(text) => without_domain_number(text).unwrap_or_else(|| text.to_owned()),
        None => format!("bytes:{}", path.as_os_str().as_encoded_bytes().escape_ascii()),
    }
}

/// libvirt's socket is in `domain-NUMBER-NAME`, with another number each time the domain starts. Without it the record lasts
/// over restarts; the directories above tell one libvirt's domains from another's. A name as long as libvirt makes them at most
/// may be cut, and then be another domain's as well: the number stays.
fn without_domain_number(path: &str) -> Option<String> {
    let (directory, file) = path.rsplit_once('/')?;
    let (above, parent) = directory.rsplit_once('/')?;
    let (number, name) = parent.strip_prefix("domain-")?.split_once('-')?;
    if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) || name.is_empty() {
        return None;
    }
    if name.len() >= LIBVIRT_NAME {
        tracing::info!("libvirt may have cut the domain's name: each start of it has records of its own");
        return None;
    }
    Some(format!("{above}/domain-{name}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(path: &str) -> String {
        owner(Path::new(path))
    }

    #[test]
    fn a_domain_that_libvirt_starts_again_keeps_its_record() {
        let path = |number| format!("/var/lib/libvirt/qemu/domain-{number}-db/pr-helper0.sock");
        assert_eq!(owner_of(&path(1)), "/var/lib/libvirt/qemu/domain-db/pr-helper0.sock");
        assert_eq!(owner_of(&path(1)), owner_of(&path(23)));
        assert_eq!(owner_of("/l/domain-4-2-a/s"), "/l/domain-2-a/s");
    }

    #[test]
    fn domains_whose_names_libvirt_may_have_cut_and_other_libvirts_share_none() {
        let cut = format!("/l/domain-1-{}/s", "a".repeat(LIBVIRT_NAME));
        let whole = format!("/l/domain-1-{}/s", "a".repeat(LIBVIRT_NAME - 1));
        assert_eq!(owner_of(&cut), cut);
        assert_ne!(owner_of(&whole), whole);
        assert_ne!(owner_of("/root/.config/libvirt/qemu/lib/domain-1-a/s"), owner_of("/l/domain-1-a/s"));
    }

    #[test]
    fn every_other_path_is_the_owner_as_it_is() {
        for path in [
            "/run/pr.sock",
            "/domain-1-a",
            "/domain--a/s",
            "/domain-1-/s",
            "/domain-x1-a/s",
            "/domain-1-a/b/s",
        ] {
            assert_eq!(owner_of(path), path);
        }
        use std::os::unix::ffi::OsStrExt;
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/run/\xFF"));
        assert_eq!(owner(odd), "bytes:/run/\\xff");
    }
}
