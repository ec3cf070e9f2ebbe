//! What this QEMU understands (`query-qmp-schema`; QEMU, docs/devel/qapi-code-gen, "Client JSON Protocol introspection").

use super::{Qemu, QemuError};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// An entity of the schema; types have made-up names.
#[derive(Deserialize)]
#[serde(tag = "meta-type", rename_all = "kebab-case")]
enum Entity {
    Command {
        name: String,
        #[serde(rename = "arg-type")]
        arguments: String,
    },
    Event {
        name: String,
    },
    Object {
        name: String,
        members: Vec<Member>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Member {
    name: String,
}

/// Commands with their arguments, and events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// By name of the command: the arguments' names.
    commands: BTreeMap<String, BTreeSet<String>>,
    events: BTreeSet<String>,
}

impl Schema {
    /// Whether there is this command.
    #[must_use]
    pub fn has_command(&self, command: &str) -> bool {
        self.commands.contains_key(command)
    }

    /// Whether a command takes this argument.
    #[must_use]
    pub fn has_argument(&self, command: &str, argument: &str) -> bool {
        self.commands.get(command).is_some_and(|arguments| arguments.contains(argument))
    }

    /// Whether there is this event.
    #[must_use]
    pub fn has_event(&self, event: &str) -> bool {
        self.events.contains(event)
    }

    fn new(entities: Vec<Entity>) -> Self {
        let (mut commands, mut types, mut events) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for entity in entities {
            match entity {
                Entity::Command { name, arguments } => commands.push((name, arguments)),
                Entity::Event { name } => drop(events.insert(name)),
                Entity::Object { name, members } => drop(types.insert(name, members)),
                Entity::Other => {}
            }
        }
        let names = |kind: &String| {
            types.get(kind).into_iter().flatten().map(|member: &Member| member.name.clone()).collect()
        };
        let commands = commands.iter().map(|(name, kind)| (name.clone(), names(kind))).collect();
        Self { commands, events }
    }
}

impl Qemu {
    /// `query-qmp-schema`: some hundreds of kilobytes.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn schema(&self) -> Result<Schema, QemuError> {
        self.query("query-qmp-schema", json!({})).map(Schema::new)
    }
}
