//! The thread that reads what the target sends and hands it to those who wait.
//!
//! A target that breaks the protocol loses the connection: nothing it says afterwards could be trusted.

use super::exchange::{Exchange, State};
use super::outgoing::Burst;
use super::task::{Answer, Kind, Violation, sense_of};
use crate::pdu::frame::{Frame, Framing, Parsed};
use crate::pdu::{
    AsyncEvent, AsyncMessage, DataFlags, DataIn, Header, LogoutReason, LogoutRequest, LogoutResponse, NO_TAG,
    NopIn, NopOut, Opcode, R2t, Reject, ResponseCode, ResponseFlags, ScsiCommand, ScsiResponse,
    TaskManagementResponse, TextFlags, TextResponse,
};
use crate::receiver::Receiver;
use std::io::ErrorKind;

/// Answers to pings that may wait to be written, in bytes; a target that pings faster gets no answer.
const MAX_QUEUED_PINGS: usize = 1 << 20;

/// Reads until the connection ends.
pub(super) fn run(exchange: &Exchange, mut receiver: Receiver) {
    let parameters = &exchange.parameters;
    let max_data = usize::try_from(parameters.max_recv).unwrap_or(usize::MAX);
    let framing = Framing { digests: parameters.digests, max_data };
    loop {
        if !process(exchange, &framing, &mut receiver) {
            return;
        }
        match receiver.read_from(&exchange.stream) {
            Ok(0) => {
                let mut state = exchange.lock();
                return exchange.fail(
                    &mut state,
                    ErrorKind::ConnectionAborted,
                    "the target closed the connection",
                );
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let mut state = exchange.lock();
                return exchange.fail(&mut state, error.kind(), "the connection failed");
            }
        }
    }
}

/// Handles every whole PDU in the buffer; `false` once the connection has failed.
fn process(exchange: &Exchange, framing: &Framing, receiver: &mut Receiver) -> bool {
    let mut state = exchange.lock();
    loop {
        let consumed = match framing.next(receiver.pending()) {
            Ok(Parsed::Incomplete(needed)) => {
                receiver.make_room(needed);
                break;
            }
            Ok(Parsed::Frame(frame)) => handle(exchange, &mut state, &frame).map(|()| frame.length),
            Err(_) => Err(Violation("the target sent a PDU that is too long or damaged")),
        };
        match consumed {
            Ok(length) => receiver.consume(length),
            Err(Violation(reason)) => exchange.fail(&mut state, ErrorKind::InvalidData, reason),
        }
        if state.has_failed() {
            return false;
        }
    }
    if state.leaving && state.tasks.is_empty() {
        queue_logout(exchange, &mut state);
    }
    // Nobody waits who could write, and with nothing under way the target reads.
    if state.tasks.is_empty() {
        state = exchange.flush(state);
    }
    drop(state);
    exchange.notify();
    true
}

fn handle(exchange: &Exchange, state: &mut State, frame: &Frame<'_>) -> Result<(), Violation> {
    if !frame.data_intact {
        return Err(Violation("a data digest is wrong"));
    }
    let (bhs, data) = (frame.bhs, frame.data);
    match Opcode::of(bhs) {
        Opcode::SCSI_RESPONSE => response(state, &ScsiResponse::parse(bhs), data),
        Opcode::DATA_IN => data_in(state, &DataIn::parse(bhs), data),
        Opcode::READY_TO_TRANSFER => ready_to_transfer(exchange, state, &R2t::parse(bhs)),
        Opcode::NOP_IN => nop_in(exchange, state, &NopIn::parse(bhs), data),
        Opcode::TASK_MANAGEMENT_RESPONSE => {
            let response = TaskManagementResponse::parse(bhs);
            numbers(state, Some(response.stat_sn), response.exp_cmd_sn, response.max_cmd_sn);
            state.answer(response.initiator_task_tag, Answer::Management(response.response));
            Ok(())
        }
        Opcode::LOGOUT_RESPONSE => {
            let response = LogoutResponse::parse(bhs);
            numbers(state, Some(response.stat_sn), response.exp_cmd_sn, response.max_cmd_sn);
            state.answer(response.initiator_task_tag, Answer::Logout(response.result));
            exchange.fail(state, ErrorKind::NotConnected, "the session is logged out");
            Ok(())
        }
        Opcode::TEXT_RESPONSE => {
            text(state, &TextResponse::parse(bhs), data);
            Ok(())
        }
        Opcode::REJECT => {
            rejected(state, &Reject::parse(bhs), data);
            Ok(())
        }
        Opcode::ASYNC_MESSAGE => {
            asynchronous(exchange, state, &AsyncMessage::parse(bhs));
            Ok(())
        }
        _ => Err(Violation("the target sent an opcode that is not a target's")),
    }
}

fn numbers(state: &mut State, stat_sn: Option<u32>, exp_cmd_sn: u32, max_cmd_sn: u32) {
    if let Some(stat_sn) = stat_sn {
        state.learn_status(stat_sn);
    }
    state.learn_window(exp_cmd_sn, max_cmd_sn);
}

