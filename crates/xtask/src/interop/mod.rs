//! Software that nobody here wrote, against `tenure target`, and handovers on targets that nobody here wrote.

use crate::report::Report;
use crate::shell;
use std::path::PathBuf;

/// Every interop step.
pub(crate) fn steps(report: &mut Report) {
    let _ = report;
}

/// The release binary.
pub(crate) fn tenure() -> PathBuf {
    shell::root().join("target/release/tenure")
}
