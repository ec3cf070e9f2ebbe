//! The server against well-behaved and hostile clients, byte for byte.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use pr_helper::server::Limits;
use pr_helper::{Caller, Command, Serve};
use rustix::fd::{AsFd, OwnedFd};
use scsi::Completion;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::*;

fn running() -> Running {
    Running::new(Arc::new(AtOnce), Limits::default())
}

fn short_deadline() -> Limits {
    Limits { deadline: Duration::from_millis(100), ..Limits::default() }
}

#[test]
fn the_handshake_and_a_pr_in_are_these_bytes() {
    use std::io::{Read, Write};
    let server = running();
    let mut client = Client::raw(&server.path);
    let mut word = [0xFF; 4];
    client.0.read_exact(&mut word).unwrap();
    assert_eq!(word, [0, 0, 0, 1], "CLEANUP is offered");
    client.0.write_all(&[0, 0, 0, 1]).unwrap();
    let reply = client.request(&pr_in(8), null()).unwrap();
    assert_eq!((reply.len(), &reply[..8]), (112, &[0, 0, 0, 0, 0, 0, 0, 8][..]));
    assert!(reply[8..104].iter().all(|&byte| byte == 0));
    assert_eq!(reply[104..], [0xA5; 8]);
}

#[test]
fn features_that_were_not_offered_close_the_connection() {
    use std::io::{Read, Write};
    let server = running();
    let mut client = Client::raw(&server.path);
    client.0.read_exact(&mut [0; 4]).unwrap();
    client.0.write_all(&[0, 0, 0, 2]).unwrap();
    assert!(client.is_closed());
}

#[test]
fn parameter_lists_of_any_length_leave_the_stream_in_step() {
    let server = running();
    let mut client = Client::connect(&server.path);
    for length in [0_u16, 1, 8, 23, 24, 25, 4095, 4096, 8191, 8192] {
        let list = vec![0x5F; length.into()];
        let reply = client.request(&pr_out(length.into(), &list), null()).unwrap();
        assert_eq!((reply.len(), reply[3]), (104, 0), "{length} bytes");
    }
}

#[test]
fn of_a_list_of_64_kib_and_more_the_protocol_carries_the_lower_half_of_its_length() {
    let server = running();
    let mut client = Client::connect(&server.path);
    for _ in 0..2 {
        assert_eq!(client.request(&pr_out(0x0001_0018, &[0; 24]), null()).unwrap().len(), 104);
    }
}

#[test]
fn cleanup_is_accepted_without_having_been_negotiated() {
    let server = running();
    let mut client = Client::connect(&server.path);
    let mut cdb = [0; 16];
    cdb[0] = 0xFF;
    let reply = client.request(&cdb, null()).unwrap();
    assert_eq!((reply.len(), reply[3]), (104, 2), "what `Serve::cleanup` says");
    assert!(client.request(&pr_in(8), null()).is_some());
}

#[test]
fn the_descriptor_may_come_with_any_fragment_of_the_cdb() {
    let server = running();
    let mut client = Client::connect(&server.path);
    for at in [1, 8, 15] {
        let (first, second) = (&pr_in(4)[..at], &pr_in(4)[at..]);
        client.send(first, &[]).unwrap();
        client.send(second, &[null().as_fd()]).unwrap();
        assert_eq!(client.reply().unwrap().len(), 108);
    }
}

#[test]
fn what_cannot_be_framed_closes_the_connection() {
    let server = running();
    let fd = null();
    let many = vec![fd.as_fd(); 253];
    let cases = [
        ("no descriptor", pr_in(8), 0),
        ("two descriptors", pr_in(8), 2),
        ("three descriptors", pr_in(8), 3),
        ("hundreds of descriptors", pr_in(8), 253),
        ("INQUIRY", vec![0x12; 16], 1),
        ("8193 bytes in", pr_in(8193), 1),
        ("8193 bytes out", pr_out(8193, &[]), 1),
    ];
    for (what, bytes, count) in cases {
        let mut client = Client::connect(&server.path);
        client.send(&bytes, &many[..count]).unwrap();
        assert!(client.is_closed(), "{what}");
    }
}

#[test]
fn a_descriptor_with_the_parameter_list_is_a_second_one() {
    let server = running();
    let (mut client, fd) = (Client::connect(&server.path), null());
    client.send(&pr_out(24, &[]), &[fd.as_fd()]).unwrap();
    client.send(&[0; 24], &[fd.as_fd()]).unwrap();
    assert!(client.is_closed());
}

#[test]
fn a_client_that_stalls_at_any_byte_is_closed_and_an_idle_one_is_not() {
    let server = Running::new(Arc::new(AtOnce), short_deadline());
    let mut idle = Client::connect(&server.path);
    let (request, fd) = (pr_out(24, &[0; 24]), null());
    let stalled = (1..request.len()).map(|at| {
        let client = Client::connect(&server.path);
        client.send(&request[..at], &[fd.as_fd()]).unwrap();
        client
    });
    for mut client in stalled.collect::<Vec<_>>() {
        assert!(client.is_closed());
    }
    assert!(idle.request(&request, fd).is_some());
}

