//! `tenure device`.

use super::device_verb::DeviceVerb;
use clap::{Args, ValueEnum};
use peer::{Address, HostName, Peer};
use std::path::PathBuf;
use vhost_user_scsi::device::Aio;

/// Arguments of `tenure device`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DeviceArgs {
    /// Ask one that runs, instead of serving.
    #[command(subcommand)]
    pub verb: Option<DeviceVerb>,
    /// Where a guest's VMM connects; once for each guest
    #[arg(
        long = "socket",
        alias = "socket-path",
        value_name = "PATH",
        required_unless_present = "print_capabilities"
    )]
    pub sockets: Vec<PathBuf>,
    /// The guests' names, in the order of the sockets: each guest is the I_T nexus of its name, wherever it
    /// runs; a name given twice is one guest at two sockets, where it may migrate from the one VMM to the other
    /// [default: the sockets' file names, up to the first dot]
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// A LUN, the same for all guests: file=PATH[,size=SIZE], block=PATH or memory=SIZE, then
    /// [,direct=on|off][,readonly=on|off][,serial=TEXT][,wwn=HEX][,reservations=DIR][,profile=NAME][,delay=DURATION];
    /// /dev/sdX or /dev/sgN, for one guest; or
    /// iscsi://HOST[:PORT]/IQN/LUN[?initiator=IQN&isid=HEX12], by default as the guest's own initiator port.
    /// Each with [,migrate-pr=on|off], the last also with always. LUNs count from 0 in the order given
    #[arg(long = "lun", value_name = "SPEC", required_unless_present = "print_capabilities")]
    pub luns: Vec<String>,
    /// Where to keep what guests register with /dev/… and iscsi:// LUNs, which `tenure status` reads, and who has a
    /// guest that migrates between devices
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tenure")]
    pub state: PathBuf,
    /// Request queues of each guest's device
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub num_queues: u16,
    /// Who may connect, as the permissions of a file
    #[arg(long, value_name = "OCTAL", default_value = "600", value_parser = mode)]
    pub socket_mode: u32,
    /// The group of the sockets, by name or number
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Commands that a queue takes at once; the others wait in the guest's ring
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_requests: u16,
    /// Commands other than READ, WRITE and flushes that are carried out at once, of each guest
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// How READ, WRITE and flushes are carried out
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub aio: AioArg,
    /// How long a queue looks at its ring before it sleeps, in microseconds, while that is worth it; 0 for never
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 32, value_parser = clap::value_parser!(u64).range(..=1000))]
    pub poll: u64,
    /// How long a guest that runs before it may be served waits in its rings, in seconds: another VMM's rings
    /// still run, or its state is not here
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub wait: u64,
    /// What its commands get after that
    #[arg(long, value_name = "ANSWER", default_value = "busy")]
    pub on_error: OnErrorArg,
    /// A control socket, in QMP's form: query-device, lun-add, lun-remove, lun-resize,
    /// guest-claim
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// The peers
    #[command(flatten)]
    pub peering: PeeringArgs,
    /// Say as JSON what kind of device this is, for a program that manages VMMs, and end
    #[arg(long, exclusive = true)]
    pub print_capabilities: bool,
}

/// See [`Aio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AioArg {
    /// By io_uring where the kernel lets us, else by worker threads
    Auto,
    /// By io_uring, or not at all
    #[value(name = "io_uring")]
    IoUring,
    /// By worker threads
    Threads,
}

impl From<AioArg> for Aio {
    fn from(arg: AioArg) -> Self {
        match arg {
            AioArg::Auto => Self::Auto,
            AioArg::IoUring => Self::IoUring,
            AioArg::Threads => Self::Threads,
        }
    }
}

