//! `tenure export`: what a stopped guest has, as a file.

use crate::cli::ExportArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use agent::config::Config;
use agent::export::{Error, Export};
use agent::ownership::Guest;
use agent::vmm::Vmm;
use anyhow::{Context, Result};
use ledger::{HandoverId, Ledger, Owner};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the guest's last command may take.
const WAIT: Duration = Duration::from_secs(10);

/// Exports a guest: the file is durable before this host's records say that the guest is gone.
///
/// # Errors
/// [`Exit::Refused`] if the guest cannot be exported or the file is there already; the guest stays then.
pub fn run(args: &ExportArgs, console: &mut Console) -> Result<Exit, Failure> {
    if runs_here(args)? {
        return Err(Failure::refused(format!("{} runs here: stop it first", args.vm)));
    }
    let ledger = Ledger::open(&args.state).map_err(anyhow::Error::from)?;
    let guest = ledger.guest(&Owner(args.vm.clone())).map_err(anyhow::Error::from)?;
    let export = Export::begin(&guest, id()?, Instant::now() + WAIT).map_err(failure)?;
    if let Err(failure) = store(&args.file, &export.document().to_text()) {
        export.give_up().map_err(anyhow::Error::from)?;
        return Err(failure);
    }
    export.finish().map_err(anyhow::Error::from)?;
    console.note(format!(
        "{} is exported; before it is started again: tenure import {}",
        args.vm,
        args.file.display()
    ));
    Ok(Exit::Done)
}

/// Whoever imports a guest that runs on would run it twice. Where no agent is configured the operator knows.
fn runs_here(args: &ExportArgs) -> Result<bool, Failure> {
    if !args.config.exists() {
        return Ok(false);
    }
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let vm = config.vms.iter().find(|vm| vm.record() == args.vm || vm.name == args.vm);
    Ok(vm.is_some_and(|vm| Vmm::guest_at(&vm.qmp, WAIT) == Guest::Running))
}

/// A handover that nobody else has.
pub(super) fn id() -> Result<HandoverId> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("random numbers")?;
    Ok(HandoverId(u128::from_ne_bytes(bytes)))
}

/// Keys are personal to a cluster: for its owner alone.
fn store(path: &Path, text: &str) -> Result<(), Failure> {
    let name = || path.display().to_string();
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return stored(path, text),
        opened => opened.with_context(name)?,
    };
    let written = file.write_all(text.as_bytes());
    let synced = written.and_then(|()| sync(&file, path));
    if synced.is_err() {
        // Half a document would be in the way of the next try.
        let _ = fs::remove_file(path);
    }
    Ok(synced.with_context(name)?)
}

/// A crash came between the file and the record: the same export, which is done again, is the same file.
fn stored(path: &Path, text: &str) -> Result<(), Failure> {
    let name = || path.display().to_string();
    let file = File::open(path).with_context(name)?;
    let (mut found, most) = (Vec::new(), u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(1));
    (&file).take(most).read_to_end(&mut found).with_context(name)?;
    if found != text.as_bytes() {
        return Err(Failure::refused(format!("{} is there already; nothing was exported", name())));
    }
    Ok(sync(&file, path).with_context(name)?)
}

fn sync(file: &File, path: &Path) -> std::io::Result<()> {
    file.sync_all()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Ledger(_) => Failure::from(anyhow::Error::from(error)),
        _ => Failure::refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Verbosity;
    use agent::export::Document;
    use handover::Tracked;
    use ledger::{Change, LunId, PathId, State};
    use scsi::pr::Key;

    fn args(state: &Path, file: &str) -> ExportArgs {
        let config = state.join("tenure.toml");
        ExportArgs { vm: "db".into(), file: state.join(file), state: state.to_owned(), config }
    }

    #[test]
    fn a_file_that_is_there_is_not_overwritten_and_the_guest_stays() {
        let state = tempfile::tempdir().unwrap();
        let guest = Ledger::open(state.path()).unwrap().guest(&Owner("db".into())).unwrap();
        let lun = LunId("naa.6".into());
        let tracked = Tracked { key: Some(Key(0x10)), ..Tracked::default() };
        let path = PathId("a nexus".into());
        guest.append(&[(lun.clone(), Change::Commit { path, tracked, generation: None })]).unwrap();
        let mut console = Console::standard(Verbosity::Quiet);
        let mut export = |file| run(&args(state.path(), file), &mut console);
        let standing = || {
            guest.refresh().unwrap();
            guest.record(&lun).unwrap().state
        };
        fs::write(state.path().join("there"), "mine").unwrap();
        assert_eq!(export("there").unwrap_err().exit, Exit::Refused);
        assert!(export("no/such/directory").is_err());
        assert_eq!(standing(), State::Active);
        assert_eq!(export("new").unwrap(), Exit::Done);
        assert_eq!(standing(), State::Moved);
        let text = fs::read_to_string(state.path().join("new")).unwrap();
        assert_eq!(Document::parse(&text).unwrap().luns[0].tracked, tracked);
        assert_eq!(export("again").unwrap_err().exit, Exit::Refused, "it is gone already");
    }

    #[test]
    fn an_export_that_died_between_its_file_and_the_record_is_finished_by_the_same_export_again() {
        let state = tempfile::tempdir().unwrap();
        let guest = Ledger::open(state.path()).unwrap().guest(&Owner("db".into())).unwrap();
        let tracked = Tracked { key: Some(Key(0x10)), ..Tracked::default() };
        let change = Change::Commit { path: PathId("a nexus".into()), tracked, generation: None };
        guest.append(&[(LunId("naa.6".into()), change)]).unwrap();
        let died = Export::begin(&guest, HandoverId(7), Instant::now() + WAIT).unwrap();
        fs::write(state.path().join("file"), died.document().to_text()).unwrap();
        drop(died);
        let mut console = Console::standard(Verbosity::Quiet);
        let ended = run(&args(state.path(), "file"), &mut console);
        assert_eq!(ended.unwrap(), Exit::Done);
        guest.refresh().unwrap();
        assert!(guest.records().iter().all(|record| record.state == State::Moved));
    }
}
