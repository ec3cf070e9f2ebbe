//! QEMU's end of a helper's socket, as a nexus: what a guest's PERSISTENT RESERVE commands go through.

use nexus::{Nexus, TransportError};
use pr_helper::wire::{CDB_LENGTH, FEATURES_LENGTH, Features, REPLY_LENGTH, ReplyHeader};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use scsi::{Completion, DataPhase, Request};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A guest's disk behind a helper.
#[derive(Debug)]
pub struct QemuEnd {
    socket: PathBuf,
    disk: File,
}

impl QemuEnd {
    /// The disk `node`, behind the helper that listens at `socket`.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn new(socket: &Path, node: &Path) -> io::Result<Self> {
        let disk = File::options().read(true).write(true).open(node)?;
        Ok(Self { socket: socket.to_owned(), disk })
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.read_exact(&mut [0; FEATURES_LENGTH])?;
        stream.write_all(&Features::default().to_bytes())?;
        Ok(stream)
    }

    fn exchange(&self, mut stream: UnixStream, request: &Request) -> io::Result<Completion> {
        let mut cdb = request.cdb.clone();
        cdb.resize(CDB_LENGTH, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let disk = [self.disk.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&disk));
        let sent = sendmsg(&stream, &[IoSlice::new(&cdb)], &mut control, SendFlags::NOSIGNAL)?;
        stream.write_all(cdb.get(sent..).unwrap_or_default())?;
        if let DataPhase::Out(list) = &request.data {
            stream.write_all(list)?;
        }
        let mut header = [0; REPLY_LENGTH];
        stream.read_exact(&mut header)?;
        let header = ReplyHeader::parse(&header).map_err(io::Error::other)?;
        let mut data = vec![0; header.payload];
        stream.read_exact(&mut data)?;
        Ok(Completion { status: header.status, sense: header.sense.to_vec(), data })
    }
}

impl Nexus for QemuEnd {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        let stream = self.connect().map_err(TransportError::NotSent)?;
        self.exchange(stream, request).map_err(TransportError::OutcomeUnknown)
    }
}
