//! What a medium fails with. The log has it once for each kind and logical unit, with what the system says, which the sense data cannot
//! tell. A flush of the page cache that has failed is never forgotten: the kernel reports what it could not write back once, and drops it;
//! a later flush that "succeeds" would tell of data that is gone. Used by the other parts of the device server.

use super::plan::Move;
use super::refusal::Refusal;
use super::{Answer, Disk};
use crate::store::Caching;
use scsi::{AdditionalSense, Completion, SenseKey};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// What there was of it.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    unread: AtomicBool,
    unwritten: AtomicBool,
    /// Data has been lost on its way from the page cache.
    lost: AtomicBool,
}

impl Disk {
    /// The store could not read.
    pub(super) fn unread(&self, error: &io::Error) -> Refusal {
        self.say(&self.trouble.unread, "cannot be read", error);
        Refusal::unread(error)
    }

    /// The store could not write.
    pub(super) fn unwritten(&self, error: &io::Error) -> Refusal {
        self.say(&self.trouble.unwritten, "cannot be written", error);
        Refusal::unwritten(error)
    }

    /// The store could not make durable what it was given, this or something before it.
    pub(super) fn undurable(&self, error: &io::Error) -> Refusal {
        if matches!(self.caching(), Caching::Buffered(_)) {
            self.trouble.lost.store(true, Ordering::Release);
        }
        self.unwritten(error)
    }

    /// Whether no flush can succeed any more, until the medium is opened anew.
    pub(super) fn has_lost(&self) -> bool {
        self.trouble.lost.load(Ordering::Acquire)
    }

    /// SYNCHRONIZE CACHE: the whole cache, which is more than was asked for and never less. IMMED is not
    /// taken up: the status says that it has happened.
    pub(super) fn flush(&self) -> Answer {
        if self.has_lost() {
            return Err(Refusal::new(SenseKey::MEDIUM_ERROR, AdditionalSense::WRITE_ERROR));
        }
        self.store.flush().map(|()| Vec::new()).map_err(|error| self.undurable(&error))
    }

