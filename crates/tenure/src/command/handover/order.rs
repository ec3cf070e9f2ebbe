//! From arguments to what the engine is ordered to do, and the links it is done on.

use crate::cli::MoveArgs;
use crate::console::Console;
use crate::exit::Failure;
use ::handover::known_targets::KnownTargets;
use ::handover::{Path, Port, Settings, Side};
use agent::drive::Device;
use agent::drive::Link;
use anyhow::Context;
use scsi::pr::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A handover ready to begin.
#[derive(Debug)]
pub struct Order {
    /// What the engine is told.
    pub settings: Settings,
    /// The paths of both hosts.
    pub links: BTreeMap<Path, Link>,
    /// How the paths are called.
    pub(super) names: BTreeMap<Path, String>,
}

impl Order {
    /// From one open path to another, with the guest's key and everything else at its careful default.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn on(source: Link, destination: Link, key: Key) -> Result<Self, Failure> {
        let settings = Settings::new(Some(key), nonce()?, source.port(), destination.port());
        let links = BTreeMap::from([(Path::source(0), source), (Path::destination(0), destination)]);
        Ok(Self { settings, links, names: BTreeMap::new() })
    }

    /// Opens what can be opened. A source that cannot be reached is told to the engine; a destination is an error.
    pub(super) fn new(args: &MoveArgs, console: &mut Console) -> Result<Self, Failure> {
        let identity = same_identity(args);
        if args.identity && !identity {
            return Err(Failure::usage(
                "--identity needs iscsi:// DEVICEs that name the same initiator and isid on both sides",
            ));
        }
        once_each(&args.from)?;
        once_each(&args.to)?;
        let (source, source_alive) = open_source(args, console);
        let destination = open_destination(args, identity)?;
        let settings = Settings {
            key: args.key,
            nonce: nonce()?,
            source: source.iter().map(Link::port).collect(),
            destination: destination.iter().map(Link::port).collect(),
            source_alive,
            identity_is_ours: args.identity && args.from.iter().all(Device::session_is_ours),
            allow_absence: args.allow_gap,
            method: args.method,
            targets: targets(args)?,
            survey: None,
        };
        let names = names(Side::Source, &args.from).chain(names(Side::Destination, &args.to)).collect();
        let links = paths(Side::Source, source).chain(paths(Side::Destination, destination)).collect();
        Ok(Self { settings, links, names })
    }
}

/// Two logins of one initiator port would end each other's session for as long as the handover lasts.
fn once_each(devices: &[Device]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    match texts(devices).into_iter().find(|text| !seen.insert(text.clone())) {
        Some(twice) => Err(Failure::usage(format!("{twice} is given twice; every path is another DEVICE"))),
        None => Ok(()),
    }
}

/// Both sides name the same initiator port: the destination's login would end the source's session.
pub(super) fn same_identity(args: &MoveArgs) -> bool {
    let ports = |devices: &[Device]| devices.iter().map(Device::initiator_port).collect::<Vec<_>>();
    let (from, to) = (ports(&args.from), ports(&args.to));
    from == to && from.iter().all(Option::is_some)
}

fn open_source(args: &MoveArgs, console: &mut Console) -> (Vec<Link>, bool) {
    let mut alive = true;
    let links = args.from.iter().map(|device| match device.open(args.timeout) {
        Ok(way) => Link::open(device.clone(), args.timeout, way),
        Err(failure) => {
            console.warning(format!("the source cannot be reached: {failure}"));
            alive = false;
            Link::closed(device.clone(), args.timeout)
        }
    });
    (links.collect(), alive)
}

fn open_destination(args: &MoveArgs, identity: bool) -> Result<Vec<Link>, Failure> {
    let open = |device: &Device| match identity {
        true => Ok(Link::closed(device.clone(), args.timeout)),
        false => Ok(Link::open(device.clone(), args.timeout, device.open(args.timeout)?)),
    };
    args.to.iter().map(open).collect()
}

/// The links of one side by path.
pub(super) fn paths(side: Side, links: Vec<Link>) -> impl Iterator<Item = (Path, Link)> {
    (0..=u8::MAX).zip(links).map(move |(index, link)| (Path { side, index }, link))
}

fn names(side: Side, devices: &[Device]) -> impl Iterator<Item = (Path, String)> {
    (0..=u8::MAX).zip(devices).map(move |(index, device)| (Path { side, index }, device.to_string()))
}

/// DEVICEs as the journal keeps them.
pub(super) fn texts(devices: &[Device]) -> Vec<String> {
    devices.iter().map(ToString::to_string).collect()
}

/// A key that nobody uses, but for a chance of one in 2^64 that the engine excludes by READ KEYS.
pub(crate) fn nonce() -> Result<Key, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("random numbers")?;
    Ok(Key(u64::from_ne_bytes(bytes).max(1)))
}

pub(super) fn targets(args: &MoveArgs) -> Result<KnownTargets, Failure> {
    let Some(path) = &args.targets else { return Ok(KnownTargets::default()) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mine =
        KnownTargets::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(mine.before(KnownTargets::default()))
}

/// Links for a recovery, and whether they can be used. Where both sides share one identity, nobody logs in before the
/// procedure asks for it: a login of the one would end the session of the other.
pub(super) fn recovery_links(devices: &[Device], timeout: Duration, identity: bool) -> (Vec<Link>, bool) {
    let mut alive = true;
    let link = |device: &Device| {
        let way = if identity { None } else { device.open(timeout).ok() };
        alive &= identity || way.is_some();
        match way {
            Some(way) => Link::open(device.clone(), timeout, way),
            None => Link::closed(device.clone(), timeout),
        }
    };
    (devices.iter().map(link).collect(), alive)
}

/// How links are named on the target.
pub(super) fn ports(links: &[Link]) -> Vec<Port> {
    links.iter().map(Link::port).collect()
}
