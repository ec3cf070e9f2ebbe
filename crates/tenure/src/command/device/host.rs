//! The logical units of a device process and the guests that share them; both can change while it runs.
//!
//! A logical unit is opened once, and each guest gets a nexus of its own to it. Used by `tenure device`, at its start and by its control
//! socket. Those of a guest that moves to another process are closed here and go on there (`moving`).

mod moving;

pub(super) use moving::MoveError;

use super::guests::Guest;
use super::lun::{Kind, Lun};
use super::real::Real;
use crate::cli::{AioArg, DeviceArgs, OnErrorArg};
use crate::exit::{Exit, Failure};
use anyhow::Context;
use logical_unit::aptpl::FileError;
use logical_unit::{Caching, LogicalUnit, LunSpec, Medium, OpenError};
use scsi::{AdditionalSense, TransportId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use vhost_user_scsi::device::{Aio, Device, Settings};
use vhost_user_scsi::event::Event;
use vhost_user_scsi::gate::{OnError, Patience};
use vhost_user_scsi::unit::emulated::{Emulated, initiator_port};

/// How long the file of a killed device may stay in use, and how often that is looked at.
pub(super) const LETTING_GO: Duration = Duration::from_secs(5);
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A guest and its device.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) guest: Guest,
    pub(super) initiator: TransportId,
    pub(super) device: Arc<Device>,
    /// Its logical units that are none of Tenure's own.
    pub(super) real: Real,
}

/// A logical unit's slot: what it was said to be, and the logical unit where Tenure is it and it is served here.
#[derive(Debug)]
struct Slot {
    lun: Lun,
    unit: Option<Arc<LogicalUnit>>,
}

/// The logical units by their numbers.
#[derive(Debug, Default)]
struct Luns {
    /// By which custody's handover the guest was coming when the process started.
    ticket: Option<u128>,
    /// The guest is elsewhere: nothing is open.
    closed: bool,
    /// What they were taken up with, as long as nobody has been served with them: a state, or nothing.
    fresh: Option<Vec<u8>>,
    /// A state of them is on its way: they stay as they are in it.
    frozen: bool,
    slots: BTreeMap<u8, Slot>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Host {
    guests: Vec<Hosted>,
    luns: Mutex<Luns>,
}

impl Host {
    /// Opens every LUN, unless the guest is elsewhere (`closed`), and makes every guest's device of them. Nobody is served yet. `ticket`:
    /// the custody's handover of which a state is by which the guest is about to come.
    ///
    /// # Errors
    /// A LUN that cannot be served, more than a device can have, a name that names no guest.
    pub(super) fn open(
        args: &DeviceArgs,
        guests: &[Guest],
        closed: bool,
        ticket: Option<u128>,
    ) -> Result<Self, Failure> {
        let luns = args.luns.iter().map(|text| Lun::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let hosted = guests.iter().map(|guest| Hosted::new(guest, args)).collect::<Result<_, _>>()?;
        let host = Self { guests: hosted, luns: Mutex::new(Luns { closed, ticket, ..Luns::default() }) };
        for (number, lun) in luns.iter().enumerate() {
            let number = u8::try_from(number)
                .map_err(|_| Failure::usage(format!("{} LUNs; a device has 256 at most", luns.len())))?;
            host.attach(number, lun)?;
        }
        Ok(host)
    }

    pub(super) fn guests(&self) -> &[Hosted] {
        &self.guests
    }

    /// The logical units' numbers, and what they were said to be.
    pub(super) fn luns(&self) -> BTreeMap<u8, String> {
        self.lock().slots.iter().map(|(number, slot)| (*number, slot.lun.text.clone())).collect()
    }

    /// Whether the logical units have to stay as a state on its way says that they are.
    pub(super) fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
    }

    /// Adds a logical unit: at this number, or at the first that is free. Running guests hear of it.
    ///
    /// # Errors
    /// A usage error, or it cannot be served, or a guest is moving.
    pub(super) fn add(&self, number: Option<u8>, text: &str) -> Result<u8, Failure> {
        let lun = Lun::parse(text)?;
        let free = || (0..=u8::MAX).find(|number| !self.lock().slots.contains_key(number));
        let number = number.or_else(free).ok_or_else(|| Failure::usage("a device has 256 LUNs at most"))?;
        self.attach(number, &lun)?;
        Ok(number)
    }

