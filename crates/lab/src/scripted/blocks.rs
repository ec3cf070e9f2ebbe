//! Disks and objects, as far as the queries about them go.

use super::options::{Disk, MigratePr};
use super::state::{Machine, State};
use qmp::CommandError;
use serde_json::{Value, json};

const PERIPHERAL: &str = "/machine/peripheral";

pub(super) fn query_block(disks: &[Disk]) -> Value {
    let front = |disk: &Disk| {
        json!({
            "device": "", "qdev": format!("{PERIPHERAL}/{}", disk.id), "type": "unknown", "locked": false, "removable": false,
            "inserted": node(disk),
        })
    };
    disks.iter().map(front).collect()
}

pub(super) fn query_nodes(disks: &[Disk]) -> Value {
    disks.iter().map(node).collect()
}

fn node(disk: &Disk) -> Value {
    json!({
        "node-name": disk.node, "drv": disk.driver, "file": disk.file, "ro": false, "encrypted": false,
        "image": { "filename": disk.file, "format": disk.driver, "virtual-size": 1 << 20 },
    })
}

pub(super) fn query_managers(machine: &Machine) -> Value {
    machine.options.managers.iter().map(|id| json!({ "id": id, "connected": true })).collect()
}

fn disk<'a>(machine: &'a Machine, path: &str) -> Result<&'a Disk, CommandError> {
    // An absolute path, or the id alone.
    let id = path.strip_prefix(PERIPHERAL).map_or(path, |rest| rest.trim_start_matches('/'));
    let missing = || CommandError {
        class: qmp::ErrorClass::DEVICE_NOT_FOUND,
        desc: format!("Device '{path}' not found"),
    };
    machine.options.disks.iter().find(|disk| disk.id == id).ok_or_else(missing)
}

pub(super) fn list(machine: &Machine, path: &str) -> Result<Value, CommandError> {
    if path == PERIPHERAL {
        let child = |disk: &Disk| json!({ "name": disk.id, "type": format!("child<{}>", disk.front) });
        return Ok(machine.options.disks.iter().map(child).collect());
    }
    let disk = disk(machine, path)?;
    let own =
        (disk.migrate_pr != MigratePr::Absent).then_some(json!({ "name": "migrate-pr", "type": "bool" }));
    let others = ["type", "drive"].map(|name| json!({ "name": name, "type": "str" }));
    Ok(others.into_iter().chain(own).collect())
}

pub(super) fn get(
    machine: &Machine,
    state: &State,
    path: &str,
    property: &str,
) -> Result<Value, CommandError> {
    let disk = disk(machine, path)?;
    let missing = || CommandError::generic(format!("Property '{}.{property}' not found", disk.front));
    match (property, state.migrate_pr.get(&disk.id)) {
        ("type", _) => Ok(disk.front.clone().into()),
        ("drive", _) => Ok(disk.node.clone().into()),
        ("migrate-pr", Some(MigratePr::Switch(on))) => Ok((*on).into()),
        ("migrate-pr", Some(MigratePr::Fixed)) => Ok(true.into()),
        _ => Err(missing()),
    }
}

pub(super) fn set(
    machine: &Machine,
    state: &mut State,
    path: &str,
    property: &str,
    value: Option<&Value>,
) -> Result<Value, CommandError> {
    let disk = disk(machine, path)?;
    let on = value.and_then(Value::as_bool);
    match (property, state.migrate_pr.get_mut(&disk.id), on) {
        ("migrate-pr", Some(MigratePr::Switch(now)), Some(on)) => {
            *now = on;
            Ok(json!({}))
        }
        ("migrate-pr", Some(MigratePr::Absent) | None, _) => {
            Err(CommandError::generic(format!("Property '{}.{property}' not found", disk.front)))
        }
        _ => Err(CommandError::generic(format!(
            "Attempt to set property '{property}' on device '{}' (type '{}') after it was realized",
            disk.id, disk.front
        ))),
    }
}