    /// Makes durable what initiators were told is written: nobody here can be told later that it is not.
    ///
    /// # Errors
    /// The system's; also where it has lost something before.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        let lost = || io::Error::other("what was written before could not be made durable");
        if self.has_lost() {
            return Err(lost());
        }
        self.store.flush().inspect_err(|error| {
            self.undurable(error);
        })
    }

    /// What the initiator gets for the outcome of a transfer that was carried out elsewhere.
    pub(crate) fn completion(&self, action: Move, result: &io::Result<()>) -> Completion {
        let Err(error) = result else { return Completion::good(Vec::new()) };
        let refusal = match action {
            Move::Read => self.unread(error),
            Move::Write { durable: false } => self.unwritten(error),
            Move::Write { durable: true } | Move::Flush => self.undurable(error),
        };
        refusal.completion()
    }

    fn say(&self, once: &AtomicBool, what: &str, error: &io::Error) {
        if !once.swap(true, Ordering::Relaxed) {
            let naa = format!("naa.{:016x}", self.naa());
            tracing::error!(lun = naa, %error, "{what}; said once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sender;
    use super::super::plan::Room;
    use super::*;
    use crate::identity::Identity;
    use crate::store::{Descriptor, MemoryStore, Run, Store};
    use crate::{ItNexus, Profile};
    use std::sync::Arc;

    /// Fails once, as the kernel does.
    #[derive(Debug)]
    struct Once {
        inner: MemoryStore,
        fails: AtomicBool,
        caching: Caching,
    }

    impl Once {
        fn fail(&self) -> io::Result<()> {
            if self.fails.swap(false, Ordering::SeqCst) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    impl Store for Once {
        fn size(&self) -> u64 {
            self.inner.size()
        }

        fn read_at(&self, offset: u64, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
            self.inner.read_at(offset, length, out)
        }

        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.inner.write_at(offset, data)
        }

        fn write_durably(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.fail()?;
            self.inner.write_at(offset, data)
        }

        fn deallocate(&self, offset: u64, length: u64) -> io::Result<()> {
            self.inner.deallocate(offset, length)
        }

        fn run_at(&self, offset: u64) -> io::Result<Run> {
            self.inner.run_at(offset)
        }

        fn flush(&self) -> io::Result<()> {
            self.fail()
        }

        fn has_volatile_cache(&self) -> bool {
            true
        }

        fn caching(&self) -> Caching {
            self.caching
        }

        fn descriptor(&self) -> Option<Descriptor> {
            let file = Arc::new(tempfile::tempfile().unwrap().into());
            Some(Descriptor { file, alignment: 1 })
        }
    }

    const BUFFERED: Caching = Caching::Buffered("a test");
    const DIRECT: Caching = Caching::Direct { alignment: 512 };
    const SYNCHRONIZE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// MODE SELECT(6) of the Caching page.
    fn select_wce(disk: &Arc<Disk>, on: bool) -> Completion {
        let nexus = ItNexus { initiator: "sas:5000000000000001".parse().unwrap(), target_port: 1 };
        let sender = Sender { nexus: &nexus, target: None, interrupted: &AtomicBool::new(false) };
        let mut list = [0; 24];
        (list[4], list[5], list[6]) = (8, 18, u8::from(on) << 2);
        disk.execute(sender, &[0x15, 0x10, 0, 0, 24, 0], &list).completion
    }

    #[test]
    fn to_switch_the_write_cache_off_is_to_flush_it() {
        let disk = Arc::new(disk(DIRECT, true));
        let failed = select_wce(&disk, false);
        assert_eq!(failed.decoded_sense().unwrap().key, SenseKey::MEDIUM_ERROR);
        for on in [false, true, false] {
            assert!(select_wce(&disk, on).status.is_good(), "{on}");
        }
    }

    fn disk(caching: Caching, fails: bool) -> Disk {
        let store = Once { inner: MemoryStore::new(1 << 20), fails: AtomicBool::new(fails), caching };
        Disk::new(Box::new(store), Identity::random(), Profile::ALL[0])
    }

    #[test]
    fn a_flush_of_the_page_cache_that_failed_is_never_followed_by_one_that_succeeds() {
        let lossy = disk(BUFFERED, true);
        assert!(lossy.plan(&SYNCHRONIZE, Room::default()).is_some());
        assert!(lossy.flush().is_err());
        assert!(lossy.flush().is_err(), "the data is gone");
        assert!(lossy.make_durable().is_err(), "and nobody else is to go on with what is left");
        assert!(lossy.plan(&SYNCHRONIZE, Room::default()).is_none(), "and no queue asks the kernel again");
        let direct = disk(DIRECT, true);
        assert!(direct.flush().is_err());
        assert!(direct.flush().is_ok(), "nothing waits in a page cache");
        assert!(direct.make_durable().is_ok());
        let given = disk(BUFFERED, true);
        assert!(given.make_durable().is_err());
        assert!(given.flush().is_err(), "that was a flush like any other");
    }

    #[test]
    fn so_is_a_failed_flush_or_durable_write_of_a_queue_and_no_other_failure() {
        for (action, lost) in [
            (Move::Flush, true),
            (Move::Write { durable: true }, true),
            (Move::Write { durable: false }, false),
            (Move::Read, false),
        ] {
            let disk = disk(BUFFERED, false);
            let failed = disk.completion(action, &Err(io::ErrorKind::Other.into()));
            assert_eq!(failed.decoded_sense().unwrap().key, SenseKey::MEDIUM_ERROR);
            assert_eq!(disk.flush().is_err(), lost, "{action:?}");
        }
        assert!(disk(BUFFERED, false).write_blocks(0, &[0; 512], true).is_ok());
        let disk = disk(BUFFERED, true);
        assert!(disk.write_blocks(0, &[0; 512], true).is_err());
        assert!(disk.flush().is_err());
    }
}
