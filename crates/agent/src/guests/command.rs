//! The guests' commands on the control socket: `migrate` with its progress, `migrate-cancel`, `handover-resume` and its like.

use super::Hosted;
use crate::migrate::{Order, Progress, Report, Watch};
use qmp::message::Printable;
use qmp::server::Session;
use qmp::{CommandError, Object};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The event that tells how a migration goes.
pub const PROGRESS: &str = "MIGRATION_PROGRESS";

/// The arguments of `migrate-cancel` and `handover-release`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    vm: String,
}

/// The arguments of `handover-resume`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    vm: String,
    /// The operator vouches that the guest did not run at the other host and will not.
    #[serde(default)]
    vouched: bool,
}

/// The arguments of `handover-freeze`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    vm: String,
    /// For which peer.
    to: String,
    /// The operator's word that the guest is stopped.
    #[serde(default)]
    stopped: bool,
}

/// The arguments of `handover-take`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Take {
    vm: String,
    /// From which peer.
    from: String,
}

/// The arguments of `handover-abort`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Abort {
    vm: String,
    /// Give up what is left on this host as well.
    #[serde(default)]
    release: bool,
}

/// Which migrations are asked to end. A word lasts as long as somebody listens for it.
#[derive(Debug, Default)]
pub(super) struct Cancels(Mutex<BTreeMap<String, Weak<AtomicU32>>>);

impl Cancels {
    /// Asks the migration of this guest to end, if there is one.
    pub(super) fn request(&self, vm: &str) {
        if let Some(asked) = self.all().get(vm).and_then(Weak::upgrade) {
            asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the migration of this guest was asked to end. Of two orders for one guest the second is refused, and takes back nothing
    /// that was asked of the first.
    fn of(&self, vm: &str) -> Arc<AtomicU32> {
        let mut all = self.all();
        if let Some(asked) = all.get(vm).and_then(Weak::upgrade) {
            return asked;
        }
        let asked = Arc::default();
        all.insert(vm.to_owned(), Arc::downgrade(&asked));
        asked
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Weak<AtomicU32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the client that ordered a migration. One that goes away ends nothing.
struct Told<'a> {
    session: &'a Session,
    cancels: Arc<AtomicU32>,
}

impl Watch for Told<'_> {
    fn tell(&self, progress: Progress) {
        if let Ok(Value::Object(data)) = serde_json::to_value(progress) {
            self.session.emit(PROGRESS, data);
        }
    }

    fn cancels(&self) -> u32 {
        self.cancels.load(Ordering::Relaxed)
    }
}

fn read<T: DeserializeOwned>(arguments: Object) -> Result<T, CommandError> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| CommandError::generic(error.to_string()))
}

fn told(report: &Report) -> Result<Value, CommandError> {
    serde_json::to_value(report).map_err(|error| CommandError::generic(error.to_string()))
}

fn not_given(name: &str) -> CommandError {
    CommandError::generic(format!("no descriptor {} came over this connection: getfd first", Printable(name)))
}

impl Hosted {
    /// A command of the guests; `None` if it is not one.
    pub(super) fn obey(
        &self,
        session: &Session,
        command: &str,
        arguments: Object,
    ) -> Option<Result<Value, CommandError>> {
        Some(match command {
            "migrate" => self.ordered(session, arguments),
            "migrate-cancel" => self.cancel(arguments),
            "handover-resume" => self.resumed(arguments),
            "handover-abort" => self.aborted(arguments),
            "handover-freeze" => self.frozen(arguments),
            "handover-take" => self.took(arguments),
            "handover-release" => self.released(arguments),
            _ => return None,
        })
    }

    fn ordered(&self, session: &Session, arguments: Object) -> Result<Value, CommandError> {
        let order: Order = read(arguments)?;
        let given = |name: &str| session.take_descriptor(name).ok_or_else(|| not_given(name));
        let stream = order.fd.as_deref().map(given).transpose()?;
        let cancels = self.cancels.of(&order.vm);
        told(&self.migrate(&order, stream, &Told { session, cancels }))
    }

    fn cancel(&self, arguments: Object) -> Result<Value, CommandError> {
        let Cancel { vm } = read(arguments)?;
        if !self.host.busy().has(&vm) {
            return Err(CommandError::generic(format!("vm {vm} is not being moved")));
        }
        self.cancels.request(&vm);
        Ok(Object::new().into())
    }

    fn aborted(&self, arguments: Object) -> Result<Value, CommandError> {
        let Abort { vm, release } = read(arguments)?;
        told(&self.abort(&vm, release)?)
    }

    fn frozen(&self, arguments: Object) -> Result<Value, CommandError> {
        let Freeze { vm, to, stopped } = read(arguments)?;
        told(&self.freeze(&vm, &to, stopped)?)
    }

    fn took(&self, arguments: Object) -> Result<Value, CommandError> {
        let Take { vm, from } = read(arguments)?;
        told(&self.take(&vm, &from)?)
    }

    fn released(&self, arguments: Object) -> Result<Value, CommandError> {
        let Cancel { vm } = read(arguments)?;
        told(&self.release(&vm)?)
    }

    fn resumed(&self, arguments: Object) -> Result<Value, CommandError> {
        let Resume { vm, vouched } = read(arguments)?;
        told(&self.resume(&vm, vouched)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_for_the_guest_takes_a_cancel_not_back_and_the_next_one_is_not_born_cancelled() {
        let cancels = Cancels::default();
        let first = cancels.of("web");
        cancels.request("web");
        let second = cancels.of("web");
        assert_eq!([&first, &second].map(|asked| asked.load(Ordering::Relaxed)), [1; 2]);
        drop((first, second));
        cancels.request("web");
        assert_eq!(cancels.of("web").load(Ordering::Relaxed), 0);
    }
}
