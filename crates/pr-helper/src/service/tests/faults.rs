//! A ledger that fails at any of its three calls, and a client that does not wait for its answer.

use super::*;
use crate::server::{Limits, Server};
use rustix::fd::AsFd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;

/// The call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Share,
    Read,
    Append,
}

struct Failing(Arc<Counted>, Call);

impl Failing {
    fn fails(&self, call: Call) -> Result<(), Error> {
        if self.1 == call { Err(Error::Missing("log".into())) } else { Ok(()) }
    }
}

impl Book for Failing {
    fn share(&self, lun: &LunId, wait: Duration) -> Result<Lock, Error> {
        self.fails(Call::Share).and_then(|()| self.0.share(lun, wait))
    }
    fn read(&self, lun: &LunId) -> Result<Option<Arc<Record>>, Error> {
        self.fails(Call::Read).and_then(|()| self.0.read(lun))
    }
    fn append(&self, changes: &[(LunId, Change)]) -> Result<(), Error> {
        self.fails(Call::Append).and_then(|()| self.0.append(changes))
    }
}

#[test]
fn whatever_of_the_ledger_fails_no_change_reaches_the_device_and_reading_goes_on() {
    for call in [Call::Share, Call::Read, Call::Append] {
        let mut bench = holder("spc", true);
        let devices = devices(&bench.line, &bench.other, true);
        let book = Failing(Arc::clone(&bench.book), call);
        bench.service = Service::new("vm", Rules::default(), Box::new(devices), Box::new(book), Box::new(()));
        let refused = bench.guest(&request::release(KEY, KIND));
        assert_eq!(code(&refused), Some(AdditionalSense::INTERNAL_TARGET_FAILURE), "{call:?}");
        assert_eq!(bench.device(), (Some(KEY), Some(KIND)), "{call:?}");
        assert_eq!(bench.insist(&request::read(InAction::READ_KEYS, 8192)).status, Status::GOOD);
    }
}

#[test]
fn a_unit_attention_that_cannot_be_recorded_is_given_once_all_the_same() {
    let mut bench = holder("spc", true);
    bench.foreign(&request::register(Key::NONE, OTHER, false));
    bench.foreign(&request::preempt(OTHER, KEY, KIND));
    bench.book.room.store(0, SeqCst);
    // The conflict goes before the attention, which the question that it raises takes.
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
    let read = request::read(InAction::READ_KEYS, 8192);
    assert_eq!(code(&bench.guest(&read)), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(bench.guest(&read).status, Status::GOOD);
    bench.book.room.store(usize::MAX, SeqCst);
    assert_eq!(bench.guest(&request::reserve(KEY, KIND)).status, Status::RESERVATION_CONFLICT);
    assert_eq!(bench.record().state, State::Fenced);
}

#[test]
fn an_attention_that_was_given_is_not_given_again_when_that_could_not_be_recorded() {
    let bench = holder("spc", true);
    let sense = scsi::Sense::unit_attention(AdditionalSense::REGISTRATIONS_PREEMPTED).to_fixed();
    let owed = |sense: &[u8]| Change::Owed { path: PathId("a nexus".into()), sense: Some(sense.to_vec()) };
    let other = scsi::Sense::unit_attention(AdditionalSense::RESERVATIONS_RELEASED).to_fixed();
    bench.book.guest.append(&[(lun(), owed(&sense)), (lun(), owed(&other))]).unwrap();
    let read = request::read(InAction::READ_KEYS, 8192);
    bench.book.room.store(0, SeqCst);
    assert_eq!(code(&bench.guest(&read)), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    bench.book.room.store(usize::MAX, SeqCst);
    assert_eq!(code(&bench.guest(&read)), Some(AdditionalSense::RESERVATIONS_RELEASED));
    assert_eq!(bench.guest(&read).status, Status::GOOD);
    assert!(bench.record().paths[0].owed.is_empty());
    bench.book.guest.append(&[(lun(), owed(&sense))]).unwrap();
    assert_eq!(code(&bench.guest(&read)), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
}

/// Sends a command as QEMU does.
fn send(stream: &UnixStream, request: &Request) {
    let mut bytes = request.cdb.clone();
    bytes.resize(16, 0);
    if let DataPhase::Out(list) = &request.data {
        bytes.extend(list);
    }
    let device = std::fs::File::open("/dev/null").unwrap();
    let fds = [device.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn the_result_reaches_the_ledger_though_the_client_disconnects_while_its_command_runs() {
    let mut bench = holder("spc", true);
    let ((begun, begins), (end, ends)) = (channel(), channel::<()>());
    let wait = move || {
        begun.send(()).unwrap();
        ends.recv().unwrap();
    };
    *bench.line.meanwhile.lock().unwrap() = Some(Box::new(wait));
    let another = service(devices(&bench.line, &bench.other, true), &bench.book);
    let service = std::mem::replace(&mut bench.service, another);
    let socket = bench.state.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut stop, stopped) = UnixStream::pair().unwrap();
    let server = Server::new(Arc::new(service), Limits::default());
    std::thread::scope(|scope| {
        scope.spawn(|| server.run(&listener, stopped).unwrap());
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(&[0; 4]).unwrap();
        send(&client, &request::release(KEY, KIND));
        begins.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(client);
        end.send(()).unwrap();
        stop.write_all(b"x").unwrap();
    });
    assert_eq!((bench.recorded(), bench.device()), ((Some(KEY), None), (Some(KEY), None)));
    assert!(bench.record().paths[0].intent.is_none());
}
