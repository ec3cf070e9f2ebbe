//! The bytes of a link: TLS over TCP, or a Unix socket, with a deadline for each call however slowly bytes drip.

use qmp::Stream;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A socket whose reads and writes end at a moment, not after a span: TLS may need many for one of its caller's.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    socket: S,
    read_by: Option<Instant>,
    write_by: Option<Instant>,
}

/// What [`Timed`] needs of a socket.
pub(crate) trait Socket: Read + Write {
    fn read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn end(&self);
}

macro_rules! socket {
    ($socket:ty) => {
        impl Socket for $socket {
            fn read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(timeout)
            }

            fn write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                self.set_write_timeout(timeout)
            }

            fn end(&self) {
                // It may be gone already, which is just as well.
                let _ = self.shutdown(Shutdown::Both);
            }
        }
    };
}
socket!(TcpStream);
socket!(UnixStream);

impl<S: Socket> Timed<S> {
    /// Without a deadline yet.
    pub(crate) const fn new(socket: S) -> Self {
        Self { socket, read_by: None, write_by: None }
    }

    /// Until when everything has to be done.
    pub(crate) const fn due(&mut self, by: Option<Instant>) {
        (self.read_by, self.write_by) = (by, by);
    }
}

fn left(by: Option<Instant>) -> io::Result<Option<Duration>> {
    let left = by.map(|by| by.saturating_duration_since(Instant::now()));
    match left {
        // Less than that is "for ever" to the kernel.
        Some(left) if left < Duration::from_micros(1) => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

impl<S: Socket> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read_timeout(left(self.read_by)?)?;
        self.socket.read(buffer)
    }
}

impl<S: Socket> Write for Timed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write_timeout(left(self.write_by)?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One end of a link.
#[derive(Debug)]
pub(crate) enum Wire {
    /// The caller's end over TCP.
    Caller(Box<StreamOwned<ClientConnection, Timed<TcpStream>>>),
    /// The listener's end over TCP.
    Listener(Box<StreamOwned<ServerConnection, Timed<TcpStream>>>),
    /// Either end on one host.
    Local(Timed<UnixStream>),
}

trait Both: Read + Write {}
impl<S: Read + Write> Both for S {}

impl Wire {
    fn stream(&mut self) -> &mut dyn Both {
        match self {
            Self::Caller(stream) => stream,
            Self::Listener(stream) => stream,
            Self::Local(stream) => stream,
        }
    }

    fn by(&mut self) -> (&mut Option<Instant>, &mut Option<Instant>) {
        match self {
            Self::Caller(stream) => (&mut stream.sock.read_by, &mut stream.sock.write_by),
            Self::Listener(stream) => (&mut stream.sock.read_by, &mut stream.sock.write_by),
            Self::Local(stream) => (&mut stream.read_by, &mut stream.write_by),
        }
    }

    /// Ends it: says so first, as far as that does not take long.
    pub(crate) fn close(&mut self, within: Duration) {
        *self.by().1 = Instant::now().checked_add(within);
        match self {
            Self::Caller(stream) => stream.conn.send_close_notify(),
            Self::Listener(stream) => stream.conn.send_close_notify(),
            Self::Local(_) => {}
        }
        // The other end finds out either way.
        let _ = self.stream().flush();
        match self {
            Self::Caller(stream) => stream.sock.socket.end(),
            Self::Listener(stream) => stream.sock.socket.end(),
            Self::Local(stream) => stream.socket.end(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream().read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream().flush()
    }
}

impl Stream for Wire {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let by = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // TLS may have to write before it can read, and the reverse.
        *self.by().0 = by;
        *self.by().1 = by;
        Ok(())
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }
}
