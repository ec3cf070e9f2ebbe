//! The monitor: QMP's commands, and QEMU's words where it refuses.

use super::faults::{self, Kind};
use super::link::Address;
use super::state::{Machine, State};
use super::{blocks, incoming, outgoing, schema};
use qmp::qemu::{MigrationStatus, RunState};
use qmp::server::{Service, Session};
use qmp::{CommandError, Greeting, Message, Object, Reply};
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Value, CommandError>;

/// What answers on the socket.
pub(super) struct Monitor {
    machine: Arc<Machine>,
}

impl Service for Monitor {
    fn greeting(&self) -> Greeting {
        let [major, minor, micro] = self.machine.release().version();
        let qemu = json!({ "major": major, "minor": minor, "micro": micro });
        let version = json!({ "qemu": qemu, "package": "scripted" });
        let version = version.as_object().cloned().unwrap_or_default();
        Greeting { version, capabilities: vec!["oob".into()] }
    }

    fn takes_descriptors(&self) -> bool {
        true
    }

    fn execute(&self, session: &Session, command: &str, arguments: Object) -> Answer {
        match self.machine.at(&format!("command:{command}")) {
            Some(Kind::Fail) => return Err(CommandError::generic("it was told to fail")),
            Some(Kind::Lie) => return Ok(json!({ "status": 7, "running": "perhaps" })),
            Some(Kind::Stray) => stray(session),
            _ => {}
        }
        let unknown = arguments.keys().find(|name| !schema::takes(self.machine.release(), command, name));
        if let (Some(name), true) = (unknown, is_known(command)) {
            return Err(CommandError::generic(format!("Parameter '{name}' is unexpected")));
        }
        let answer =
            self.query(command, &arguments).unwrap_or_else(|| self.act(session, command, &arguments));
        match self.machine.at(&format!("answer:{command}")) {
            Some(Kind::Bloat) => Ok(json!({ "padding": "x".repeat(faults::MEGABYTES) })),
            Some(Kind::Stray) => {
                stray(session);
                answer
            }
            _ => answer,
        }
    }
}

/// An answer with an id that no client of ours has come to.
fn stray(session: &Session) {
    session.say(&Message::Reply(Reply { id: Some(json!(1_u64 << 40)), result: Ok(json!({})) }));
}

fn is_known(command: &str) -> bool {
    schema::COMMANDS.iter().any(|(name, _)| *name == command)
}

impl Monitor {
    pub(super) const fn new(machine: Arc<Machine>) -> Self {
        Self { machine }
    }

    /// Commands that change nothing.
    fn query(&self, command: &str, arguments: &Object) -> Option<Answer> {
        let machine = &*self.machine;
        let options = &machine.options;
        let mut state = machine.lock();
        Some(match command {
            "query-status" => {
                state.looks += 1;
                machine.notify();
                Ok(json!({ "running": state.is_running(), "status": self.machine.said_of_run(&state.run) }))
            }
            "query-uuid" => Ok(json!({ "UUID": options.uuid })),
            "query-name" => Ok(json!({ "name": options.name })),
            "query-version" => Ok(self.greeting().version.into()),
            "query-qmp-schema" => Ok(schema::schema(machine.release())),
            "query-block" => Ok(blocks::query_block(&options.disks)),
            "query-named-block-nodes" => Ok(blocks::query_nodes(&options.disks)),
            "query-pr-managers" => Ok(blocks::query_managers(machine)),
            "query-migrate" => Ok(self.query_migrate(&state)),
            "query-migrate-parameters" => Ok(state.parameters.clone().into()),
            "query-migrate-capabilities" => Ok(query_capabilities(&state)),
            "qom-list" => text(arguments, "path").and_then(|path| blocks::list(machine, path)),
            "qom-get" => text(arguments, "path").and_then(|path| {
                text(arguments, "property").and_then(|name| blocks::get(machine, &state, path, name))
            }),
            _ => return None,
        })
    }

    fn act(&self, session: &Session, command: &str, arguments: &Object) -> Answer {
        let machine = &*self.machine;
        match command {
            "stop" => self.stop(),
            "cont" => self.cont(),
            "quit" => {
                machine.emit("SHUTDOWN", &json!({ "guest": false, "reason": "host-qmp-quit" }));
                machine.quit();
                Ok(json!({}))
            }
            "qom-set" => {
                let (path, property) = (text(arguments, "path")?, text(arguments, "property")?);
                blocks::set(machine, &mut machine.lock(), path, property, arguments.get("value"))
            }
            "migrate-set-capabilities" => self.set_capabilities(arguments),
            "migrate-set-parameters" => set_parameters(&mut machine.lock(), arguments),
            "migrate" | "migrate-incoming" => self.begin(session, command, arguments),
            "migrate-continue" => self.proceed(arguments),
            "migrate_cancel" => Ok(self.cancel()),
            _ => Err(CommandError::not_found(command)),
        }
    }

    /// Does nothing to a guest that the migration has stopped already.
    fn stop(&self) -> Answer {
        let mut state = self.machine.lock();
        if state.is_running() {
            self.machine.halt(&mut state, RunState::PAUSED).map_err(internal)?;
        } else if state.run == RunState::INMIGRATE {
            state.autostart = false;
        }
        Ok(json!({}))
    }

