//! A client of QEMU's pr-manager protocol that waits for each reply, and the disks it sends.

use anyhow::{Result, ensure};
use pr_helper::wire::{CDB_LENGTH, DATA_LENGTH_MAX, Features, REPLY_LENGTH, ReplyHeader};
use rustix::fd::AsFd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use scsi::{DataPhase, Request};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection, and the disk that its commands are for.
pub(super) struct Client {
    stream: UnixStream,
    disk: File,
    reply: Vec<u8>,
}

impl Client {
    /// Connects and asks for no features.
    pub(super) fn connect(socket: &Path, disk: usize) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.read_exact(&mut [0; 4])?;
        stream.write_all(&Features::default().to_bytes())?;
        let number = u64::try_from(disk)?;
        ensure!(number < null_sg::DISKS, "there are only {} disks", null_sg::DISKS);
        let disk = tempfile::tempfile()?;
        disk.set_len(null_sg::file_size(number))?;
        Ok(Self { stream, disk, reply: vec![0; REPLY_LENGTH + DATA_LENGTH_MAX] })
    }

    /// Sends a command and takes its reply, which must be GOOD.
    pub(super) fn execute(&mut self, message: &[u8]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.disk.as_fd()];
        ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for a descriptor");
        let sent = sendmsg(&self.stream, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        ensure!(sent == message.len(), "a command was sent in parts");
        let header = self.take_reply()?;
        ensure!(header.status.is_good(), "{message:02x?} ended {}", header.status);
        Ok(())
    }

    fn take_reply(&mut self) -> Result<ReplyHeader> {
        let (mut have, mut want) = (0, REPLY_LENGTH);
        while have < want {
            let read = self.stream.read(self.reply.get_mut(have..).unwrap_or_default())?;
            ensure!(read > 0, "the helper closed the connection");
            have += read;
            if let Some(head) = self.reply.first_chunk().filter(|_| have >= REPLY_LENGTH) {
                want = REPLY_LENGTH + ReplyHeader::parse(head)?.payload;
            }
        }
        let head = self.reply.first_chunk().filter(|_| have == want);
        Ok(ReplyHeader::parse(head.ok_or_else(|| anyhow::anyhow!("more than a reply came"))?)?)
    }
}

/// A command as it is sent: its CDB, padded, and its parameter list.
pub(super) fn message(request: &Request) -> Vec<u8> {
    let mut message = request.cdb.clone();
    message.resize(CDB_LENGTH, 0);
    if let DataPhase::Out(list) = &request.data {
        message.extend(list);
    }
    message
}
