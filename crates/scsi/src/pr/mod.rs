//! Persistent reservations on the wire (SPC-4 6.15, 6.16): CDBs, parameter lists, parameter data.
//!
//! `cdb` and `parameters` are what a device server receives, `reply` what it sends; `request` builds
//! whole commands for an initiator; `text` reads what people type.

mod cdb;
mod parameters;
mod reply;
pub mod request;
mod text;
mod types;

#[cfg(test)]
mod tests;

pub use cdb::{PrInCdb, PrOutCdb};
pub use parameters::{BasicParameters, MoveParameters};
pub use reply::{Capabilities, FullStatus, FullStatusDescriptor, ReadKeys, ReadReservation, Reservation};
pub use text::{ParseKeyError, ParseTypeError};
pub use types::{InAction, Key, OutAction, ReservationType, Scope};
