//! The guests of a device process: which name belongs to which socket, and the sockets themselves.

use crate::cli::DeviceArgs;
use crate::exit::{Exit, Failure};
use anyhow::{Context, anyhow};
use nix::unistd::{Gid, Group};
use qmp::server::{Bound, bind};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The longest name of a guest: a thread and log lines are called so as well.
const LONGEST: usize = 128;

/// A guest, and where its VMMs connect: more than one where it moves from one to the other on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) sockets: Vec<PathBuf>,
}

/// Who is served where.
///
/// # Errors
/// Names that are none or missing; a socket that is used twice, and a name that is without having been given.
pub(super) fn guests(args: &DeviceArgs) -> Result<Vec<Guest>, Failure> {
    if !args.names.is_empty() && args.names.len() != args.sockets.len() {
        return Err(Failure::usage("--name is given as often as --socket, or not at all"));
    }
    let mut guests: Vec<Guest> = Vec::new();
    for (index, socket) in args.sockets.iter().enumerate() {
        let name = args.names.get(index).cloned().or_else(|| stem(socket)).unwrap_or_default();
        if !is_name(&name) {
            let text = format!("{name:?} names no guest: 1 to {LONGEST} printable characters; see --name");
            return Err(Failure::usage(text));
        }
        if guests.iter().any(|guest| guest.sockets.contains(socket)) {
            return Err(Failure::usage(format!("{name} at {}: given twice", socket.display())));
        }
        match guests.iter_mut().find(|guest| guest.name == name) {
            Some(guest) if !args.names.is_empty() => guest.sockets.push(socket.clone()),
            Some(_) => {
                let text = format!("two sockets are called {name}: --name says whether that is one guest");
                return Err(Failure::usage(text));
            }
            None => guests.push(Guest { name, sockets: vec![socket.clone()] }),
        }
    }
    Ok(guests)
}

fn stem(socket: &Path) -> Option<String> {
    let name = socket.file_name()?.to_str()?;
    name.split('.').next().map(str::to_owned)
}

/// An initiator port is made of any text; a name that people cannot read or tell apart is a mistake.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Listens for a VMM at a socket, with permissions and group from the first moment that somebody may connect.
///
/// # Errors
/// A group that nobody knows, a socket that is served already, whatever the system says.
pub(super) fn listen(path: &Path, args: &DeviceArgs) -> Result<Bound, Failure> {
    let group = args.socket_group.as_deref().map(find_group).transpose()?;
    // The group that it is made with is not the one that is meant, and may do nothing.
    let mode = if group.is_some() { args.socket_mode & 0o707 } else { args.socket_mode };
    let bound = bind(path, mode).with_context(|| format!("cannot listen at {}", path.display()));
    let bound = bound.map_err(|reason| Failure { exit: Exit::Failed, reason })?;
    if let Some(group) = group {
        let all = Permissions::from_mode(args.socket_mode);
        std::os::unix::fs::lchown(path, None, Some(group))
            .and_then(|()| std::fs::set_permissions(path, all))
            .with_context(|| format!("cannot give {} to the group", path.display()))?;
    }
    Ok(bound)
}

/// A group by name or number.
fn find_group(name: &str) -> Result<u32, Failure> {
    let known = Group::from_name(name).ok().flatten().map(|group| group.gid);
    let number = || name.parse().ok().filter(|number| *number != u32::MAX).map(Gid::from_raw);
    let group = known
        .or_else(number)
        .ok_or_else(|| anyhow!("--socket-group {name}: neither a name nor a number known here"));
    Ok(group.map_err(|reason| Failure { exit: Exit::Usage, reason })?.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(arguments: &[&str]) -> DeviceArgs {
        let line = [&["tenure", "device", "--lun", "memory=1M"], arguments].concat();
        match crate::cli::Cli::try_parse_from(line).unwrap().command {
            crate::cli::Command::Device(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn names(arguments: &[&str]) -> Result<Vec<String>, Exit> {
        let guests = guests(&parse(arguments)).map_err(|failure| failure.exit)?;
        Ok(guests.into_iter().map(|guest| guest.name).collect())
    }

    #[test]
    fn a_guest_is_called_as_its_socket_unless_somebody_says_otherwise() {
        assert_eq!(names(&["--socket", "/run/db1.vhost.sock"]).unwrap(), ["db1"]);
        let two = ["--socket", "/run/a", "--socket", "/run/b"];
        assert_eq!(names(&two).unwrap(), ["a", "b"]);
        assert_eq!(names(&[&two[..], &["--name", "x", "--name", "y.z-1"]].concat()).unwrap(), ["x", "y.z-1"]);
    }

    #[test]
    fn a_name_given_twice_is_one_guest_at_two_sockets() {
        let given = ["--socket", "/run/a", "--socket", "/run/b", "--socket", "/run/c"];
        let named = [&given[..], &["--name", "x", "--name", "y", "--name", "x"]].concat();
        let guests = guests(&parse(&named)).unwrap();
        let sockets = |guest: &Guest| guest.sockets.iter().map(|at| at.display().to_string()).collect();
        let sockets: Vec<Vec<String>> = guests.iter().map(sockets).collect();
        assert_eq!(sockets, [vec!["/run/a", "/run/c"], vec!["/run/b"]]);
        assert_eq!(
            names(&["--socket", "/run/a", "--socket", "/run/a", "--name", "x", "--name", "x"]),
            Err(Exit::Usage)
        );
    }

    #[test]
    fn two_guests_are_never_one_nexus_and_no_name_is_guessed() {
        let two = ["--socket", "/run/a", "--socket", "/run/b"];
        let long = "a".repeat(LONGEST + 1);
        for bad in [
            &["--name", "x"][..],
            &["--name", "a b", "--name", "y"],
            &["--name", "a\n", "--name", "y"],
            &["--name", "", "--name", "y"],
            &["--name", &long, "--name", "y"],
        ] {
            assert_eq!(names(&[&two[..], bad].concat()), Err(Exit::Usage), "{bad:?}");
        }
        assert_eq!(names(&["--socket", "/run/a.1", "--socket", "/run/a.2"]), Err(Exit::Usage));
        assert_eq!(names(&["--socket", "/run/.sock"]), Err(Exit::Usage));
    }

    #[test]
    fn the_socket_has_its_permissions_and_goes_with_its_listener() {
        let directory = tempfile::TempDir::new().unwrap();
        let socket = directory.path().join("a.sock");
        let args = parse(&["--socket", socket.to_str().unwrap(), "--socket-mode", "640"]);
        let bound = listen(&socket, &args).unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(listen(&socket, &args).unwrap_err().exit, Exit::Failed, "somebody listens there already");
        drop(bound);
        assert!(!socket.exists());
        let own = rustix::process::getegid().as_raw().to_string();
        let group = ["--socket", socket.to_str().unwrap(), "--socket-mode", "660", "--socket-group", &own];
        let _bound = listen(&socket, &parse(&group)).unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[test]
    fn a_group_that_nobody_knows_is_a_usage_error() {
        assert_eq!(find_group("no such group").unwrap_err().exit, Exit::Usage);
        assert_eq!(find_group("0").unwrap(), 0);
    }
}