fn response(state: &mut State, response: &ScsiResponse, data: &[u8]) -> Result<(), Violation> {
    numbers(state, Some(response.stat_sn), response.exp_cmd_sn, response.max_cmd_sn);
    let tag = response.initiator_task_tag;
    // A task that was given up has no entry any more; its late answer tells nobody anything.
    let Some(task) = state.tasks.get_mut(&tag) else { return Ok(()) };
    let Kind::Command(command) = &mut task.kind else {
        return Err(Violation("a SCSI response to something else"));
    };
    let answer = if response.response == ResponseCode::COMPLETED {
        let underflow = if response.flags.has(ResponseFlags::UNDERFLOW) { response.residual } else { 0 };
        Answer::Completion(command.complete(response.status, sense_of(data), underflow))
    } else {
        Answer::Ended("the target failed to execute the command")
    };
    state.answer(tag, answer);
    Ok(())
}

fn data_in(state: &mut State, header: &DataIn, data: &[u8]) -> Result<(), Violation> {
    let last = header.flags.has(DataFlags::STATUS);
    numbers(state, last.then_some(header.stat_sn), header.exp_cmd_sn, header.max_cmd_sn);
    let tag = header.initiator_task_tag;
    let Some(task) = state.tasks.get_mut(&tag) else { return Ok(()) };
    let Kind::Command(command) = &mut task.kind else {
        return Err(Violation("Data-In for something else"));
    };
    command.receive(header.buffer_offset, data)?;
    if last {
        let underflow = if header.flags.has(DataFlags::UNDERFLOW) { header.residual } else { 0 };
        let completion = command.complete(header.status, Vec::new(), underflow);
        state.answer(tag, Answer::Completion(completion));
    }
    Ok(())
}

fn ready_to_transfer(exchange: &Exchange, state: &mut State, r2t: &R2t) -> Result<(), Violation> {
    numbers(state, None, r2t.exp_cmd_sn, r2t.max_cmd_sn);
    let exp_stat_sn = state.exp_stat_sn;
    let State { tasks, out, .. } = state;
    let Some(task) = tasks.get_mut(&r2t.initiator_task_tag) else { return Ok(()) };
    let Kind::Command(command) = &mut task.kind else {
        return Err(Violation("an R2T for something else"));
    };
    let data = command.burst(r2t.r2t_sn, r2t.buffer_offset, r2t.desired_length)?;
    let burst = Burst {
        lun: task.lun,
        tag: r2t.initiator_task_tag,
        transfer_tag: r2t.target_transfer_tag,
        offset: r2t.buffer_offset,
        exp_stat_sn,
    };
    let segment = usize::try_from(exchange.parameters.max_send).unwrap_or(usize::MAX);
    out.data_out(&burst, data, segment, exchange.parameters.digests);
    Ok(())
}

fn nop_in(exchange: &Exchange, state: &mut State, nop: &NopIn, data: &[u8]) -> Result<(), Violation> {
    let answered = (nop.initiator_task_tag != NO_TAG).then_some(nop.stat_sn);
    numbers(state, answered, nop.exp_cmd_sn, nop.max_cmd_sn);
    if nop.target_transfer_tag == NO_TAG || state.out.len() > MAX_QUEUED_PINGS {
        return Ok(());
    }
    let answer = NopOut {
        immediate: true,
        flags: 0x80,
        lun: nop.lun,
        initiator_task_tag: NO_TAG,
        target_transfer_tag: nop.target_transfer_tag,
        cmd_sn: state.cmd_sn(true),
        exp_stat_sn: state.exp_stat_sn,
    };
    let limit = usize::try_from(exchange.parameters.max_send).unwrap_or(usize::MAX);
    state.out.push(&answer, data.get(..limit).unwrap_or(data), exchange.parameters.digests);
    Ok(())
}

fn text(state: &mut State, response: &TextResponse, data: &[u8]) {
    numbers(state, Some(response.stat_sn), response.exp_cmd_sn, response.max_cmd_sn);
    let answer = Answer::Text {
        data: data.to_vec(),
        tag: response.target_transfer_tag,
        lun: response.lun,
        more: !response.flags.has(TextFlags::FINAL) && response.target_transfer_tag != NO_TAG,
    };
    state.answer(response.initiator_task_tag, answer);
}

/// The rejected PDU's header is in the data; its tag says whose request failed.
fn rejected(state: &mut State, reject: &Reject, data: &[u8]) {
    numbers(state, Some(reject.stat_sn), reject.exp_cmd_sn, reject.max_cmd_sn);
    if let Some(bhs) = data.first_chunk() {
        state.answer(ScsiCommand::parse(bhs).initiator_task_tag, Answer::Rejected(reject.reason));
    }
}

fn asynchronous(exchange: &Exchange, state: &mut State, message: &AsyncMessage) {
    numbers(state, Some(message.stat_sn), message.exp_cmd_sn, message.max_cmd_sn);
    match message.event {
        AsyncEvent::LOGOUT_REQUEST | AsyncEvent::NEGOTIATION_REQUEST => state.leaving = true,
        AsyncEvent::CONNECTION_DROPPED | AsyncEvent::SESSION_DROPPED => {
            exchange.fail(state, ErrorKind::ConnectionAborted, "the target dropped the session");
        }
        _ => {}
    }
}

/// Asks for a logout that nobody waits for: the target wanted it.
pub(super) fn queue_logout(exchange: &Exchange, state: &mut State) {
    if std::mem::replace(&mut state.logout_sent, true) {
        return;
    }
    let logout = LogoutRequest {
        immediate: true,
        reason: LogoutReason::CLOSE_SESSION.on_wire(),
        initiator_task_tag: NO_TAG - 1,
        cid: 0,
        cmd_sn: state.cmd_sn(true),
        exp_stat_sn: state.exp_stat_sn,
    };
    state.out.push(&logout, &[], exchange.parameters.digests);
}
