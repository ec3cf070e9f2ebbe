//! A guest moves between two agents of one machine and back: two scripted QEMUs, `tenure target`, the agents' own doors, and
//! `tenure migrate` as the operator types it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use agent::config::Config;
use agent::daemon::{Daemon, Guests, Host};
use agent::guests::Hosted;
use lab::scripted::{self, Options};
use lab::served::Served;
use lab::tenure::{Ran, Tenure};
use ledger::Ledger;
use serde_json::Value;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const UUID: &str = "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11";
const KEY: &str = "0x4b";

struct Site {
    directory: TempDir,
    tenure: Tenure,
    served: Served,
    luns: u16,
}

impl Site {
    fn new(luns: u16) -> Self {
        let tenure = Tenure::at(Path::new(env!("CARGO_BIN_EXE_tenure")));
        let served = tenure.target(&vec!["memory=1M"; usize::from(luns)]).unwrap();
        Self { directory: TempDir::new().unwrap(), tenure, served, luns }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn device(&self, lun: u16, host: &str) -> String {
        self.served.device(lun, host)
    }

    /// The guest of `host` takes part in its cluster.
    fn register(&self, host: &str) {
        for lun in 0..self.luns {
            let device = self.device(lun, host);
            assert_eq!(self.pr(&["register", &device, "--new-key", KEY]).exit, 0);
            assert_eq!(self.pr(&["reserve", &device, "--key", KEY, "--type", "5"]).exit, 0);
        }
    }

    fn pr(&self, args: &[&str]) -> Ran {
        self.tenure.run(&[&["pr"], args].concat()).unwrap()
    }

    /// On each logical unit `host` has the key, and the reservation of the guest is there.
    fn is_at(&self, host: &str, other: &str) {
        for lun in 0..self.luns {
            let proof = |host: &str| {
                let device = self.device(lun, host);
                let again = || self.pr(&["register", &device, "--key", KEY, "--new-key", KEY]).exit;
                // A unit attention comes first.
                (0..4).any(|_| again() == 0)
            };
            assert!(proof(host) && !proof(other), "LUN {lun}: not at {host} alone");
            let held = self.pr(&["read-reservation", &self.device(lun, other), "--json"]).json().unwrap();
            assert_eq!(held["reservation"]["type"], 5, "{held}");
        }
    }

    fn qemu(&self, host: &str, incoming: bool) {
        let qmp = self.path(&format!("{host}.qmp"));
        let mut args =
            vec!["scripted-qemu".to_owned(), "--uuid".into(), UUID.into(), "--name".into(), host.into()];
        args.extend(["--qmp".into(), qmp.display().to_string()]);
        args.extend(["--diary".into(), self.path("diary").display().to_string()]);
        if incoming {
            args.extend(["--incoming".into(), "-S".into()]);
        }
        let options = <Options as clap::Parser>::parse_from(args);
        thread::spawn(move || scripted::run(options).unwrap());
        wait_for(&qmp);
    }

    fn quit(&self, host: &str) {
        let path = self.path(&format!("{host}.qmp"));
        let qemu = qmp::qemu::Qemu::connect(&path, Duration::from_secs(5)).unwrap();
        // It may end before it has answered.
        let _ = qemu.quit();
        let end = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&path).is_ok() {
            assert!(Instant::now() < end, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn agent(&self, host: &str, other: &str) -> Daemon {
        let state = self.path(&format!("{host}.state"));
        let at = |name: String| self.path(&name).display().to_string();
        let mut text = format!(
            "version = 1\n[agent]\nname = '{host}'\nstate = '{}'\nsocket = '{}'\nlisten = 'unix:{}'\n\
             [[peer]]\nname = '{other}'\naddress = 'unix:{}'\n\
             [[vm]]\nname = 'web'\nuuid = '{UUID}'\nqmp = '{}'\npeers = ['{other}']\nincoming = 'tcp:127.0.0.1:0'\n",
            state.display(),
            at(format!("{host}.sock")),
            at(format!("{host}.peer")),
            at(format!("{other}.peer")),
            at(format!("{host}.qmp")),
        );
        for lun in 0..self.luns {
            text += &format!("[[vm.device]]\nurl = '{}'\nkey = '{KEY}'\n", self.device(lun, host));
        }
        let config = Config::parse(&text, Path::new("tenure.toml")).unwrap();
        let ledger = Ledger::open(&state).unwrap();
        let guests = |host: &Arc<Host>| Arc::new(Hosted::new(host, ledger)) as Arc<dyn Guests>;
        Daemon::start(config, "test", guests).unwrap()
    }

    fn migrate(&self, from: &str, to: &str, more: &[&str]) -> (i32, Value) {
        let control = self.path(&format!("{from}.sock")).display().to_string();
        let args = [&["migrate", "web", "--to", to, "--control", &control, "--json"], more].concat();
        let ran = self.tenure.run(&args).unwrap();
        assert!(!ran.out.is_empty(), "{ran:?}");
        (ran.exit, ran.json().unwrap())
    }
}

fn wait_for(path: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(path).is_err() {
        assert!(Instant::now() < end, "nobody listens on {}", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_guest_moves_there_and_back_with_its_reservations() {
    let site = Site::new(2);
    site.register("a");
    site.qemu("a", false);
    let agents = [site.agent("a", "b"), site.agent("b", "a")];
    site.qemu("b", true);
    let (exit, plan) = site.migrate("a", "b", &["--plan"]);
    assert_eq!((exit, plan["verdict"].as_str()), (0, Some("possible")), "{plan:#}");
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "b")] {
        let (exit, report) = site.migrate(from, to, &[]);
        assert_eq!((exit, report["verdict"].as_str()), (0, Some("moved")), "{report:#}");
        assert!(report["downtime"]["round_trips"].as_u64().unwrap() <= 5, "{report:#}");
        site.is_at(to, from);
        site.quit(from);
        site.qemu(from, true);
    }
    let lines = scripted::diary::read(&site.path("diary")).unwrap();
    assert!(scripted::diary::ran_twice(&lines).is_none(), "{lines:?}");
    drop(agents);
}

#[test]
fn a_destination_that_does_not_wait_for_the_guest_is_refused_with_what_to_do() {
    let site = Site::new(1);
    site.register("a");
    site.qemu("a", false);
    let agents = [site.agent("a", "b"), site.agent("b", "a")];
    let (exit, report) = site.migrate("a", "b", &[]);
    assert_eq!(exit, 4, "{report:#}");
    site.is_at("a", "b");
    drop(agents);
}
