//! What the file says, and how it is told what is wrong with it.

use super::*;

const FULL: &str = r#"
version = 1

[agent]
name = "Host-A.example.org"
state = "/srv/tenure"
socket = "/run/a.sock"
listen = "0.0.0.0:4434"

[agent.certificates]
authority = "/etc/pki/ca.pem"
certificate = "/etc/pki/a.pem"
key = "/etc/pki/a-key.pem"

[[peer]]
name = "host-b.example.org"
address = "host-b.example.org:4434"

[[peer]]
name = "host-c.example.org"
address = "unix:/run/c.sock"

[[vm]]
name = "db1"
uuid = "6A3E94C5-5b4f-4b0e-9a55-0f6f0c2f8d11"
qmp = "/run/qemu/db1.qmp"
record = "db1-helper"
peers = ["host-b.example.org"]
migrate = "on"
helper = "/run/tenure/agents/db1.sock"
incoming = "tcp:192.0.2.1:0"

[[vm.device]]
node = "/dev/disk/by-id/wwn-0x600140512345678"
key = "0xffffffffffffffff"

[[vm.device]]
url = "iscsi://192.0.2.9/iqn.2026-01.org.example:disk/0?initiator=iqn.2026-01.org.example:db1&isid=80db10000001"
lun = "naa.600140512345679"
follows = true

[[vm]]
name = "db2"
uuid = "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d12"
qmp = "/run/qemu/db2.qmp"
migrate = "off"
"#;

const SMALL: &str = "version = 1\n[agent]\nname = 'a'\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("tenure.toml"))
}

fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// [`FULL`] with one piece of text in place of another.
fn with(old: &str, new: &str) -> String {
    assert!(FULL.contains(old), "{old}");
    FULL.replacen(old, new, 1)
}

#[test]
fn a_full_file_says_everything() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.agent.name.as_str(), "host-a.example.org");
    assert_eq!(config.agent.listen.as_ref().unwrap().to_string(), "0.0.0.0:4434");
    let vm = config.vm("db1").unwrap();
    assert_eq!((vm.record(), vm.uuid.as_str()), ("db1-helper", "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11"));
    assert_eq!(vm.devices[0].key, Some(Key(u64::MAX)));
    assert!(matches!(vm.devices[1].url, Some(Device::Iscsi(_))));
    assert!(config.needs_certificates());
}

#[test]
fn a_small_file_has_careful_defaults() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.agent.state, Path::new("/var/lib/tenure"));
    assert_eq!(config.agent.socket, Path::new("/run/tenure/agent.sock"));
    assert_eq!(config.agent.certificates.key, Path::new("/etc/tenure/host-key.pem"));
    assert!(config.agent.listen.is_none() && !config.needs_certificates());
}

#[test]
fn a_guest_moves_only_to_peers_that_it_lists_and_only_if_it_may() {
    let config = parse(FULL).unwrap();
    let [b, c] = ["host-b.example.org", "host-c.example.org"].map(|name| name.parse().unwrap());
    assert_eq!(config.vm("db1").unwrap().may_move(&b), Ok(()));
    let why = config.vm("db1").unwrap().may_move(&c).unwrap_err();
    assert_eq!(why, "vm db1 does not list host-c.example.org among its peers on this host");
    assert!(config.vm("db2").unwrap().may_move(&b).unwrap_err().contains("migrate = \"off\""));
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let text = wrong(&with("helper = \"/run", "helpr = \"/run"));
    assert!(text.starts_with("tenure.toml:30:1: unknown key `helpr`, expected"), "{text}");
    assert!(text.ends_with("; did you mean `helper`?"), "{text}");
    assert!(wrong("version = 1\nagents = 1\n").starts_with("tenure.toml:2:1: unknown key"));
}

#[test]
fn values_without_the_right_form_are_refused_with_their_place() {
    for (old, new, told) in [
        ("Host-A.example.org", "*.example.org", ":5:8: "),
        ("0.0.0.0:4434", "4434", ":8:10: "),
        ("unix:/run/c.sock", "unix:c.sock", ":21:11: "),
        ("6A3E94C5-", "6A3E94C5", ":25:8: "),
        ("\"on\"", "\"yes\"", ":29:11: "),
        ("0xffffffffffffffff", "0x0", ":35:7: "),
        ("iscsi://192.0.2.9/", "http://192.0.2.9/", ":38:7: "),
        ("tcp:192.0.2.1:0", "exec:cat", "a guest moves over tcp:"),
        ("version = 1", "version = 2", ":2:11: "),
    ] {
        let text = wrong(&with(old, new));
        assert!(text.contains(told), "{new}: {text}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    for (old, new, told) in [
        (
            "name = \"host-c.example.org\"",
            "name = \"host-b.example.org\"",
            "peer host-b.example.org is there twice",
        ),
        ("name = \"host-c.example.org\"", "name = \"host-a.example.org\"", "is this host itself"),
        ("name = \"db2\"", "name = \"db1\"", "vm db1 is there twice"),
        ("f8d12", "f8d11", "the uuid 6a3e94c5"),
        ("db2.qmp", "db1.qmp", "the QMP socket /run/qemu/db1.qmp is there twice"),
        ("name = \"db2\"", "name = \"db1-helper\"", "the record db1-helper is there twice"),
        ("name = \"db2\"", "name = \"\"", "a vm has no name"),
        ("peers = [\"host-b", "peers = [\"host-d", "vm db1 lists host-d.example.org, which is no [[peer]]"),
        ("/srv/tenure", "srv/tenure", "state: srv/tenure is not an absolute path"),
        ("/run/qemu/db1.qmp", "db1.qmp", "vm db1: qmp: db1.qmp is not an absolute path"),
        (
            "key = \"0xffff",
            "url = \"iscsi://a/iqn.2026-01.org.example:d/0\"\nkey = \"0xffff",
            "either a node or a url",
        ),
        ("helper = \"/run/tenure/agents/db1.sock\"\n", "", "needs a helper"),
        ("lun = \"naa.600140512345679\"\n", "", "`follows` goes with a url"),
    ] {
        let text = wrong(&with(old, new));
        assert!(text.contains(told), "{new}: {text}");
    }
}

#[test]
fn a_secret_in_a_url_is_not_shown() {
    let text = with("iscsi://192", "iscsi://user%secret-word@192");
    assert!(
        !format!("{}", parse(&text).unwrap().vms[0].devices[1].url.as_ref().unwrap()).contains("secret-word")
    );
}
