//! Disks, the nodes behind them, objects and their properties (qapi/block-core.json, qapi/qom.json, qapi/block.json).

use super::{Qemu, QemuError};
use serde::Deserialize;
use serde_json::{Value, json};

/// A front end with what is in it, as `query-block` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Block {
    /// The name of a `-drive`; empty for a `-blockdev`.
    #[serde(default)]
    pub device: String,
    /// The device's id, or its path in the object tree where it has none. Absent where no device uses it.
    pub qdev: Option<String>,
    /// Absent where the drive is empty.
    pub inserted: Option<Inserted>,
}

/// The top node in a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Inserted {
    /// Its name; QEMU makes up one that begins with `#block` where the user gave none.
    #[serde(rename = "node-name")]
    pub node_name: Option<String>,
    /// Its driver: `host_device`, `iscsi`, `raw`, …
    pub drv: String,
    /// The file at the bottom: a path, a URL, or `json:{…}`.
    pub file: String,
    /// Whether the guest may only read.
    #[serde(default)]
    pub ro: bool,
}

/// A node of the block layer, as `query-named-block-nodes` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BlockNode {
    /// Its name.
    #[serde(rename = "node-name", default)]
    pub node_name: String,
    /// Its driver.
    pub drv: String,
    /// The file at the bottom.
    pub file: String,
    /// More about it.
    pub image: Option<Image>,
}

/// What QEMU knows of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// The file's name.
    pub filename: String,
    /// Its format, which is a driver's name.
    pub format: String,
    /// Its size as the guest sees it, in bytes.
    #[serde(rename = "virtual-size", default)]
    pub virtual_size: u64,
}

/// An object's property, as `qom-list` has it: children are properties too, of a type `child<…>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ObjectProperty {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

impl ObjectProperty {
    /// The type of the child that this is; `None` for a property of another kind.
    #[must_use]
    pub fn child(&self) -> Option<&str> {
        self.kind.strip_prefix("child<")?.strip_suffix('>')
    }
}

/// A helper for persistent reservations, as `query-pr-managers` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PrManager {
    /// The object's id.
    pub id: String,
    /// Whether it is connected to its helper. QEMU connects at the first command, and again after a loss.
    pub connected: bool,
}

impl Qemu {
    /// `query-block`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn blocks(&self) -> Result<Vec<Block>, QemuError> {
        self.query("query-block", json!({}))
    }

    /// `query-named-block-nodes`, without what lies behind each of them.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn block_nodes(&self) -> Result<Vec<BlockNode>, QemuError> {
        self.query("query-named-block-nodes", json!({ "flat": true }))
    }

    /// `query-pr-managers`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn pr_managers(&self) -> Result<Vec<PrManager>, QemuError> {
        self.query("query-pr-managers", json!({}))
    }

    /// `qom-list`: the properties of the object at `path`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn qom_list(&self, path: &str) -> Result<Vec<ObjectProperty>, QemuError> {
        self.query("qom-list", json!({ "path": path }))
    }

    /// `qom-get`.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn qom_get(&self, path: &str, property: &str) -> Result<Value, QemuError> {
        self.execute("qom-get", json!({ "path": path, "property": property }))
    }

    /// `qom-set`. Most properties of a device can be set before it is realized only.
    ///
    /// # Errors
    /// [`QemuError`].
    pub fn qom_set(&self, path: &str, property: &str, value: &Value) -> Result<(), QemuError> {
        self.execute("qom-set", json!({ "path": path, "property": property, "value": value })).map(drop)
    }
}
