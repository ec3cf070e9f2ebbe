//! What QEMU returns, read; and what it would never return, refused.

use super::*;

#[test]
fn an_unknown_state_is_kept_and_counts_as_under_way() {
    let info: MigrationInfo = serde_json::from_value(json!({ "status": "quantum-leap" })).unwrap();
    assert_eq!(info.status().as_str(), "quantum-leap");
    assert!(!info.status().is_over());
    let status: Status =
        serde_json::from_value(json!({ "running": false, "status": "new", "singlestep": false })).unwrap();
    assert_eq!(status.status, RunState::from("new".to_owned()));
}

#[test]
fn no_migration_yet_is_none() {
    let info: MigrationInfo = serde_json::from_value(json!({})).unwrap();
    assert_eq!(info.status(), MigrationStatus::NONE);
    assert!(info.status().is_over());
}

/// As QEMU 7.2 has it while memory is sent.
#[test]
fn an_active_migration_is_read() {
    let value = json!({
        "expected-downtime": 300, "status": "active", "setup-time": 1, "total-time": 2123,
        "ram": { "total": 84_426_752, "postcopy-requests": 0, "dirty-sync-count": 2, "multifd-bytes": 0,
                 "pages-per-second": 32726, "downtime-bytes": 0, "page-size": 4096, "remaining": 12_288,
                 "postcopy-bytes": 0, "mbps": 268.44, "transferred": 70_000, "dirty-sync-missed-zero-copy": 0,
                 "precopy-bytes": 0, "duplicate": 20583, "dirty-pages-rate": 12, "skipped": 0,
                 "normal-bytes": 16384, "normal": 4 } });
    let info: MigrationInfo = serde_json::from_value(value).unwrap();
    let ram = info.ram.unwrap();
    assert_eq!((ram.remaining, ram.passes, ram.dirty_pages_rate), (12_288, 2, 12));
    assert_eq!(info.expected_downtime, Some(300));
}

#[test]
fn what_is_used_and_of_another_type_is_an_error() {
    let lies = [
        json!({ "status": 7 }),
        json!({ "status": "active", "ram": { "total": -1, "transferred": 0, "remaining": 0 } }),
        json!({ "status": "active", "ram": { "total": 1, "transferred": 0 } }),
        json!({ "status": "active", "ram": [] }),
        json!([]),
    ];
    for lie in lies {
        assert!(serde_json::from_value::<MigrationInfo>(lie.clone()).is_err(), "{lie}");
    }
    assert!(serde_json::from_value::<Status>(json!({ "status": "running" })).is_err());
    assert!(serde_json::from_value::<Status>(json!({ "status": "running", "running": 1 })).is_err());
}

#[test]
fn a_child_of_an_object_is_known_by_its_type() {
    let property = |kind: &str| ObjectProperty { name: "device[0]".into(), kind: kind.into() };
    assert_eq!(property("child<scsi-block>").child(), Some("scsi-block"));
    assert_eq!(property("link<scsi-block>").child(), None);
    assert_eq!(property("child<scsi-block").child(), None);
}

#[test]
fn versions_compare_as_numbers_and_need_all_their_parts() {
    let greeting = |qemu: Value| Greeting {
        version: json!({ "qemu": qemu }).as_object().unwrap().clone(),
        capabilities: Vec::new(),
    };
    let old = Version::of(&greeting(json!({ "major": 7, "minor": 2, "micro": 22 }))).unwrap();
    let new = Version::of(&greeting(json!({ "major": 11, "minor": 1, "micro": 3 }))).unwrap();
    assert!(old < new);
    assert_eq!(old.to_string(), "7.2.22");
    assert_eq!(Version::of(&greeting(json!({ "major": 7, "minor": -2, "micro": 22 }))), None);
    assert_eq!(Version::of(&Greeting::default()), None);
}
