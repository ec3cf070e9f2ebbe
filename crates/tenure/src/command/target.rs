//! `tenure target`: serves software LUNs over iSCSI until it is asked to end.

use crate::cli::TargetArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use anyhow::Context;
use iscsi::initiator::{Chap, Credentials};
use iscsi::target::{Target, TargetConfig};
use logical_unit::aptpl::FileError;
use logical_unit::{Device, LogicalUnit, LunSpec, OpenError};
use scsi::IscsiName;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::net::ToSocketAddrs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// The one line on standard output that says where the target listens.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    schema: u32,
    ready: bool,
    listen: String,
    target: &'a str,
    luns: usize,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// A usage error, or a LUN that cannot be served; nothing listens then.
pub fn run(args: &TargetArgs, console: &mut Console) -> Result<Exit, Failure> {
    // Before anything else, so that no signal ends a half-started target the hard way.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals")?;
    let specs = args.luns.iter().map(|text| parse_lun(text)).collect::<Result<Vec<_>, _>>()?;
    let chap = args.chap.as_deref().map(read_credentials).transpose()?;
    let target = serve(&args.listen, &args.target, chap, &specs)?;
    let listen = target.local_addr().to_string();
    console.note(format!("serving {} LUN(s) as {} on {listen}", specs.len(), args.target));
    console.json(&Ready { schema: 1, ready: true, listen, target: &args.target, luns: specs.len() })?;
    notify(b"READY=1", console);
    if let Some(signal) = signals.forever().next() {
        console.note(format!("signal {signal}: ending"));
    }
    notify(b"STOPPING=1", console);
    target.shutdown();
    Ok(Exit::Done)
}

fn parse_lun(text: &str) -> Result<LunSpec, Failure> {
    text.parse().map_err(|error| Failure::usage(format!("--lun {text}: {error}")))
}

/// Opens every LUN, then listens.
///
/// # Errors
/// A name that is none, a LUN that cannot be served, an address that cannot be listened on.
pub(crate) fn serve(
    listen: &str,
    name: &str,
    chap: Option<Chap>,
    specs: &[LunSpec],
) -> Result<Target, Failure> {
    let iqn: IscsiName = name.parse().map_err(|error| Failure::usage(format!("--target {name}: {error}")))?;
    must_differ(specs)?;
    let open = |(number, spec)| LogicalUnit::open(spec).map_err(|error| refuse_lun(number, error));
    let units = specs.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
    let address = listen.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let address = address.ok_or_else(|| Failure::usage(format!("--listen {listen}: not HOST:PORT")))?;
    let config = TargetConfig { chap, ..TargetConfig::new(address, iqn, Device::new(units)) };
    Ok(Target::bind(config).with_context(|| format!("cannot listen on {listen}"))?)
}

/// Whoever reaches two logical units of one name takes them for two paths to one.
fn must_differ(specs: &[LunSpec]) -> Result<(), Failure> {
    let first = |spec: &LunSpec| specs.iter().position(|other| other.is_named_as(spec));
    for (number, spec) in specs.iter().enumerate() {
        if let Some(other) = first(spec).filter(|other| *other < number) {
            return Err(Failure::usage(format!("LUN {number} has the wwn= of LUN {other}")));
        }
    }
    Ok(())
}

/// Where serving would break a promise to registrants it is refused, as elsewhere; everything else has failed.
fn refuse_lun(number: usize, error: OpenError) -> Failure {
    let unsafe_to_serve =
        matches!(error, OpenError::InUse(_) | OpenError::Reservations(FileError::Damaged { .. }));
    let exit = if unsafe_to_serve { Exit::Refused } else { Exit::Failed };
    Failure { exit, reason: anyhow::Error::from(error).context(format!("LUN {number}")) }
}

