//! What the caller gives a handover: identities, keys, what is allowed. Constant while a procedure runs.

use crate::facts::Survey;
use crate::known_targets::KnownTargets;
use crate::method::Method;
use scsi::TransportId;
use scsi::pr::Key;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// How one path is named on the target; both parts are optional, what is missing restricts the methods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port {
    /// The initiator port.
    pub initiator: Option<TransportId>,
    /// Relative target port identifier; learnt from VPD page 83h where it is not given.
    pub target_port: Option<u16>,
}

/// The order for a handover.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The guest's key; `None`: learn it by READ FULL STATUS from the source's TransportID.
    pub key: Option<Key>,
    /// A random key that nobody uses. Drawn by the caller, because nothing in this crate is random.
    pub nonce: Key,
    /// The source's paths, 1 to 8.
    pub source: Vec<Port>,
    /// The destination's paths, 1 to 8.
    pub destination: Vec<Port>,
    /// The source can send commands. Without it only *destination nonce* is left.
    pub source_alive: bool,
    /// The initiator name and ISID belong to this guest alone and the source's session is ours to close for good.
    pub identity_is_ours: bool,
    /// With a dead source: the key may be unlisted for one command.
    pub allow_absence: bool,
    /// Use this method or none.
    pub method: Option<Method>,
    /// What is known of targets.
    pub targets: KnownTargets,
    /// What the static reads would say (identity, INQUIRY, REGISTER AND MOVE support), if it is known already.
    pub survey: Option<Survey>,
}

impl Settings {
    /// A handover of `key` from one path to one path, everything else at its careful default.
    #[must_use]
    pub fn new(key: Option<Key>, nonce: Key, source: Port, destination: Port) -> Self {
        Self {
            key,
            nonce,
            source: vec![source],
            destination: vec![destination],
            source_alive: true,
            identity_is_ours: false,
            allow_absence: false,
            method: None,
            targets: KnownTargets::default(),
            survey: None,
        }
    }
}

impl Settings {
    /// The order for the way back: source and destination have changed places. What is known of the logical unit is kept;
    /// the key is `None` where it must be learnt anew.
    #[must_use]
    pub fn exchanged(&self, key: Option<Key>, nonce: Key) -> Self {
        let (source, destination) = (self.destination.clone(), self.source.clone());
        Self { key, nonce, source, destination, source_alive: true, ..self.clone() }
    }

    /// The destination has no session of its own, because it takes over the source's name.
    pub(crate) fn by_identity(&self) -> bool {
        self.identity_is_ours
            && self.source_alive
            && self.method.is_none_or(|method| method == Method::Identity)
    }
}

/// Settings in a procedure's state: shared, and left out of the hash because they never change within a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shared(Arc<Settings>);

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self(Arc::new(settings))
    }

    pub(crate) fn edit(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.0)
    }
}

impl Deref for Shared {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
