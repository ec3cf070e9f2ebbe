//! A sysfs of files: what is read out of it, and that a device made anew under a number is another one.

use super::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const DISK: u64 = 0x800;

struct Sys(TempDir);

impl Sys {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A disk, 8:0, at `place` below `devices`.
    fn with_disk(place: &str) -> Self {
        let sys = Self::new();
        let directory = sys.0.path().join("devices").join(place);
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(sys.0.path().join("dev/block")).unwrap();
        symlink(directory, sys.0.path().join("dev/block/8:0")).unwrap();
        sys
    }

    fn write(&self, file: &str, text: &str) -> &Self {
        let file = self.0.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self
    }

    fn session(&self, number: u32, initiator: &str, isid: &str) -> &Self {
        let directory = format!("class/iscsi_session/session{number}");
        self.write(&format!("{directory}/initiatorname"), initiator)
            .write(&format!("{directory}/isid"), isid)
            .write(&format!("{directory}/ifacename"), "default\n")
            .write(&format!("{directory}/targetname"), "iqn.2026-11.test:t\n")
    }

    fn disk(&self) -> Host<'_> {
        Host { sys: self.0.path(), number: DISK, block: true }
    }
}

#[test]
fn a_fibre_channel_port_is_named_by_its_adapter_and_a_virtual_one_by_its_own() {
    let sys = Sys::with_disk("pci0/host3/vport-3:0-0/host7/rport-7:0-0/target7:0:0/7:0:0:0/block/sda");
    sys.write("class/fc_host/host3/port_name", "0x2100000000000001\n");
    sys.write("class/fc_host/host7/port_name", "0x2100000000000002\n");
    assert_eq!(sys.disk().initiator(), Some(TransportId::FibreChannel(0x2100_0000_0000_0002)));
    assert_eq!(sys.disk().node(), "/dev/sda");
}

#[test]
fn a_sas_adapter_has_one_address_or_none_that_is_certain() {
    let sys = Sys::with_disk("pci0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda");
    sys.write("class/sas_phy/phy-0:0/sas_address", "0x5000000000000001\n");
    sys.write("class/sas_phy/phy-0:0:4/sas_address", "0x5000000000000099\n");
    assert_eq!(sys.disk().initiator(), None, "not a SAS adapter");
    fs::create_dir_all(sys.0.path().join("class/sas_host/host0")).unwrap();
    assert_eq!(sys.disk().initiator(), Some(TransportId::Sas(0x5000_0000_0000_0001)));
    sys.write("class/sas_phy/phy-0:1/sas_address", "0x5000000000000002\n");
    assert_eq!(sys.disk().initiator(), None);
    sys.write("class/scsi_host/host0/host_sas_address", "0x5000000000000003\n");
    assert_eq!(sys.disk().initiator(), Some(TransportId::Sas(0x5000_0000_0000_0003)));
}

#[test]
fn an_iscsi_port_is_named_if_its_isid_is_known_and_two_sessions_are_two_nexuses_in_any_case() {
    let sys = Sys::with_disk("platform/host2/session1/target2:0:0/2:0:0:0/block/sda");
    sys.session(1, "iqn.2026-11.test:h\n", "00 02 3d 00 00 01\n");
    let name = IscsiName::new("iqn.2026-11.test:h").unwrap();
    assert_eq!(sys.disk().initiator(), Some(TransportId::iscsi(name, Isid([0, 2, 0x3D, 0, 0, 1]))));
    sys.session(1, "iqn.2026-11.test:h\n", "<NULL>\n").session(4, "iqn.2026-11.test:h\n", "<NULL>\n");
    assert_eq!(sys.disk().initiator(), None);
    assert_eq!(sys.disk().session_words("session1"), "iqn.2026-11.test:h default");
    assert_eq!(sys.disk().session_words("session4"), "iqn.2026-11.test:h default #2");
    assert_eq!(sys.disk().initiator_words(), "platform iqn.2026-11.test:h default");
}

#[test]
fn another_adapter_is_another_nexus_and_its_number_does_not_matter() {
    let words = |place: &str| Sys::with_disk(place).disk().initiator_words();
    assert_eq!(
        words("tcm_loop_0/tcm_loop_adapter_0/host2/target2:0:1/2:0:1:0/block/sda"),
        "tcm_loop_0/tcm_loop_adapter_0"
    );
    assert_eq!(
        words("pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda"),
        words("pci0/ata1/host5/target5:0:0/5:0:0:0/block/sdq")
    );
    assert_ne!(words("pci0/ata1/host0/x/block/sda"), words("pci0/ata2/host0/x/block/sda"));
}

#[test]
fn maps_of_multipath_and_their_partitions_are_known_by_uuid() {
    let sys = Sys::with_disk("virtual/block/dm-0");
    for (uuid, multipath) in [("mpath-3600\n", true), ("part1-mpath-3600\n", true), ("LVM-abc\n", false)] {
        sys.write("devices/virtual/block/dm-0/dm/uuid", uuid);
        fs::create_dir_all(sys.0.path().join("devices/virtual/block/dm-0/slaves")).unwrap();
        assert_eq!(sys.disk().is_multipath(), multipath, "{uuid}");
    }
}

/// dm-0 upon dm-1 upon dm-2 …, of which the last has this UUID.
fn stacked(devices: u8, last: &str) -> Sys {
    let sys = Sys::with_disk("virtual/block/dm-0");
    let directory = |number: u8| sys.0.path().join(format!("devices/virtual/block/dm-{number}"));
    for number in 0..devices {
        let uuid = if number + 1 == devices { last } else { "LVM-x\n" };
        sys.write(&format!("devices/virtual/block/dm-{number}/dm/uuid"), uuid);
        fs::create_dir_all(directory(number).join("slaves")).unwrap();
        if number > 0 {
            let below = directory(number - 1).join(format!("slaves/dm-{number}"));
            symlink(directory(number), below).unwrap();
        }
    }
    sys
}

#[test]
fn what_lies_upon_a_map_is_one_too() {
    for devices in 1..6 {
        assert!(stacked(devices, "mpath-3600\n").disk().is_multipath(), "{devices}");
        assert!(!stacked(devices, "CRYPT-x\n").disk().is_multipath(), "{devices}");
    }
}

#[test]
fn what_cannot_be_told_is_taken_for_a_map_and_a_plain_disk_is_none() {
    assert!(stacked(12, "CRYPT-x\n").disk().is_multipath(), "deeper than is looked");
    let unreadable = Sys::with_disk("virtual/block/dm-0");
    fs::create_dir_all(unreadable.0.path().join("devices/virtual/block/dm-0/dm/uuid")).unwrap();
    assert!(unreadable.disk().is_multipath());
    let no_slaves = Sys::with_disk("virtual/block/dm-0");
    no_slaves.write("devices/virtual/block/dm-0/dm/uuid", "LVM-x\n");
    assert!(no_slaves.disk().is_multipath());
    assert!(!Sys::with_disk("pci0/host0/target0:0:0/0:0:0:0/block/sda").disk().is_multipath());
}

#[test]
fn a_device_made_anew_under_the_same_number_is_another_one() {
    let sys = Sys::with_disk("pci0/host0/target0:0:0/0:0:0:0/block/sda");
    let before = sys.disk().incarnation().unwrap();
    assert_eq!(sys.disk().incarnation(), Some(before));
    let link = sys.0.path().join("dev/block/8:0");
    let again = sys.0.path().join("devices/pci0/host0/target0:0:0/0:0:0:1/block/sda");
    fs::create_dir_all(&again).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(again, &link).unwrap();
    assert_ne!(sys.disk().incarnation(), Some(before));
}
