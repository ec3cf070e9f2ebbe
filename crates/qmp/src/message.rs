//! The messages of QMP (QEMU, docs/interop/qmp-spec): one JSON object each, on a line of its own.
//!
//! Used by the client, by the server and by the link between two hosts. A command with a member that is none of the
//! protocol's is refused, as QEMU does; in what a server sends, unknown members are passed over.

use crate::open::open_string;
use serde_json::{Map, Value, json};
use std::fmt;

/// A JSON object: arguments, data, returned structures.
pub type Object = Map<String, Value>;

/// Any message, in either direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first thing that a server says.
    Greeting(Greeting),
    /// What a client asks for.
    Command(Command),
    /// What came of it.
    Reply(Reply),
    /// What happened meanwhile.
    Event(Event),
}

/// `{"QMP": {"version": …, "capabilities": […]}}`. QEMU's and Tenure's servers differ in what `version` holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Greeting {
    /// Versions, by the name of what has them.
    pub version: Object,
    /// What can be agreed on in the negotiation.
    pub capabilities: Vec<String>,
}

/// `{"execute": …, "arguments": …, "id": …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Its name.
    pub execute: String,
    /// Its arguments.
    pub arguments: Object,
    /// Comes back in the reply.
    pub id: Option<Value>,
}

/// `{"return": …, "id": …}` or `{"error": …, "id": …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The command's. Absent where the command had none, or could not be read.
    pub id: Option<Value>,
    /// What the command returned, or why it was refused.
    pub result: Result<Value, CommandError>,
}

open_string! {
    /// The class of an error: a name for programs.
    ErrorClass {
        /// All errors that need no class of their own.
        GENERIC = "GenericError",
        /// There is no such command, or not before the negotiation.
        COMMAND_NOT_FOUND = "CommandNotFound",
        /// The device is not active.
        DEVICE_NOT_ACTIVE = "DeviceNotActive",
        /// There is no such device.
        DEVICE_NOT_FOUND = "DeviceNotFound",
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} ({})", Printable(desc), Printable(&class.0))]
pub struct CommandError {
    /// For programs.
    pub class: ErrorClass,
    /// For people; QEMU changes these texts as it likes.
    pub desc: String,
}

impl CommandError {
    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GENERIC, desc: desc.into() }
    }

    /// The answer to an unknown command, in QEMU's words.
    #[must_use]
    pub fn not_found(command: &str) -> Self {
        let desc = format!("The command {command} has not been found");
        Self { class: ErrorClass::COMMAND_NOT_FOUND, desc }
    }
}

/// `{"event": …, "data": …, "timestamp": …}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub event: String,
    /// What belongs to it.
    pub data: Object,
    /// When it happened, by the sender's clock.
    pub timestamp: Timestamp,
}

/// Time since the Epoch; QEMU says -1 twice where its host cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds.
    pub microseconds: i64,
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is not JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    /// It is JSON but no object.
    #[error("a message is not an object")]
    NoObject,
    /// The object is none of the four.
    #[error("an object that is no greeting, command, reply or event")]
    Unknown,
    /// A member is missing or of another type than it must be.
    #[error("{0} is missing or of the wrong type")]
    Member(&'static str),
    /// A command has a member that it cannot have.
    #[error("unexpected member \"{}\"", Printable(.0))]
    Unexpected(String),
}

impl Message {
    /// Reads the object of one line. Length, depth and number of values are the decoder's affair.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(line: &[u8]) -> Result<Self, MessageError> {
        let Value::Object(mut object) = serde_json::from_slice(line)? else {
            return Err(MessageError::NoObject);
        };
        if let Some(name) = object.remove("execute") {
            return command(name, object).map(Self::Command);
        }
        let id = object.remove("id");
        if let Some(value) = object.remove("return") {
            return Ok(Self::Reply(Reply { id, result: Ok(value) }));
        }
        if let Some(error) = object.remove("error") {
            return Ok(Self::Reply(Reply { id, result: Err(command_error(error)?) }));
        }
        if let Some(name) = object.remove("event") {
            return event(name, object).map(Self::Event);
        }
        object.remove("QMP").ok_or(MessageError::Unknown).and_then(greeting).map(Self::Greeting)
    }

    /// The message on a line, its end included.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = self.to_value().to_string().into_bytes();
        line.push(b'\n');
        line
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Greeting(Greeting { version, capabilities }) => {
                json!({ "QMP": { "version": version, "capabilities": capabilities } })
            }
            Self::Command(command) => command.to_value(),
            Self::Reply(reply) => reply.to_value(),
            Self::Event(event) => event.to_value(),
        }
    }
}

