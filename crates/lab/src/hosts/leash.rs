//! The leash of an agent in a host's VM, held from outside. A program in the VM has the agent's end; what the agent tells, and what
//! it is told, are lines of two files that both sides see.

use super::PATIENCE;
use crate::leash::{Held, Reins, Said, When};
use crate::orders::{self, Orders};
use crate::process::wait_for;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between looks for an order.
const LOOK: Duration = Duration::from_millis(20);

/// What the program in the VM is told once.
#[derive(Clone, Debug, clap::Args)]
pub struct Setting {
    /// Where the agent finds whoever holds its leash
    #[arg(long)]
    pub socket: PathBuf,
    /// Where each step is told, a line each
    #[arg(long)]
    pub told: PathBuf,
    /// Where orders are found, a line each
    #[arg(long)]
    pub orders: PathBuf,
}

/// What is told outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    /// The order to stop it has been read.
    Heard,
    /// The agent is at this step.
    Said(Said),
    /// It stands there.
    Stands,
}

/// What is ordered from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// To stop at the `nth` time, from 1 and from now, that it tells this step.
    Stop { when: When, step: String, nth: usize },
    /// To go on.
    Go,
}

/// Holds the leash, in the VM, without end.
///
/// # Errors
/// If there is no socket, or no way to tell or to be told.
pub fn hold(setting: &Setting) -> Result<Infallible> {
    let told = File::create(&setting.told).with_context(|| setting.told.display().to_string())?;
    let told = Arc::new(Mutex::new(told));
    let at_steps = Arc::clone(&told);
    let tell_step = move |said: &Said| drop(tell(&at_steps, &Told::Said(said.clone())));
    let reins = Reins::hold(&setting.socket, tell_step)?;
    let mut orders = Orders::new(&setting.orders);
    let mut held: Option<Held> = None;
    loop {
        match orders.next()? {
            Some((_, Order::Stop { when, step, nth })) => {
                reins.stop_at(when, &step, nth);
                tell(&told, &Told::Heard)?;
            }
            Some((_, Order::Go)) => held = None,
            None => {}
        }
        if held.is_some() {
            std::thread::sleep(LOOK);
            continue;
        }
        held = reins.wait(LOOK, || false);
        if held.is_some() {
            tell(&told, &Told::Stands)?;
        }
    }
}

fn tell(file: &Mutex<File>, told: &Told) -> Result<()> {
    let mut line = serde_json::to_string(told)?;
    line.push('\n');
    Ok(file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?)
}

/// The other end of the two files.
#[derive(Clone, Debug)]
pub(super) struct Leash {
    told: PathBuf,
    orders: PathBuf,
}

impl Leash {
    /// Both files empty.
    pub(super) fn new(told: &Path, orders: &Path) -> Result<Self> {
        for file in [told, orders] {
            std::fs::write(file, "").with_context(|| file.display().to_string())?;
        }
        Ok(Self { told: told.into(), orders: orders.into() })
    }

    /// The agent is to stop at the `nth` time, from 1 and from now, that it tells this step.
    pub(super) fn stop_at(&self, when: When, step: &str, nth: usize) -> Result<()> {
        let heard =
            || self.lines().map_or(0, |lines| lines.iter().filter(|told| **told == Told::Heard).count());
        let before = heard();
        orders::give(&self.orders, &Order::Stop { when, step: step.to_owned(), nth })?;
        wait_for(PATIENCE, || (heard() > before).then_some(())).context("nobody holds the leash")
    }

    /// It may go on.
    pub(super) fn let_go(&self) -> Result<()> {
        orders::give(&self.orders, &Order::Go)
    }

    /// Whether it stands where it was to stop, or did.
    pub(super) fn stands(&self) -> bool {
        self.lines().is_ok_and(|lines| lines.contains(&Told::Stands))
    }

    /// All steps that it told, in their order.
    pub(super) fn told(&self) -> Result<Vec<Said>> {
        let said = |told| match told {
            Told::Said(said) => Some(said),
            Told::Heard | Told::Stands => None,
        };
        Ok(self.lines()?.into_iter().filter_map(said).collect())
    }

    fn lines(&self) -> Result<Vec<Told>> {
        let text = std::fs::read_to_string(&self.told)?;
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::DEADLINE;
    use agent::steps::{Observer, Step};
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn an_agent_is_stopped_and_let_go_by_lines_of_two_files() {
        let directory = tempfile::TempDir::new().unwrap();
        let [socket, told, orders] = ["socket", "told", "orders"].map(|name| directory.path().join(name));
        let leash = Leash::new(&told, &orders).unwrap();
        let setting = Setting { socket: socket.clone(), told, orders };
        thread::spawn(move || hold(&setting));
        wait_for(DEADLINE, || socket.exists().then_some(())).unwrap();
        leash.stop_at(When::After, "freeze", 2).unwrap();
        let (send, done) = channel();
        let agent = wait_for(DEADLINE, || crate::leash::Leash::connect(&socket).ok()).unwrap();
        thread::spawn(move || {
            for turn in 0..2 {
                agent.before("web", &Step::Freeze);
                agent.after("web", &Step::Freeze);
                send.send(turn).unwrap();
            }
        });
        wait_for(DEADLINE, || leash.stands().then_some(())).unwrap();
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [0]);
        assert_eq!(leash.told().unwrap().len(), 4);
        leash.let_go().unwrap();
        assert_eq!(done.recv_timeout(DEADLINE), Ok(1));
    }
}
