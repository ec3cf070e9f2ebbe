//! The bytes of SCSI: persistent reservations, sense data, TransportIDs and the commands a block
//! logical unit needs (SPC-4, SBC-4, SAM-5).
//!
//! Everything here is pure: no I/O, no clock, no `unsafe`. Parsing gives typed values or a
//! [`FieldError`] that names the byte and bit at fault, ready to become sense data; emitting is
//! its inverse. Codes are open newtypes, so that a value nobody has heard of survives a round trip.
//! Every other crate of the project builds on this one.
#![forbid(unsafe_code)]

pub mod block;
mod bytes;
pub mod capacity;
pub mod copy;
pub mod field;
pub mod inquiry;
pub mod lba_status;
pub mod mode;
pub mod opcode;
pub mod pr;
pub mod sense;
pub mod status;
pub mod supported;
pub mod task;
pub mod transport_id;
pub mod unmap;
pub mod vpd;

pub use bytes::truncate;
pub use field::{FieldError, FieldPointer};
pub use sense::{AdditionalSense, Sense, SenseKey};
pub use status::Status;
pub use task::{Completion, DataPhase, Request};
pub use transport_id::{IscsiName, IscsiNameTextError, Isid, TransportId};
