//! What arrives on the socket, and who answers it: the seam between the protocol and everything behind it.

use rustix::fd::OwnedFd;
use scsi::Completion;

/// Who asks, as the kernel and /proc say. Shown in the audit, never trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Process at the time of connecting.
    pub pid: Option<u32>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The process's name.
    pub name: String,
}

/// One PERSISTENT RESERVE IN or OUT.
#[derive(Debug)]
pub struct Command {
    /// The CDB, zero-padded.
    pub cdb: [u8; 16],
    /// Parameter list of PERSISTENT RESERVE OUT; less than the CDB says where the protocol carries no more
    /// ([`Header::is_cut`](crate::wire::Header::is_cut)).
    pub data_out: Vec<u8>,
    /// The device, as the client opened it.
    pub fd: OwnedFd,
}

/// Carries out what arrives. One call per request, from many threads at once.
pub trait Serve: Send + Sync {
    /// Carries out one command. The data of the completion is at most what the CDB allows.
    fn serve(&self, caller: &Caller, command: Command) -> Completion;

    /// The client moved away and asks that nothing of it be registered again behind its back (operation code FFh).
    fn cleanup(&self, caller: &Caller, fd: OwnedFd) -> Completion;
}
