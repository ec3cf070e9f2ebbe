//! The program's second socket: whose it is, what passes through the real program, and that it goes with it.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use ledger::HandoverId;
use nexus::{Nexus, TransportError};
use pr_helper::{Client, Refused};
use scsi::pr::{InAction, Key, request};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::daemon::*;
use support::*;

fn client(socket: &Path) -> Client {
    Client::new(socket, null(), HandoverId(1)).with_timeout(PATIENCE)
}

fn refusal(result: Result<scsi::Completion, TransportError>) -> String {
    let Err(TransportError::NotSent(error)) = result else { panic!("{result:?}") };
    error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>()).unwrap().0.clone()
}

fn serve(place: &Place, agent_socket: &Path) -> Helper {
    place.serve(["--vm", "a vm", "--agent-socket", agent_socket.to_str().unwrap()])
}

#[test]
fn the_agents_socket_is_private_confined_served_audited_and_removed() {
    let place = Place::new();
    let socket = place.path("run/agent");
    let helper = serve(&place, &socket);
    let found = fs::symlink_metadata(&socket).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o600);
    let mut client = client(&socket);
    assert_eq!(refusal(client.execute(&request::read(InAction::READ_KEYS, 8))), "no SCSI device");
    let change = request::register(Key(1), Key(2), false);
    assert_eq!(refusal(client.execute(&change)), "no SCSI device");
    assert!(helper.client().request(&pr_in(8), null()).is_some(), "guests are served beside it");
    let audit = fs::read_to_string(place.path("state/guests/a%20vm/audit.jsonl")).unwrap();
    assert!(audit.contains("\"handover\":\"00000000000000000000000000000001\""), "{audit}");
    let said = helper.end();
    assert!(said.contains("a query of the agent was not sent: no SCSI device"), "{said}");
    assert!(!socket.exists());
}

#[test]
fn in_a_directory_the_socket_has_the_records_name() {
    let place = Place::new();
    fs::create_dir(place.path("agents")).unwrap();
    let helper = serve(&place, &place.path("agents"));
    let socket = place.path("agents/a%20vm.sock");
    assert!(client(&socket).execute(&request::read(InAction::READ_KEYS, 8)).is_err());
    assert!(socket.exists());
    helper.end();
    assert!(!socket.exists());
}
