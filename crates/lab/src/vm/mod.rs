//! One Linux VM from Debian's packages alone: its kernel out of the .deb, a root that is this machine's own, and an
//! agent that runs programs in it. No image is built and nothing is installed in it; it boots in seconds.
//!
//! It is where the kernel's own target and real SG_IO are used without touching this machine's kernel.

pub mod agent;
mod cpio;
mod hardware;
mod initramfs;
mod kernel;
mod machine;
mod moving;
mod root;

pub use hardware::{Card, Hardware, Socket};
pub(crate) use machine::connect;
pub use machine::{ALONE, Media, Vm};
pub use moving::Moved;
pub use root::Own;
