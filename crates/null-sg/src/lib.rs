//! Disks that are not there: loaded into a program with `LD_PRELOAD`, this library answers SG_IO on certain regular files at
//! once, so that what is measured is the program and not a device.
//!
//! A regular file whose size is [`file_size`]`(n)` is disk `n`: fstat(2) says block device, SG_IO ends GOOD. Each such
//! call makes one real fstat(2), in the place of the system call that it stands for. All other files are untouched. Works for
//! programs that make their calls through the C library; used by `cargo xtask bench` with both helpers.
//!
//! Without the feature `preload` nothing is taken over: whoever makes the files depends on it like that.

#[cfg(feature = "preload")]
mod sys;

/// Distinguishes these files from any other.
const SIZES: u64 = 0x5343_5300;
/// How many disks there may be.
pub const DISKS: u64 = 256;
/// The key that every disk says is registered, alone, and holds the reservation of type [`KIND`].
pub const KEY: u64 = 0x7e57;
/// Write Exclusive, Registrants Only.
pub const KIND: u8 = 5;

/// The size of the file that is this disk; the file may be sparse.
#[must_use]
pub const fn file_size(disk: u64) -> u64 {
    SIZES + disk % DISKS
}

/// The disk that a file of this size is.
#[must_use]
pub fn disk_of(size: u64) -> Option<u64> {
    size.checked_sub(SIZES).filter(|disk| *disk < DISKS)
}

/// What the disk returns with GOOD.
#[must_use]
pub fn data_in(disk: u64, cdb: &[u8]) -> Vec<u8> {
    match cdb {
        [0x12, 1, 0x83, ..] => identification(disk),
        [0x5E, 0, ..] => [&[0, 0, 0, 1, 0, 0, 0, 8], KEY.to_be_bytes().as_slice()].concat(),
        [0x5E, 1, ..] => {
            [&[0, 0, 0, 1, 0, 0, 0, 16], KEY.to_be_bytes().as_slice(), &[0, 0, 0, 0, 0, KIND, 0, 0]].concat()
        }
        _ => Vec::new(),
    }
}

/// VPD page 83h with an NAA designator (SPC-4 7.8.6).
fn identification(disk: u64) -> Vec<u8> {
    let number = 0x5000_0000_0000_0000 | disk;
    [&[0, 0x83, 0, 12, 0x01, 0x03, 0, 8], number.to_be_bytes().as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_these_sizes_are_disks() {
        assert_eq!(disk_of(file_size(0)), Some(0));
        assert_eq!(disk_of(file_size(DISKS - 1)), Some(DISKS - 1));
        assert_eq!([0, SIZES - 1, SIZES + DISKS].map(disk_of), [None; 3]);
    }

    #[test]
    fn every_disk_has_a_name_of_its_own() {
        assert_ne!(data_in(1, &[0x12, 1, 0x83, 0, 255, 0]), data_in(2, &[0x12, 1, 0x83, 0, 255, 0]));
        assert!(data_in(1, &[0x12, 0, 0, 0, 96, 0]).is_empty());
    }
}
