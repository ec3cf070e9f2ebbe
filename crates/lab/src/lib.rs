//! What tests need around Tenure, and no user ever sees: the program itself, targets in processes of
//! their own (`tenure target`, Debian's `tgt`), and the reservation states that a handover must move.
//!
//! Used by the tests of `tenure` and by `xtask`. Nothing here leaves a process or a file behind.

pub mod moves;
pub mod process;
pub mod served;
pub mod states;
pub mod tenure;
pub mod tgt;
