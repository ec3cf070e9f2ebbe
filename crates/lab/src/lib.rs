//! What tests need around Tenure, and no user ever sees: the program itself, targets in processes of
//! their own (`tenure target`, Debian's `tgt`), the reservation states that a handover must move, and a Linux VM with
//! the kernel's own target and real QEMU in it.
//!
//! Used by the tests of `tenure` and by `xtask`. Nothing here leaves a process or a file behind. The program
//! `tenure-lab` is the part that runs inside the VM; the README beside this crate's manifest explains it.

pub mod agents;
pub mod crash;
pub mod front_end;
pub mod guest;
pub mod helped;
mod helper;
pub mod hosts;
pub mod judge;
pub mod kept;
pub mod leash;
pub mod linux_guest;
pub mod lio;
pub mod logins;
pub mod matrix;
pub mod moves;
mod orders;
pub mod process;
pub mod product;
pub mod qemu;
mod random;
pub mod scripted;
pub mod served;
pub mod stage;
pub mod states;
pub mod table;
pub mod tenure;
pub mod tgt;
pub mod trial;
pub mod vm;
pub mod watch;
