//! The target against a raw connection that says what no initiator of ours would say.

use super::WINDOW;
use super::connection::HIGH_WATER;
use super::{Limits, Target, TargetConfig};
use crate::login::Proposal;
use crate::login::requester::{LoginPlan, Requester, Step};
use crate::pdu::frame::{Digests, Framing, Parsed, encode};
use crate::pdu::*;
use crate::receiver::Receiver;
use logical_unit::{Device, LogicalUnit};
use proptest::prelude::*;
use scsi::{IscsiName, Isid};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn name(text: &str) -> IscsiName {
    IscsiName::new(text).unwrap()
}

fn bind(lun: &str, limits: Limits) -> Target {
    let device = Device::new(vec![LogicalUnit::open(&lun.parse().unwrap()).unwrap()]);
    let mut config = TargetConfig::new("127.0.0.1:0".parse().unwrap(), name("iqn.t"), device);
    config.limits = limits;
    Target::bind(config).unwrap()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection whose every byte the test chooses.
struct Raw {
    stream: TcpStream,
    receiver: Receiver,
    cmd_sn: u32,
}

impl Raw {
    fn connect(target: &Target) -> Self {
        let stream = TcpStream::connect(target.local_addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, receiver: Receiver::new(1 << 20), cmd_sn: 1 }
    }

    fn login(target: &Target) -> Self {
        Self::login_as(target, 1)
    }

    /// A login as another initiator port.
    fn login_as(target: &Target, isid: u8) -> Self {
        let mut raw = Self::connect(target);
        let plan = LoginPlan {
            initiator: name("iqn.raw"),
            isid: Isid([isid; 6]),
            target: Some(name("iqn.t")),
            chap: None,
            proposal: Proposal { max_burst: 4096, first_burst: 1024, ..Proposal::default() },
            challenge: [0; 16],
        };
        let mut requester = Requester::new(plan);
        let (mut request, mut data) = requester.start();
        loop {
            raw.send(&request, &data);
            let (bhs, text) = raw.receive().unwrap();
            match requester.handle(&LoginResponse::parse(&bhs), &text).unwrap() {
                Step::Send(next, text) => (request, data) = (next, text),
                Step::Done(_) => return raw,
            }
        }
    }

    fn send(&mut self, header: &impl Header, data: &[u8]) {
        let mut bytes = Vec::new();
        encode(&mut bytes, &header.emit(), data, Digests::default());
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next PDU, or `None` at the end of the connection.
    fn receive(&mut self) -> Option<(Bhs, Vec<u8>)> {
        let framing = Framing { digests: Digests::default(), max_data: 1 << 20 };
        loop {
            if let Parsed::Frame(frame) = framing.next(self.receiver.pending()).unwrap() {
                let pdu = (*frame.bhs, frame.data.to_vec());
                let length = frame.length;
                self.receiver.consume(length);
                return Some(pdu);
            }
            match self.receiver.read_from(&self.stream) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the target neither answers nor closes: {error}"),
            }
        }
    }

    fn expect<H: Header>(&mut self) -> H {
        let (bhs, _) = self.receive().expect("the connection ended");
        assert_eq!(Opcode::of(&bhs), H::OPCODE);
        H::parse(&bhs)
    }

    fn command(&mut self, tag: u32, cdb: &[u8], direction: CommandFlags, length: u32) -> ScsiCommand {
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        let cmd_sn = self.cmd_sn;
        self.cmd_sn += 1;
        ScsiCommand {
            immediate: false,
            flags: CommandFlags::FINAL.with(direction).with(CommandFlags::SIMPLE),
            lun: Lun::default(),
            initiator_task_tag: tag,
            expected_data_transfer_length: length,
            cmd_sn,
            exp_stat_sn: 0,
            cdb: padded,
        }
    }

    /// TEST UNIT READY until the unit attentions of the login are gone.
    fn ready(mut self) -> Self {
        for tag in 0.. {
            assert!(tag < 8, "the unit attentions do not end");
            let command = self.command(tag, &[], CommandFlags::default(), 0);
            self.send(&command, &[]);
            if self.expect::<ScsiResponse>().status == 0 {
                return self;
            }
        }
        self
    }

    fn ping(&mut self, tag: u32) -> NopIn {
        let ping = NopOut {
            immediate: true,
            flags: 0x80,
            lun: Lun::default(),
            initiator_task_tag: tag,
            target_transfer_tag: NO_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: 0,
        };
        self.send(&ping, b"echo");
        let (bhs, data) = self.receive().expect("the connection ended");
        assert_eq!((Opcode::of(&bhs), &data[..]), (Opcode::NOP_IN, &b"echo"[..]));
        NopIn::parse(&bhs)
    }
}

const WRITE_8_BLOCKS: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 8, 0];

