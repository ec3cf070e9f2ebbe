//! `tenure device`.

use super::device_verb::DeviceVerb;
use clap::{Args, ValueEnum};
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
    /// runs [default: the sockets' file names, up to the first dot]
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// A LUN, the same for all guests: file=PATH[,size=SIZE], block=PATH or memory=SIZE, then
    /// [,direct=on|off][,reservations=DIR][,profile=NAME][,delay=DURATION]; /dev/sdX or /dev/sgN, for one guest; or
    /// iscsi://HOST[:PORT]/IQN/LUN[?initiator=IQN&isid=HEX12], by default as the guest's own initiator port.
    /// Each with [,migrate-pr=on|off]. LUNs count from 0 in the order given
    #[arg(long = "lun", value_name = "SPEC", required_unless_present = "print_capabilities")]
    pub luns: Vec<String>,
    /// Where to keep what guests register with /dev/… and iscsi:// LUNs; `tenure status` reads it
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
    /// A control socket, in QMP's form: query-device, lun-add, lun-remove
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
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
      --lun iscsi://192.0.2.9/iqn.2026-11.example:disk/0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_and_no_more_than_permissions() {
        assert_eq!((mode("600"), mode("0660")), (Ok(0o600), Ok(0o660)));
        for bad in ["", "888", "1777", "+600", "rw"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
