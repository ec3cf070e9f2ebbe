//! Every service action of PERSISTENT RESERVE IN and OUT, sent by `sg_persist` in the guest, with another node that feels the consequences.

use crate::linux_guest::{FIRST, LinuxGuests, PEER as OTHER};
use anyhow::{Context, Result, ensure};
use nexus::{Nexus, unit_attention};
use scsi::pr::{Key, ReservationType, request};
use scsi::{AdditionalSense, Completion, DataPhase, Request, Status, opcode};

/// What sg_persist ends with: ILLEGAL REQUEST, and RESERVATION CONFLICT.
const ILLEGAL: i32 = 5;
const CONFLICT: i32 = 24;
/// The other node's key; the guest's is 0xa.
const PEER: Key = Key(0xB);
const KIND: ReservationType = ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

impl LinuxGuests {
    /// All of them; how many commands the guest sent.
    pub(super) fn reservations(&mut self) -> Result<usize> {
        let mut sent = 0;
        for part in [Self::register_and_reserve, Self::preempt, Self::release_and_move, Self::fenced] {
            sent += part(self).context("reservations")?;
        }
        Ok(sent)
    }

    fn persist(&mut self, options: &str, exit: i32, words: &[&str]) -> Result<()> {
        // A unit attention that is owed for what the other node did is reported to the next command.
        self.shell("sg_turs /dev/sda; sg_turs /dev/sda; true", 0, &[])?;
        self.shell(&format!("sg_persist -n {options} /dev/sda"), exit, words).map(drop)
    }

    fn register_and_reserve(&mut self) -> Result<usize> {
        self.persist("-i -k", 0, &["NO registered"])?;
        self.persist("-i -c", 0, &["Write Exclusive, registrants only: 1"])?;
        self.persist("-o -R -K 0xa -T 5", CONFLICT, &[])?;
        self.persist("-o -G -S 0xa", 0, &[])?;
        self.peer_does(&request::register(Key::NONE, PEER, false))?;
        self.persist("-i -k", 0, &["0xa", "0xb"])?;
        self.persist("-o -R -K 0xa -T 5", 0, &[])?;
        self.persist("-i -r", 0, &["Key=0xa", "Write Exclusive, registrants only"])?;
        let initiators = [self.initiator(FIRST)?, self.initiator(OTHER)?];
        let names: Vec<&str> = initiators.iter().filter_map(|name| name.split(',').next()).collect();
        self.persist("-i -s", 0, &names)?;
        // A type that the reservation does not have.
        self.persist("-o -L -K 0xa -T 1", ILLEGAL, &[])?;
        Ok(10)
    }

    fn preempt(&mut self) -> Result<usize> {
        for action in ["-P", "-A"] {
            self.persist(&format!("-o {action} -K 0xa -S 0xb -T 5"), 0, &[])?;
            self.peer_hears(AdditionalSense::REGISTRATIONS_PREEMPTED)?;
            ensure!(
                self.peer_sends(&write())?.status == Status::RESERVATION_CONFLICT,
                "a preempted node writes"
            );
            self.persist("-i -k", 0, &["1 registered reservation key", "0xa"])?;
            self.peer_does(&request::register(Key::NONE, PEER, false))?;
        }
        Ok(4)
    }

    fn release_and_move(&mut self) -> Result<usize> {
        self.persist("-o -L -K 0xa -T 5", 0, &[])?;
        self.peer_hears(AdditionalSense::RESERVATIONS_RELEASED)?;
        self.persist("-i -r", 0, &["NO reservation"])?;
        self.persist("-o -I -S 0xc", 0, &[])?;
        self.persist("-o -R -K 0xc -T 5", 0, &[])?;
        let peer = self.initiator(OTHER)?;
        let to = format!("-o -M -K 0xc -S 0xd -Q 1 --transport-id={peer}");
        self.persist(&to, 0, &[])?;
        self.persist("-i -r", 0, &["Key=0xd"])?;
        self.peer_does(&request::release(Key(0xD), KIND))?;
        // Nothing was lost.
        self.persist("-o -z -S 0xc -T 5", CONFLICT, &[])?;
        self.persist("-o -C -K 0xc", 0, &[])?;
        self.peer_hears(AdditionalSense::RESERVATIONS_PREEMPTED)?;
        self.persist("-i -k", 0, &["NO registered"])?;
        Ok(10)
    }

    /// The other node fences the guest, which feels it.
    fn fenced(&mut self) -> Result<usize> {
        self.persist("-o -G -S 0xa", 0, &[])?;
        self.peer_does(&request::register(Key::NONE, PEER, false))?;
        self.peer_does(&request::reserve(PEER, KIND))?;
        let write = "dd if=/dev/zero of=/dev/sda bs=512 seek=2048 count=1 oflag=direct";
        self.shell(write, 0, &[])?;
        self.peer_does(&request::preempt(PEER, Key(0xA), KIND))?;
        self.shell(write, 1, &[])?;
        self.persist("-o -G -K 0xa -S 0xa", CONFLICT, &[])?;
        self.persist("-o -G -S 0xa", 0, &[])?;
        self.shell(write, 0, &[])?;
        self.peer_does(&request::clear(PEER))?;
        Ok(3)
    }

    fn peer_sends(&mut self, request: &Request) -> Result<Completion> {
        Ok(self.peer.disk(0).execute(request)?)
    }

    /// The command is good, whatever unit attentions are owed before.
    fn peer_does(&mut self, request: &Request) -> Result<()> {
        let ended = nexus::retry_unit_attention(&mut self.peer.disk(0), request, 8)?.completion;
        ensure!(ended.status == Status::GOOD, "the other node's {:02x?}: {ended:?}", request.cdb);
        Ok(())
    }

    /// The next thing that the other node is told.
    fn peer_hears(&mut self, code: AdditionalSense) -> Result<()> {
        let ready = Request { cdb: vec![opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], data: DataPhase::None };
        let ended = self.peer_sends(&ready)?;
        ensure!(unit_attention(&ended) == Some(code), "the other node was told {ended:?} and not {code:?}");
        Ok(())
    }
}

fn write() -> Request {
    Request { cdb: vec![opcode::WRITE_10, 0, 0, 0, 8, 0, 0, 0, 1, 0], data: DataPhase::Out(vec![0; 512]) }
}