fn data_out(tag: u32, ttt: u32, data_sn: u32, offset: u32, last: bool) -> DataOut {
    DataOut {
        flags: DataFlags::FINAL.when(last),
        lun: Lun::default(),
        initiator_task_tag: tag,
        target_transfer_tag: ttt,
        exp_stat_sn: 0,
        data_sn,
        buffer_offset: offset,
    }
}

fn unit() -> Target {
    bind("memory=1M", Limits::default())
}

#[test]
fn pings_are_echoed() {
    let target = unit();
    assert_eq!(Raw::login(&target).ping(77).initiator_task_tag, 77);
}

#[test]
fn r2ts_ask_for_bursts_and_no_more_at_a_time_than_allowed() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let command = raw.command(9, &WRITE_8_BLOCKS, CommandFlags::WRITE, 4096);
    raw.send(&command, &[1; 512]);
    let r2t: R2t = raw.expect();
    assert_eq!((r2t.buffer_offset, r2t.desired_length, r2t.r2t_sn), (512, 3584, 0));
    raw.send(&data_out(9, r2t.target_transfer_tag, 0, 512, false), &[1; 2048]);
    raw.send(&data_out(9, r2t.target_transfer_tag, 1, 2560, true), &[1; 1536]);
    let response: ScsiResponse = raw.expect();
    assert_eq!((response.status, response.residual), (0, 0));
    let read = raw.command(10, &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], CommandFlags::READ, 4096);
    raw.send(&read, &[]);
    let (bhs, data) = raw.receive().unwrap();
    let header = DataIn::parse(&bhs);
    assert!(header.flags.has(DataFlags::FINAL.with(DataFlags::STATUS)));
    assert_eq!(data, [1; 4096]);
}

#[test]
fn unsolicited_data_beyond_the_first_burst_ends_the_session() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let mut command = raw.command(9, &WRITE_8_BLOCKS, CommandFlags::WRITE, 4096);
    command.flags = CommandFlags::WRITE.with(CommandFlags::SIMPLE);
    raw.send(&command, &[]);
    raw.send(&data_out(9, NO_TAG, 0, 0, false), &[0; 1025]);
    assert_eq!(raw.expect::<Reject>().reason, RejectReason::PROTOCOL_ERROR);
    assert_eq!(raw.receive(), None);
}

#[test]
fn data_under_a_wrong_transfer_tag_ends_the_session() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let command = raw.command(9, &WRITE_8_BLOCKS, CommandFlags::WRITE, 4096);
    raw.send(&command, &[]);
    let r2t: R2t = raw.expect();
    raw.send(&data_out(9, r2t.target_transfer_tag ^ 1, 0, 0, true), &[0; 4096]);
    assert_eq!(raw.expect::<Reject>().reason, RejectReason::PROTOCOL_ERROR);
    assert_eq!(raw.receive(), None);
}

#[test]
fn a_gap_in_the_data_fails_the_command_alone() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let command = raw.command(9, &WRITE_8_BLOCKS, CommandFlags::WRITE, 4096);
    raw.send(&command, &[]);
    let r2t: R2t = raw.expect();
    raw.send(&data_out(9, r2t.target_transfer_tag, 1, 2048, true), &[0; 2048]);
    assert_eq!(raw.expect::<ScsiResponse>().status, 2);
    raw.send(&data_out(9, r2t.target_transfer_tag, 0, 0, false), &[0; 2048]);
    raw.ping(1);
}

