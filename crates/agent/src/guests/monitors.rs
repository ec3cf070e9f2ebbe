//! The connections to this host's QEMUs. A QMP socket serves one client at a time and leaves the others waiting without a word:
//! while a handover has one, whoever only looks uses that.

use crate::ownership::Guest;
use crate::vmm::Vmm;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Those that a handover has, for as long as it has them.
#[derive(Debug, Default)]
pub(super) struct Monitors(Mutex<BTreeMap<PathBuf, Weak<Vmm>>>);

impl Monitors {
    /// A connection for a handover; `None` where QEMU is gone, or does not answer.
    pub(super) fn connect(&self, path: &Path, patience: Duration) -> Option<Arc<Vmm>> {
        let vmm = Arc::new(Vmm::connect(path, patience).ok()?);
        let mut held = self.held();
        held.retain(|_, vmm| vmm.strong_count() > 0);
        held.insert(path.to_owned(), Arc::downgrade(&vmm));
        Some(vmm)
    }

    /// How the guest stands, asked for without waiting long.
    pub(super) fn guest(&self, path: &Path, patience: Duration) -> Guest {
        let held = self.held().get(path).and_then(Weak::upgrade);
        held.map_or_else(|| Vmm::guest_at(path, patience), |vmm| vmm.guest_within(patience))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Weak<Vmm>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qmp::server::{Server, ServerLimits, Service, Session, bind};
    use qmp::{CommandError, Greeting, Object};
    use serde_json::{Value, json};
    use std::os::unix::net::UnixStream;
    use std::thread;

    struct Paused;

    impl Service for Paused {
        fn greeting(&self) -> Greeting {
            Greeting { version: Object::new(), capabilities: Vec::new() }
        }

        fn execute(&self, _: &Session, command: &str, _: Object) -> Result<Value, CommandError> {
            match command {
                "query-status" => Ok(json!({ "running": false, "status": "paused" })),
                _ => Ok(json!({})),
            }
        }
    }

    #[test]
    fn who_looks_while_a_handover_has_the_only_connection_is_told_how_the_guest_stands() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let socket = bind(&path, 0o600).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let limits = ServerLimits { connections: 1, in_turn: true, ..ServerLimits::default() };
        let server = Server::new(Arc::new(Paused), limits);
        let serve = thread::spawn(move || server.run(socket.listener(), stopped));
        let (monitors, patience) = (Monitors::default(), Duration::from_secs(2));
        let held = monitors.connect(&path, patience).unwrap();
        assert_eq!(monitors.guest(&path, patience), Guest::Paused);
        drop(held);
        assert_eq!(monitors.guest(&path, patience), Guest::Paused, "and when nobody has it");
        drop(stop);
        serve.join().unwrap().unwrap();
        assert_eq!(monitors.guest(&path, patience), Guest::Absent);
    }
}
