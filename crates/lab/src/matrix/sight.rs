//! What a third initiator sees at each step: never without the guest's key, nor without its reservation (P2).

use crate::leash::Said;
use crate::served::Served;
use crate::states::{self, GUEST, Standing};
use anyhow::{Context, Result};
use iscsi::initiator::IscsiNexus;
use scsi::pr::{InAction, ReadKeys, ReadReservation, request};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Looks at all logical units of a guest.
#[derive(Debug)]
pub(super) struct Sight {
    units: Mutex<Vec<(IscsiNexus, Standing)>>,
    wrong: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Sight {
    /// Logs in to each of them.
    pub(super) fn new(served: &[(Served, Standing)]) -> Result<Self> {
        let login = |(served, standing): &(Served, Standing)| {
            Ok((states::login(&served.device(0, "watch"))?, *standing))
        };
        let units = served.iter().map(login).collect::<Result<Vec<_>>>()?;
        Ok(Self { units: Mutex::new(units), wrong: Mutex::default(), closed: AtomicBool::new(false) })
    }

    /// Looks no more: what comes is the operator's word, or a fencing.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Looks, at the step at which somebody stands.
    pub(super) fn look(&self, said: &Said) {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        for (place, (nexus, standing)) in units.iter_mut().enumerate() {
            let trouble = match gap(nexus, *standing) {
                Ok(None) => continue,
                Ok(Some(gap)) => gap.to_owned(),
                Err(error) => format!("{error:#}"),
            };
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.push(format!("LUN {place}, {} {}: {trouble}", said.when, said.step));
        }
    }

    /// The first thing that was not as it must be.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

fn gap(nexus: &mut IscsiNexus, standing: Standing) -> Result<Option<&'static str>> {
    let keys = states::run(nexus, &request::read(InAction::READ_KEYS, 1024))?;
    let keys = ReadKeys::parse(&keys.data).context("READ KEYS")?.keys;
    if !keys.contains(&GUEST) {
        return Ok(Some("the guest's key is not listed"));
    }
    let held = states::run(nexus, &request::read(InAction::READ_RESERVATION, 24))?;
    let held = ReadReservation::parse(&held.data).context("READ RESERVATION")?.reservation;
    let same = held.map(|held| held.kind) == standing.kind();
    Ok((!same).then_some("the reservation is not the guest's"))
}
