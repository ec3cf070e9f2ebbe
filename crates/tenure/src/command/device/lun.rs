//! A LUN as the command line and the control socket name it: one that Tenure is itself (`file=`, `block=`, `memory=`), a SCSI disk of
//! this host, or one at an iSCSI target; each with `migrate-pr=on|off`, the last with `always` too.

use crate::exit::Failure;
use iscsi::initiator::{IscsiUrl, UrlError};
use logical_unit::{LunSpec, Medium};
use std::path::PathBuf;

/// Whether registrations are carried along when the guest migrates; as long as nothing is said, `on`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MigratePr {
    On,
    Off,
    Always,
}

/// A LUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lun {
    pub(super) kind: Kind,
    /// What the guest registers is carried along when it migrates.
    pub(super) migrate_pr: bool,
    /// Also by a target of which nobody knows whether it keeps it without a session.
    pub(super) always: bool,
    /// As it was written, without secrets.
    pub(super) text: String,
}

/// Where its blocks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tenure is the logical unit.
    Emulated(LunSpec),
    /// `/dev/sdX` or `/dev/sgN`.
    Disk(PathBuf),
    /// At a target.
    Iscsi(Box<IscsiUrl>),
}

impl Lun {
    /// # Errors
    /// A usage error that names the part at fault.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let (rest, migrate_pr) = migrate_pr(text)?;
        let is_url = rest.starts_with("iscsi://");
        let kind = if is_url {
            must_be_own(text, &rest)?;
            let url = rest.parse().map_err(|error: UrlError| wrong(&without_secret(text), &error))?;
            Kind::Iscsi(Box::new(url))
        } else if rest.starts_with('/') {
            Kind::Disk(disk(text, &rest)?)
        } else {
            Kind::Emulated(emulated(text, &rest)?)
        };
        let text = if is_url { without_secret(text) } else { text.to_owned() };
        let always = migrate_pr == MigratePr::Always;
        if always && !is_url {
            return Err(wrong(&text, &"migrate-pr=always is for iscsi://"));
        }
        Ok(Self { kind, migrate_pr: migrate_pr != MigratePr::Off, always, text })
    }
}

fn wrong(text: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("--lun {text}: {error}"))
}

/// The text without `migrate-pr=`, and what that says. In a URL, which may hold commas, it comes last.
fn migrate_pr(text: &str) -> Result<(String, MigratePr), Failure> {
    const NAME: &str = "migrate-pr=";
    let parts: Vec<&str> = if text.starts_with("iscsi://") {
        text.rsplitn(2, ',').collect::<Vec<_>>().into_iter().rev().collect()
    } else {
        text.split(',').collect()
    };
    let (told, rest): (Vec<&str>, Vec<&str>) = parts.into_iter().partition(|part| part.starts_with(NAME));
    let told = match told.as_slice() {
        [] | ["migrate-pr=on"] => MigratePr::On,
        ["migrate-pr=off"] => MigratePr::Off,
        ["migrate-pr=always"] => MigratePr::Always,
        _ => return Err(wrong(&without_secret(text), &"migrate-pr= is on, off or always, and given once")),
    };
    Ok((rest.join(","), told))
}

impl Lun {
    /// Whether the operator gave both the same name.
    pub(super) fn is_named_as(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Emulated(one), Kind::Emulated(other)) => one.is_named_as(other),
            _ => false,
        }
    }
}

/// A real logical unit presents itself.
fn must_be_own(text: &str, rest: &str) -> Result<(), Failure> {
    const OWN: [&str; 4] = ["readonly=", "serial=", "wwn=", "direct="];
    let last = rest.rsplit_once(',').map_or("", |(_, part)| part);
    if OWN.iter().any(|name| last.starts_with(name)) {
        let text = without_secret(text);
        return Err(wrong(&text, &format!("{last} goes with file=, block= and memory=, not with iscsi://")));
    }
    Ok(())
}

fn disk(text: &str, rest: &str) -> Result<PathBuf, Failure> {
    match rest.rsplit_once(',') {
        Some((_, part)) if part.contains('=') => {
            Err(wrong(text, &format!("{part} does not go with a device; only migrate-pr= does")))
        }
        _ => Ok(rest.into()),
    }
}

