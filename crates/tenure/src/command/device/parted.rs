//! What a device process needs where other processes may have its guest: its records, its peers, and the threads that fetch and give.

use super::custody::{Custody, Entry, Peering, Place, RecordFile};
use super::guests::Guest;
use super::handed::HandError;
use super::handed::diary::Diary;
use super::host::Host;
use crate::cli::DeviceArgs;
use crate::exit::Failure;
use anyhow::Context;
use peer::{HostName, Listener};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// The guests of a process with peers, and where they are; empty for one without.
#[derive(Debug)]
pub(super) struct Parted {
    peering: Option<Arc<Peering>>,
    records: Vec<Recorded>,
    incoming: Option<HostName>,
}

#[derive(Debug)]
struct Recorded {
    guest: String,
    file: RecordFile,
    entry: Entry,
}

impl Parted {
    /// Reads where the guests are.
    ///
    /// # Errors
    /// A usage error, a record that cannot be used, or a guest that is elsewhere where nobody could fetch it.
    pub(super) fn open(args: &DeviceArgs, guests: &[Guest]) -> Result<Self, Failure> {
        let peering = Peering::new(args)?.map(Arc::new);
        if args.peering.incoming.is_some() && guests.len() != 1 {
            return Err(Failure::usage("--incoming is for the device of one guest"));
        }
        let mut records = Vec::new();
        for guest in guests {
            match &peering {
                Some(peering) => records.push(recorded(args, peering, guest)?),
                None => must_be_here(args, guest)?,
            }
        }
        if guests.len() > 1
            && let Some(one) = records.iter().find(|one| one.entry.place != Place::Here)
        {
            let (guest, word) = (&one.guest, one.entry.place.word());
            let text = format!("guest {guest} is {word}: it needs a device of its own until it is here");
            return Err(Failure::refused(text));
        }
        Ok(Self { peering, records, incoming: args.peering.incoming.clone() })
    }

    /// This host among its peers, if it has any.
    pub(super) fn peering(&self) -> Option<Arc<Peering>> {
        self.peering.clone()
    }

    /// Whether no LUN is to be opened yet.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.records.iter().any(|one| one.entry.place != Place::Here)
    }

    /// The custody's handover of which a guest's state is that waits here.
    pub(super) fn ticket(&self) -> Option<u128> {
        let mut states = self.records.iter().filter_map(|one| one.entry.place.state());
        states.find_map(|state| Some(u128::from_be_bytes(*state.first_chunk()?)))
    }

    /// Who looks after the guests; their gates are shut until the guests are known to be here.
    ///
    /// # Errors
    /// None that is expected: a gate in front of rings that nobody can have started.
    pub(super) fn custodies(self, host: &Arc<Host>) -> Result<Vec<Arc<Custody>>, Failure> {
        let Some(peering) = self.peering else { return Ok(Vec::new()) };
        let mut custodies = Vec::new();
        for Recorded { guest, file, entry } in self.records {
            let Some(hosted) = host.guests().iter().find(|hosted| hosted.guest.name == guest) else {
                continue;
            };
            let gate = hosted.device.gate();
            gate.shut().context("its rings run already")?;
            let known = (file, entry, self.incoming.clone());
            let custody = Custody::new(&guest, &hosted.device, host, &peering, known);
            let keeper: Weak<Custody> = Arc::downgrade(&custody);
            gate.set_keeper(keeper);
            custodies.push(custody);
        }
        Ok(custodies)
    }
}

fn recorded(args: &DeviceArgs, peering: &Peering, guest: &Guest) -> Result<Recorded, Failure> {
    let (file, found) = RecordFile::open(&args.state, peering.own(), &guest.name)?;
    must_be_its_journal(args, peering.own(), &guest.name)?;
    let entry = match (found, &args.peering.incoming) {
        (Some(entry), _) => entry,
        (None, Some(from)) => first(&file, 0, Place::Expected { from: from.clone() })?,
        (None, None) => {
            is_new(args, peering, &guest.name)?;
            first(&file, 1, Place::Here)?
        }
    };
    if let Some(other) = asks(&entry.place, args.peering.incoming.as_ref()).filter(|it| !peering.knows(it)) {
        return Err(unknown(&guest.name, &entry.place, other.as_str()));
    }
    tracing::info!(guest = guest.name, place = entry.place.word(), epoch = entry.epoch, "custody");
    Ok(Recorded { guest: guest.name.clone(), file, entry })
}

