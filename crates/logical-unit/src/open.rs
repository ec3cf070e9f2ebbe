//! Opening a logical unit: the store, its names, and the reservations it remembers. Whatever is wrong is
//! found here, before anything listens, and nothing is overwritten for it.

use crate::aptpl;
use crate::block::{BLOCK, Disk};
use crate::identity::Identity;
use crate::nexuses::Nexuses;
use crate::store::{Access, FileStore, FileStoreError, MAX_MEMORY, MemoryStore, Store};
use crate::{Directory, LunSpec, Medium, PrUnit, Profile};
use std::io;
use std::path::{Path, PathBuf};

/// Why a logical unit cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, created, locked, grown or read.
    #[error("cannot serve {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process, or another LUN of this one, serves the file.
    #[error("{} is served already, and two servers would not see each other's reservations: end the other server, or serve \
             another file", .0.display())]
    InUse(PathBuf),
    /// A block device that is mounted, part of something else, or opened exclusively.
    #[error("{} is mounted, or a part of something, or another program has it alone: nothing is served that others write \
             to behind the guest's back", .0.display())]
    Held(PathBuf),
    /// `block=` with something else.
    #[error("{} is not a block device; file= serves a file", .0.display())]
    NotABlockDevice(PathBuf),
    /// `file=` with something else.
    #[error("{} is not a regular file; block= serves a device", .0.display())]
    NotAFile(PathBuf),
    /// A block device without a place to remember its reservations in.
    #[error("nothing says where the reservations of {} are remembered: reservations=DIR", .0.display())]
    NoReservations(PathBuf),
    /// The file is larger than the size asked for.
    #[error("{} has {present} bytes, more than size= asks for; nothing is cut off", path.display())]
    Larger {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        present: u64,
    },
    /// The medium holds no complete logical block.
    #[error("{0} bytes are too few for a logical unit (a block has {BLOCK})")]
    TooSmall(u64),
    /// More memory than a memory LUN may have.
    #[error("a memory LUN has at most {MAX_MEMORY} bytes; use a file")]
    TooLarge,
    /// No profile of this name.
    #[error("no profile is called `{name}`; there are {}", profile_names())]
    Profile {
        /// The name.
        name: String,
    },
    /// The durable reservation image cannot be used; it is left as it is.
    #[error(transparent)]
    Reservations(#[from] aptpl::FileError),
}

fn profile_names() -> String {
    Profile::ALL.map(|profile| profile.name).join(", ")
}

/// The parts of a logical unit.
pub(crate) struct Opened {
    pub(crate) disk: Disk,
    pub(crate) profile: &'static Profile,
    pub(crate) unit: PrUnit,
    pub(crate) nexuses: Nexuses,
    pub(crate) image: Option<PathBuf>,
}

impl Opened {
    pub(crate) fn open(spec: &LunSpec) -> Result<Self, OpenError> {
        let unknown = || OpenError::Profile { name: spec.profile.clone() };
        let profile = Profile::by_name(&spec.profile).ok_or_else(unknown)?;
        let access = Access { direct: spec.direct.unwrap_or(false), read_only: spec.presentation.read_only };
        let (store, identity, image) = match &spec.medium {
            Medium::Memory { size } if *size > MAX_MEMORY => return Err(OpenError::TooLarge),
            Medium::Memory { size } => {
                (Box::new(MemoryStore::new(*size)) as Box<dyn Store>, Identity::random(), None)
            }
            Medium::File { path, size } => open_file(path, *size, access)?,
            Medium::Block { path, reservations } => {
                let folder =
                    reservations.as_deref().ok_or_else(|| OpenError::NoReservations(path.clone()))?;
                open_block(path, folder, access)?
            }
        };
        if store.size() < BLOCK {
            return Err(OpenError::TooSmall(store.size()));
        }
        let mut nexuses = Nexuses::new(profile.identity);
        let unit = remembered(profile, image.as_deref(), &mut nexuses)?;
        let disk = Disk::new(store, identity.presented(&spec.presentation), profile);
        Ok(Self { disk, profile, unit, nexuses, image })
    }
}