#[test]
fn commands_are_executed_in_cmd_sn_order_and_ignored_outside_of_the_window() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let first = raw.command(1, &[], CommandFlags::default(), 0);
    let second = raw.command(2, &[], CommandFlags::default(), 0);
    let far = ScsiCommand { cmd_sn: first.cmd_sn + WINDOW, initiator_task_tag: 3, ..first };
    let stale = ScsiCommand { cmd_sn: first.cmd_sn - 1, initiator_task_tag: 4, ..first };
    for command in [second, far, stale, first] {
        raw.send(&command, &[]);
    }
    let one: ScsiResponse = raw.expect();
    assert_eq!((one.initiator_task_tag, raw.expect::<ScsiResponse>().initiator_task_tag), (1, 2));
    assert_eq!(raw.ping(5).exp_cmd_sn, second.cmd_sn + 1, "nothing else was answered");
}

#[test]
fn max_cmd_sn_never_goes_back_and_bounds_the_commands_under_way() {
    let target = bind("memory=1M,delay=200ms", Limits::default());
    let mut raw = Raw::login(&target).ready();
    let first = raw.cmd_sn;
    for tag in 0..WINDOW + 72 {
        let command = raw.command(tag, &[], CommandFlags::default(), 0);
        raw.send(&command, &[]);
    }
    let nop = raw.ping(1000);
    assert_eq!(
        (nop.exp_cmd_sn, nop.max_cmd_sn),
        (first + WINDOW, first + WINDOW - 1),
        "the window is closed"
    );
    let answers: Vec<ScsiResponse> = (0..WINDOW).map(|_| raw.expect()).collect();
    assert!(answers.windows(2).all(|pair| serial_at_most(pair[0].max_cmd_sn, pair[1].max_cmd_sn)));
    assert_eq!(raw.ping(1001).max_cmd_sn, first + 2 * WINDOW - 1, "and open again; the rest was ignored");
}

#[test]
fn abort_task_ends_a_delayed_write_before_it_is_executed() {
    let target = bind("memory=1M,delay=300ms", Limits::default());
    let mut raw = Raw::login(&target).ready();
    let command = raw.command(9, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], CommandFlags::WRITE, 512);
    raw.send(&command, &[7; 512]);
    let mut abort = TaskManagementRequest {
        immediate: true,
        function: TaskFunction::ABORT_TASK.on_wire(),
        lun: Lun::default(),
        initiator_task_tag: 10,
        referenced_task_tag: 9,
        cmd_sn: raw.cmd_sn,
        exp_stat_sn: 0,
        ref_cmd_sn: command.cmd_sn,
        exp_data_sn: 0,
    };
    raw.send(&abort, &[]);
    assert_eq!(raw.expect::<TaskManagementResponse>().response, TaskResponse::FUNCTION_COMPLETE);
    abort.initiator_task_tag = 11;
    raw.send(&abort, &[]);
    assert_eq!(raw.expect::<TaskManagementResponse>().response, TaskResponse::TASK_DOES_NOT_EXIST);
    let read = raw.command(12, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], CommandFlags::READ, 512);
    raw.send(&read, &[]);
    let (bhs, data) = raw.receive().unwrap();
    assert_eq!((Opcode::of(&bhs), DataIn::parse(&bhs).initiator_task_tag), (Opcode::DATA_IN, 12));
    assert_eq!(data, [0; 512]);
}

#[test]
fn odd_requests_are_rejected_and_the_session_goes_on() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let mut odd = NopOut::parse(&[0; 48]).emit();
    odd[0] = 0x40 | 0x1C;
    raw.stream.write_all(&odd).unwrap();
    assert_eq!(raw.expect::<Reject>().reason, RejectReason::COMMAND_NOT_SUPPORTED);
    raw.send(&SnackRequest::parse(&[0; 48]), &[]);
    assert_eq!(raw.expect::<Reject>().reason, RejectReason::SNACK_REJECT);
    let mut reassign = TaskManagementRequest::parse(&[0; 48]);
    (reassign.immediate, reassign.function) = (true, TaskFunction::TASK_REASSIGN.on_wire());
    raw.send(&reassign, &[]);
    let response = raw.expect::<TaskManagementResponse>().response;
    assert_eq!(response, TaskResponse::REASSIGNMENT_NOT_SUPPORTED);
    raw.ping(3);
}

