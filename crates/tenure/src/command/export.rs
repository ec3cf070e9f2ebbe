//! `tenure export`: what a stopped guest has, as a file.

use crate::cli::ExportArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use agent::config::{Config, Vm};
use agent::export::{Error, Export};
use agent::journal::{Begun, Journals};
use agent::ownership::Guest;
use agent::vmm::Vmm;
use anyhow::{Context, Result};
use ledger::{HandoverId, Ledger, Owner};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the guest's last command may take, and QEMU to answer.
const WAIT: Duration = Duration::from_secs(10);

/// Exports a guest: the file is durable before this host's records say that the guest is gone.
///
/// # Errors
/// [`Exit::Refused`] if the guest cannot be exported, may run, or has a handover that is not over, or if the file is there already;
/// the guest stays then.
pub fn run(args: &ExportArgs, console: &mut Console) -> Result<Exit, Failure> {
    run_within(args, WAIT, console)
}

/// `patience`: for QEMU's answer.
fn run_within(args: &ExportArgs, patience: Duration, console: &mut Console) -> Result<Exit, Failure> {
    let config = config(args)?;
    stopped(args, config.as_ref(), patience)?;
    over(args, config.as_ref())?;
    let ledger = Ledger::open(&args.state).map_err(anyhow::Error::from)?;
    let guest = ledger.guest(&Owner(args.vm.clone())).map_err(anyhow::Error::from)?;
    let export = Export::begin(&guest, id()?, Instant::now() + WAIT).map_err(failure)?;
    // Again: only now that the record is frozen can no handover begin any more.
    let stored = over(args, config.as_ref()).and_then(|()| store(&args.file, &export.document().to_text()));
    if let Err(failure) = stored {
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

/// The agent's; without one there is neither a QEMU to ask nor a journal.
fn config(args: &ExportArgs) -> Result<Option<Config>, Failure> {
    args.config.exists().then(|| Config::load(&args.config).map_err(Failure::usage)).transpose()
}

fn configured<'a>(args: &ExportArgs, config: Option<&'a Config>) -> Option<&'a Vm> {
    config?.vms.iter().find(|vm| vm.record() == args.vm || vm.name == args.vm)
}

/// Whoever imports a guest that runs on would run it twice. Where no agent is configured the operator knows.
fn stopped(args: &ExportArgs, config: Option<&Config>, patience: Duration) -> Result<(), Failure> {
    let Some(vm) = configured(args, config) else { return Ok(()) };
    match Vmm::guest_at(&vm.qmp, patience) {
        Guest::Running => Err(Failure::refused(format!("{} runs here: stop it first", args.vm))),
        Guest::Unknown if !args.stopped => Err(Failure::refused(format!(
            "QEMU cannot tell that {} is stopped: it does not answer on {} (another program may have that socket). If the \
             guest is stopped, --stopped says so",
            args.vm,
            vm.qmp.display()
        ))),
        _ => Ok(()),
    }
}

/// What an unfinished handover brings back or gives away is not the export's: the guest would have two owners.
fn over(args: &ExportArgs, config: Option<&Config>) -> Result<(), Failure> {
    let Some(config) = config else { return Ok(()) };
    let name = configured(args, Some(config)).map_or(args.vm.as_str(), |vm| vm.name.as_str());
    let journals = Journals::new(&config.agent.state, &config.agent.name.to_string());
    let log = journals.read(name).map_err(Failure::refused)?;
    match log.handovers().last().filter(|last| last.is_open()) {
        Some(last) => Err(Failure::refused(unfinished(name, &last.begun))),
        None => Ok(()),
    }
}

