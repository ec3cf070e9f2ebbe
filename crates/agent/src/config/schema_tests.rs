//! The published schema and the parser tell the same: each property one way and the other.

use super::*;
use serde_json::{Map, Value, json};

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/schema/agent.schema.json")).unwrap()
}

/// As much of JSON Schema as the published one uses; another keyword fails the test.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "additionalProperties" => object(value).keys().all(|name| schema["properties"].get(name).is_some()),
        "type" => rule == kind(value),
        "const" => rule == value,
        "enum" => rule.as_array().unwrap().contains(value),
        "required" => rule.as_array().unwrap().iter().all(|name| !value[name.as_str().unwrap()].is_null()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(root, rule, item))),
        "properties" => object(value).iter().all(|(n, v)| rule.get(n).is_none_or(|s| valid(root, s, v))),
        "$ref" => valid(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        other => panic!("keyword {other}"),
    })
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Null => "null",
    }
}

/// What the parser says of the form alone; that a string has no good content is its own affair.
fn parses(document: &Value) -> bool {
    let text = toml::to_string(document).unwrap();
    pr_helper::document::parse::<Config>(&text, Path::new("c")).is_ok()
}

fn full() -> Value {
    json!({
        "version": 1,
        "agent": { "name": "a", "state": "/s", "socket": "/k", "listen": "a:1",
            "certificates": { "authority": "/1", "certificate": "/2", "key": "/3" } },
        "peer": [{ "name": "b", "address": "b:1" }],
        "vm": [{ "name": "v", "uuid": "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11", "qmp": "/q", "record": "r",
            "peers": ["b"], "migrate": "off", "reclaim": "take-over", "helper": "/h", "incoming": "tcp:a:0",
            "device": [{ "node": "/dev/sda", "url": "iscsi://a/iqn.2026-01.org.example:d/0", "helper": "/h",
                "key": "0x1", "lun": "naa.1", "follows": true }] }],
    })
}

/// Where the objects of the file are, and which definition each has.
const OBJECTS: [(&str, &str); 6] = [
    ("", ""),
    ("/agent", "agent"),
    ("/agent/certificates", "certificates"),
    ("/peer/0", "peer"),
    ("/vm/0", "vm"),
    ("/vm/0/device/0", "device"),
];

#[test]
fn the_full_file_uses_every_key_of_the_schema() {
    let (schema, full) = (schema(), full());
    assert!(valid(&schema, &schema, &full) && parses(&full));
    for (place, definition) in OBJECTS {
        let defined = if definition.is_empty() { &schema } else { &schema["$defs"][definition] };
        let keys = |value: &Value| object(value).keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(full.pointer(place).unwrap()), keys(&defined["properties"]), "{definition}");
    }
}

#[test]
fn each_key_takes_and_refuses_the_same_in_both() {
    let schema = schema();
    let values = [json!(7), json!(true), json!([]), json!({}), json!([{}]), json!([7])];
    for (place, _) in OBJECTS {
        for key in object(full().pointer(place).unwrap()).keys() {
            // An empty list says as little as an empty table, and the parser takes it for one.
            let says_nothing = |value: &&Value| key == "certificates" && **value == json!([]);
            for value in values.iter().filter(|value| !says_nothing(value)) {
                let mut document = full();
                document.pointer_mut(place).unwrap()[key] = value.clone();
                assert_eq!(valid(&schema, &schema, &document), parses(&document), "{place}/{key}: {value}");
            }
            let mut document = full();
            document.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(key);
            assert_eq!(valid(&schema, &schema, &document), parses(&document), "{place} without {key}");
        }
        let mut document = full();
        document.pointer_mut(place).unwrap()["zzzz"] = json!("a");
        assert!(!valid(&schema, &schema, &document) && !parses(&document), "{place}");
    }
}