    /// Takes a logical unit away; what guests have under way ends as it does.
    ///
    /// # Errors
    /// There is none of this number, or a guest is moving.
    pub(super) fn remove(&self, number: u8) -> Result<(), Failure> {
        let mut luns = self.changeable()?;
        if luns.slots.remove(&number).is_none() {
            return Err(Failure::usage(format!("there is no LUN {number}")));
        }
        // Before anybody can add another of this number; what waits for transfers under way comes after that.
        let detached = self.detach(number);
        drop(luns);
        drop(detached);
        Ok(())
    }

    /// Looks at the size of a logical unit anew; whether it has grown. Every guest hears of that: by a unit attention, and by an event.
    ///
    /// # Errors
    /// There is none of this number here, or not one of Tenure's own; it is smaller than it was; a guest is moving.
    pub(super) fn resize(&self, number: u8) -> Result<bool, Failure> {
        let luns = self.changeable()?;
        let slot =
            luns.slots.get(&number).ok_or_else(|| Failure::usage(format!("there is no LUN {number}")))?;
        let unit = slot.unit.as_ref().ok_or_else(|| {
            let text = format!("LUN {number} is not served from here: whoever serves it tells of its size");
            Failure::new(Exit::Failed, text)
        })?;
        let grown = unit.measure().with_context(|| format!("LUN {number}"))?;
        for hosted in self.guests.iter().filter(|_| grown) {
            hosted.device.events().push(Event::Changed(number, AdditionalSense::CAPACITY_CHANGED));
        }
        Ok(grown)
    }

    /// Takes it from every guest that has it.
    fn detach(&self, number: u8) -> Vec<Arc<vhost_user_scsi::target::Lun>> {
        let each = self.guests.iter().filter_map(|hosted| {
            let detached = hosted.device.detach(number);
            hosted.real.close(number);
            detached
        });
        each.collect()
    }

    fn attach(&self, number: u8, lun: &Lun) -> Result<(), Failure> {
        let mut luns = self.changeable()?;
        if luns.slots.contains_key(&number) {
            return Err(Failure::usage(format!("there is a LUN {number} already")));
        }
        if let Some(other) = luns.slots.iter().find(|(_, slot)| slot.lun.is_named_as(lun)) {
            let why = "a guest would take them for two paths to one disk";
            return Err(Failure::usage(format!("LUN {number} has the wwn= of LUN {}: {why}", other.0)));
        }
        let unit = match &lun.kind {
            _ if luns.closed => {
                self.guests.iter().for_each(|hosted| hosted.real.note_elsewhere(hosted, lun, luns.ticket));
                None
            }
            Kind::Emulated(spec) => Some(self.attach_emulated(number, spec)?),
            Kind::Disk(_) | Kind::Iscsi(_) => {
                self.attach_real(number, lun)?;
                None
            }
        };
        luns.slots.insert(number, Slot { lun: lun.clone(), unit });
        Ok(())
    }

    fn attach_emulated(&self, number: u8, spec: &LunSpec) -> Result<Arc<LogicalUnit>, Failure> {
        let unit = open(spec, LogicalUnit::open_kept).map_err(|error| refuse_lun(number, error))?;
        let attached = self.guests.iter().try_for_each(|hosted| {
            hosted.device.attach(number, hosted.nexus_to(&unit)).with_context(|| format!("LUN {number}"))
        });
        if attached.is_err() {
            drop(self.detach(number));
        }
        attached?;
        Ok(unit)
    }

    /// For all guests or for none.
    fn attach_real(&self, number: u8, lun: &Lun) -> Result<(), Failure> {
        let attach = |hosted: &Hosted| {
            let unit = hosted.real.open(hosted, self.guests.len(), number, lun)?;
            Ok(hosted.device.attach(number, unit.unit()).with_context(|| format!("LUN {number}"))?)
        };
        let attached: Result<(), Failure> = self.guests.iter().try_for_each(attach);
        if attached.is_err() {
            drop(self.detach(number));
        }
        attached
    }

    /// The logical units, unless a state of them is on its way.
    fn changeable(&self) -> Result<MutexGuard<'_, Luns>, Failure> {
        let luns = self.lock();
        if luns.frozen {
            return Err(Failure::refused(
                "a guest is moving, with its LUNs as they are: try again when it has",
            ));
        }
        Ok(luns)
    }