fn unfinished(vm: &str, begun: &Begun) -> String {
    let Begun { handover, peer, .. } = begun;
    if peer.is_empty() {
        return format!(
            "an import of {vm} was interrupted: the same `tenure import` again finishes or undoes it"
        );
    }
    format!(
        "handover {handover} of {vm} with {peer} is not over: `tenure handover status {vm}` says how it stands, \
         `tenure handover resume {vm}` finishes it, `tenure handover abort {vm}` gives it up"
    )
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
    use handover::{Side, Tracked};
    use ledger::{Change, LunId, PathId, State};
    use scsi::pr::Key;
    use std::os::unix::net::UnixListener;

    fn args(state: &Path, file: &str) -> ExportArgs {
        let config = state.join("tenure.toml");
        ExportArgs {
            vm: "db".into(),
            file: state.join(file),
            state: state.to_owned(),
            config,
            stopped: false,
        }
    }

    /// A guest with a registration, on a host with an agent; and its QMP socket.
    fn configured() -> (tempfile::TempDir, ledger::Guest, std::path::PathBuf) {
        let state = tempfile::tempdir().unwrap();
        let (at, qmp) = (state.path(), state.path().join("qmp"));
        let text = format!(
            "version = 1\n[agent]\nname = \"a\"\nstate = \"{}\"\n[[vm]]\nname = \"db\"\nuuid = \
             \"6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11\"\nqmp = \"{}\"\n",
            at.display(),
            qmp.display()
        );
        fs::write(at.join("tenure.toml"), text).unwrap();
        let guest = Ledger::open(at).unwrap().guest(&Owner("db".into())).unwrap();
        let tracked = Tracked { key: Some(Key(0x10)), ..Tracked::default() };
        let change = Change::Commit { path: PathId("a nexus".into()), tracked, generation: None };
        guest.append(&[(LunId("naa.6".into()), change)]).unwrap();
        (state, guest, qmp)
    }

    fn state_of(guest: &ledger::Guest) -> State {
        guest.refresh().unwrap();
        guest.records().first().unwrap().state
    }

    #[test]
    fn a_guest_whose_handover_is_not_over_is_not_exported_although_its_record_says_active() {
        let (state, guest, _) = configured();
        let mut console = Console::standard(Verbosity::Quiet);
        let mut export = || run(&args(state.path(), "file"), &mut console);
        let mut book = Journals::new(state.path(), "a").open("db").unwrap();
        book.begin(begun("b")).unwrap();
        let refused = export().unwrap_err();
        assert_eq!(refused.exit, Exit::Refused, "{refused}");
        assert!(refused.to_string().contains("with b is not over"), "{refused}");
        assert_eq!(state_of(&guest), State::Active, "and stays");
        assert!(!state.path().join("file").exists());
        book.end("kept").unwrap();
        assert_eq!(export().unwrap(), Exit::Done);
    }

    #[test]
    fn a_guest_whose_journal_cannot_be_read_is_not_exported() {
        let (state, guest, _) = configured();
        drop(Journals::new(state.path(), "a").open("db").unwrap());
        let path = state.path().join("handovers").join("db.log");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}nonsense\n{text}")).unwrap();
        let mut console = Console::standard(Verbosity::Quiet);
        let refused = run(&args(state.path(), "file"), &mut console).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused, "{refused}");
        assert!(refused.to_string().contains("is damaged"), "{refused}");
        assert_eq!(state_of(&guest), State::Active);
    }

    #[test]
    fn a_qemu_that_does_not_answer_is_not_taken_for_stopped_but_on_the_operators_word() {
        let (state, guest, qmp) = configured();
        // It takes no connection's word: as a QEMU that hangs, or whose socket another program holds.
        let listener = UnixListener::bind(&qmp).unwrap();
        let mut console = Console::standard(Verbosity::Quiet);
        let mut export = |stopped| {
            let args = ExportArgs { stopped, ..args(state.path(), "file") };
            run_within(&args, Duration::from_millis(200), &mut console)
        };
        let refused = export(false).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused, "{refused}");
        assert!(refused.to_string().contains("--stopped"), "{refused}");
        assert_eq!(state_of(&guest), State::Active);
        assert_eq!(export(true).unwrap(), Exit::Done);
        assert_eq!(state_of(&guest), State::Moved);
        drop(listener);
    }

    fn begun(peer: &str) -> Begun {
        Begun {
            handover: HandoverId(7),
            uuid: "6a3e94c5-5b4f-4b0e-9a55-0f6f0c2f8d11".into(),
            side: Side::Source,
            peer: peer.into(),
            luns: Vec::new(),
            method: None,
            allow_absence: true,
            stays_paused: false,
            orchestrated: false,
        }
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