#[test]
fn an_answer_to_text_is_never_longer_than_the_initiator_takes() {
    let target = unit();
    let mut raw = Raw::login(&target).ready();
    let mut request = TextRequest::parse(&[0; 48]);
    (request.immediate, request.flags) = (true, TextFlags::FINAL);
    raw.send(&request, b"MaxRecvDataSegmentLength=512\0");
    let response: TextResponse = raw.expect();
    assert!(response.flags.has(TextFlags::FINAL));
    let keys: Vec<u8> = (10..99).flat_map(|number| format!("X-{number}=\0").into_bytes()).collect();
    raw.send(&request, &keys);
    assert_eq!(raw.expect::<Reject>().reason, RejectReason::INVALID_PDU_FIELD);
    raw.send(&request, &keys[..48]);
    let _: TextResponse = raw.expect();
    raw.ping(3);
}

#[test]
fn over_long_data_segments_end_the_connection() {
    let target = unit();
    let mut raw = Raw::login(&target);
    let mut bhs = NopOut::parse(&[0; 48]).emit();
    [bhs[5], bhs[6], bhs[7]] = [0xFF; 3];
    raw.stream.write_all(&bhs).unwrap();
    assert_eq!(raw.receive(), None);
    wait_for("the connection's end", || target.connections() == 0);
}

#[test]
fn a_write_of_more_than_there_is_memory_for_is_refused() {
    let target = bind("memory=1M,delay=1ms", Limits::default());
    let mut raw = Raw::login(&target).ready();
    let cdb = [0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0];
    let command = raw.command(9, &cdb, CommandFlags::WRITE, u32::MAX);
    raw.send(&command, &[]);
    assert_eq!(raw.expect::<ScsiResponse>().status, 2);
    raw.ping(1);
}

const MEGABYTE: u32 = 1 << 20;

/// Begins a write of a megabyte and gives the first answer to it; its data is never sent.
fn begin_large_write(raw: &mut Raw, tag: u32) -> Bhs {
    let write = raw.command(tag, &[0x2A, 0, 0, 0, 0, 0, 0, 8, 0, 0], CommandFlags::WRITE, MEGABYTE);
    raw.send(&write, &[]);
    loop {
        let (bhs, _) = raw.receive().unwrap();
        if R2t::parse(&bhs).initiator_task_tag == tag {
            return bhs;
        }
    }
}

#[test]
fn peers_that_hoard_memory_share_one_bound_and_others_are_served() {
    let memory = 2 * usize::try_from(MEGABYTE).unwrap();
    let target = bind("memory=8M", Limits { memory, ..Limits::default() });
    let (mut hoarder, mut other) = (Raw::login(&target).ready(), Raw::login_as(&target, 2).ready());
    // An answer counts until the target has seen that the peer took it, which may be after the peer has read it.
    wait_for("the end of the answers to the login", || target.memory_in_use() == 0);
    for tag in [100, 101] {
        assert_eq!(Opcode::of(&begin_large_write(&mut hoarder, tag)), Opcode::READY_TO_TRANSFER);
    }
    assert_eq!(target.memory_in_use(), memory);
    for raw in [&mut hoarder, &mut other] {
        let answer = begin_large_write(raw, 102);
        assert_eq!(Opcode::of(&answer), Opcode::SCSI_RESPONSE);
        assert_eq!(ScsiResponse::parse(&answer).status, 0x28, "TASK SET FULL");
    }
    let small = other.command(103, &WRITE_8_BLOCKS, CommandFlags::WRITE, 4096);
    other.send(&small, &[]);
    let r2t: R2t = other.expect();
    other.send(&data_out(103, r2t.target_transfer_tag, 0, 0, true), &[1; 4096]);
    assert_eq!(other.expect::<ScsiResponse>().status, 0, "small commands go on");
    drop(hoarder);
    wait_for("the return of the memory", || target.memory_in_use() == 0);
    assert_eq!(Opcode::of(&begin_large_write(&mut other, 104)), Opcode::READY_TO_TRANSFER);
}

