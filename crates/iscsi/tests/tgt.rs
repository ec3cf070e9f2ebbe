//! The initiator against a target nobody here wrote: Debian's `tgt`, as a private child on its own ports.
//! Without `tgtd` on the machine there is nothing to test against, and the test says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use iscsi::initiator::{
    Chap, Credentials, DigestOffer, LoginError, Proposal, Session, SessionConfig, SessionError, TaskResponse,
    discover,
};
use nexus::Nexus;
use scsi::pr::{InAction, Key, request};
use scsi::{DataPhase, IscsiName, Isid, Request, opcode};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.example:tgt";

/// A running `tgtd`, ended with the test.
struct Tgt {
    child: Child,
    control: String,
    portal: String,
    _medium: tempfile::NamedTempFile,
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // In good order, so that it takes its control socket away; then for certain.
        self.admin(&["--op", "delete", "--mode", "target", "--force", "--tid", "1"]);
        self.admin(&["--op", "delete", "--mode", "system"]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tgt {
    fn start(number: u32) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let portal = format!("127.0.0.1:{port}");
        // tgtd takes control ports as signed 16-bit numbers; the process id keeps test runs apart.
        let control = (20_000 + (std::process::id() * 4 + number) % 12_000).to_string();
        let daemon = Command::new("tgtd")
            .args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = daemon else {
            eprintln!("no tgtd on this machine: not tested against tgt");
            return None;
        };
        let medium = tempfile::NamedTempFile::new().unwrap();
        medium.as_file().set_len(16 << 20).unwrap();
        let tgt = Self { child, control, portal, _medium: medium };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !tgt.admin(&["--op", "show", "--mode", "sys"]) {
            assert!(Instant::now() < deadline, "tgtd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let path = tgt._medium.path().display().to_string();
        assert!(tgt.admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET]));
        assert!(tgt.admin(&[
            "--op",
            "new",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "-b",
            &path
        ]));
        assert!(tgt.admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]));
        Some(tgt)
    }

    fn admin(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("tgtadm");
        command.args(["-C", &self.control, "--lld", "iscsi"]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn config(&self, isid: u8) -> SessionConfig {
        let name = |text| IscsiName::new(text).unwrap();
        SessionConfig::new(
            &self.portal,
            name(TARGET),
            name("iqn.2026-11.example:host"),
            Isid([2, 0, 0, 0, 0, isid]),
        )
    }
}

fn ready(session: &Session) -> impl Nexus + use<> {
    let mut nexus = session.nexus(1);
    let ready = Request { cdb: vec![0; 6], data: DataPhase::None };
    assert!((0..8).any(|_| nexus.execute(&ready).unwrap().status.is_good()));
    nexus
}

fn transfer(code: u8, data: DataPhase, blocks: u8) -> Request {
    Request { cdb: vec![code, 0, 0, 0, 0, 16, 0, blocks, 0, 0], data }
}

#[test]
fn data_and_reservations_pass_under_every_burst_rule_and_digest() {
    let Some(tgt) = Tgt::start(0) else { return };
    let length = 8 * 256 * 512;
    for case in 0..8u8 {
        let mut config = tgt.config(1);
        let digest = if case & 4 != 0 { DigestOffer::Prefer } else { DigestOffer::None };
        config.proposal = Proposal {
            initial_r2t: case & 1 != 0,
            immediate_data: case & 2 != 0,
            header_digest: digest,
            data_digest: digest,
            ..Proposal::default()
        };
        let session = Session::login(&config).unwrap();
        let mut nexus = ready(&session);
        let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8 ^ case).collect();
        let written = nexus.execute(&transfer(opcode::WRITE_10, DataPhase::Out(data.clone()), 8)).unwrap();
        assert!(written.status.is_good(), "case {case}: {:?}", written.decoded_sense());
        assert_eq!(nexus.execute(&transfer(opcode::READ_10, DataPhase::In(length), 8)).unwrap().data, data);
        let key = Key(0x1234);
        assert!(nexus.execute(&request::register_and_ignore(key, false)).unwrap().status.is_good());
        let keys = nexus.execute(&request::read(InAction::READ_KEYS, 256)).unwrap();
        assert!(keys.data.ends_with(&0x1234u64.to_be_bytes()));
        assert_eq!(session.reset_logical_unit(1).unwrap(), TaskResponse::FUNCTION_COMPLETE);
        session.logout().unwrap();
    }
}

#[test]
fn discovery_and_chap_work() {
    let Some(tgt) = Tgt::start(1) else { return };
    let found = discover(&tgt.config(1)).unwrap();
    assert_eq!(found.first().map(|target| target.name.as_str()), Some(TARGET));
    assert!(tgt.admin(&["--op", "new", "--mode", "account", "--user", "alice", "--password", "right horse"]));
    assert!(tgt.admin(&["--op", "bind", "--mode", "account", "--tid", "1", "--user", "alice"]));
    let attempt = |secret: &str| {
        let initiator = Credentials { user: "alice".into(), secret: secret.into() };
        Session::login(&SessionConfig { chap: Some(Chap { initiator, target: None }), ..tgt.config(2) })
    };
    ready(&attempt("right horse").unwrap());
    assert!(matches!(attempt("wrong horse"), Err(SessionError::Login(LoginError::Refused(_)))));
    let bare = Session::login(&tgt.config(3));
    assert!(matches!(bare, Err(SessionError::Login(_))), "{bare:?}");
}
