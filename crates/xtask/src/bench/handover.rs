//! The pause of a handover, in round trips of the target: the target delays every command by a known time,
//! beside which everything else disappears.

use super::spread;
use anyhow::{Context, Result, ensure};
use lab::tenure::Tenure;

const DELAY_MS: u32 = 50;
const ROUNDS: usize = 3;

/// The roles and methods worth a row, with the state to set up.
const ROWS: [(&str, &[&str]); 5] = [
    ("member or registrant, make-before-break", &[]),
    ("holder, REGISTER AND MOVE", &["--method", "register-and-move"]),
    ("holder, own key (profile keep-self)", &["--method", "preempt-own-key"]),
    ("holder, source nonce", &["--method", "source-nonce"]),
    ("holder, as chosen", &[]),
];

/// Prints a row for each method.
pub(super) fn print(tenure: &Tenure) -> Result<()> {
    println!("pause of a handover, in round trips of a target that delays each command by {DELAY_MS} ms");
    for (index, (name, args)) in ROWS.into_iter().enumerate() {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(pause(tenure, index != 0, name.contains("keep-self"), args)?);
        }
        let (low, middle, high) = spread(&mut rounds);
        println!("{name:<42} {middle:>6.2} ({low:.2} to {high:.2})");
    }
    Ok(())
}

/// The pause of one run, divided by the delay.
fn pause(tenure: &Tenure, holder: bool, keep_self: bool, args: &[&str]) -> Result<f64> {
    let profile = if keep_self { "keep-self" } else { "spc" };
    let served = tenure.target(&[&format!("memory=16M,profile={profile},delay={DELAY_MS}ms")])?;
    let (from, to) = (served.device(0, "source"), served.device(0, "destination"));
    let pr = |args: &[&str]| -> Result<()> {
        let ran = tenure.run(&[&["pr"], args].concat())?;
        ensure!(ran.exit == 0, "{args:?}: {}", ran.err);
        Ok(())
    };
    pr(&["register", &from, "--new-key", "0xa1"])?;
    if holder {
        pr(&["reserve", &from, "--key", "0xa1", "--type", "5"])?;
    }
    let run = ["handover", "run", "--json", "--from", &from, "--to", &to];
    let ran = tenure.run(&[&run[..], args].concat())?;
    ensure!(ran.exit == 0, "{}{}", ran.out, ran.err);
    let told = ran.json()?;
    let microseconds = told
        .pointer("/pause/microseconds")
        .and_then(serde_json::Value::as_f64)
        .context("no pause in the JSON")?;
    Ok(microseconds / 1000.0 / f64::from(DELAY_MS))
}