/// Of one peer alone the answers are bounded beside this: it is not read from while many wait. So there are several.
#[test]
fn answers_that_nobody_takes_are_bounded_together() {
    let memory = 2 * usize::try_from(MEGABYTE).unwrap();
    // Executed on the spot, and when its time has come.
    for lun in ["memory=8M", "memory=8M,delay=1ms"] {
        let target = bind(lun, Limits { memory, ..impatient() });
        let mut deaf = [1, 2, 3, 4].map(|isid| Raw::login_as(&target, isid).ready());
        let mut most = 0;
        wait_for("the end of the deaf peers", || {
            for raw in &mut deaf {
                let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0xC, 0, 0];
                let read = raw.command(raw.cmd_sn, &cdb, CommandFlags::READ, MEGABYTE / 2 * 3);
                let mut bytes = Vec::new();
                encode(&mut bytes, &read.emit(), &[], Digests::default());
                // After the end nobody takes it.
                let _ = raw.stream.write_all(&bytes);
            }
            most = most.max(target.memory_in_use());
            target.connections() == 0
        });
        assert!(most >= memory / 4, "{lun}: {most} bytes: no answer had to wait");
        assert!(most <= memory + memory / 8, "{lun}: {most} bytes, headers included");
        assert_eq!(target.memory_in_use(), 0);
    }
}

#[test]
fn a_peer_that_takes_no_answers_is_not_listened_to_while_many_wait() {
    let target = bind("memory=1M", impatient());
    let mut deaf = Raw::login(&target).ready();
    let mut reads = Vec::new();
    for tag in 0..8192 {
        let read = deaf.command(tag, &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], CommandFlags::READ, 4096);
        encode(&mut reads, &read.emit(), &[], Digests::default());
    }
    deaf.stream.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
    let (mut sent, mut most) = (0, 0);
    wait_for("the end of the deaf peer", || {
        sent += deaf.stream.write(&reads[sent..]).unwrap_or(0);
        most = most.max(target.memory_in_use());
        target.connections() == 0
    });
    assert!(most >= HIGH_WATER, "{most} bytes: nothing waited");
    assert!(most <= HIGH_WATER / 2 * 3, "{most} bytes of answers were kept");
}

fn impatient() -> Limits {
    let short = Duration::from_millis(400);
    Limits { login: short, stall: short, ping: Duration::from_secs(30), ..Limits::default() }
}

#[test]
fn a_peer_that_stops_within_a_pdu_is_dropped_and_others_are_not() {
    let target = bind("memory=1M", impatient());
    let mut idle = Raw::login(&target);
    let mut stalled = Raw::login_as(&target, 2);
    stalled.stream.write_all(&[0x41; 20]).unwrap();
    assert_eq!(stalled.receive(), None);
    idle.ping(1);
    assert_eq!(target.connections(), 1);
}

#[test]
fn a_peer_that_does_not_log_in_is_dropped() {
    let target = bind("memory=1M", impatient());
    let mut silent = Raw::connect(&target);
    assert_eq!(silent.receive(), None);
    let mut slow = Raw::connect(&target);
    slow.stream.write_all(&[0x43; 10]).unwrap();
    assert_eq!(slow.receive(), None);
}

#[test]
fn a_peer_that_takes_no_answers_is_dropped() {
    let target = bind("memory=8M", impatient());
    let mut raw = Raw::login(&target).ready();
    let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0x40, 0, 0];
    for tag in 0..8 {
        let command = raw.command(tag, &cdb, CommandFlags::READ, 0x4000 * 512);
        raw.send(&command, &[]);
    }
    wait_for("the connection's end", || target.connections() == 0);
}

