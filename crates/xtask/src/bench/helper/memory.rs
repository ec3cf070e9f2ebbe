//! Memory of both helpers with many idle clients.

use super::client::{Client, message};
use super::server::{Programs, Side};
use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scsi::pr::{InAction, request};
use std::fs;

/// Clients that have sent one command each and wait.
const CLIENTS: usize = 1000;

/// Prints a row for each side.
pub(super) fn print(programs: &Programs) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("descriptors")?;
    println!("memory in KiB, without clients and with {CLIENTS} that are idle after one command each");
    println!("{:<34} {:>10} {:>10} {:>12} {:>10}", "", "VmRSS", "PSS", "VmRSS", "PSS");
    for side in [Side::Incumbent, Side::Durable] {
        let server = programs.start(side)?;
        let before = [resident(server.id())?, proportional(server.id())?];
        let read = message(&request::read(InAction::READ_KEYS, 8192));
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let mut client = Client::connect(server.socket(), number % 16)?;
            client.execute(&read)?;
            clients.push(client);
        }
        let after = [resident(server.id())?, proportional(server.id())?];
        let name = side.name();
        println!("{name:<34} {:>10} {:>10} {:>12} {:>10}", before[0], before[1], after[0], after[1]);
    }
    Ok(())
}

fn resident(process: u32) -> Result<u64> {
    kilobytes(&format!("/proc/{process}/status"), "VmRSS:")
}

fn proportional(process: u32) -> Result<u64> {
    kilobytes(&format!("/proc/{process}/smaps_rollup"), "Pss:")
}

fn kilobytes(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.with_context(|| format!("{file} has no {name}"))
}
