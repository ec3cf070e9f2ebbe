//! Several processes on one log: this test binary started again plays the others.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "LEDGER_TEST_ROLE";
const STATE: &str = "LEDGER_TEST_STATE";

/// Another process; it ends when its standard input does, and is killed when dropped.
struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    fn start(role: &str, state: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "guest::tests::processes::the_other_process", "--nocapture"]);
        command.env(ROLE, role).env(STATE, state);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "it ended before {word:?}");
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what the other process does. Without a role it does nothing.
#[test]
fn the_other_process() {
    let (Ok(role), Some(state)) = (std::env::var(ROLE), std::env::var_os(STATE)) else { return };
    let guest = open(Path::new(&state));
    match role.as_str() {
        "freeze" => {
            let _frozen = guest.freeze(&lun(1), Instant::now() + Duration::from_secs(5)).unwrap();
            say("frozen");
            let _ = io::stdin().read(&mut [0]);
        }
        number => {
            let number: u8 = number.parse().unwrap();
            for key in 1..=50 {
                guest.append(&[(lun(number), intent(key)), (lun(number), commit(key))]).unwrap();
            }
            say("appended");
        }
    }
}

fn say(word: &str) {
    let mut out = io::stdout();
    writeln!(out, "\n{word}").and_then(|()| out.flush()).unwrap();
}

#[test]
fn two_processes_that_append_at_once_lose_nothing() {
    let state = TempDir::new().unwrap();
    let mut others = [Other::start("1", state.path()), Other::start("2", state.path())];
    let guest = open(state.path());
    for key in 1..=50 {
        guest.append(&[(lun(3), commit(key))]).unwrap();
    }
    others.iter_mut().for_each(|other| other.wait_for("appended"));
    guest.refresh().unwrap();
    let keys: Vec<_> = guest.records().iter().map(|record| record.paths[0].tracked.key).collect();
    assert_eq!(keys, [Some(Key(50)); 3]);
    let lines = fs::read_to_string(log_path(state.path())).unwrap().lines().count();
    assert!((1 + 50..=1 + 50 + 2 * 50).contains(&lines), "{lines}");
}

#[test]
fn a_frozen_logical_unit_stays_so_until_its_holder_ends_or_dies() {
    let state = TempDir::new().unwrap();
    let guest = open(state.path());
    let mut agent = Other::start("freeze", state.path());
    agent.wait_for("frozen");
    let soon = || Instant::now() + Duration::from_millis(20);
    assert!(matches!(guest.share(&lun(1), soon()), Err(Error::Locked(_))));
    drop(guest.share(&lun(2), soon()).unwrap());
    drop(agent);
    drop(guest.share(&lun(1), soon()).unwrap());
}
