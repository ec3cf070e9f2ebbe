//! QEMU's commands, as far as Tenure needs them, with types (QEMU, qapi/*.json; 7.2 to 11.1).
//!
//! Structures hold what is used of them; other members are passed over. Names (states, types, drivers) are open: an unknown one is kept as
//! it is. What is used and has another type than QEMU gives it is an error, never a default.

mod devices;
mod migration;
mod schema;
mod state;

pub use devices::{Block, BlockNode, Image, Inserted, ObjectProperty, PrManager};
pub use migration::{Capability, MigrationInfo, MigrationStatus, Ram, SocketAddress};
pub use schema::Schema;
pub use state::{RunState, Status};

use crate::message::{Greeting, Object};
use crate::{CallError, Client, ConnectError, Events, Opening};
use rustix::fd::AsFd;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why QEMU did not do what it was asked to, or what it said makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// No result.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A result that is not what QEMU returns.
    #[error("{command}: QEMU's answer makes no sense: {why}")]
    Shape {
        /// The command.
        command: String,
        /// What is wrong with it.
        why: String,
    },
}

impl QemuError {
    /// Whether the command may have been carried out all the same.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        match self {
            Self::Call(error) => error.is_in_doubt(),
            Self::Shape { .. } => true,
        }
    }
}

/// QEMU's version, from its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2.
    pub minor: u32,
    /// 22.
    pub micro: u32,
}

impl Version {
    fn of(greeting: &Greeting) -> Option<Self> {
        let qemu = greeting.version.get("qemu")?;
        let part = |name| qemu.get(name).and_then(Value::as_u64).and_then(|part| part.try_into().ok());
        Some(Self { major: part("major")?, minor: part("minor")?, micro: part("micro")? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A QEMU.
#[derive(Debug)]
pub struct Qemu {
    client: Arc<Client>,
    patience: Duration,
}

impl Qemu {
    /// Connects to a QMP socket. `patience` is how long connecting may take, and each command.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ConnectError> {
        let client = Client::connect(path, &Opening::default(), Instant::now() + patience)?;
        Ok(Self::new(client, patience))
    }

    /// Takes a connection.
    #[must_use]
    pub fn new(client: Client, patience: Duration) -> Self {
        Self { client: Arc::new(client), patience }
    }

    /// The same connection, with this patience for each command.
    #[must_use]
    pub fn within(&self, patience: Duration) -> Self {
        Self { client: Arc::clone(&self.client), patience }
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its events from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.client.events()
    }

    /// Which QEMU it is; `None` if it does not say so.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        Version::of(self.client.greeting())
    }

    /// Executes any command.
    ///
    /// # Errors
    /// No result.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QemuError> {
        Ok(self.client.execute(command, arguments_of(command, arguments)?, self.deadline())?)
    }

    /// Executes a command and reads what it returned.
    ///
    /// # Errors
    /// No result, or not of this type.
    pub fn query<T: DeserializeOwned>(&self, command: &str, arguments: Value) -> Result<T, QemuError> {
        let value = self.execute(command, arguments)?;
        serde_json::from_value(value)
            .map_err(|error| QemuError::Shape { command: command.to_owned(), why: error.to_string() })
    }

    /// Gives QEMU a file descriptor under a name: `fd:NAME` is a URI for a migration.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn getfd(&self, name: &str, descriptor: impl AsFd) -> Result<(), QemuError> {
        let arguments = arguments_of("getfd", json!({ "fdname": name }))?;
        self.client.execute_with_fd("getfd", arguments, descriptor, self.deadline())?;
        Ok(())
    }

    /// Ends the process, without asking the guest.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn quit(&self) -> Result<(), QemuError> {
        self.execute("quit", json!({})).map(drop)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }
}

fn arguments_of(command: &str, arguments: Value) -> Result<Object, QemuError> {
    match arguments {
        Value::Object(arguments) => Ok(arguments),
        _ => Err(QemuError::Shape { command: command.to_owned(), why: "arguments are an object".into() }),
    }
}

#[cfg(test)]
mod tests;