impl Command {
    fn to_value(&self) -> Value {
        let arguments = (!self.arguments.is_empty()).then(|| self.arguments.clone().into());
        members([
            ("execute", Some(self.execute.as_str().into())),
            ("arguments", arguments),
            ("id", self.id.clone()),
        ])
    }
}

impl Reply {
    fn to_value(&self) -> Value {
        let (name, value) = match &self.result {
            Ok(value) => ("return", value.clone()),
            Err(CommandError { class, desc }) => ("error", json!({ "class": class, "desc": desc })),
        };
        members([(name, Some(value)), ("id", self.id.clone())])
    }
}

impl Event {
    fn to_value(&self) -> Value {
        let Timestamp { seconds, microseconds } = self.timestamp;
        let timestamp = json!({ "seconds": seconds, "microseconds": microseconds });
        let data = (!self.data.is_empty()).then(|| self.data.clone().into());
        members([("event", Some(self.event.as_str().into())), ("data", data), ("timestamp", Some(timestamp))])
    }
}

/// An object of the members that are there.
fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn command(name: Value, mut rest: Object) -> Result<Command, MessageError> {
    let execute = string(name, "execute")?;
    let arguments = rest.remove("arguments").map_or(Ok(Object::new()), |value| object(value, "arguments"))?;
    let id = rest.remove("id");
    match rest.into_iter().next() {
        Some((name, _)) => Err(MessageError::Unexpected(name)),
        None => Ok(Command { execute, arguments, id }),
    }
}

fn command_error(value: Value) -> Result<CommandError, MessageError> {
    let mut error = object(value, "error")?;
    let class = string(error.remove("class").unwrap_or_default(), "class")?;
    let desc = string(error.remove("desc").unwrap_or_default(), "desc")?;
    Ok(CommandError { class: class.into(), desc })
}

fn event(name: Value, mut rest: Object) -> Result<Event, MessageError> {
    let event = string(name, "event")?;
    let data = rest.remove("data").map_or(Ok(Object::new()), |value| object(value, "data"))?;
    let timestamp = object(rest.remove("timestamp").unwrap_or_default(), "timestamp")?;
    let part = |name| timestamp.get(name).and_then(Value::as_i64).ok_or(MessageError::Member("timestamp"));
    let timestamp = Timestamp { seconds: part("seconds")?, microseconds: part("microseconds")? };
    Ok(Event { event, data, timestamp })
}

fn greeting(value: Value) -> Result<Greeting, MessageError> {
    let mut greeting = object(value, "QMP")?;
    let version = object(greeting.remove("version").unwrap_or_default(), "version")?;
    let Some(Value::Array(list)) = greeting.remove("capabilities") else {
        return Err(MessageError::Member("capabilities"));
    };
    let capabilities = list.into_iter().map(|name| string(name, "capabilities")).collect::<Result<_, _>>()?;
    Ok(Greeting { version, capabilities })
}

fn string(value: Value, member: &'static str) -> Result<String, MessageError> {
    if let Value::String(text) = value { Ok(text) } else { Err(MessageError::Member(member)) }
}

fn object(value: Value, member: &'static str) -> Result<Object, MessageError> {
    if let Value::Object(object) = value { Ok(object) } else { Err(MessageError::Member(member)) }
}

/// A text of the other end's, fit for a terminal and a log: without control characters, and no longer than a few lines.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl Printable<'_> {
    /// How much of it is shown.
    const LENGTH: usize = 400;
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(Self::LENGTH) {
            f.write_char(if character.is_control() { '\u{FFFD}' } else { character })?;
        }
        if characters.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
