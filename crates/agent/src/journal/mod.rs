//! The handovers of this host's guests, durably: one append-only log for each guest, `handovers/VM.log` in the state
//! directory. What must be on disk before a phase changes anything, who may run the guest, and everything that a
//! recovery needs, with the peer or without it.
//!
//! The form is the ledger's: a header with the version, this host and the guest, then lines `CRC32C SP JSON LF`; whatever is
//! appended together is one line, one write and one fdatasync(2). What a crash or a full disk left of a line at the end was
//! promised to nobody and is cut off; anything else that is damaged, of a newer version, or of another host or guest is
//! refused and left as it is. While a guest's journal is open it is locked, so that one program at a time acts for a guest.

mod book;
mod error;
mod line;
mod log;

pub use book::{Book, Entries, Journals};
pub use error::Error;
pub use line::{Begun, Lun, OwnPath, TargetForm};
pub use log::{Flaw, Handover, Last, Log, header};
