//! In place of `syscalls` on architectures that the filter compiler does not know.

use super::Measure;

/// Nothing is restricted.
pub(super) fn restrict() -> Measure {
    Measure::Unavailable("no system call filter for this architecture".into())
}
