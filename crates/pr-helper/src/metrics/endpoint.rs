//! Where the figures are fetched: an answerer of HTTP/1.0 that knows one path and keeps nobody waiting.
//!
//! One client at a time, each with a deadline for the whole exchange and a limit on what it may send; who is slow loses
//! its connection, and costs the helper one thread and a few kilobytes at most.

use super::Metrics;
use crate::listening::{ListenError, Made, listen};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client has this long, from the first byte to the last.
const DEADLINE: Duration = Duration::from_secs(2);
/// The most a client may send.
const LARGEST_REQUEST: usize = 8192;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `ADDR` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metrics are served on PORT (loopback), IP:PORT or unix:/absolute/PATH")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(AddressError) };
        }
        let loopback = || text.parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        text.parse().ok().or_else(loopback).map(Self::Tcp).ok_or(AddressError)
    }
}

/// Why no address can be listened on.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A Unix socket.
    #[error(transparent)]
    Unix(#[from] ListenError),
    /// The address, or the place of the socket.
    #[error("cannot listen there")]
    Address(#[from] io::Error),
}

/// Listens, and answers once it is told to.
#[derive(Debug)]
pub enum Endpoint {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl Endpoint {
    /// Listens; to be done before privileges drop. A socket in the file system is removed when its [`Made`] is dropped.
    ///
    /// # Errors
    /// If the address is in use or may not be used.
    pub fn bind(address: &Address) -> Result<(Self, Option<Made>), EndpointError> {
        match address {
            Address::Tcp(address) => Ok((TcpListener::bind(address).map(Self::Tcp)?, None)),
            Address::Unix(path) => {
                let (listener, made) = listen(path)?;
                Ok((Self::Unix(listener), Some(made)))
            }
        }
    }

    /// Where it listens, if on TCP.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Answers in a thread of its own for as long as the process lives.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn serve(self, metrics: Arc<Metrics>) -> io::Result<()> {
        let answer = move || loop {
            match self.answer(&metrics) {
                // Out of descriptors, say: the next client would fail at once as well.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => std::thread::sleep(DEADLINE),
                _ => {}
            }
        };
        std::thread::Builder::new().name("metrics".into()).stack_size(256 << 10).spawn(answer).map(drop)
    }

    /// Waits for one client and answers it; what goes wrong with the client is the client's matter.
    fn answer(&self, metrics: &Metrics) -> io::Result<()> {
        let until = |now: Instant| now + DEADLINE;
        match self {
            Self::Tcp(listener) => {
                let _ = exchange(&mut listener.accept()?.0, metrics, until(Instant::now()));
            }
            Self::Unix(listener) => {
                let _ = exchange(&mut listener.accept()?.0, metrics, until(Instant::now()));
            }
        }
        Ok(())
    }
}

/// A stream whose calls can be bounded in time.
trait Timed: Read + Write {
    fn allow(&self, time: Duration) -> io::Result<()>;
}

impl Timed for TcpStream {
    fn allow(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Timed for UnixStream {
    fn allow(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

fn exchange(stream: &mut impl Timed, metrics: &Metrics, deadline: Instant) -> io::Result<()> {
    let request = read_request(stream, deadline)?;
    let answer = respond(&request, metrics);
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        remaining(stream, deadline)?;
        let written = stream.write(rest)?;
        rest = rest.get(written.max(1)..).unwrap_or_default();
    }
    Ok(())
}

/// Bounds the next call by what is left of the client's time.
fn remaining(stream: &impl Timed, deadline: Instant) -> io::Result<()> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => stream.allow(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Everything up to the blank line that ends the header, or to the limit.
fn read_request(stream: &mut impl Timed, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    let ended = |request: &[u8]| request.ends_with(b"\r\n\r\n") || request.ends_with(b"\n\n");
    while !ended(&request) && request.len() < LARGEST_REQUEST {
        remaining(stream, deadline)?;
        match stream.read(&mut piece)? {
            0 => break,
            length => request.extend(piece.iter().take(length)),
        }
    }
    Ok(request)
}

fn respond(request: &[u8], metrics: &Metrics) -> String {
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<_> = line.split_whitespace().take(4).collect();
    match *words {
        ["GET", "/metrics", version] if version.starts_with("HTTP/1.") => {
            page("200 OK", CONTENT_TYPE, &metrics.text())
        }
        ["GET", _, version] if version.starts_with("HTTP/1.") => {
            page("404 Not Found", "text/plain", "the figures are at /metrics\n")
        }
        [_, _, version] if version.starts_with("HTTP/1.") => {
            page("405 Method Not Allowed", "text/plain", "GET only\n")
        }
        _ => page("400 Bad Request", "text/plain", "this is HTTP/1.0\n"),
    }
}

fn page(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    format!(
        "HTTP/1.0 {status}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    fn serve() -> SocketAddr {
        let endpoint = Endpoint::bind(&"0".parse().unwrap()).unwrap().0;
        let address = endpoint.tcp_address().unwrap();
        endpoint.serve(Arc::new(Metrics::default())).unwrap();
        address
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // What the limit leaves unread makes the kernel reset the connection after the answer.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn a_port_alone_is_on_loopback() {
        assert_eq!("9100".parse(), Ok(Address::Tcp("127.0.0.1:9100".parse().unwrap())));
        assert_eq!("[::1]:9".parse(), Ok(Address::Tcp("[::1]:9".parse().unwrap())));
        assert_eq!("unix:/run/m".parse(), Ok(Address::Unix("/run/m".into())));
        for bad in ["", "unix:", "unix:m", "host:1", "65536", ":1"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
    }

    #[test]
    fn it_answers_the_one_path_and_refuses_the_rest_politely() {
        let address = serve();
        let good = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(good.starts_with("HTTP/1.0 200 OK\r\n") && good.ends_with("# EOF\n"), "{good}");
        assert!(ask(address, b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404"));
        assert!(ask(address, b"POST /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405"));
        assert!(ask(address, b"\xFF\xFE\n\n").starts_with("HTTP/1.0 400"));
    }

    #[test]
    fn a_client_that_stalls_or_floods_holds_up_nobody_for_long() {
        let address = serve();
        let mut stalled = TcpStream::connect(address).unwrap();
        stalled.write_all(b"GET /met").unwrap();
        let mut flood = TcpStream::connect(address).unwrap();
        let _ = flood.write_all(&[b'x'; 100_000]);
        let begun = Instant::now();
        assert!(ask(address, b"GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
        assert!(begun.elapsed() < DEADLINE * 3, "{:?}", begun.elapsed());
    }
}
