//! Host to host: how the agents of two hosts talk about a guest that moves between them.
//!
//! A [`Link`](link::Link) is one connection in QMP's form: the [`Listener`](listener::Listener) greets with what it speaks, the
//! caller negotiates, then sends one [`Request`] at a time and gets a [`Reply`] or a [`Refusal`]. Over TCP both hosts
//! show a certificate of the same authority with their own name in it (TLS 1.3, no exception); on one host a Unix
//! socket and the kernel's word for the caller's user do instead. Every step has a deadline and every message a limit.
//!
//! What a peer may say, and in which order, is in [`message`] and [`sequence`]: it reports outcomes of its own commands and
//! says go on or turn back; it can ask for no command. `certs` makes an authority and hosts' certificates.
#![forbid(unsafe_code)]

pub mod message;
pub mod sequence;

pub use message::{Refusal, Reply, Request};