#[test]
fn a_client_that_drips_bytes_does_not_move_its_deadline() {
    let server = Running::new(Arc::new(AtOnce), short_deadline());
    let (client, fd) = (Client::connect(&server.path), null());
    client.send(&pr_out(8192, &[]), &[fd.as_fd()]).unwrap();
    wait_until("closed", || client.send(&[0], &[]).is_err());
}

#[test]
fn a_client_that_takes_no_replies_is_closed() {
    let server = Running::new(Arc::new(AtOnce), short_deadline());
    let (client, fd) = (Client::connect(&server.path), null());
    wait_until("closed", || client.send(&pr_in(8192), &[fd.as_fd()]).is_err());
}

#[test]
fn truncated_features_and_requests_end_their_own_connection_alone() {
    use std::io::Write;
    let server = running();
    for length in 0..4 {
        Client::raw(&server.path).0.write_all(&[0; 4][..length]).unwrap();
    }
    for length in 0..40 {
        let client = Client::connect(&server.path);
        client.send(&pr_out(24, &[0; 24])[..length], &[null().as_fd()][..length.min(1)]).unwrap();
    }
    assert!(Client::connect(&server.path).request(&pr_in(8), null()).is_some());
}

/// Says when a command begins, and ends it when told.
struct Gate {
    begun: Sender<()>,
    end: Mutex<Receiver<()>>,
    ended: Sender<()>,
}

impl Serve for Gate {
    fn serve(&self, _: &Caller, _: Command) -> Completion {
        self.begun.send(()).unwrap();
        self.end.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        self.ended.send(()).unwrap();
        Completion::good(Vec::new())
    }

    fn cleanup(&self, _: &Caller, _: OwnedFd) -> Completion {
        Completion::good(Vec::new())
    }
}

struct Held {
    server: Running,
    begun: Receiver<()>,
    end: Sender<()>,
    ended: Receiver<()>,
}

fn held() -> Held {
    let ((begin, begun), (end, ending), (finish, ended)) = (channel(), channel(), channel());
    let gate = Gate { begun: begin, end: Mutex::new(ending), ended: finish };
    Held { server: Running::new(Arc::new(gate), short_deadline()), begun, end, ended }
}

#[test]
fn a_client_that_disconnects_does_not_stop_its_command() {
    let held = held();
    let client = Client::connect(&held.server.path);
    client.send(&pr_in(8), &[null().as_fd()]).unwrap();
    held.begun.recv_timeout(PATIENCE).unwrap();
    drop(client);
    held.end.send(()).unwrap();
    held.ended.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn stopping_waits_for_the_command_under_way_and_its_reply_but_not_for_idle_clients() {
    let mut held = held();
    let (mut active, mut idle) = (Client::connect(&held.server.path), Client::connect(&held.server.path));
    let mut begun = Client::connect(&held.server.path);
    begun.send(&pr_in(8)[..7], &[null().as_fd()]).unwrap();
    active.send(&pr_in(8), &[null().as_fd()]).unwrap();
    held.begun.recv_timeout(PATIENCE).unwrap();
    held.server.stop();
    assert!(idle.is_closed() && begun.is_closed(), "nobody waits for these");
    held.end.send(()).unwrap();
    assert_eq!(active.reply().unwrap().len(), 104);
    held.server.join();
}

#[test]
fn stopping_waits_no_longer_than_it_may() {
    let (begin, begun) = channel();
    let (_end, ending) = channel();
    let (finish, _ended) = channel();
    let gate = Gate { begun: begin, end: Mutex::new(ending), ended: finish };
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let mut server = Running::new(Arc::new(gate), limits);
    let client = Client::connect(&server.path);
    client.send(&pr_in(8), &[null().as_fd()]).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    server.stop();
    let error = server.end().unwrap_err();
    assert_eq!(error.to_string(), "commands still under way: 1");
}

#[test]
fn connections_above_the_limit_are_closed_until_one_ends() {
    let server = Running::new(Arc::new(AtOnce), Limits { connections: 2, ..Limits::default() });
    let (first, mut second) = (Client::connect(&server.path), Client::connect(&server.path));
    assert!(second.request(&pr_in(0), null()).is_some());
    assert!(Client::raw(&server.path).is_closed());
    drop(first);
    wait_until("admitted", || !Client::raw(&server.path).is_closed());
}

#[test]
fn commands_of_several_clients_run_at_the_same_time() {
    let held = held();
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&held.server.path)).collect();
    for client in &clients {
        client.send(&pr_in(0), &[null().as_fd()]).unwrap();
    }
    // `Gate::serve` holds them all before the first is let go.
    for _ in 0..4 {
        held.begun.recv_timeout(PATIENCE).unwrap();
    }
    (0..4).for_each(|_| held.end.send(()).unwrap());
    assert!(clients.iter_mut().all(|client| client.reply().is_some()));
}