/// With direct I/O unless it is not wanted: what a guest was told is written, a host's page cache must not lose.
fn emulated(text: &str, rest: &str) -> Result<LunSpec, Failure> {
    let spec: LunSpec = rest.parse().map_err(|error| match rest.contains('=') {
        true => wrong(text, &error),
        false => wrong(text, &"a LUN is file=PATH, block=PATH, memory=SIZE, /dev/sdX, /dev/sgN or iscsi://…"),
    })?;
    let is_memory = matches!(spec.medium, Medium::Memory { .. });
    Ok(LunSpec { direct: spec.direct.or((!is_memory).then_some(true)), ..spec })
}

/// A URL whose user keeps the password to himself.
fn without_secret(text: &str) -> String {
    let Some(rest) = text.strip_prefix("iscsi://") else { return text.to_owned() };
    match rest.rsplit_once('@') {
        Some((_, address)) => format!("iscsi://{address}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    const URL: &str =
        "iscsi://[::1]:3261/iqn.2026-11.example:disk/3?initiator=iqn.2026-11.example:a&isid=800000000007";

    #[test]
    fn a_disk_bypasses_the_page_cache_unless_told_otherwise() {
        let direct = |text: &str| match Lun::parse(text).unwrap().kind {
            Kind::Emulated(spec) => spec.direct,
            other => panic!("{other:?}"),
        };
        assert_eq!(direct("file=/a"), Some(true));
        assert_eq!(direct("block=/dev/a,reservations=/b"), Some(true));
        assert_eq!((direct("file=/a,direct=off"), direct("memory=1M")), (Some(false), None));
        assert_eq!(Lun::parse("memory=nothing").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn devices_and_targets_are_told_from_files() {
        let kind = |text: &str| Lun::parse(text).unwrap().kind;
        assert_eq!(kind("/dev/disk/by-id/wwn-0x6001"), Kind::Disk("/dev/disk/by-id/wwn-0x6001".into()));
        assert_eq!(kind("/dev/sg3,migrate-pr=off"), Kind::Disk("/dev/sg3".into()));
        let Kind::Iscsi(url) = kind(&format!("{URL},migrate-pr=on")) else { panic!() };
        assert_eq!((url.lun, url.port, url.isid.is_some()), (3, 3261, true));
    }

    #[test]
    fn migrate_pr_is_on_unless_it_is_off() {
        let migrates = |text: &str| Lun::parse(text).unwrap().migrate_pr;
        assert!(
            migrates("/dev/sda")
                && migrates(URL)
                && migrates("memory=1M")
                && migrates("/dev/sda,migrate-pr=on")
        );
        let always = |text: &str| Lun::parse(text).unwrap().always;
        let said = format!("{URL},migrate-pr=always");
        assert!(always(&said) && migrates(&said) && !always(URL));
        assert!(!migrates("migrate-pr=off,memory=1M") && !migrates(&format!("{URL},migrate-pr=off")));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, what) in [
            ("/dev/sda,direct=on", "direct=on does not go with a device"),
            ("/dev/sda,serial=a", "serial=a does not go with a device"),
            ("iscsi://a/iqn.2026-11.example:a/0,readonly=on,migrate-pr=on", "not with iscsi://"),
            ("memory=1M,readonly=maybe", "readonly= is on or off"),
            ("/dev/sda,migrate-pr=yes", "migrate-pr= is on, off or always"),
            ("/dev/sda,migrate-pr=always", "is for iscsi://"),
            ("memory=1M,migrate-pr=on,migrate-pr=off", "given once"),
            ("iscsi://host/iqn.2026-11.example:disk", "HOST"),
            ("sda", "/dev/sdX"),
            ("file=/a,size=x", "not a size"),
        ] {
            let failure = Lun::parse(text).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.to_string().contains(what), "{text}: {failure}");
        }
    }

    #[test]
    fn a_password_is_shown_to_nobody() {
        let secret = URL.replace("iscsi://", "iscsi://me%a,se/cret@");
        assert_eq!(Lun::parse(&secret).unwrap().text, URL);
        for bad in [secret.replace("/3?", "/x?"), format!("{secret},migrate-pr=maybe")] {
            let told = Lun::parse(&bad).unwrap_err().to_string();
            assert!(!told.contains("cret"), "{told}");
        }
    }
}
