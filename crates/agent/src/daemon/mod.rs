//! The agent as a daemon: the control socket, the link for peers, and who may ask for which guest.
//!
//! It knows no terminal, no signal and no environment: whoever runs it does. What becomes of a guest is behind [`Guests`], which
//! is asked only after it is certain that the asking peer may.

mod busy;
mod check;
mod control;
mod peers;
#[cfg(test)]
mod tests;

pub use busy::{Busy, Claim};
pub use check::{Checked, StartError, check};
pub(crate) use peers::TAKE_OVER;
pub use peers::{Guests, Part};

use crate::config::{Config, ConfigError};
use control::Control;
use peer::{Address, Listener, SharedTerms};
use peers::Welcome;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// What the parts of a running agent have in common.
#[derive(Debug)]
pub struct Host {
    config: RwLock<Arc<Config>>,
    terms: Arc<SharedTerms>,
    busy: Busy,
    program: String,
}

impl Host {
    /// The configuration that holds now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who this host and its peers are.
    #[must_use]
    pub const fn terms(&self) -> &Arc<SharedTerms> {
        &self.terms
    }

    /// Which guests are being moved.
    #[must_use]
    pub const fn busy(&self) -> &Busy {
        &self.busy
    }
}

/// Why a new configuration was not taken; the old one holds.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be read, or makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// That is decided when the agent starts.
    #[error("[agent] {0} was changed, which takes a restart; nothing else of the file was taken either")]
    Restart(&'static str),
}

/// An agent at work. Dropping it ends its links and its sockets.
#[derive(Debug)]
pub struct Daemon {
    host: Arc<Host>,
    listener: Option<Listener>,
    control: Control,
}

impl Daemon {
    /// Opens the sockets and serves. `program`: its version, for people. `guests` makes what stands behind the guests, from
    /// what the daemon's parts have in common.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is served.
    pub fn start(
        config: Config,
        program: &str,
        guests: impl FnOnce(&Arc<Host>) -> Arc<dyn Guests>,
    ) -> Result<Self, StartError> {
        let terms = Arc::new(SharedTerms::new(check::terms(&config, program)?));
        check::state(&config)?;
        let (listen, socket) = (config.agent.listen.clone(), config.agent.socket.clone());
        let busy = Busy::default();
        let config = RwLock::new(Arc::new(config));
        let host = Arc::new(Host { config, terms, busy, program: program.to_owned() });
        let guests = guests(&host);
        let control = Control::open(&socket, Arc::clone(&host), Arc::clone(&guests))?;
        let welcome = Arc::new(Welcome::new(Arc::clone(&host), guests));
        let bind = |address: Address| Listener::bind(&address, Arc::clone(&host.terms), welcome);
        let listener = listen.map(bind).transpose()?;
        Ok(Self { host, listener, control })
    }

    /// What its parts have in common.
    #[must_use]
    pub const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Where peers connect: with the port that the system picked for port 0.
    #[must_use]
    pub fn listen(&self) -> Option<&Address> {
        self.listener.as_ref().map(Listener::address)
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.host.config().agent.socket.clone()
    }

    /// Takes another configuration, all of it or nothing. Links and handovers that are there go on as they began.
    ///
    /// # Errors
    /// [`ReloadError`]; the old one holds.
    pub fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let old = self.host.config();
        let fixed = [
            ("name", old.agent.name == config.agent.name),
            ("state", old.agent.state == config.agent.state),
            ("socket", old.agent.socket == config.agent.socket),
            ("listen", old.agent.listen == config.agent.listen),
        ];
        if let Some((what, _)) = fixed.into_iter().find(|(_, same)| !same) {
            return Err(ReloadError::Restart(what));
        }
        let terms = check::terms(&config, &self.host.program)?;
        self.host.terms.set(terms);
        *self.host.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        tracing::info!("the configuration was read again");
        Ok(())
    }

    /// Whether everything that serves still does; the watchdog asks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.control.is_alive() && self.listener.as_ref().is_none_or(Listener::is_alive)
    }

    /// Accepts nobody any more, lets control commands under way end, then ends the links.
    pub fn stop(self) {
        self.control.stop();
        drop(self.listener);
    }
}