/// With the journal of handovers of another host nothing could be handed over, and nothing that was begun be ended.
fn must_be_its_journal(args: &DeviceArgs, own: &HostName, guest: &str) -> Result<(), Failure> {
    match Diary::owner(&args.state, own.as_str(), guest) {
        Err(HandError::Foreign { path, host }) => Err(Failure::refused(format!(
            "{path}: the handovers of guest {guest} were journalled by host {host}, and this is --host {own}: every host has a --state of \
             its own; a host keeps its name, or is started once more as {host} until the guest is here, and then with that file removed"
        ))),
        // What else is wrong with it matters when something is handed over, which says so.
        _ => Ok(()),
    }
}

/// Whom a device asks for a guest that is elsewhere, or in whose hands it is: of one that has gone the operator may know more.
fn asks<'a>(place: &'a Place, incoming: Option<&'a HostName>) -> Option<&'a HostName> {
    match place {
        Place::Away { .. } | Place::Expected { .. } => incoming.or(place.other()),
        _ => place.other(),
    }
}

/// Who has no record may have had one, and the guest be elsewhere: that it is new has to be said, and no peer may know better.
fn is_new(args: &DeviceArgs, peering: &Peering, guest: &str) -> Result<(), Failure> {
    let refused = |why: &str| Failure::refused(format!("no record here says where guest {guest} is: {why}"));
    if !args.peering.first {
        return Err(refused(
            "give --first once if no device has ever served it, --incoming NAME if it is, or may be, at another host",
        ));
    }
    let known = peering.has_never_seen(&args.peering.peers, guest);
    known.map_err(|why| refused(&format!("{why}; --incoming NAME fetches it, or guest-claim takes it")))
}

/// A guest that nothing was known of.
fn first(file: &RecordFile, epoch: u64, place: Place) -> Result<Entry, Failure> {
    let entry = Entry { epoch, place };
    file.write(&entry).context("a guest's record cannot be written")?;
    Ok(entry)
}

/// Without peers a guest is served only if no record says that it is elsewhere.
fn must_be_here(args: &DeviceArgs, guest: &Guest) -> Result<(), Failure> {
    match RecordFile::peek(&args.state, &guest.name)? {
        Some(Entry { place, .. }) if place != Place::Here => {
            let other = place.other().map_or("here, with a state that waits", HostName::as_str);
            Err(unknown(&guest.name, &place, other))
        }
        _ => Ok(()),
    }
}

fn unknown(guest: &str, place: &Place, other: &str) -> Failure {
    Failure::refused(format!(
        "guest {guest} is {} ({other}) by its record: serving it here as well could destroy its disks; give --host, --peer and \
         --peer-listen, so that it can be fetched, or have it claimed here (guest-claim) if that host is gone for good",
        place.word()
    ))
}

/// The threads.
pub(super) struct Keeping {
    custodies: Vec<Arc<Custody>>,
    threads: Vec<JoinHandle<()>>,
    listener: Option<Listener>,
}

impl Keeping {
    /// Starts them.
    ///
    /// # Errors
    /// Nobody can listen there, or no thread is to be had.
    pub(super) fn start(
        args: &DeviceArgs,
        peering: Option<&Peering>,
        custodies: &[Arc<Custody>],
    ) -> Result<Self, Failure> {
        let listener = match (peering, &args.peering.listen) {
            (Some(peering), Some(address)) => Some(peering.listen(address, custodies)?),
            _ => None,
        };
        let threads = custodies.iter().map(Custody::start).collect::<Result<_, _>>().context("no thread")?;
        Ok(Self { custodies: custodies.to_vec(), threads, listener })
    }

    /// Where peers connect.
    pub(super) fn address(&self) -> Option<String> {
        self.listener.as_ref().map(|listener| listener.address().to_string())
    }

    /// Gives nothing to anybody any more.
    pub(super) fn turn_peers_away(&mut self) {
        self.listener = None;
    }

    /// Lets what is under way end.
    pub(super) fn end(self) {
        self.custodies.iter().for_each(|custody| custody.end());
        for thread in self.threads {
            // What it had to tell, it has logged.
            let _ = thread.join();
        }
    }
}
