//! One handover of a guest at a time on this host, whoever began it.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The guests of which a handover is under way in this process.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    vms: Mutex<BTreeSet<String>>,
    given_back: Condvar,
}

/// The sole right to move a guest; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    busy: Busy,
    vm: String,
}

impl Busy {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to move this guest, unless somebody has it.
    #[must_use]
    pub fn claim(&self, vm: &str) -> Option<Claim> {
        self.claim_within(vm, Duration::ZERO)
    }

    /// The same, if it is given back in this time.
    #[must_use]
    pub fn claim_within(&self, vm: &str, patience: Duration) -> Option<Claim> {
        let waited = self.0.given_back.wait_timeout_while(self.lock(), patience, |vms| vms.contains(vm));
        let (mut vms, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let free = vms.insert(vm.to_owned());
        free.then(|| Claim { busy: self.clone(), vm: vm.to_owned() })
    }

    /// Whether somebody has it.
    #[must_use]
    pub fn has(&self, vm: &str) -> bool {
        self.lock().contains(vm)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.vm);
        self.busy.0.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_moved_once_at_a_time() {
        let busy = Busy::default();
        let claim = busy.claim("a").unwrap();
        assert!(busy.claim("a").is_none() && busy.has("a"));
        assert!(busy.claim("b").is_some() && !busy.has("b"));
        drop(claim);
        assert!(busy.claim("a").is_some());
    }
}
