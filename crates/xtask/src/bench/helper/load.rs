//! Traffic from many clients at once, and how fast it was answered.

use super::client::{Client, message};
use super::server::Server;
use anyhow::{Context, Result, anyhow};
use scsi::Request;
use scsi::pr::{InAction, Key, ReservationType, request};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const KEY: Key = Key(null_sg::KEY);
const KIND: ReservationType = ReservationType(null_sg::KIND);
/// How long one measurement takes.
const TIME: Duration = Duration::from_secs(1);

/// What clients that are registered and hold the reservation send, in turn, for ever.
pub(super) struct Traffic {
    /// For the table.
    pub(super) name: &'static str,
    commands: fn() -> Vec<Request>,
}

/// Two that change nothing, and one that changes something each time.
pub(super) static TRAFFIC: [Traffic; 3] = [
    Traffic { name: "READ KEYS", commands: || vec![request::read(InAction::READ_KEYS, 8192)] },
    Traffic { name: "RESERVE again, no change", commands: || vec![request::reserve(KEY, KIND)] },
    Traffic {
        name: "RELEASE and RESERVE, each a change",
        commands: || vec![request::release(KEY, KIND), request::reserve(KEY, KIND)],
    },
];

/// What one run gave.
pub(super) struct Measured {
    /// Requests per second, of all clients.
    pub(super) rate: f64,
    /// Processor time of the helper for each request, those of the registering clients included.
    pub(super) processor: Duration,
    /// Half of all were answered within this.
    pub(super) p50: Duration,
    /// All but a hundredth.
    pub(super) p99: Duration,
}

/// Runs the traffic, and measures from the moment at which every client is registered.
pub(super) fn run(server: &Server, clients: usize, traffic: &Traffic) -> Result<Measured> {
    let (socket, before) = (server.socket(), server.processor_time()?);
    let messages: Vec<Vec<u8>> = (traffic.commands)().iter().map(message).collect();
    let start = Barrier::new(clients);
    let ended: Vec<Result<(Vec<Duration>, Duration)>> = thread::scope(|scope| {
        let start = &start;
        let one = |disk| {
            let messages = messages.iter();
            scope.spawn(move || {
                // Whoever cannot begin must not keep the others waiting.
                let client = registered(socket, disk);
                start.wait();
                repeat(&mut client?, messages.cycle())
            })
        };
        let threads: Vec<_> = (0..clients).map(one).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?).collect()
    });
    let ended: Vec<_> = ended.into_iter().collect::<Result<_>>().with_context(|| traffic.name)?;
    Ok(measured(ended, server.processor_time()?.saturating_sub(before)))
}

fn registered(socket: &Path, disk: usize) -> Result<Client> {
    let mut client = Client::connect(socket, disk)?;
    client.execute(&message(&request::register(Key::NONE, KEY, false)))?;
    client.execute(&message(&request::reserve(KEY, KIND)))?;
    Ok(client)
}

/// The latency of each, and how long all took.
fn repeat<'a>(
    client: &mut Client,
    messages: impl Iterator<Item = &'a Vec<u8>>,
) -> Result<(Vec<Duration>, Duration)> {
    let (begun, mut latencies) = (Instant::now(), Vec::with_capacity(1 << 16));
    let mut before = begun;
    for message in messages {
        client.execute(message)?;
        let now = Instant::now();
        latencies.push(now - before);
        before = now;
        if now - begun >= TIME {
            break;
        }
    }
    Ok((latencies, before - begun))
}

fn measured(ended: Vec<(Vec<Duration>, Duration)>, processor: Duration) -> Measured {
    let rate = ended.iter().map(|(latencies, took)| latencies.len() as f64 / took.as_secs_f64()).sum();
    let mut all: Vec<Duration> = ended.into_iter().flat_map(|(latencies, _)| latencies).collect();
    all.sort_unstable();
    let at = |hundredth: usize| all.get(all.len() * hundredth / 100).copied().unwrap_or_default();
    let processor = processor / u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
    Measured { rate, processor, p50: at(50), p99: at(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_add_up_and_percentiles_are_of_all_clients_together() {
        let fast = (vec![Duration::from_millis(1); 98], Duration::from_millis(98));
        let slow = (vec![Duration::from_millis(49); 2], Duration::from_millis(98));
        let both = measured(vec![slow, fast], Duration::from_millis(50));
        assert_eq!(both.processor.as_micros(), 500);
        assert_eq!((both.p50.as_millis(), both.p99.as_millis()), (1, 49));
        assert!((both.rate - 100.0 / 0.098).abs() < 1e-6);
    }
}
