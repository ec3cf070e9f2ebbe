//! Software that nobody here wrote, against `tenure target`, and handovers on a target that nobody here wrote.

mod clients;
mod conformance;
mod tgt;

pub(crate) use clients::iscsi_perf;

use crate::report::{Done, Report};
use crate::tools;
use anyhow::Result;
use lab::tenure::Tenure;
use std::path::Path;

/// Every interop step; a step whose software is missing and cannot be installed is skipped and says so.
/// The programs are in the directory `programs`.
pub(crate) fn steps(report: &mut Report, programs: &Path) {
    let tenure = Tenure::at(&programs.join("tenure"));
    let libiscsi = || tools::ensure(tools::LIBISCSI);
    // The driver first: where the installed qemu-utils come from elsewhere, apt replaces them for its sake.
    let qemu = || tools::ensure_package("qemu-block-extra").and_then(|()| tools::ensure(tools::QEMU));
    let tgt = || tools::ensure(tools::TGT);
    let guest = || tools::ensure(tools::TGT).and_then(|()| tools::ensure(tools::LAB));
    with(report, "iscsi-test-cu", libiscsi, || conformance::run(&tenure));
    with(report, "libiscsi clients", libiscsi, || clients::libiscsi(&tenure));
    with(report, "iscsi-perf", libiscsi, || clients::perf(&tenure));
    with(report, "qemu-img, qemu-io", qemu, || clients::qemu(&tenure));
    with(report, "handovers on tgt", tgt, tgt::handovers);
    with(report, "logins", tgt, || tgt::logins(&tenure));
    with(report, "device on tgt", tgt, || tgt::keeps(&tenure));
    with(report, "two devices", guest, || tgt::moves(&tenure));
    with(report, "handover run on tgt", tgt, || tgt::refusal(&tenure));
}

fn with(
    report: &mut Report,
    name: &str,
    needs: impl FnOnce() -> Result<()>,
    work: impl FnOnce() -> Result<Done>,
) {
    report.step(name, || match needs() {
        Ok(()) => work(),
        Err(missing) => Ok(Done::Skipped(format!("{missing:#}"))),
    });
}
