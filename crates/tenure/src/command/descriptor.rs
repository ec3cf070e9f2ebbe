//! A file descriptor that `tenure` inherited, for the agent: what `tenure migrate --fd` has QEMU send into.

use crate::exit::Failure;
use anyhow::Context;
use qmp::{Client, Object};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// What the agent knows it by.
pub(super) const NAME: &str = "stream";

/// Gives it to the agent, over the connection over which it is asked to migrate.
///
/// # Errors
/// If this process has no such descriptor, or the agent does not take it.
pub(super) fn give(client: &Client, number: u16, deadline: Instant) -> Result<(), Failure> {
    let stream = inherited(number).map_err(|error| {
        Failure::usage(format!("--fd {number}: no such descriptor was inherited: {error}"))
    })?;
    let arguments = Object::from_iter([("fdname".to_owned(), NAME.into())]);
    client.execute_with_fd("getfd", arguments, &stream, deadline).context("the agent")?;
    Ok(())
}

/// A copy of a descriptor of this process, which a number alone does not own.
fn inherited(number: u16) -> rustix::io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number.into(), PidfdGetfdFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_inherited_descriptor_is_the_same_open_file_and_a_missing_one_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let copy = inherited(u16::try_from(ours.as_raw_fd()).unwrap()).unwrap();
        UnixStream::from(copy).write_all(b"stream").unwrap();
        let mut told = [0; 6];
        theirs.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"stream");
        assert!(inherited(u16::MAX).is_err());
    }
}
