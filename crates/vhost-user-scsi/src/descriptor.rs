//! What a front end's descriptors are, found out without asking whoever made them: a file of FUSE or of a network answers when its server
//! likes, and every call to it, `close` too, may wait for ever. Used wherever a descriptor comes in: by [`crate::memory`] for what is
//! mapped, by the front end's handler for eventfds.
//!
//! Guarantees: what passes is in memory, on a local disk or an eventfd; what does not costs the front end its connection, and the thread
//! that serves it nothing.

use rustix::fs::{fcntl_get_seals, readlink};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Filesystems whose files are mapped beside those in memory. Not overlayfs: what it lies over may be anything.
const LOCAL: [&[u8]; 9] =
    [b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs", b"bcachefs", b"zfs", b"ramfs"];

/// What the kernel calls an eventfd; the path of every file begins with a slash.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";

/// Threads that may hang in `close` at a time.
const MOST_CLOSING: usize = 64;

/// Whether a page of it comes from memory or a local disk.
pub(crate) fn is_local(file: BorrowedFd<'_>) -> bool {
    // Only files of tmpfs and hugetlbfs, memfds among them, have seals, and the kernel looks by itself.
    fcntl_get_seals(file).is_ok() || filesystem(file).is_some_and(|name| LOCAL.contains(&&*name))
}

/// Whether a write never waits, once it is told not to block.
pub(crate) fn is_eventfd(file: BorrowedFd<'_>) -> bool {
    let link = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new());
    link.is_ok_and(|name| name.to_bytes() == EVENTFD)
}

/// The type of the filesystem that a file is on, where that is mounted for us.
fn filesystem(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let about = std::fs::read(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    type_of(mount_of(&about)?, &mounts).map(<[u8]>::to_vec)
}

/// The mount's id, in a file of fdinfo (proc_pid_fdinfo(5)).
fn mount_of(about: &[u8]) -> Option<&[u8]> {
    let line = about.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    Some(line.trim_ascii()).filter(|id| !id.is_empty())
}

/// The type of the filesystem of that mount (proc_pid_mountinfo(5)): its id comes first, and the type after a dash, which as a word is
/// nowhere else.
fn type_of<'a>(mount: &[u8], mounts: &'a [u8]) -> Option<&'a [u8]> {
    let mut lines = mounts.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' '));
    let mut words = lines.find_map(|mut words| (words.next() == Some(mount)).then_some(words))?;
    words.find(|word| *word == b"-")?;
    words.next()
}

/// Closes a file that was not taken. One that may wait for ever does so beside us.
pub(crate) fn let_go(file: File) {
    if is_local(file.as_fd()) || is_eventfd(file.as_fd()) {
        return;
    }
    let closing = Closing(Some(file));
    // Above that whoever sends such files waits for them itself; a thread that is not to be had closes it here as well.
    if CLOSING.fetch_add(1, Ordering::Relaxed) < MOST_CLOSING {
        let _ = std::thread::Builder::new().name("closing".to_owned()).spawn(move || drop(closing));
    }
}

/// Files that are being closed.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// One of [`CLOSING`].
struct Closing(Option<File>);

impl Drop for Closing {
    fn drop(&mut self) {
        drop(self.0.take());
        CLOSING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memfd;
    use std::os::fd::OwnedFd;

    #[test]
    fn what_is_in_memory_is_local_and_what_somebody_else_answers_for_is_not() {
        assert!(is_local(memfd(1).as_fd()));
        let file = File::open("/proc/self/status").unwrap();
        assert!(!is_local(file.as_fd()), "procfs is on no disk");
        let pipe = OwnedFd::from(std::io::pipe().unwrap().0);
        assert!(!is_local(pipe.as_fd()), "on no mount that we see");
        let_go(pipe.into());
    }

    #[test]
    fn an_eventfd_is_one_and_nothing_else_is() {
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        assert!(is_eventfd(eventfd.as_fd()));
        let directory = tempfile::tempdir().unwrap();
        let spoof = File::create(directory.path().join("anon_inode:[eventfd]")).unwrap();
        assert!(!is_eventfd(spoof.as_fd()));
        assert!(!is_eventfd(OwnedFd::from(std::io::pipe().unwrap().1).as_fd()));
        assert!(!is_eventfd(memfd(1).as_fd()));
    }

    #[test]
    fn a_mount_is_found_by_its_id_and_its_type_whatever_its_options() {
        let mounts = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            221 22 0:40 / /home/a\\040-\\040b rw - fuse.sshfs ext4 rw\n\
            23 22 0:41 / /x rw master:1 propagate_from:2 - tmpfs - rw\n\
            24 22 0:42 / /broken rw";
        assert_eq!(type_of(b"22", mounts), Some(&b"ext4"[..]));
        assert_eq!(type_of(b"221", mounts), Some(&b"fuse.sshfs"[..]));
        assert_eq!(type_of(b"23", mounts), Some(&b"tmpfs"[..]));
        assert_eq!((type_of(b"24", mounts), type_of(b"2", mounts)), (None, None));
        assert_eq!(mount_of(b"pos:\t0\nflags:\t02\nmnt_id:\t221\nino:\t7\n"), Some(&b"221"[..]));
        assert_eq!((mount_of(b"mnt_id:\n"), mount_of(b"pos:\t0")), (None, None));
    }
}