#[test]
fn a_session_that_is_not_read_from_is_ended_at_once_and_executes_nothing_it_has_buffered() {
    let target = bind("memory=8M", Limits::default());
    let mut deaf = Raw::login(&target).ready();
    // More answers than both kernels hold, so that the target stops reading with the write still to come.
    for tag in 0..16 {
        let read = deaf.command(tag, &[0x28, 0, 0, 0, 0, 0, 0, 0x40, 0, 0], CommandFlags::READ, 0x4000 * 512);
        deaf.send(&read, &[]);
    }
    let write = deaf.command(99, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], CommandFlags::WRITE, 512);
    deaf.send(&write, &[7; 512]);
    let start = Instant::now();
    let mut next = Raw::login(&target).ready();
    assert!(start.elapsed() < Limits::default().login, "the login waited for the old session's peer");
    assert_eq!(target.connections(), 1, "the old session goes on");
    let read = next.command(9, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], CommandFlags::READ, 512);
    next.send(&read, &[]);
    assert_eq!(next.receive().unwrap().1, [0; 512], "the old session's write was executed");
}

#[test]
fn a_peer_that_answers_no_ping_is_dropped() {
    let target = bind("memory=1M", Limits { ping: Duration::from_millis(60), ..Limits::default() });
    let mut raw = Raw::login(&target);
    let ping: NopIn = raw.expect();
    assert_ne!(ping.target_transfer_tag, NO_TAG);
    assert_eq!(raw.receive(), None);
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let target = bind("memory=1M", Limits { connections: 1, ..Limits::default() });
    let mut first = Raw::login(&target);
    assert_eq!(Raw::connect(&target).receive(), None);
    first.ping(1);
}

#[test]
fn shutdown_says_goodbye_and_returns_although_peers_stay() {
    let target = unit();
    let mut raw = Raw::login(&target);
    target.shutdown();
    assert_eq!(raw.expect::<AsyncMessage>().event, AsyncEvent::SESSION_DROPPED);
    assert_eq!(raw.receive(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever comes, before and after login, the target answers or closes, and serves the next one.
    #[test]
    fn garbage_harms_nobody_else(
        early in prop::collection::vec(any::<u8>(), 0..300),
        late in prop::collection::vec((any::<u8>(), any::<[u8; 32]>(), any::<[u8; 15]>(), 0usize..40), 0..20),
    ) {
        let target = unit();
        let mut garbage = Raw::connect(&target);
        let _ = garbage.stream.write_all(&early);
        let mut raw = Raw::login(&target);
        for (opcode, low, high, length) in late {
            let mut bhs = [0; 48];
            bhs[0] = opcode;
            bhs[1..33].copy_from_slice(&low);
            bhs[33..].copy_from_slice(&high);
            // A cold reset is no garbage: it may end every session.
            if Opcode::of(&bhs) == Opcode::TASK_MANAGEMENT_REQUEST {
                bhs[1] = TaskFunction::LOGICAL_UNIT_RESET.on_wire().0;
            }
            // CmdSN in the window, or next to nothing would get past it.
            bhs[24..28].copy_from_slice(&(raw.cmd_sn + u32::from(low[0] % 4)).to_be_bytes());
            let mut bytes = Vec::new();
            encode(&mut bytes, &bhs, &vec![opcode; length], Digests::default());
            if raw.stream.write_all(&bytes).is_err() {
                break;
            }
        }
        drop(raw);
        Raw::login_as(&target, 3).ping(1);
        drop(garbage);
        wait_for("the end of the others", || target.connections() == 0);
    }
}

#[test]
fn a_connection_whose_thread_panics_leaves_its_place() {
    // Dropping a target waits for its last guest: a failure would have to wait for the guest that never leaves.
    let target = ManuallyDrop::new(unit());
    let (stream, shared) = (TcpStream::connect(target.local_addr()).unwrap(), &target.shared);
    wait_for("the login of the other end", || target.connections() == 1);
    super::host(stream.try_clone().unwrap(), shared, |_, _, _| panic!("a defect"));
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    wait_for("the end of both", || target.connections() == 0);
    ManuallyDrop::into_inner(target).shutdown();
}
