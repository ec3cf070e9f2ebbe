//! iSCSI (RFC 7143): PDUs, an initiator with a chosen nexus identity, and, with the feature
//! `target`, a target over logical units.
//!
//! The I_T nexus of iSCSI is initiator name + ISID on one side and a target portal group on the
//! other; who logs in with the same name and ISID is the same initiator port to the device server,
//! whatever connection carries it. That is why the initiator here takes both from its caller.
#![forbid(unsafe_code)]

pub mod initiator;
pub mod login;
pub mod pdu;
mod receiver;
#[cfg(feature = "target")]
pub mod target;
pub mod text;
