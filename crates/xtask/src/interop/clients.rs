//! Initiators that nobody here wrote: QEMU's iSCSI driver and libiscsi's programs.

use crate::report::Done;
use crate::shell;
use anyhow::{Context, Result, ensure};
use lab::tenure::Tenure;
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 64 << 20;
const SPEC: &str = "memory=64M";

/// `qemu-img info` and `qemu-io`: the size, and what was written is what is read, across two connections.
pub(super) fn qemu(tenure: &Tenure) -> Result<Done> {
    let served = tenure.target(&[SPEC])?;
    let url = served.url(0);
    let info = shell::read(Command::new("qemu-img").args(["info", "-f", "raw", "--output", "json", &url]))?;
    let info: serde_json::Value = serde_json::from_str(&info)?;
    let size = info.get("virtual-size").and_then(serde_json::Value::as_u64);
    ensure!(size == Some(SIZE), "qemu-img sees {size:?} bytes instead of {SIZE}");
    let io = |command: &str| shell::read(Command::new("qemu-io").args(["-f", "raw", "-c", command, &url]));
    io("write -P 0xa5 1M 3M")?;
    let read = io("read -P 0xa5 1M 3M")?;
    ensure!(read.contains("read 3145728/3145728"), "qemu-io: {read}");
    let wrong = shell::output(Command::new("qemu-io").args(["-f", "raw", "-c", "read -P 0xa5 0 1M", &url]))?;
    let told = String::from_utf8_lossy(&wrong.stdout);
    ensure!(told.contains("Pattern verification failed"), "qemu-io finds a pattern where none was written");
    Ok(Done::passed())
}

/// `iscsi-ls`, `iscsi-inq`, `iscsi-readcapacity16`.
pub(super) fn libiscsi(tenure: &Tenure) -> Result<Done> {
    let served = tenure.target(&[SPEC, SPEC])?;
    let portal = format!("iscsi://{}", served.portal);
    let list = shell::read(Command::new("iscsi-ls").args(["-s", &portal]))?;
    ensure!(list.contains(&served.iqn), "iscsi-ls: {list}");
    ensure!(list.matches("Lun:").count() == 2, "iscsi-ls sees other LUNs: {list}");
    let inquiry = shell::read(Command::new("iscsi-inq").arg(served.url(0)))?;
    ensure!(inquiry.contains("Vendor:TENURE"), "iscsi-inq: {inquiry}");
    for page in ["0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"] {
        shell::read(Command::new("iscsi-inq").args(["-e", "1", "-c", page, &served.url(0)]))?;
    }
    let capacity = shell::read(Command::new("iscsi-readcapacity16").arg(served.url(1)))?;
    ensure!(capacity.contains(&SIZE.to_string()), "iscsi-readcapacity16: {capacity}");
    Ok(Done::passed())
}

/// `iscsi-perf`: many commands at once, for two seconds.
pub(super) fn perf(tenure: &Tenure) -> Result<Done> {
    let served = tenure.target(&[SPEC])?;
    let iops = iscsi_perf(&served.url(0), 8, Duration::from_secs(2))?;
    ensure!(iops > 0.0, "iscsi-perf did nothing");
    Ok(Done::Passed(format!("{iops:.0} IOPS")))
}

/// Random reads of `blocks` blocks with 32 under way; the average IOPS that iscsi-perf tells.
pub(crate) fn iscsi_perf(url: &str, blocks: u32, time: Duration) -> Result<f64> {
    let (blocks, seconds) = (blocks.to_string(), time.as_secs().max(1).to_string());
    let mut command = Command::new("iscsi-perf");
    let output = shell::output(command.args(["-m", "32", "-b", &blocks, "-t", &seconds, "-r", url]))?;
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "iscsi-perf: {}: {told}", output.status);
    average(&told).with_context(|| format!("iscsi-perf: {told}"))
}

/// The last `iops average N` in a text where lines overwrite each other.
fn average(told: &str) -> Option<f64> {
    let (_, rest) = told.rsplit_once("iops average")?;
    rest.split_whitespace().next()?.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_counts() {
        let told = "\riops average 100 (4 MB/s)\r\niops average 2300 (9 MB/s)   \n";
        assert_eq!(average(told), Some(2300.0));
        assert_eq!(average("nothing"), None);
    }
}
