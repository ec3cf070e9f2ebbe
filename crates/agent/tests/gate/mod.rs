//! A relay before an iSCSI target that holds back answers until so many commands have come: whoever waits for one answer before it
//! sends the next command waits in vain.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// After which an answer goes through all the same, so that what fails, fails: longer than any command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// RFC 7143 11.2: a basic header segment, and the opcodes that count here.
const HEADER: usize = 48;
const COMMAND: u8 = 0x01;
const RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;

#[derive(Default)]
struct Count {
    /// Commands that came, and that must have come before an answer goes through.
    come: Mutex<(usize, usize)>,
    changed: Condvar,
}

/// The relay; it ends with its connections.
pub struct Gate {
    count: Arc<Count>,
    portal: SocketAddr,
}

impl Gate {
    /// Before this target.
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (count, portal) = (Arc::<Count>::default(), listener.local_addr().unwrap());
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(target).unwrap();
                relay(&client, &server, &counted, Count::command);
                relay(&server, &client, &counted, Count::answer);
            }
        });
        Self { count, portal }
    }

    pub fn portal(&self) -> SocketAddr {
        self.portal
    }

    /// From now on answers wait for so many commands more.
    pub fn expect(&self, commands: usize) {
        let mut come = self.count.come.lock().unwrap();
        come.1 = come.0 + commands;
    }
}

fn relay(from: &TcpStream, to: &TcpStream, count: &Arc<Count>, note: fn(&Count, u8)) {
    let (mut from, mut to, count) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(count));
    thread::spawn(move || {
        while let Ok(pdu) = read(&mut from) {
            note(&count, pdu[0] & 0x3F);
            if to.write_all(&pdu).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// One PDU without digests: header, additional header segments, data padded to four bytes.
fn read(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut pdu = vec![0; HEADER];
    from.read_exact(&mut pdu)?;
    let data = u32::from_be_bytes([0, pdu[5], pdu[6], pdu[7]]);
    let rest = usize::from(pdu[4]) * 4 + usize::try_from(data).unwrap().next_multiple_of(4);
    pdu.resize(HEADER + rest, 0);
    from.read_exact(&mut pdu[HEADER..])?;
    Ok(pdu)
}

impl Count {
    fn command(&self, opcode: u8) {
        if opcode == COMMAND {
            self.come.lock().unwrap().0 += 1;
            self.changed.notify_all();
        }
    }

    fn answer(&self, opcode: u8) {
        if opcode == RESPONSE || opcode == DATA_IN {
            let come = self.come.lock().unwrap();
            drop(self.changed.wait_timeout_while(come, PATIENCE, |(come, due)| come < due).unwrap());
        }
    }
}
