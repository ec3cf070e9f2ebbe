//! A wire between a host and its target, on which a test meddles with SCSI commands.
#![allow(dead_code, reason = "no test uses all of it")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use lab::process::{DEADLINE, wait_for};
use lab::served::Served;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of a command, whose CDB may have been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Pass,
    /// It, and what comes after it, waits.
    Hold,
}

type Meddler = Box<dyn FnMut(&mut [u8]) -> Deed + Send>;

struct State {
    meddle: Meddler,
    held: bool,
}

/// The wire; it passes everything on until it is told something else.
pub(crate) struct Wire {
    portal: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Wire {
    pub(crate) fn to(target: &Served) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (portal, there) = (listener.local_addr().unwrap().to_string(), target.portal.clone());
        let state = State { meddle: Box::new(|_| Deed::Pass), held: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&there) else { continue };
                let (back, forth, own) = (
                    [there.try_clone(), here.try_clone()].map(Result::unwrap),
                    [here, there],
                    Arc::clone(&own),
                );
                thread::spawn(move || {
                    let _ = io::copy(&mut &back[0], &mut &back[1]);
                    let _ = back[1].shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let _ = carry(&own, &forth[0], &forth[1]);
                    let _ = forth[1].shutdown(Shutdown::Both);
                });
            }
        });
        Self { portal, shared }
    }

    /// The URL of the target's `index`th disk, by this wire.
    pub(crate) fn url(&self, target: &Served, index: u16) -> String {
        target.url(index).replace(&target.portal, &self.portal)
    }

    /// From now on.
    pub(crate) fn meddle(&self, meddle: impl FnMut(&mut [u8]) -> Deed + Send + 'static) {
        let mut state = self.shared.0.lock().unwrap();
        (state.meddle, state.held) = (Box::new(meddle), false);
        self.shared.1.notify_all();
    }

    /// Nothing is meddled with any more, and what was held goes on.
    pub(crate) fn release(&self) {
        self.meddle(|_| Deed::Pass);
    }

    /// Until a command is held.
    pub(crate) fn wait_held(&self) {
        let held = || self.shared.0.lock().unwrap().held.then_some(());
        assert!(wait_for(DEADLINE, held).is_some(), "no such command came");
    }
}

/// PDU by PDU (RFC 7143 11.2); digests are not negotiated.
fn carry(shared: &(Mutex<State>, Condvar), mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    loop {
        let mut header = [0; 48];
        from.read_exact(&mut header)?;
        let data = u32::from_be_bytes([0, header[5], header[6], header[7]]).next_multiple_of(4);
        let mut rest = vec![0; usize::from(header[4]) * 4 + data as usize];
        from.read_exact(&mut rest)?;
        if header[0] & 0x3F == 1 {
            pass(shared, &mut header[32..], from)?;
        }
        to.write_all(&[&header[..], &rest].concat())?;
    }
}

/// Waits as long as the command is held; who has gone meanwhile sent it in vain.
fn pass(shared: &(Mutex<State>, Condvar), cdb: &mut [u8], from: &TcpStream) -> io::Result<()> {
    let mut state = shared.0.lock().unwrap();
    if (state.meddle)(cdb) == Deed::Pass {
        return Ok(());
    }
    state.held = true;
    while state.held {
        from.set_nonblocking(true)?;
        let gone = matches!(from.peek(&mut [0]), Ok(0));
        from.set_nonblocking(false)?;
        if gone {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state = shared.1.wait_timeout(state, Duration::from_millis(10)).unwrap().0;
    }
    Ok(())
}

/// PERSISTENT RESERVE OUT with this service action.
pub(crate) fn is_out(cdb: &[u8], action: u8) -> bool {
    cdb[0] == 0x5F && cdb[1] & 0x1F == action
}
