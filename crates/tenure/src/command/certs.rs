//! `tenure certs`: an authority and hosts' certificates, as files that are never overwritten.

use crate::cli::{CertsArgs, CertsVerb, FilesArgs};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use anyhow::{Context, Result};
use peer::HostName;
use peer::certs::{self, Issued};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const AUTHORITY_DAYS: u32 = 3650;
const HOST_DAYS: u32 = 825;

/// The two files of what was issued.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn new(directory: &Path, name: &str) -> Self {
        let file = |suffix: &str| directory.join(format!("{name}{suffix}.pem"));
        Self { certificate: file(""), key: file("-key") }
    }
}

/// Makes what was asked for and says what to do with it.
///
/// # Errors
/// [`Exit::Refused`] if a file is there already, [`Exit::Usage`] for a name that is none.
pub fn run(args: &CertsArgs, console: &mut Console) -> Result<Exit, Failure> {
    match &args.verb {
        CertsVerb::Ca(files) => authority(files, console),
        CertsVerb::Host(host) => {
            let name = host.name.parse().map_err(Failure::usage)?;
            issue(&name, &host.files, console)
        }
    }
}

fn authority(files: &FilesArgs, console: &mut Console) -> Result<Exit, Failure> {
    let pair = Pair::new(&files.dir, "ca");
    refuse_existing(&pair)?;
    let issued = certs::authority(files.days.unwrap_or(AUTHORITY_DAYS)).context("the authority")?;
    write(&pair, &issued)?;
    let dir = files.dir.display();
    console.data(&format!(
        "{certificate}\n  the authority's certificate: copy it to every host as /etc/tenure/ca.pem\n\
         {key}\n  its key: copy it nowhere; whoever has it can be any host\n\
         Next, for each host: tenure certs host NAME --dir {dir}\n",
        certificate = pair.certificate.display(),
        key = pair.key.display(),
    ))?;
    Ok(Exit::Done)
}

fn issue(name: &HostName, files: &FilesArgs, console: &mut Console) -> Result<Exit, Failure> {
    let pair = Pair::new(&files.dir, name.as_str());
    refuse_existing(&pair)?;
    let authority = read(&Pair::new(&files.dir, "ca"), &files.dir)?;
    let issued = certs::host(&authority, name, files.days.unwrap_or(HOST_DAYS));
    write(&pair, &issued.with_context(|| files.dir.display().to_string())?)?;
    console.data(&format!(
        "{certificate}\n  the certificate of {name}: copy it to that host as /etc/tenure/host.pem\n\
         {key}\n  its key: move it to that host as /etc/tenure/host-key.pem, mode 600, and nowhere else\n\
         In its /etc/tenure/tenure.toml: name = \"{name}\"\n",
        certificate = pair.certificate.display(),
        key = pair.key.display(),
    ))?;
    Ok(Exit::Done)
}

fn read(pair: &Pair, directory: &Path) -> Result<Issued, Failure> {
    let text = |path: &Path| match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Failure::new(
            Exit::Failed,
            format!("{} is missing; first: tenure certs ca --dir {}", path.display(), directory.display()),
        )),
        read => Ok(read.with_context(|| path.display().to_string())?),
    };
    Ok(Issued { certificate: text(&pair.certificate)?, key: text(&pair.key)? })
}

fn refuse_existing(pair: &Pair) -> Result<(), Failure> {
    match [&pair.certificate, &pair.key].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(exists(path)),
        None => Ok(()),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::refused(format!(
        "{} is there already and is not overwritten; move it away first",
        path.display()
    ))
}

/// The key first: a certificate without its key would be of no use to anybody.
fn write(pair: &Pair, issued: &Issued) -> Result<(), Failure> {
    let directory = pair.key.parent().unwrap_or(Path::new("."));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| directory.display().to_string())?;
    create(&pair.key, 0o600, &issued.key)?;
    create(&pair.certificate, 0o644, &issued.certificate)?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(synced.with_context(|| directory.display().to_string())?)
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(exists(path)),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    Ok(written.with_context(|| path.display().to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::HostArgs;
    use crate::console::Verbosity;
    use peer::{Credentials, Files};
    use std::io::sink;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn ca(directory: &Path) -> Result<Exit, Failure> {
        make(CertsVerb::Ca(FilesArgs { dir: directory.to_owned(), days: None }))
    }

    fn host(directory: &Path, name: &str) -> Result<Exit, Failure> {
        let files = FilesArgs { dir: directory.to_owned(), days: Some(1) };
        make(CertsVerb::Host(HostArgs { name: name.to_owned(), files }))
    }

    fn make(verb: CertsVerb) -> Result<Exit, Failure> {
        run(&CertsArgs { verb }, &mut Console::new(Box::new(sink()), Box::new(sink()), Verbosity::Normal))
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_what_an_agent_takes_and_keys_are_the_owners_alone() {
        let directory = TempDir::new().unwrap();
        let new = directory.path().join("new");
        ca(&new).unwrap();
        host(&new, "Host-A.example.org").unwrap();
        let [ca, a] = ["ca", "host-a.example.org"].map(|name| Pair::new(&new, name));
        assert_eq!(
            [mode(&new), mode(&ca.key), mode(&a.key), mode(&a.certificate)],
            [0o700, 0o600, 0o600, 0o644]
        );
        let files = Files { authority: ca.certificate, certificate: a.certificate, key: a.key };
        assert_eq!(Credentials::load(&files).unwrap().names(), ["host-a.example.org"]);
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = TempDir::new().unwrap();
        ca(directory.path()).unwrap();
        let before = fs::read(directory.path().join("ca-key.pem")).unwrap();
        fs::remove_file(directory.path().join("ca.pem")).unwrap();
        let failure = ca(directory.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.to_string().contains("ca-key.pem is there already"), "{failure}");
        assert_eq!(fs::read(directory.path().join("ca-key.pem")).unwrap(), before);
        assert!(!directory.path().join("ca.pem").exists());
    }

    #[test]
    fn a_host_needs_an_authority_and_a_name() {
        let directory = TempDir::new().unwrap();
        let failure = host(directory.path(), "a").unwrap_err();
        assert!(failure.to_string().contains("first: tenure certs ca --dir"), "{failure}");
        for name in ["", "../a", "a/b", "*.example.org"] {
            assert_eq!(host(directory.path(), name).unwrap_err().exit, Exit::Usage, "{name}");
        }
    }
}
