//! The journal of systemd: each event as a datagram of fields in the native form, so that `journalctl TENURE_LUN=…` finds
//! it.

use super::Event;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where systemd listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A way to the journal that never waits: what it does not take at once is lost there, and still in the file.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects if systemd started this process with its journal, which `JOURNAL_STREAM` (given as `stream`) tells.
    #[must_use]
    pub fn of_service(stream: Option<&OsStr>) -> Option<Self> {
        stream.and_then(|_| Self::connect(Path::new(SOCKET)).ok())
    }

    /// Connects to a journal's socket.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.connect(socket)?;
        datagrams.set_nonblocking(true)?;
        Ok(Self(datagrams))
    }

    pub(super) fn send(&self, event: &Event) {
        let _ = self.0.send(&datagram(event));
    }
}

fn datagram(event: &Event) -> Vec<u8> {
    let (mut out, empty) = (Vec::new(), String::new());
    let text = |value: &Option<String>| value.as_ref().unwrap_or(&empty).clone();
    let lun = text(&event.lun);
    let refused = event.refused.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let message = format!("pr_helper_out {}: {} on {lun}: {}{refused}", event.vm, event.action, event.status);
    let priority = if event.refused.is_some() { "4" } else { "6" };
    field(&mut out, "MESSAGE", &message);
    field(&mut out, "PRIORITY", priority);
    field(&mut out, "SYSLOG_IDENTIFIER", "tenure-pr-helper");
    field(&mut out, "TENURE_VM", &event.vm);
    field(&mut out, "TENURE_HANDOVER", &text(&event.handover));
    field(&mut out, "TENURE_LUN", &lun);
    field(&mut out, "TENURE_NODE", &text(&event.node));
    field(&mut out, "TENURE_ACTION", &event.action);
    field(&mut out, "TENURE_KEY", &text(&event.key));
    field(&mut out, "TENURE_SERVICE_ACTION_KEY", &text(&event.service_action_key));
    field(&mut out, "TENURE_STATUS", &event.status);
    field(&mut out, "TENURE_REFUSED", &text(&event.refused));
    field(&mut out, "TENURE_CLIENT_PID", &event.pid.map(|pid| pid.to_string()).unwrap_or_default());
    field(&mut out, "TENURE_CLIENT_UID", &event.uid.to_string());
    field(&mut out, "TENURE_CLIENT_NAME", &event.name);
    field(&mut out, "TENURE_SUPPRESSED", &event.suppressed.to_string());
    out
}

/// Always in the form with a length, for a client may call itself `x\nPRIORITY=0`.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend(name.as_bytes());
    out.push(b'\n');
    out.extend(u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    out.extend(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_forge_fields_by_its_name() {
        let mut out = Vec::new();
        field(&mut out, "TENURE_CLIENT_NAME", "x\nPRIORITY=0");
        assert_eq!(out, b"TENURE_CLIENT_NAME\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n");
    }

    #[test]
    fn each_event_is_one_datagram_and_a_full_journal_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect(&path).unwrap();
        let event =
            Event { vm: "db".into(), action: "CLEAR".into(), status: "GOOD".into(), ..Event::default() };
        (0..5000).for_each(|_| journal.send(&event));
        let mut buffer = [0; 4096];
        let length = daemon.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], datagram(&event));
        let text = String::from_utf8_lossy(&buffer[..length]);
        assert!(text.contains("pr_helper_out db: CLEAR on "), "{text}");
    }

    #[test]
    fn without_systemd_there_is_no_journal() {
        assert!(Journal::of_service(None).is_none());
    }
}
