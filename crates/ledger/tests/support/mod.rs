//! Changes to append, and this test program started again to be another process.
#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use handover::Tracked;
use ledger::{Change, Guest, HandoverId, Intended, Ledger, LunId, Owner, PathId, Record, State};
use scsi::pr::{Key, OutAction, ReservationType};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "LEDGER_TEST_ROLE";
const STATE: &str = "LEDGER_TEST_STATE";

pub fn owner() -> Owner {
    Owner("win-node-1".into())
}

pub fn lun(number: u64) -> LunId {
    LunId(format!("naa.60000000000000000e000000{number:08x}"))
}

pub fn path(number: u64) -> PathId {
    PathId(format!("pci0000:00/0000:00:02.{number} naa.5001,t,0x1"))
}

pub fn intent(key: u64) -> Change {
    let intended = Intended {
        action: OutAction::REGISTER,
        kind: ReservationType(0),
        reservation_key: Key::NONE,
        service_action_key: Key(key),
        aptpl: true,
        all_target_ports: false,
        unregister: false,
    };
    Change::Intent { path: path(0), intended }
}

pub fn commit(key: u64) -> Change {
    commit_on(path(0), key)
}

pub fn commit_on(path: PathId, key: u64) -> Change {
    let tracked = Tracked { key: Some(Key(key)), held: None, aptpl: true, all_target_ports: false };
    Change::Commit { path, tracked, generation: None }
}

/// A state whose reason has so many bytes.
pub fn wordy(bytes: usize) -> Change {
    Change::State { state: State::Active, handover: Some(HandoverId(1)), why: Some("w".repeat(bytes)) }
}

pub fn open(state: &Path) -> Guest {
    Ledger::open(state).unwrap().guest(&owner()).unwrap()
}

pub fn log_path(state: &Path) -> PathBuf {
    state.join("guests/win-node-1/log")
}

/// The key that is recorded of the first path of this logical unit; 0 for none.
pub fn key_of(guest: &Guest, lun: &LunId) -> u64 {
    let key = |record: std::sync::Arc<Record>| record.path(&path(0)).and_then(|path| path.tracked.key);
    guest.record(lun).and_then(key).map_or(0, |Key(key)| key)
}

/// What the other process is to do, if this is one: its role, and the state directory.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(STATE)?.into()))
}

/// Says a word to the process that started this one.
pub fn say(word: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "\nsaid {word}").and_then(|()| out.flush()).unwrap();
}

/// This program again, to run the test `the_other_process` in a role: appended to a command that ends with a program.
pub fn become_another(command: &mut Command, role: &str, state: &Path) {
    command.args(["--exact", "the_other_process", "--nocapture"]).env(ROLE, role).env(STATE, state);
}

/// Another process; killed when dropped.
pub struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    pub fn start(role: &str, state: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        become_another(&mut command, role, state);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next word it says; `None` once it has ended.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some(word) = line.trim_end().strip_prefix("said ") {
                return Some(word.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Ends it at once, wherever it is.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
