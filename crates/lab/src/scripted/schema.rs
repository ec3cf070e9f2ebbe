//! What query-qmp-schema says: the commands that there are, with their arguments, and the events.

use super::options::Release;
use serde_json::{Value, json};

/// Commands and the names of their arguments.
pub(super) const COMMANDS: [(&str, &[&str]); 25] = [
    ("query-version", &[]),
    ("query-status", &[]),
    ("query-uuid", &[]),
    ("query-name", &[]),
    ("query-qmp-schema", &[]),
    ("query-block", &[]),
    ("query-named-block-nodes", &["flat"]),
    ("query-pr-managers", &[]),
    ("query-migrate", &[]),
    ("query-migrate-capabilities", &[]),
    ("query-migrate-parameters", &[]),
    ("qom-list", &["path"]),
    ("qom-get", &["path", "property"]),
    ("qom-set", &["path", "property", "value"]),
    ("getfd", &["fdname"]),
    ("stop", &[]),
    ("cont", &[]),
    ("quit", &[]),
    ("migrate", &["uri", "blk", "inc", "detach", "resume"]),
    ("migrate-incoming", &["uri"]),
    ("migrate-continue", &["state"]),
    ("migrate_cancel", &[]),
    ("migrate-set-capabilities", &["capabilities"]),
    ("migrate-set-parameters", &[]),
    ("query-commands", &[]),
];

/// The capabilities that both releases have.
pub(super) const CAPABILITIES: [&str; 7] = [
    "events",
    "return-path",
    "pause-before-switchover",
    "postcopy-ram",
    "multifd",
    "auto-converge",
    "late-block-activate",
];

const EVENTS: [&str; 5] = ["STOP", "RESUME", "MIGRATION", "MIGRATION_PASS", "SHUTDOWN"];

/// Whether a command takes an argument in this release.
pub(super) fn takes(release: Release, command: &str, argument: &str) -> bool {
    let new = command == "migrate-incoming" && argument == "exit-on-error" && release >= Release::V11_1;
    let known = COMMANDS.iter().find(|(name, _)| *name == command);
    // Parameters are looked at where they are set.
    new || command == "migrate-set-parameters" || known.is_some_and(|(_, names)| names.contains(&argument))
}

pub(super) fn schema(release: Release) -> Value {
    let mut entities = Vec::new();
    for (name, arguments) in COMMANDS {
        let newer = ["exit-on-error"]
            .into_iter()
            .filter(|argument| takes(release, name, argument) && name == "migrate-incoming");
        let member = |name: &str| json!({ "name": name, "type": "any" });
        let members: Vec<Value> = arguments.iter().copied().chain(newer).map(member).collect();
        let kind = format!("{name}-arg");
        entities.push(json!({ "meta-type": "command", "name": name, "arg-type": kind, "ret-type": "any" }));
        entities.push(json!({ "meta-type": "object", "name": kind, "members": members }));
    }
    entities.extend(EVENTS.map(|name| json!({ "meta-type": "event", "name": name, "arg-type": "any" })));
    entities.into()
}
