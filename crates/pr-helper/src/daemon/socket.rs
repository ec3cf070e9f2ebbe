//! The helper's socket: made at `-k`, or passed by the service manager (sd_listen_fds(3)).

use super::error::StartError;
use super::options::Options;
use crate::listening::{Made, listen};
use listenfd::ListenFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

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

/// The path as it is; one that is no text is escaped, so that no other becomes the same.
fn owner(path: &Path) -> String {
    path.to_str()
        .map_or_else(|| path.as_os_str().as_encoded_bytes().escape_ascii().to_string(), str::to_owned)
}
