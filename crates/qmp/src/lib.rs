//! Remote calls in QMP's form, JSON objects on lines: a client for QEMU, and client and server for Tenure's own sockets.
//!
//! [`codec`] puts [`message`]s on any stream, the link between two hosts too; [`client`] adds answers by their ids, events and file
//! descriptors on Unix sockets; [`qemu`] gives the commands that Tenure needs of QEMU their types;
//! [`server`] is the other side. Nothing of the other end is
//! trusted: lines, nesting, values, outstanding commands, queued events and descriptors are bounded ([`Limits`]), every wait
//! has a deadline, and unknown names survive as what they are.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
mod limits;
pub mod message;
mod open;
pub mod qemu;
mod scan;
pub mod server;
mod socket;

pub use client::{CallError, Client, ConnectError, Events, Heard, Opening};
pub use codec::{Channel, CodecError, Decoder, Stream};
pub use limits::Limits;
pub use message::{Command, CommandError, ErrorClass, Event, Greeting, Message, MessageError, Object, Reply};
pub use socket::Socket;
