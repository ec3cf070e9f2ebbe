//! The pause of a handover, in round trips of the target: the target delays every command by a known time,
//! beside which everything else disappears.

use super::spread;
use anyhow::Result;
use handover::Method;
use lab::moves::pause_in_session;
use lab::states::{Guest, Standing};
use lab::tenure::Tenure;
use scsi::pr::ReservationType;

const DELAY_MS: u32 = 50;
const ROUNDS: usize = 3;
const HOLDER: Standing = Standing::Holder(ReservationType::WRITE_EXCLUSIVE_REGISTRANTS_ONLY);

/// What the guest is, by which method, on which profile.
const ROWS: [(Standing, Method, &str); 4] = [
    (Standing::Member, Method::MakeBeforeBreak, "spc"),
    (HOLDER, Method::RegisterAndMove, "spc"),
    (HOLDER, Method::PreemptOwnKey, "keep-self"),
    (HOLDER, Method::SourceNonce, "spc"),
];

/// Prints a row for each method.
pub(super) fn print(tenure: &Tenure) -> Result<()> {
    println!(
        "pause of a handover, measured, in delays of a target that delays each command by {DELAY_MS} ms"
    );
    for (standing, method, profile) in ROWS {
        let mut measured = Vec::new();
        let mut counted = 0;
        for _ in 0..ROUNDS {
            let served = tenure.target(&[&format!("memory=16M,profile={profile},delay={DELAY_MS}ms")])?;
            let guest = Guest::new(standing, false);
            let (trips, time) = pause_in_session(&served, 0, guest, Some(method))?;
            measured.push(time.as_secs_f64() * 1000.0 / f64::from(DELAY_MS));
            counted = trips;
        }
        let (low, middle, high) = spread(&mut measured);
        println!("{:<34} {middle:>6.2} ({low:.2} to {high:.2})   {counted} round trips", method.to_string());
    }
    Ok(())
}