/// `USER:PASSWORD` on the first line; on the command line the secret would be for all to see.
fn read_credentials(path: &Path) -> Result<Chap, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = text.lines().next().unwrap_or_default();
    match line.split_once(':') {
        Some((user, secret)) if !user.is_empty() && !secret.is_empty() => {
            let initiator = Credentials { user: user.to_owned(), secret: secret.to_owned() };
            Ok(Chap { initiator, target: None })
        }
        _ => Err(Failure::usage(format!("{}: its first line must be USER:PASSWORD", path.display()))),
    }
}

/// Tells systemd, if it started us (sd_notify(3)): one datagram, a path or an abstract name.
fn notify(message: &[u8], console: &mut Console) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = socket.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message, &address));
    if let Err(error) = sent {
        console.warning(format!("NOTIFY_SOCKET: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Verbosity;
    use std::io::sink;

    #[test]
    fn credentials_need_both_parts() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("chap");
        std::fs::write(&path, "me:a secret: with colon\nmore\n").unwrap();
        assert_eq!(read_credentials(&path).unwrap().initiator.secret, "a secret: with colon");
        for bad in ["", "me", "me:", ":secret"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(read_credentials(&path).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_lun_that_cannot_be_opened_is_refused_before_listening() {
        let specs = ["file=/nowhere/at/all".parse().unwrap()];
        let failure = serve("127.0.0.1:0", "iqn.2026-11.example:t", None, &specs).unwrap_err();
        assert!(failure.to_string().contains("LUN 0"), "{failure}");
    }

    fn refusal(path: &Path) -> Failure {
        let specs = [format!("file={},size=1M", path.display()).parse().unwrap()];
        serve("127.0.0.1:0", "iqn.2026-11.example:t", None, &specs).unwrap_err()
    }

    #[test]
    fn a_lun_that_is_served_already_is_refused_as_unsafe_and_says_what_to_do() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("lun");
        let specs = [format!("file={},size=1M", path.display()).parse().unwrap()];
        let _first = serve("127.0.0.1:0", "iqn.2026-11.example:t", None, &specs).unwrap();
        let failure = refusal(&path);
        assert_eq!(failure.exit, Exit::Refused, "{failure}");
        assert!(failure.to_string().contains("end the other server"), "{failure}");
    }

    #[test]
    fn a_damaged_reservation_file_is_refused_as_unsafe_and_says_what_to_do() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join("lun"), [0; 4096]).unwrap();
        std::fs::write(directory.path().join("lun.pr"), "garbage").unwrap();
        let failure = refusal(&directory.path().join("lun"));
        assert_eq!(failure.exit, Exit::Refused, "{failure}");
        assert!(failure.to_string().contains("move it away"), "{failure}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_has_failed() {
        assert_eq!(refusal(Path::new("/nowhere/at/all")).exit, Exit::Failed);
    }

    #[test]
    fn a_target_without_a_proper_name_is_a_usage_error() {
        let specs = ["memory=1M".parse().unwrap()];
        for bad in ["bad", "iqn.disk", "iqn.2026-13.example:disk"] {
            let failure = serve("127.0.0.1:0", bad, None, &specs).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(failure.to_string().contains("iqn.YYYY-MM."), "{failure}");
        }
    }

    #[test]
    fn no_two_logical_units_have_one_name() {
        let specs = ["memory=1M", "memory=1M,wwn=5000c500a1b2c3d4", "memory=1M,wwn=0x5000c500a1b2c3d4"];
        let specs = specs.map(|spec| spec.parse().unwrap());
        let failure = serve("127.0.0.1:0", "iqn.2026-11.example:t", None, &specs).unwrap_err();
        assert!(
            failure.exit == Exit::Usage && failure.to_string().contains("the wwn= of LUN 1"),
            "{failure}"
        );
        serve("127.0.0.1:0", "iqn.2026-11.example:t", None, &specs[..2]).unwrap();
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_a_usage_error() {
        assert_eq!(parse_lun("memory=nothing").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn without_a_notify_socket_nothing_is_said() {
        let mut console = Console::new(Box::new(sink()), Box::new(sink()), Verbosity::Normal);
        notify(b"READY=1", &mut console);
    }
}
