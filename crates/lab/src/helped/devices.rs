//! Files in the place of device nodes: whoever has one open for writing may send commands to the logical unit that it names.

use super::{Came, Disk, Wanted};
use nexus::{Nexus, TransportError};
use pr_helper::failure;
use pr_helper::opening::{OpenLun, Opened, identify};
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_getfl};
use scsi::{Completion, DataPhase, Request, Status, TransportId};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any text in such a file.
const TEXT: usize = 4096;
/// A command's time at the adapter, beyond the initiator's own.
const PATIENCE: Duration = Duration::from_secs(40);

/// What stands behind descriptors of such files.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDisks;

impl OpenLun for FileDisks {
    fn open(&self, fd: OwnedFd, changes: bool) -> Result<Opened, Completion> {
        let writable = fcntl_getfl(&fd).is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR));
        if changes && !writable {
            return Err(failure::not_allowed());
        }
        let disk = read(fd).ok_or_else(failure::not_a_device)?;
        let node = format!("{}#{}", disk.adapter.display(), disk.unit);
        let mut nexus = FileNexus { disk, stream: None };
        let identity = identify(&mut nexus, node)?.map(Arc::new);
        Ok(Opened { identity, nexus: Box::new(nexus), multipath: false })
    }
}

/// Whoever passed the descriptor has its place in the file: read from the beginning.
fn read(fd: OwnedFd) -> Option<Disk> {
    let mut text = vec![0; TEXT];
    let length = std::fs::File::from(fd).read_at(&mut text, 0).ok()?;
    serde_json::from_slice(text.get(..length)?).ok()
}

/// A logical unit through the adapter.
#[derive(Debug)]
struct FileNexus {
    disk: Disk,
    stream: Option<BufReader<UnixStream>>,
}

impl FileNexus {
    fn connection(&mut self) -> io::Result<&mut BufReader<UnixStream>> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.disk.adapter)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn exchange(&mut self, line: &str) -> io::Result<Came> {
        let stream = self.connection()?;
        stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Nexus for FileNexus {
    fn execute(&mut self, request: &Request) -> Result<Completion, TransportError> {
        self.connection().map_err(TransportError::NotSent)?;
        let (out, allocation) = match &request.data {
            DataPhase::Out(list) => (Some(list.clone()), 0),
            DataPhase::In(length) => (None, *length),
            DataPhase::None => (None, 0),
        };
        let wanted = Wanted { unit: self.disk.unit, cdb: request.cdb.clone(), out, allocation };
        let line =
            serde_json::to_string(&wanted).map_err(|error| TransportError::NotSent(error.into()))? + "\n";
        match self.exchange(&line).map_err(TransportError::OutcomeUnknown)? {
            Came::Completed { status, sense, data } => Ok(Completion { status: Status(status), sense, data }),
            Came::NotSent(why) => Err(TransportError::NotSent(io::Error::other(why))),
            Came::Unknown(why) => Err(TransportError::OutcomeUnknown(io::Error::other(why))),
        }
    }

    fn initiator_port(&self) -> Option<TransportId> {
        self.disk.port.parse().ok()
    }
}