    /// A thread that died with it cannot have left half a change.
    fn lock(&self) -> MutexGuard<'_, Luns> {
        self.luns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a logical unit. That of a device that was killed is let go only when the kernel has carried out what it had under way, and to
/// write before that could be undone by it: so it is waited for.
fn open(
    spec: &LunSpec,
    open: fn(&LunSpec) -> Result<Arc<LogicalUnit>, OpenError>,
) -> Result<Arc<LogicalUnit>, OpenError> {
    let end = Instant::now() + LETTING_GO;
    loop {
        match open(spec) {
            // A block device is held as long as its requests are.
            Err(OpenError::InUse(_) | OpenError::Held(_)) if Instant::now() < end => thread::sleep(LOOK),
            opened => return opened.inspect(|unit| say_how(unit, spec)),
        }
    }
}

/// The log has how a medium is reached, and what of it is less than what was asked for.
fn say_how(unit: &LogicalUnit, spec: &LunSpec) {
    let medium = &spec.medium;
    match unit.caching() {
        Caching::Direct { alignment } => tracing::info!(?medium, alignment, "direct I/O"),
        Caching::Buffered(why) if spec.direct == Some(true) => {
            tracing::warn!(?medium, why, "no direct I/O: by the page cache, as with direct=off");
        }
        Caching::Buffered(_) | Caching::Memory => {}
    }
    if !unit.is_kept() && !matches!(spec.medium, Medium::Memory { .. }) {
        tracing::warn!(medium = ?spec.medium, "registrations without APTPL end with this process: nothing can be kept beside the reservations");
    }
}

impl Hosted {
    /// Its I_T nexus to a logical unit.
    fn nexus_to(&self, unit: &Arc<LogicalUnit>) -> Arc<Emulated> {
        Arc::new(Emulated::attach(unit, self.initiator.clone()))
    }

