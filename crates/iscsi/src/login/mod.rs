//! The login phase (RFC 7143 clause 6) of both sides, sans-I/O: PDUs in, PDUs out.
//!
//! [`keys`] negotiates operational parameters, [`chap`] authenticates, [`responder`] is the target's
//! half and [`requester`] the initiator's. The target's and the initiator's connections feed them.

pub mod chap;
pub mod keys;
pub mod requester;
#[cfg(feature = "target")]
pub mod responder;

#[cfg(test)]
#[cfg(feature = "target")]
mod tests;

pub use chap::{Chap, Credentials};
pub use keys::{DigestOffer, Parameters, Proposal};

/// Requests after which an unfinished login is given up: far more than any negotiation needs.
const MAX_EXCHANGES: u32 = 64;

/// Longest text in one login PDU: MaxRecvDataSegmentLength before anything is negotiated (RFC 7143 13.12).
pub const LOGIN_DATA_LIMIT: usize = 8192;