/// The other hosts' devices, to which a guest may migrate and from which it may come.
#[derive(Debug, Args)]
#[command(next_help_heading = "Migration to another device")]
pub struct PeeringArgs {
    /// This host's name, as its certificate says and its peers call it
    #[arg(long, value_name = "NAME", requires = "listen")]
    pub host: Option<HostName>,
    /// Another host's device: HOST:PORT, or unix:/PATH on this host
    #[arg(long = "peer", value_name = "NAME=ADDRESS", value_parser = peer_of, requires = "host")]
    pub peers: Vec<Peer>,
    /// Where this device listens for its peers: HOST:PORT, or unix:/PATH
    #[arg(long = "peer-listen", value_name = "ADDRESS", requires = "host")]
    pub listen: Option<Address>,
    /// The directory of ca.pem, host.pem and host-key.pem; needed for addresses of the form HOST:PORT
    #[arg(long, value_name = "DIR", default_value = "/etc/tenure")]
    pub certificates: PathBuf,
    /// The guest is new: no device has ever served it. Without a record of it either this or --incoming has to be said
    #[arg(long, requires = "host", conflicts_with = "incoming")]
    pub first: bool,
    /// The guest is at that peer, and comes from there when it has migrated; until then no LUN is opened
    #[arg(long, value_name = "NAME", requires = "host")]
    pub incoming: Option<HostName>,
}

/// A peer's name and address.
fn peer_of(text: &str) -> Result<Peer, String> {
    let (name, address) = text.split_once('=').ok_or("a peer is NAME=ADDRESS")?;
    let name = name.parse().map_err(|error: peer::HostNameError| error.to_string())?;
    let address = address.parse().map_err(|error: peer::AddressError| error.to_string())?;
    Ok(Peer { name, address })
}

/// What a guest gets that waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnErrorArg {
    /// BUSY: its driver tries again
    Busy,
    /// NOT READY, MANUAL INTERVENTION REQUIRED: its driver gives up
    Sense,
}

/// Permissions for user, group and others.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && !text.starts_with('+'));
    mode.ok_or_else(|| "permissions are octal, 600 or 660".into())
}

const EXAMPLES: &str = "\
QEMU gets the disks of a socket like this; the guest's memory has to be shared:
  -object memory-backend-memfd,id=ram,size=4G,share=on -machine memory-backend=ram
  -chardev socket,id=disks,path=/run/tenure/db1.sock
  -device vhost-user-scsi-pci,chardev=disks,num_queues=4

When it is ready to serve, one JSON line on standard output says where:
  {\"schema\":1,\"ready\":true,\"guests\":[{\"name\":\"db1\",\"socket\":\"/run/tenure/db1.sock\",
    \"initiator\":\"iqn.2026-01.invalid.tenure:vm:db1,i,0x800000000000\"}],\"luns\":1}
It notifies systemd too, if NOTIFY_SOCKET is set. SIGTERM and SIGINT end it in good order: commands
under way are carried out first.

Examples:
  tenure device --socket /run/tenure/db1.sock --lun file=/srv/a.img,size=1G
  tenure device --socket /run/a.sock --name db1 --socket /run/b.sock --name db2 \\
      --lun block=/dev/vg/quorum,reservations=/var/lib/tenure
  tenure device --socket /run/db1.sock --lun /dev/disk/by-id/wwn-0x600140512345 \\
      --lun iscsi://192.0.2.9/iqn.2026-11.example:disk/0
  tenure device --socket /run/a1.sock --name db1 --socket /run/a2.sock --name db1 --lun file=/srv/a.img
  tenure device --socket /run/db1.sock --lun file=/shared/a.img --host beta --peer-listen :::16520 \\
      --peer alpha=alpha.example:16520 --incoming alpha";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_an_address() {
        let peer = peer_of("there.example=unix:/run/there").unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.address.to_string().as_str()),
            ("there.example", "unix:/run/there")
        );
        for bad in ["there", "=unix:/x", "there=nothing", "a_b=unix:/x"] {
            assert!(peer_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn permissions_are_octal_and_no_more_than_permissions() {
        assert_eq!((mode("600"), mode("0660")), (Ok(0o600), Ok(0o660)));
        for bad in ["", "888", "1777", "+600", "rw"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