impl Opened {
    /// It is about to be served without a state that was saved before: none is true any more.
    pub(crate) fn unstamp(&self) -> Result<(), OpenError> {
        self.image.as_deref().map_or(Ok(()), crate::snapshot::stamp::forget)
    }
}

type FileParts = (Box<dyn Store>, Identity, Option<PathBuf>);

fn open_file(path: &Path, size: Option<u64>, access: Access) -> Result<FileParts, OpenError> {
    let named = |source| OpenError::File { path: path.to_owned(), source };
    if size.is_some_and(|size| size < BLOCK) {
        return Err(OpenError::TooSmall(size.unwrap_or(0)));
    }
    if let Ok(image) = image_of(path) {
        // Looked at before the file may grow: a refusal leaves everything as it is. Read again under the lock.
        aptpl::load(&image)?;
    }
    let store = FileStore::open(path, size, access).map_err(|error| refused(path, error))?;
    let identity = Identity::of_file(path).map_err(named)?;
    Ok((Box::new(store), identity, Some(image_of(path).map_err(named)?)))
}

/// The image is found by the name that the device has on whatever host and under whatever path.
fn open_block(path: &Path, folder: &Path, access: Access) -> Result<FileParts, OpenError> {
    let store = FileStore::open_block(path, access).map_err(|error| refused(path, error))?;
    let named = |source| OpenError::File { path: path.to_owned(), source };
    let identity = Identity::of_block_device(path).map_err(named)?;
    let elsewhere = |source| OpenError::File { path: folder.to_owned(), source };
    let folder = folder.canonicalize().map_err(elsewhere)?;
    // Another path to the same disk has the same name. And what cannot be written there is heard of now.
    let lock = folder.join(format!("{}.lock", identity.digits()));
    let store = store.claim(&lock).map_err(|error| match error {
        FileStoreError::InUse => OpenError::InUse(path.to_owned()),
        other => refused(&lock, other),
    })?;
    let image = folder.join(format!("{}.pr", identity.digits()));
    Ok((Box::new(store), identity, Some(image)))
}

fn refused(path: &Path, error: FileStoreError) -> OpenError {
    let path = path.to_owned();
    match error {
        FileStoreError::InUse => OpenError::InUse(path),
        FileStoreError::Held => OpenError::Held(path),
        FileStoreError::NotAFile => OpenError::NotAFile(path),
        FileStoreError::NotABlockDevice => OpenError::NotABlockDevice(path),
        FileStoreError::Larger(present) => OpenError::Larger { path, present },
        FileStoreError::Io(source) => OpenError::File { path, source },
    }
}

/// Beside the file itself, not beside a link to it: the lock is the file's too.
fn image_of(path: &Path) -> io::Result<PathBuf> {
    let mut image = path.canonicalize()?.into_os_string();
    image.push(".pr");
    Ok(image.into())
}

/// The reservations after power on: those of the image, or none.
fn remembered(
    profile: &'static Profile,
    image: Option<&Path>,
    nexuses: &mut Nexuses,
) -> Result<PrUnit, OpenError> {
    let Some(path) = image else { return Ok(PrUnit::new(profile)) };
    let Some(image) = aptpl::load(path)? else { return Ok(PrUnit::new(profile)) };
    // The ports of this run are not known yet; a registration may name any that there was.
    let present = nexuses.target_ports().to_vec();
    let ports: Vec<u16> = image.registrations.iter().map(|saved| saved.nexus.target_port).collect();
    nexuses.set_target_ports(&ports);
    let unit = image.restore(profile, nexuses);
    nexuses.set_target_ports(&present);
    unit.map(PrUnit::powered_on)
        .map_err(|source| aptpl::FileError::Damaged { path: path.to_owned(), source }.into())
}