    fn cont(&self) -> Answer {
        let mut state = self.machine.lock();
        if state.run == RunState::FINISH_MIGRATE {
            return Err(CommandError::generic("Migration is not finalized yet"));
        }
        if state.run == RunState::INMIGRATE {
            state.autostart = true;
        } else {
            self.machine.resume(&mut state).map_err(internal)?;
        }
        Ok(json!({}))
    }

    fn begin(&self, session: &Session, command: &str, arguments: &Object) -> Answer {
        let uri = text(arguments, "uri")?;
        let address: Address = uri.parse().map_err(refusal)?;
        let descriptor = match &address {
            Address::Descriptor(name) => session.take_descriptor(name),
            _ => None,
        };
        let begun = if command == "migrate" {
            outgoing::begin(&self.machine, address, descriptor)
        } else {
            let exit = arguments.get("exit-on-error").and_then(Value::as_bool).unwrap_or(true);
            incoming::begin(&self.machine, &address, descriptor, exit)
        };
        begun.map(|()| json!({})).map_err(refusal)
    }

    fn proceed(&self, arguments: &Object) -> Answer {
        let asked = text(arguments, "state")?;
        let mut state = self.machine.lock();
        let status = state.migration.status();
        if status.as_str() != asked || status != MigrationStatus::PRE_SWITCHOVER {
            return Err(CommandError::generic(format!("Migration not in expected state: {status}")));
        }
        state.migration.continued = true;
        self.machine.notify();
        Ok(json!({}))
    }

    /// Succeeds always. After `migrate-continue` it cannot be helped any more, and what comes in is not this end's to cancel.
    fn cancel(&self) -> Value {
        let mut state = self.machine.lock();
        let outgoing = state.migration.started.is_some();
        let under_way = outgoing && !state.migration.status().is_over();
        if under_way && !state.migration.continued {
            state.migration.cancelled = true;
            self.machine.migration_is(&mut state, MigrationStatus::CANCELLING);
        }
        json!({})
    }

    fn set_capabilities(&self, arguments: &Object) -> Answer {
        let mut state = self.machine.lock();
        if !state.migration.status().is_over() {
            return Err(CommandError::generic("There's a migration process in progress"));
        }
        let list = arguments.get("capabilities").and_then(Value::as_array);
        for entry in list.ok_or_else(|| CommandError::generic("Parameter 'capabilities' is missing"))? {
            let name = entry.get("capability").and_then(Value::as_str).unwrap_or_default();
            if !schema::CAPABILITIES.contains(&name) {
                let desc = format!("Parameter 'capability' does not accept value '{name}'");
                return Err(CommandError::generic(desc));
            }
            if entry.get("state") == Some(&Value::Bool(true)) {
                state.capabilities.insert(name.to_owned());
            } else {
                state.capabilities.remove(name);
            }
        }
        Ok(json!({}))
    }

    fn query_migrate(&self, state: &State) -> Value {
        let migration = &state.migration;
        // QEMU does not say `setup` of a destination here.
        let listening = migration.address.is_some() && migration.status() == MigrationStatus::SETUP;
        let status = migration.status.as_ref().filter(|_| !listening).map(|status| self.machine.said(status));
        let ram = migration.started.map(|_| {
            json!({
                "total": self.machine.options.ram, "remaining": migration.remaining, "transferred": migration.transferred,
                "mbps": 0, "dirty-pages-rate": self.machine.options.dirty / 4096, "page-size": 4096, "dirty-sync-count": migration.passes,
            })
        });
        let members = [
            ("status", status.map(|status| json!(status))),
            ("ram", ram),
            ("error-desc", migration.error.clone().map(Value::from)),
            ("downtime", migration.downtime.map(Value::from)),
            ("total-time", migration.total_time.map(Value::from)),
            ("socket-address", incoming::address(migration.address.as_ref())),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn query_capabilities(state: &State) -> Value {
    let entry = |name: &&str| json!({ "capability": name, "state": state.has(name) });
    schema::CAPABILITIES.iter().map(entry).collect()
}

fn set_parameters(state: &mut State, arguments: &Object) -> Answer {
    if let Some(name) = arguments.keys().find(|name| !state.parameters.contains_key(*name)) {
        return Err(CommandError::generic(format!("Parameter '{name}' is unexpected")));
    }
    state.parameters.extend(arguments.clone());
    Ok(json!({}))
}

fn text<'a>(arguments: &'a Object, name: &str) -> Result<&'a str, CommandError> {
    let missing = || CommandError::generic(format!("Parameter '{name}' is missing"));
    arguments.get(name).and_then(Value::as_str).ok_or_else(missing)
}

#[expect(clippy::needless_pass_by_value, reason = "to be mapped with")]
fn refusal(error: anyhow::Error) -> CommandError {
    CommandError::generic(format!("{error:#}"))
}

#[expect(clippy::needless_pass_by_value, reason = "to be mapped with")]
fn internal(error: anyhow::Error) -> CommandError {
    CommandError::generic(format!("the diary: {error:#}"))
}
