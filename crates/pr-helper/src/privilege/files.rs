//! The directories that stay within reach, by landlock.
//!
//! Opened while the process may still open them, put in force after it has changed its user. Descriptors that
//! are open already, and those that clients send, are not affected. TCP needs no rule of its own: whatever
//! listens does so by now, and the helper connects to nobody.

use super::{Confinement, Measure};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::{Path, PathBuf};

/// The newest interface whose restrictions are known to leave the helper its work.
const KNOWN: ABI = ABI::V6;

/// What the rules will be.
pub(super) struct Allowed {
    paths: Vec<(PathFd, BitFlags<AccessFs>)>,
    /// Named, but not there: nothing can be allowed beneath it.
    missing: Vec<PathBuf>,
}

impl Allowed {
    /// Opens everything the confinement names.
    pub(super) fn open(confinement: &Confinement) -> Self {
        let mut allowed = Self { paths: Vec::new(), missing: Vec::new() };
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        allowed.add(Path::new("/proc"), read);
        confinement.readable.iter().for_each(|path| allowed.add(path, read));
        confinement.tidied.iter().for_each(|path| allowed.add(path, AccessFs::RemoveFile.into()));
        confinement.owned.iter().for_each(|path| allowed.add(path, owning()));
        allowed
    }

    fn add(&mut self, path: &Path, access: BitFlags<AccessFs>) {
        // A rule for a file may not speak of what only directories have.
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        match PathFd::new(path) {
            Ok(opened) => self.paths.push((opened, access)),
            Err(_) => self.missing.push(path.to_owned()),
        }
    }

    /// Puts the rules in force for this thread and those it starts.
    pub(super) fn restrict(self) -> Measure {
        let missing = self.missing.clone();
        match self.enforce() {
            Ok(RulesetStatus::NotEnforced) => {
                Measure::Unavailable("the kernel has no landlock, or it is not in the lsm= list".into())
            }
            Ok(_) if !missing.is_empty() => Measure::Partly(format!("not there to be allowed: {missing:?}")),
            Ok(RulesetStatus::FullyEnforced) => Measure::Applied,
            Ok(RulesetStatus::PartiallyEnforced) => {
                Measure::Partly("this kernel's landlock is older and restricts less".into())
            }
            Err(error) => Measure::Failed(error.to_string()),
        }
    }

    fn enforce(self) -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::Signal)?;
        let rules = self.paths.into_iter().map(|(path, access)| PathBeneath::new(path, access));
        let status = ruleset.create()?.add_rules(rules.map(Ok::<_, RulesetError>))?.restrict_self()?;
        Ok(status.ruleset)
    }
}

/// Whether this kernel restricts files by landlock at all.
#[must_use]
pub fn has_landlock() -> bool {
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    required.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
}

/// Files and directories: read, write, make, rename, remove. No programs, devices, sockets or links to elsewhere.
fn owning() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}
