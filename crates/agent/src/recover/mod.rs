//! Puts an interrupted handover in order, on the devices' side: what both journals say becomes the group that finishes it or
//! undoes it, from both hosts together or from one alone. Who may run the guest afterwards is
//! [`ownership`](crate::ownership)'s to say.
//!
//! The two hosts exchange what their journals have ([`tell`]) and make the same group of it ([`interrupted`]), which
//! [`conduct`](crate::conduct) runs. Logical units that were on their way back go first, in a group in which
//! source and destination have changed places. Nothing a peer says of a handover counts that this host's journal does not
//! know, and no key that this host did not know: a peer that lies can end a recovery, and make this host send nothing.

mod merge;

pub use crate::migrate::remains::{Interrupted, alone, interrupted, tell};
pub use merge::{Merged, Mismatch, merge};
