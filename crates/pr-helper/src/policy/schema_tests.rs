//! The published schema and the parser tell the same: each property one way and the other.

use super::*;
use serde_json::{Map, Value, json};
use std::path::Path;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/schema/policy.schema.json")).unwrap()
}

/// As much of JSON Schema as the published one uses; another keyword fails the test.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "additionalProperties" => known_properties_only(schema, value),
        "type" => rule == kind(value),
        "const" => rule == value,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule.as_array().unwrap().iter().any(|each| valid(root, each, value)),
        "required" => rule.as_array().unwrap().iter().all(|name| !value[name.as_str().unwrap()].is_null()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(root, rule, item))),
        "properties" => properties(value).iter().all(|(n, v)| rule.get(n).is_none_or(|s| valid(root, s, v))),
        "$ref" => valid(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        other => panic!("keyword {other}"),
    })
}

fn known_properties_only(schema: &Value, value: &Value) -> bool {
    properties(value).keys().all(|name| schema["properties"].get(name).is_some())
}

fn properties(value: &Value) -> Map<String, Value> {
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

/// What both say; that they differ fails the test.
fn both(document: &Value) -> bool {
    let text = toml::to_string(document).unwrap();
    let (root, parsed) = (schema(), Rules::parse(&text, Path::new("p")));
    assert_eq!(valid(&root, &root, document), parsed.is_ok(), "{document} {parsed:?}");
    parsed.is_ok()
}

fn names(properties: &Value) -> Vec<String> {
    properties.as_object().unwrap().keys().cloned().collect()
}

/// The names the parser says it expects.
fn expected(text: &str) -> Vec<String> {
    let told = Rules::parse(text, Path::new("p")).unwrap_err().to_string();
    let list = told.split_once("expected").unwrap().1.split(';').next().unwrap();
    let mut names: Vec<_> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_schema_knows_the_keys_and_actions_of_the_parser() {
    let schema = schema();
    assert_eq!(expected("zzzz = 1"), names(&schema["properties"]));
    assert_eq!(expected("[[rule]]\nzzzz = 1"), names(&schema["$defs"]["rule"]["properties"]));
    let actions = schema["$defs"]["action"]["enum"].as_array().unwrap();
    let mut actions: Vec<_> = actions.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    actions.sort();
    assert_eq!(expected("[[rule]]\nactions = ['zzzz']"), actions);
}

#[test]
fn each_key_takes_and_refuses_the_same_values_in_both() {
    let values = [
        json!(1),
        json!(2),
        json!(true),
        json!("on"),
        json!("off"),
        json!("allow"),
        json!("refuse"),
        json!([]),
        json!(["clear"]),
        json!([1]),
        json!({}),
    ];
    let rule_keys = names(&schema()["$defs"]["rule"]["properties"]);
    for value in &values {
        for key in names(&schema()["properties"]) {
            let mut document = json!({ "version": 1 });
            document[key] = value.clone();
            both(&document);
        }
        // A word that is no key is the parser's to find: the schema leaves keys at strings.
        let strings_that_are_no_keys =
            |key: &String| value == &json!(["clear"]) && matches!(key.as_str(), "keys" | "victims");
        for key in rule_keys.iter().filter(|key| !strings_that_are_no_keys(key)) {
            let mut rule = json!({});
            rule[key] = value.clone();
            both(&json!({ "version": 1, "rule": [rule] }));
        }
    }
}

#[test]
fn a_full_policy_is_valid_in_both_and_one_without_a_version_in_neither() {
    let rule = json!({ "vm": "db-*", "lun": ["naa.*"], "node": "/dev/sd?", "access": "allow", "migrate": "off",
        "actions": ["register", "preempt-abort"], "keys": ["0xa", "0x100/0xff00"], "victims": [] });
    assert!(both(&json!({ "version": 1, "default": "refuse", "migrate": "on", "rule": [rule, {}] })));
    assert!(!both(&json!({ "rule": [] })) && !both(&json!({ "version": 1, "rules": [] })));
}
