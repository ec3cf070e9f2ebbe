//! Host to host: how the agents of two hosts talk about a guest that moves between them.
//!
//! A [`Link`] is one connection in QMP's form: the [`Listener`] greets with what it speaks, the
//! caller negotiates, then sends one [`Request`] at a time and gets a [`Reply`] or a [`Refusal`]. Over TCP both hosts
//! show a certificate of the same authority with their own name in it (TLS 1.3, no exception); on one host a Unix
//! socket and the kernel's word for the caller's user do instead. Every step has a deadline and every message a limit.
//!
//! What a peer may say, and in which order, is in [`message`] and [`sequence`]: it reports outcomes of its own commands and
//! says go on or turn back; it can ask for no command. [`certs`] makes an authority and hosts' certificates.
#![forbid(unsafe_code)]

mod address;
pub mod certs;
mod credentials;
mod hello;
mod host_name;
pub mod link;
pub mod listener;
pub mod message;
pub mod sequence;
mod terms;
mod trust;
mod wire;

pub use address::{Address, AddressError};
pub use credentials::{Credentials, CredentialsError, Files};
pub use hello::{Agreed, HelloError};
pub use host_name::{HostName, HostNameError};
pub use link::{CallError, ConnectError, Link, Lost};
pub use listener::{LinkEnd, Listener, Service, Session, TurnedAway};
pub use message::{Refusal, Reply, Request};
pub use terms::{Local, Patience, Peer, SharedTerms, Terms};
pub use trust::Distrust;

/// What a link may cost. Nobody gets so far without a certificate, or without the right user on this host.
pub(crate) const LIMITS: qmp::Limits = qmp::Limits { line: 8 << 20, values: 1 << 18, ..qmp::Limits::TENURE };