    fn new(guest: &Guest, args: &DeviceArgs) -> Result<Self, Failure> {
        let name = &guest.name;
        if args.aio == AioArg::IoUring {
            Aio::probe().map_err(|error| refuse_aio(&error))?;
        }
        let initiator =
            initiator_port(name).ok_or_else(|| Failure::usage(format!("{name:?} names no guest")))?;
        let settings = Settings {
            request_queues: args.num_queues,
            most_requests: args.max_requests,
            workers: args.workers.into(),
            aio: args.aio.into(),
            poll: Duration::from_micros(args.poll),
            patience: patience(args),
            // Each socket is a VMM's, with a memory of its own.
            ..Settings::one_of(args.sockets.len().div_ceil(guest.sockets.len().max(1)))
        };
        let (device, real) = (
            Arc::new(Device::new(name, settings, None)),
            Real::new(name, &args.state, args.peering.host.as_ref()),
        );
        Ok(Self { guest: guest.clone(), initiator, device, real })
    }
}

/// What to do about a kernel without io_uring.
fn refuse_aio(error: &io::Error) -> Failure {
    let text = format!(
        "no io_uring: {error}. kernel.io_uring_disabled or a seccomp profile may forbid it, and Linux before 5.13 does not have all \
         of it; --aio threads does without"
    );
    Failure::new(Exit::Failed, text)
}

/// What holds for a guest that runs before it may be served.
fn patience(args: &DeviceArgs) -> Patience {
    let on_error = match args.on_error {
        OnErrorArg::Busy => OnError::Busy,
        OnErrorArg::Sense => OnError::Sense,
    };
    Patience { wait: Duration::from_secs(args.wait), on_error }
}

/// Where serving would break a promise to registrants it is refused, as elsewhere; everything else has failed.
fn refuse_lun(number: u8, error: OpenError) -> Failure {
    let unsafe_to_serve = matches!(
        error,
        OpenError::InUse(_) | OpenError::Held(_) | OpenError::Reservations(FileError::Damaged { .. })
    );
    let exit = if unsafe_to_serve { Exit::Refused } else { Exit::Failed };
    Failure { exit, reason: anyhow::Error::from(error).context(format!("LUN {number}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::command::device::guests::guests;
    use clap::Parser;
    use std::path::Path;

    #[test]
    fn what_others_write_to_is_refused_as_unsafe() {
        let exit = |error| refuse_lun(3, error).exit;
        assert_eq!(exit(OpenError::InUse("/a".into())), Exit::Refused);
        assert_eq!(exit(OpenError::Held("/a".into())), Exit::Refused);
        assert_eq!(exit(OpenError::NotABlockDevice("/a".into())), Exit::Failed);
    }

    fn host(closed: bool) -> Host {
        Host { guests: Vec::new(), luns: Mutex::new(Luns { closed, ..Luns::default() }) }
    }

    #[test]
    fn nothing_is_opened_for_a_guest_that_is_elsewhere() {
        let host = host(true);
        host.add(None, "file=/nowhere/at/all").unwrap();
        assert_eq!(host.luns().len(), 1);
    }

    #[test]
    fn a_file_that_has_grown_is_looked_at_when_somebody_says_so() {
        let (host, folder) = (host(false), tempfile::TempDir::new().unwrap());
        let path = folder.path().join("lun");
        host.add(None, &format!("file={},size=1M", path.display())).unwrap();
        assert!(!host.resize(0).unwrap());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
        assert!(host.resize(0).unwrap());
        assert_eq!(host.resize(1).unwrap_err().exit, Exit::Usage);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(host.resize(0).unwrap_err().exit, Exit::Failed, "a capacity never shrinks");
    }

    #[test]
    fn while_a_state_of_them_is_on_its_way_logical_units_stay_as_they_are() {
        let host = host(false);
        host.add(None, "memory=1M").unwrap();
        host.freeze(true);
        assert_eq!(host.add(None, "memory=1M").unwrap_err().exit, Exit::Refused);
        assert_eq!(host.remove(0).unwrap_err().exit, Exit::Refused);
        assert_eq!(host.resize(0).unwrap_err().exit, Exit::Refused);
        host.freeze(false);
        assert!(!host.resize(0).unwrap());
        host.remove(0).unwrap();
    }

    /// With the guests `a` and `b`.
    fn of_two(folder: &Path) -> Host {
        let sockets = ["a.sock", "b.sock"].map(|name| folder.join(name).display().to_string());
        let line =
            ["tenure", "device", "--socket", &sockets[0], "--socket", &sockets[1], "--lun", "memory=1M"];
        let Command::Device(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("another command")
        };
        Host::open(&args, &guests(&args).unwrap(), false, None).unwrap()
    }

    #[test]
    fn a_logical_unit_is_there_for_all_guests_or_for_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let host = of_two(folder.path());
        let has = |number: u8| {
            let there = |hosted: &Hosted| hosted.device.target().table().get(number).is_some();
            host.guests().iter().map(there).collect::<Vec<_>>()
        };
        assert_eq!(has(0), [true, true]);
        let unit = LogicalUnit::open(&"memory=1M".parse().unwrap()).unwrap();
        let second = &host.guests()[1];
        second.device.attach(5, second.nexus_to(&unit)).unwrap();
        assert_eq!(host.add(Some(5), "memory=1M").unwrap_err().exit, Exit::Failed);
        assert_eq!(has(5), [false, false]);
        host.add(Some(5), "memory=1M").unwrap();
        assert_eq!(has(5), [true, true]);
    }

    #[test]
    fn a_file_that_a_killed_device_has_not_let_go_yet_is_waited_for() {
        let folder = tempfile::TempDir::new().unwrap();
        let lun = format!("file={},size=1M", folder.path().join("lun").display());
        let (held, host) = (LogicalUnit::open(&lun.parse().unwrap()).unwrap(), host(false));
        let (begins, began) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                began.recv().unwrap();
                thread::sleep(3 * LOOK);
                drop(held);
            });
            begins.send(()).unwrap();
            host.add(None, &lun).unwrap();
        });
    }

    #[test]
    fn no_two_logical_units_have_one_name() {
        let host = host(false);
        let named = "memory=1M,wwn=5000c500a1b2c3d4";
        host.add(None, named).unwrap();
        let refused = host.add(None, named).unwrap_err();
        assert!(
            refused.exit == Exit::Usage && refused.to_string().contains("the wwn= of LUN 0"),
            "{refused}"
        );
        host.add(None, "memory=1M").unwrap();
        host.add(None, "memory=1M").unwrap();
        host.remove(0).unwrap();
        host.add(None, named).unwrap();
    }

    #[test]
    fn logical_units_come_and_go_for_all_guests_at_once() {
        let host = host(false);
        assert_eq!(host.add(None, "memory=1M").unwrap(), 0);
        assert_eq!(host.add(Some(7), "memory=2M").unwrap(), 7);
        assert_eq!(host.add(None, "memory=3M").unwrap(), 1);
        assert_eq!(host.add(Some(7), "memory=1M").unwrap_err().exit, Exit::Usage);
        host.remove(0).unwrap();
        assert_eq!(host.remove(0).unwrap_err().exit, Exit::Usage);
        assert_eq!(host.luns().into_keys().collect::<Vec<_>>(), [1, 7]);
    }
}
