//! Initiator ports of this process: one session of each, shared by every logical unit behind it.
//!
//! An I_T nexus is an initiator port and a target port, whatever the logical unit: a second login of the same port would end
//! the first one's session (RFC 7143 6.3.5). So all links of one port take their session here, and when it is lost one login
//! brings it back for all of them. A session has a number; a command that was under way in one is over once there is
//! a session with a higher number, since the target ends the old session and its tasks before it answers a login.

use super::Error;
use iscsi::initiator::{IscsiUrl, Session, SessionConfig};
use scsi::{IscsiName, Isid, TransportId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For so long the failure of one attempt to log in is that of all who wanted to.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// What makes two ways one I_T nexus: portal, target, initiator name and ISID.
type Name = (String, String, String, [u8; 6]);

/// The initiator ports of one process.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeMap<Name, Arc<InitiatorPort>>>);

impl Ports {
    /// The port that this URL asks for; the same one for every logical unit behind it. `timeout` is that of a command, of
    /// whoever asked first.
    #[must_use]
    pub fn of(
        &self,
        url: &IscsiUrl,
        initiator: &IscsiName,
        isid: Isid,
        timeout: Duration,
    ) -> Arc<InitiatorPort> {
        let mut config = url.session(initiator, isid);
        config.timeouts.command = timeout;
        let (target, initiator) = (config.target.to_string(), config.initiator.to_string());
        let name = (config.portal.clone(), target, initiator, config.isid.0);
        let mut ports = lock(&self.0);
        // A port that nobody uses any more has no session to share either.
        ports.retain(|_, port| Arc::strong_count(port) > 1);
        Arc::clone(ports.entry(name).or_insert_with(|| Arc::new(InitiatorPort::new(config))))
    }
}

/// One initiator port towards one target.
#[derive(Debug)]
pub struct InitiatorPort {
    config: SessionConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// Of the session, or of the last one.
    number: u64,
    /// Until when the present outage is waited for.
    outage: Option<Instant>,
    /// The last attempt to log in, which failed.
    failed: Option<(Instant, String)>,
}

/// A session and its number.
#[derive(Clone, Debug)]
pub(super) struct Lent {
    pub(super) session: Session,
    pub(super) number: u64,
}

impl InitiatorPort {
    fn new(config: SessionConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    /// Its name on the target.
    #[must_use]
    pub fn transport_id(&self) -> TransportId {
        TransportId::iscsi(self.config.initiator.clone(), self.config.isid)
    }

    /// A session whose number is above `after`: the present one, or a new one after a login that takes at most `patience`.
    /// Whoever comes while another logs in waits for that one's result.
    ///
    /// # Errors
    /// [`Error::Login`].
    pub(super) fn session(&self, after: u64, patience: Duration) -> Result<Lent, Error> {
        let mut state = self.state();
        if let Some(session) =
            state.session.clone().filter(|session| session.is_open() && state.number > after)
        {
            return Ok(Lent { session, number: state.number });
        }
        if let Some((_, why)) = state.failed.as_ref().filter(|(when, _)| when.elapsed() < PAUSE) {
            return Err(Error::Again(why.clone()));
        }
        state.session = None;
        let mut config = self.config.clone();
        (config.timeouts.connect, config.timeouts.login) = (patience, patience);
        match Session::login(&config) {
            Ok(session) => {
                let number = state.number + 1;
                *state = State { session: Some(session.clone()), number, ..State::default() };
                Ok(Lent { session, number })
            }
            Err(source) => {
                let error = Error::Login { device: self.config.target.to_string(), source };
                state.failed = Some((Instant::now(), super::told(&error)));
                Err(error)
            }
        }
    }

    /// Until when the present outage is waited for: one that nobody has noticed yet, `timeout` from now on.
    pub(super) fn outage(&self, timeout: Duration) -> Instant {
        *self.state().outage.get_or_insert_with(|| Instant::now() + timeout)
    }

    /// Logs out for good; GOOD news only if the target confirmed it.
    ///
    /// # Errors
    /// [`Error::Logout`]; [`Error::NoSession`] if there is none.
    pub(super) fn log_out(&self) -> Result<(), Error> {
        let session = self.state().session.take().ok_or(Error::NoSession)?;
        Ok(session.logout()?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
