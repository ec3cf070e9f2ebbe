//! Who a logical unit says it is: serial number and names (SPC-4 7.8). The names of a file LUN follow from
//! the file, those of a block device from what it says of itself, so that they survive a restart and every initiator
//! sees one logical unit; a memory LUN is new each time.

use crate::ItNexus;
use crate::presentation::Presentation;
use rustix::fs::{major, minor};
use scsi::inquiry::padded;
use scsi::transport_id::protocol;
use scsi::vpd::{Association, CodeSet, Designator, DesignatorType, DeviceIdentification};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// NAA 3h: a locally assigned name, in the top four bits.
const LOCALLY_ASSIGNED: u64 = 3 << 60;

/// The names of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    number: u64,
    presentation: Presentation,
}

impl Identity {
    /// Names that follow from where a file is and which file it is.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let inode = path.metadata()?.ino();
        let bytes = path.as_os_str().as_encoded_bytes().iter().copied().chain(inode.to_be_bytes());
        Ok(Self::new(fnv_1a(bytes)))
    }

    /// Names that follow from what a block device says of itself, on whatever host; where it says nothing, from its path.
    pub(crate) fn of_block_device(path: &Path) -> io::Result<Self> {
        let device = path.metadata()?.rdev();
        let folder = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        let told = described(Path::new(&folder));
        // A device without a name is the same one under whatever link.
        let path = path.canonicalize()?;
        let bytes = told.unwrap_or_else(|| path.as_os_str().as_encoded_bytes().to_vec());
        Ok(Self::new(fnv_1a(bytes.into_iter())))
    }

    /// Whether those names are the block device's own: not a path, nor that of a file behind it, which other hosts have as well.
    pub(crate) fn is_of_device(path: &Path) -> io::Result<bool> {
        let device = path.metadata()?.rdev();
        let folder = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        Ok(names_itself(Path::new(&folder)))
    }

    /// Names that nobody had before.
    pub(crate) fn random() -> Self {
        Self::new(RandomState::new().build_hasher().finish())
    }

    fn new(number: u64) -> Self {
        Self { number, presentation: Presentation::default() }
    }

    /// The same medium, presented as the operator wants it.
    pub(crate) fn presented(self, presentation: &Presentation) -> Self {
        Self { presentation: presentation.clone(), ..self }
    }

    /// What the operator says of it.
    pub(crate) const fn presentation(&self) -> &Presentation {
        &self.presentation
    }

    /// UNIT SERIAL NUMBER.
    pub(crate) fn serial(&self) -> String {
        self.presentation.serial.as_ref().map_or_else(|| self.digits(), ToString::to_string)
    }

    /// What names the medium in file names.
    pub(crate) fn digits(&self) -> String {
        format!("{:016x}", self.naa())
    }

    /// What follows from the medium, whatever is told.
    pub(crate) fn naa(&self) -> u64 {
        LOCALLY_ASSIGNED | self.number >> 4
    }

    /// The designators of page 83h as `nexus` sees them: of the logical unit, and of the port it came through.
    pub(crate) fn designators(
        &self,
        vendor: &str,
        target: Option<&str>,
        nexus: &ItNexus,
    ) -> DeviceIdentification {
        let unit = |code_set, kind, bytes| Designator {
            protocol: None,
            code_set,
            association: Association::LOGICAL_UNIT,
            kind,
            bytes,
        };
        let vendor = [&padded::<8>(vendor), self.serial().as_bytes()].concat();
        let own = || self.naa().to_be_bytes().to_vec();
        let naa = self.presentation.wwn.as_ref().map_or_else(own, |wwn| wwn.as_bytes().to_vec());
        let mut designators = vec![
            unit(CodeSet::BINARY, DesignatorType::NAA, naa),
            unit(CodeSet::ASCII, DesignatorType::T10_VENDOR_ID, vendor),
        ];
        designators.extend(port_designators(target, nexus.target_port));
        DeviceIdentification { designators }
    }
}

/// The file behind a loop device.
const BACKING_FILE: &str = "loop/backing_file";

fn names_itself(folder: &Path) -> bool {
    described(folder).is_some_and(|told| !told.starts_with(BACKING_FILE.as_bytes()))
}

/// What sysfs knows of a block device that names it and no other, the best first; for a partition its disk's and its number.
fn described(folder: &Path) -> Option<Vec<u8>> {
    const NAMES: [&str; 8] = [
        "dm/uuid",
        "md/uuid",
        "wwid",
        "device/wwid",
        "device/vpd_pg83",
        "device/serial",
        "serial",
        BACKING_FILE,
    ];
    let read =
        |path: &str| std::fs::read(folder.join(path)).ok().filter(|bytes| !bytes.trim_ascii().is_empty());
    let number = read("partition");
    let disk = if number.is_some() { "../" } else { "" };
    let found = NAMES.iter().find_map(|name| Some((*name, read(&format!("{disk}{name}"))?)));
    found.map(|(name, told)| [name.as_bytes(), &told, number.as_deref().unwrap_or_default()].concat())
}

