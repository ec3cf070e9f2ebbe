//! What the guest does with its disks, apart from reservations: find them, ask them what they are, partition, make a file system, write and
//! verify, unmap, reset.

use crate::linux_guest::{FILE, LinuxGuests, MEMORY};
use anyhow::{Context, Result};

/// A line of shell, its exit status, and what it must say.
struct Step(&'static str, i32, &'static [&'static str]);

/// `/dev/sda` is the file, `/dev/sdb` the memory.
const STEPS: &[Step] = &[
    Step("cat /sys/class/scsi_host/host*/proc_name", 0, &["virtio_scsi"]),
    Step("sg_turs /dev/sda; sg_turs -v /dev/sda", 0, &["test unit ready cdb"]),
    Step("sg_inq /dev/sda", 0, &["Vendor identification: TENURE", "PQual=0", "PDT=0", "CmdQue=1"]),
    Step("sg_inq --page=0x80 /dev/sda", 0, &["Unit serial number"]),
    Step("sg_inq --page=0x83 /dev/sda", 0, &["NAA", "0x"]),
    Step("sg_readcap /dev/sda", 0, &["512 bytes"]),
    Step("sg_luns /dev/sda", 0, &["4 lun entries", "0000000000000000", "0001000000000000"]),
    Step("sg_luns --select=1 /dev/sda", 0, &["0 lun entries"]),
    Step("sg_modes -a /dev/sda", 0, &["Caching"]),
    Step("sg_opcodes /dev/sda", 0, &["Persistent reserve out", "Unmap"]),
    Step(
        "echo ,,L | sfdisk -q /dev/sda; for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/sda1 ] || sleep 1; done; test -b /dev/sda1",
        0,
        &[],
    ),
    Step("mkfs.ext4 -q -F /dev/sda1", 0, &[]),
    Step("mkdir -p /mnt && mount /dev/sda1 /mnt && cp /bin/busybox /mnt/ && sync && umount /mnt", 0, &[]),
    Step("fsck.ext4 -f -n /dev/sda1", 0, &["Pass 5"]),
    Step("mount /dev/sda1 /mnt && cmp /bin/busybox /mnt/busybox", 0, &[]),
    Step(
        "fio --name=files --directory=/mnt --size=16M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
         --verify=crc32c --do_verify=1 --verify_fatal=1 --end_fsync=1",
        0,
        &["err= 0"],
    ),
    Step("fstrim -v /mnt", 0, &["trimmed"]),
    Step("umount /mnt && fsck.ext4 -f -n /dev/sda1", 0, &["Pass 5"]),
    Step(
        "fio --name=disk --filename=/dev/sdb --size=32M --rw=randwrite --bsrange=512-256k --ioengine=libaio --iodepth=32 \
         --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --numjobs=1",
        0,
        &["err= 0"],
    ),
    Step(
        "dd if=/dev/urandom of=/dev/sdb bs=64k count=1 oflag=direct 2>/dev/null && sg_unmap --force --lba=8 --num=8 /dev/sdb \
         && sg_dd if=/dev/sdb bs=512 skip=8 count=8 of=/tmp/hole 2>/dev/null && head -c 4096 /dev/zero | cmp - /tmp/hole",
        0,
        &[],
    ),
    Step(
        "dd if=/dev/urandom of=/dev/sdb bs=64k count=1 oflag=direct 2>/dev/null \
         && sg_write_same --lba=16 --num=8 --in=/bin/busybox --xferlen=512 /dev/sdb \
         && head -c 512 /bin/busybox >/tmp/block && for i in 16 23; do \
         dd if=/dev/sdb bs=512 skip=$i count=1 iflag=direct 2>/dev/null | cmp - /tmp/block || exit 1; done; \
         ! dd if=/dev/sdb bs=512 skip=24 count=1 iflag=direct 2>/dev/null | cmp -s - /tmp/block",
        0,
        &[],
    ),
    Step("sg_sync /dev/sdb && sg_verify --lba=0 --count=16 /dev/sdb", 0, &[]),
    // Both guests' disk: whoever comes next is told, once.
    Step(
        "sg_reset --device /dev/sdb && sg_turs /dev/sdb",
        6,
        &["Unit Attention", "device reset function occurred"],
    ),
    Step("sg_turs /dev/sdb", 0, &[]),
    Step("dd if=/dev/sdb of=/dev/null bs=64k count=4 iflag=direct", 0, &[]),
    // The kernel has aborted nothing and complains about nothing.
    Step("dmesg | grep -E 'I/O error|hung task|tag#.* FAILED|offline device' ; test $? = 1", 0, &[]),
];

impl LinuxGuests {
    /// All of them; how many.
    pub(super) fn steps(&mut self) -> Result<usize> {
        for (path, size) in [("sda", FILE), ("sdb", MEMORY)] {
            let told = format!("Device size: {size} bytes");
            self.shell(&format!("sg_readcap --long /dev/{path}"), 0, &[&told])?;
        }
        for Step(line, exit, words) in STEPS {
            self.shell(line, *exit, words).context("in the guest")?;
        }
        Ok(STEPS.len() + 2)
    }
}
