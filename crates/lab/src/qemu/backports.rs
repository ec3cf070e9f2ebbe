//! A newer QEMU than this machine's, out of Debian's packages and without installing it: 11.1 of trixie-backports, the first
//! of Debian's that moves a guest's registration in a live migration (`migrate-pr`).
//!
//! apt has state of its own here: another release's lists, and nothing installed, so that it names the whole closure. The
//! packages are unpacked beside each other, and their own dynamic linker runs the program on their own libraries. No root
//! is needed, nothing is mounted; 49 MB are downloaded once.

use crate::process::read;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "trixie-backports";
/// The system emulator, and its block drivers, of which iSCSI is one.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-block-extra"];

/// An unpacked QEMU.
#[derive(Clone, Debug)]
pub struct Backports {
    libraries: PathBuf,
    tree: PathBuf,
}

impl Backports {
    /// Downloads and unpacks it below `cache`, unless it is there already.
    ///
    /// # Errors
    /// If there is no apt, the archive cannot be reached, or does not have it any more.
    pub fn fetch(cache: &Path) -> Result<Self> {
        let place = std::path::absolute(cache.join(SUITE))?;
        if !place.join("complete").exists() {
            let _ = fs::remove_dir_all(&place);
            unpack(&Apt::new(&place.join("apt"))?, &place.join("tree"))?;
            fs::remove_dir_all(place.join("apt"))?;
            fs::write(place.join("complete"), "")?;
        }
        let tree = place.join("tree");
        Ok(Self { libraries: tree.join("usr/lib/x86_64-linux-gnu"), tree })
    }

    /// A command line that begins with this `qemu-system-x86_64`. It ends with whoever started it, however that ended.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(self.libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&self.libraries);
        command.arg(self.tree.join("usr/bin/qemu-system-x86_64"));
        command.arg("-L").arg(self.tree.join("usr/share/qemu"));
        command.env("QEMU_MODULE_DIR", self.libraries.join("qemu"));
        command
    }
}

/// apt with another release's lists and no package installed.
struct Apt {
    configuration: PathBuf,
    archives: PathBuf,
}

impl Apt {
    fn new(place: &Path) -> Result<Self> {
        let archives = place.join("archives");
        for directory in [place.join("lists/partial"), archives.join("partial")] {
            fs::create_dir_all(directory)?;
        }
        fs::write(place.join("status"), "")?;
        let archive = archive().context("apt of this machine names no Debian archive")?;
        let sources = ["trixie", SUITE].map(|suite| format!("deb {archive} {suite} main\n"));
        fs::write(place.join("sources.list"), sources.concat())?;
        let configuration = place.join("apt.conf");
        fs::write(&configuration, configure(place))?;
        Ok(Self { configuration, archives })
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        read(Command::new("apt-get").arg("-q").args(words).env("APT_CONFIG", &self.configuration)).map(drop)
    }
}

/// Where this machine gets Debian from: a mirror that its owner chose.
fn archive() -> Option<String> {
    let told = read(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"])).ok()?;
    told.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

fn configure(place: &Path) -> String {
    let at = |name: &str| place.join(name).display().to_string();
    let settings = [
        ("Dir::State::lists", at("lists")),
        ("Dir::State::status", at("status")),
        ("Dir::State::extended_states", at("extended_states")),
        ("Dir::Cache", at("")),
        ("Dir::Cache::archives", at("archives")),
        ("Dir::Etc::SourceList", at("sources.list")),
        ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
        ("Dir::Etc::Preferences", "/dev/null".to_owned()),
        ("Dir::Etc::PreferencesParts", "/dev/null".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        // The user that apt would download as may not write here.
        ("APT::Sandbox::User", String::new()),
    ];
    settings.map(|(name, value)| format!("{name} \"{value}\";\n")).concat()
}

fn unpack(apt: &Apt, tree: &Path) -> Result<()> {
    apt.run(&["update"])?;
    let install = ["install", "-y", "--no-install-recommends", "--download-only", "-t", SUITE];
    apt.run(&[&install[..], &PACKAGES[..]].concat()).context("QEMU of trixie-backports")?;
    fs::create_dir_all(tree)?;
    for entry in fs::read_dir(&apt.archives)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            read(Command::new("dpkg-deb").arg("-x").arg(&package).arg(tree))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_knows_nothing_of_this_machine_and_writes_only_into_its_place() {
        let place = tempfile::TempDir::new().unwrap();
        if archive().is_none() {
            return println!("skipped: this machine has no apt that gets Debian from anywhere");
        }
        let apt = Apt::new(place.path()).unwrap();
        let told =
            read(Command::new("apt-config").arg("dump").env("APT_CONFIG", &apt.configuration)).unwrap();
        let inside = place.path().display().to_string();
        let names =
            ["dir::state::lists", "dir::state::status", "dir::cache::archives", "dir::etc::sourcelist"];
        for name in names {
            let mut lines = told.lines().filter(|line| line.to_lowercase().starts_with(&format!("{name} ")));
            assert!(lines.next_back().is_some_and(|line| line.contains(&inside)), "{name}");
        }
    }
}