/// RELATIVE TARGET PORT IDENTIFIER, and for a named iSCSI target the names of port and device (RFC 7143 4.2.7).
fn port_designators(target: Option<&str>, port: u16) -> Vec<Designator> {
    let name = |association, kind, code_set, bytes| Designator {
        protocol: Some(protocol::ISCSI),
        code_set,
        association,
        kind,
        bytes,
    };
    let [high, low] = port.to_be_bytes();
    let relative = name(
        Association::TARGET_PORT,
        DesignatorType::RELATIVE_TARGET_PORT,
        CodeSet::BINARY,
        vec![0, 0, high, low],
    );
    let mut designators = vec![relative];
    if let Some(target) = target {
        let (kind, utf_8) = (DesignatorType::SCSI_NAME, CodeSet::UTF_8);
        let port_name = scsi_name(&format!("{target},t,0x{port:04x}"));
        designators.push(name(Association::TARGET_PORT, kind, utf_8, port_name));
        designators.push(name(Association::TARGET_DEVICE, kind, utf_8, scsi_name(target)));
    }
    designators
}

/// A SCSI name string: ended by a NUL, padded to four bytes (SPC-4 7.8.6.11).
fn scsi_name(text: &str) -> Vec<u8> {
    let mut name = text.as_bytes().to_vec();
    name.resize((name.len() + 1).next_multiple_of(4), 0);
    name
}

/// FNV-1a, 64 bits: stable for ever, which the standard library's hashers do not promise.
fn fnv_1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scsi::{IscsiName, Isid, TransportId};

    fn nexus(port: u16) -> ItNexus {
        let initiator = TransportId::iscsi(IscsiName::new("iqn.2026-01.x:a").unwrap(), Isid([0; 6]));
        ItNexus { initiator, target_port: port }
    }

    #[test]
    fn the_same_file_has_the_same_name_and_another_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, "").unwrap();
        std::fs::write(&b, "").unwrap();
        std::os::unix::fs::symlink(&a, folder.path().join("link")).unwrap();
        let identity = Identity::of_file(&a).unwrap();
        assert_eq!(Identity::of_file(&folder.path().join("link")).unwrap(), identity);
        assert_ne!(Identity::of_file(&b).unwrap(), identity);
        assert_ne!(Identity::random(), Identity::random());
    }

    #[test]
    fn a_block_device_is_named_by_the_best_that_it_says_and_a_partition_by_its_disk_too() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("sda");
        let part = disk.join("sda1");
        std::fs::create_dir_all(part.join("device")).unwrap();
        std::fs::create_dir_all(disk.join("device")).unwrap();
        assert_eq!(described(&disk), None);
        std::fs::write(disk.join("serial"), "\n").unwrap();
        std::fs::write(disk.join("device/vpd_pg83"), b"\0\x83").unwrap();
        assert_eq!(described(&disk).unwrap(), b"device/vpd_pg83\0\x83");
        std::fs::write(disk.join("device/wwid"), "naa.5\n").unwrap();
        std::fs::write(part.join("partition"), "1\n").unwrap();
        assert_eq!(described(&disk).unwrap(), b"device/wwidnaa.5\n");
        assert_eq!(described(&part).unwrap(), b"device/wwidnaa.5\n1\n");
    }

    #[test]
    fn a_path_and_the_file_behind_a_loop_device_name_no_device_on_another_host() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!names_itself(folder.path()));
        std::fs::create_dir(folder.path().join("loop")).unwrap();
        std::fs::write(folder.path().join(BACKING_FILE), "/var/disk\n").unwrap();
        assert!(described(folder.path()).is_some() && !names_itself(folder.path()));
        std::fs::write(folder.path().join("wwid"), "naa.5\n").unwrap();
        assert!(names_itself(folder.path()));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv_1a("foobar".bytes()), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn names_of_unit_and_port_are_told_apart() {
        let page = Identity::new(0x1234_5678_9ABC_DEF0).designators("TENURE", Some("iqn.x:t"), &nexus(2));
        assert_eq!(page.relative_target_port(), Some(2));
        let [naa, vendor] = page.logical_unit_names()[..] else { panic!("{page:?}") };
        assert_eq!(naa.bytes, [0x31, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]);
        assert_eq!(vendor.bytes, b"TENURE  3123456789abcdef");
        assert_eq!(page.designators[3].bytes, b"iqn.x:t,t,0x0002\0\0\0\0");
        assert_eq!(scsi_name("abc"), b"abc\0");
        assert_eq!(scsi_name("abcd"), b"abcd\0\0\0\0");
    }
}
