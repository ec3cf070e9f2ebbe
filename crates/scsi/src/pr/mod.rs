//! Persistent reservations on the wire (SPC-4 6.15, 6.16): CDBs, parameter lists, parameter data.
//!
//! `cdb` and `parameters` are what a device server receives, `reply` what it sends; `request` builds
//! whole commands for an initiator.

mod cdb;
mod parameters;
mod reply;
pub mod request;
mod types;

pub use cdb::{PrInCdb, PrOutCdb};
pub use parameters::{BasicParameters, MoveParameters};
pub use reply::{Capabilities, FullStatus, FullStatusDescriptor, ReadKeys, ReadReservation, Reservation};
pub use types::{InAction, Key, OutAction, ReservationType, Scope};
