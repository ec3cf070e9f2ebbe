//! `cargo xtask bench`: ratios measured in one run, ours and the other's in turn, with the same client: the target
//! against tgt, the helper against `qemu-pr-helper`, the handover against QEMU's own `migrate-pr`, the device against
//! `qemu-storage-daemon` and `vhost-device-scsi`.
//!
//! Absolute figures say more about the machine than about the program; the ratios of neighbouring runs
//! are what is worth quoting. The median is over the rounds, minimum and maximum beside it.

mod check;
mod device;
mod handover;
mod helper;
mod migrate;
mod rates;

use crate::{programs, tools};
use anyhow::Result;
use lab::tenure::Tenure;
use lab::tgt::Tgt;

pub(crate) use device::Effort;

/// How often each side is measured.
const ROUNDS: usize = 3;

/// What can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// `tenure target` against tgt, the reservation check, the pause of a handover
    Target,
    /// `tenure-pr-helper` against qemu-pr-helper
    Helper,
    /// Moving the reservations of many disks in a live migration, against QEMU 11.1's own migrate-pr
    Migrate,
    /// `tenure device` against qemu-storage-daemon and vhost-device-scsi
    Device,
}

/// Runs one part, or everything, and prints the ratios.
///
/// # Errors
/// If a program is missing or a run fails.
pub(crate) fn run(part: Option<Part>, effort: &Effort) -> Result<()> {
    let is_wanted = |one| part.is_none_or(|part| part == one);
    if is_wanted(Part::Target) {
        target()?;
    }
    if is_wanted(Part::Helper) {
        helper::print()?;
    }
    if is_wanted(Part::Migrate) {
        migrate::print()?;
    }
    if is_wanted(Part::Device) {
        device::print(effort)?;
    }
    Ok(())
}

fn target() -> Result<()> {
    tools::ensure(tools::TGT)?;
    tools::ensure(tools::LIBISCSI)?;
    programs::build(None)?;
    let ours = Tenure::at(&programs::tenure());
    println!("{:<34} {:>12} {:>12}   ratio: median (min to max)", "", "tenure", "tgt");
    rates::all(&ours)?;
    println!();
    check::print()?;
    println!();
    handover::print(&ours)
}

/// One row: a rate of ours against the same of tgt, in turn.
fn compare(name: &str, ours: impl Fn() -> Result<f64>, theirs: impl Fn() -> Result<f64>) -> Result<()> {
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (left, right) = (ours()?, theirs()?);
        a.push(left);
        b.push(right);
        ratios.push(left / right);
    }
    let (low, middle, high) = spread(&mut ratios);
    let (a, b) = (spread(&mut a).1, spread(&mut b).1);
    println!("{name:<34} {a:>10.0}/s {b:>10.0}/s   {middle:.2} ({low:.2} to {high:.2})");
    Ok(())
}

/// Minimum, median and maximum; zeros for nothing.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

/// A disk of ours and one of tgt's, both files on the same file system, so that only the targets differ.
struct Pair {
    ours: lab::served::Served,
    theirs: Tgt,
    _file: tempfile::TempDir,
}

impl Pair {
    fn start(tenure: &Tenure, megabytes: u64) -> Result<Self> {
        let file = tempfile::TempDir::new()?;
        let lun = format!("file={},size={megabytes}M", file.path().join("lun.img").display());
        Ok(Self { ours: tenure.target(&[&lun])?, theirs: Tgt::start(1, megabytes)?, _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_median_is_not_the_mean() {
        assert_eq!(spread(&mut [100.0, 1.0, 2.0]), (1.0, 2.0, 100.0));
        assert_eq!(spread(&mut []), (0.0, 0.0, 0.0));
    }
}
