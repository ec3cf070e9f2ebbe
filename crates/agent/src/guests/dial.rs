//! A link to a peer that is made anew where it broke.

use super::CallError;
use crate::migrate::Link;
use peer::message::{Reply, Request};
use peer::{ConnectError, HostName, SharedTerms};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A peer and, where there is one, the link to it.
pub(super) struct Dial {
    terms: Arc<SharedTerms>,
    peer: HostName,
    link: Mutex<Option<Arc<peer::Link>>>,
}

impl Dial {
    pub(super) const fn new(terms: Arc<SharedTerms>, peer: HostName) -> Self {
        Self { terms, peer, link: Mutex::new(None) }
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<peer::Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for Dial {
    fn call(&self, request: &Request, patience: Duration) -> Result<Reply, CallError> {
        let link = self.link().clone();
        let link = link.ok_or_else(|| CallError::Lost("there is no link".into()))?;
        Ok(link.call(request, patience)?)
    }

    fn reconnect(&self) -> Result<(), CallError> {
        // The old one is closed first: on the other side its handover ends with it.
        *self.link() = None;
        let link = peer::Link::connect(&self.terms.get(), &self.peer);
        let link = link.map_err(|error| unlinked(&error))?;
        *self.link() = Some(Arc::new(link));
        Ok(())
    }
}

/// Silence may mean anything; what was answered is to be mended.
fn unlinked(error: &ConnectError) -> CallError {
    match error {
        ConnectError::Connect { .. } | ConnectError::Codec { .. } => CallError::Lost(told(error)),
        _ => CallError::Unwelcome(told(error)),
    }
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
