//! The logical units of a handover in the words of the peers' messages, and the orders that both hosts make of them: the same
//! functions on both sides, because the two replicas must be alike.

use super::site::{Lun, Trouble};
use handover::{Port, Settings};
use peer::message::{Offer, Options, Paths, Port as Told, Word};
use rustix::rand::{GetRandomFlags, getrandom};
use scsi::pr::Key;

/// What the source offers.
pub(crate) fn offer(luns: &[Lun]) -> Result<Vec<Offer>, Trouble> {
    let one = |lun: &Lun| {
        Ok(Offer {
            lun: lun.name.clone(),
            key: lun.key.map(|key| Word(key.0)),
            nonce: Word(nonce()?),
            ports: lun.ports.iter().map(told).collect(),
            identity_is_ours: lun.identity_is_ours,
        })
    };
    luns.iter().map(one).collect()
}

/// What the destination answers: its own paths, in the order of the offer.
pub(crate) fn paths(luns: &[Lun]) -> Vec<Paths> {
    luns.iter()
        .map(|lun| Paths { lun: lun.name.clone(), ports: lun.ports.iter().map(told).collect() })
        .collect()
}

/// The order of each unit's handover.
pub(crate) fn settings(
    offers: &[Offer],
    paths: &[Paths],
    options: &Options,
) -> Result<Vec<Settings>, Trouble> {
    if offers.len() != paths.len() {
        return Err(Trouble("the other host does not answer for each logical unit".into()));
    }
    offers.iter().zip(paths).map(|(offer, paths)| one(offer, paths, options)).collect()
}

fn one(offer: &Offer, paths: &Paths, options: &Options) -> Result<Settings, Trouble> {
    if offer.lun != paths.lun {
        return Err(Trouble(format!("the other host answers for {} instead of {}", paths.lun, offer.lun)));
    }
    let method = options.method.as_deref().map(str::parse).transpose();
    let nowhere = Port::default();
    let key = offer.key.map(|Word(key)| Key(key));
    let mut settings = Settings::new(key, Key(offer.nonce.0), nowhere.clone(), nowhere);
    settings.source = ports(&offer.ports)?;
    settings.destination = ports(&paths.ports)?;
    settings.identity_is_ours = offer.identity_is_ours;
    settings.allow_absence = options.allow_absence;
    settings.method = method.map_err(|error: handover::method::UnknownMethod| Trouble(error.to_string()))?;
    Ok(settings)
}

pub(crate) fn ports(told: &[Told]) -> Result<Vec<Port>, Trouble> {
    told.iter().map(port).collect()
}

fn port(told: &Told) -> Result<Port, Trouble> {
    let initiator = told.initiator.as_deref().map(str::parse).transpose();
    let initiator =
        initiator.map_err(|error| Trouble(format!("an initiator port of the other host: {error}")))?;
    Ok(Port { initiator, target_port: told.target_port })
}

pub(crate) fn told(port: &Port) -> Told {
    Told { initiator: port.initiator.as_ref().map(ToString::to_string), target_port: port.target_port }
}

/// A key that nobody uses.
pub(crate) fn nonce() -> Result<u64, Trouble> {
    Ok(u64::from_ne_bytes(random()?))
}

/// The id of a handover.
pub(crate) fn id() -> Result<u128, Trouble> {
    Ok(u128::from_ne_bytes(random()?))
}

fn random<const N: usize>() -> Result<[u8; N], Trouble> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(count) if count == N => Ok(bytes),
        _ => Err(Trouble("the system has no random bytes".into())),
    }
}
