//! What a VM is made of: memory, programs, and its place in a network of VMs.
//!
//! The network is a hub in one VM's QEMU; the others hang on it by Unix sockets. That VM has a second card, by which this
//! machine reaches one of its ports. Nothing of it needs root or changes this machine's own network.

use std::path::{Path, PathBuf};

/// Ethernet addresses begin with this; the last octet of the IPv4 address ends them.
const MAC: &str = "52:54:00:77:00";

/// Address of the second card, and of this machine as it sees it.
const OUTSIDE: &str = "10.78.0.1";
const OUTSIDE_HOST: &str = "10.78.0.254";

/// A VM to boot.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// MiB.
    pub memory: u32,
    /// Processors.
    pub processors: u8,
    /// What runs in it besides what this machine has installed: programs of this workspace.
    pub programs: &'static [&'static str],
    /// Its network card.
    pub card: Option<Card>,
    /// Where a vhost-user device gives it SCSI disks; or a file, which QEMU's own SCSI disk is then. Its memory is shared.
    pub disks: Option<PathBuf>,
}

/// A network card with an IPv4 address in [`Card::NET`].
#[derive(Clone, Debug)]
pub struct Card {
    /// Last octet of the address.
    pub host: u8,
    /// What it is plugged into.
    pub socket: Socket,
}

/// The other end of the wire.
#[derive(Clone, Debug)]
pub enum Socket {
    /// A hub of this VM's own; and a second card, of which this machine reaches one TCP port.
    Hub {
        /// Where QEMU listens for the other VMs' cards.
        places: Vec<PathBuf>,
        /// The port.
        forward: u16,
    },
    /// A place at another VM's hub.
    Place(PathBuf),
}

impl Card {
    /// The first three octets of every address.
    const NET: &str = "10.77.0";

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}.{}", Self::NET, self.host)
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |kind: &str, what: String| words.extend([kind.to_owned(), what]);
        match &self.socket {
            Socket::Place(path) => add("-netdev", format!("stream,id=card,server=off,{}", unix(path))),
            Socket::Hub { places, .. } => {
                hub(places).into_iter().for_each(|netdev| add("-netdev", netdev));
            }
        }
        add("-device", format!("virtio-net-pci,netdev=card,mac={MAC}:{:02x},romfile=", self.host));
        if let Socket::Hub { forward, .. } = self.socket {
            // Not on the hub: it would answer for everybody there.
            let rule = format!("hostfwd=tcp:127.0.0.1:0-{OUTSIDE}:{forward}");
            add(
                "-netdev",
                format!("user,id=outside,restrict=on,net={OUTSIDE}/24,host={OUTSIDE_HOST},{rule}"),
            );
            add("-device", format!("virtio-net-pci,netdev=outside,mac={MAC}:ff,romfile="));
        }
        words
    }

    /// What the kernel's command line says of it.
    pub(crate) fn append(&self) -> String {
        let first = format!(" lab.eth0={}", self.address());
        match self.socket {
            Socket::Hub { .. } => format!("{first} lab.eth1={OUTSIDE}"),
            Socket::Place(_) => first,
        }
    }
}

/// Between two attempts to reach a device that died, in ms.
const RECONNECT: &str = ",reconnect-ms=100";

/// QEMU's arguments for memory of so many MiB and the disks of a vhost-user device, all of its properties as they are by default; the
/// socket's too, unless this QEMU can connect again. Where there is a file, for a disk of its own.
pub(crate) fn shared(memory: u32, disks: &Path, reconnects: bool) -> Vec<String> {
    let mut all = vec![
        ("-object", format!("memory-backend-memfd,id=ram,size={memory}M,share=on")),
        ("-machine", "memory-backend=ram".to_owned()),
    ];
    let path = disks.display();
    if disks.is_file() {
        let drive = format!("if=none,id=disk,file={path},format=raw,cache=none,aio=io_uring");
        all.push(("-drive", drive));
        all.push(("-device", "virtio-scsi-pci,id=scsi,num_queues=2".to_owned()));
        all.push(("-device", "scsi-hd,drive=disk,bus=scsi.0".to_owned()));
    } else {
        let again = if reconnects { RECONNECT } else { "" };
        all.push(("-chardev", format!("socket,id=disks,path={path}{again}")));
        all.push(("-device", "vhost-user-scsi-pci,chardev=disks,num_queues=2".to_owned()));
    }
    all.into_iter().flat_map(|(kind, what)| [kind.to_owned(), what]).collect()
}

fn hub(places: &[PathBuf]) -> Vec<String> {
    let mut netdevs = vec!["hubport,id=card,hubid=0".to_owned()];
    for (index, path) in places.iter().enumerate() {
        netdevs.push(format!("stream,id=place{index},server=on,{}", unix(path)));
        netdevs.push(format!("hubport,id=to-place{index},hubid=0,netdev=place{index}"));
    }
    netdevs
}

fn unix(path: &Path) -> String {
    format!("addr.type=unix,addr.path={}", path.display())
}

/// The port of this machine that `info usernet` tells for a forwarded port of the VM.
pub(crate) fn forwarded(told: &str, port: u16) -> Option<u16> {
    let port = port.to_string();
    told.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, _, _, here, _, there, ..] = words.as_slice() else { return None };
        (kind.contains("HOST_FORWARD") && *there == port).then(|| here.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_qemu_chose_is_found() {
        let told = "outside:\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 40123      10.78.0.1  3260     0     0\n";
        assert_eq!(forwarded(told, 3260), Some(40123));
        assert_eq!(forwarded(told, 80), None);
        assert_eq!(forwarded("", 3260), None);
    }

    #[test]
    fn every_place_is_plugged_into_the_hub() {
        let socket = Socket::Hub { places: vec!["/a".into(), "/b".into()], forward: 3260 };
        let text = Card { host: 1, socket }.arguments().join(" ");
        for place in 0..2 {
            assert!(text.contains(&format!("hubid=0,netdev=place{place}")), "{text}");
        }
        let leaf = Card { host: 11, socket: Socket::Place("/a".into()) };
        assert_eq!(leaf.address(), "10.77.0.11");
        assert!(leaf.arguments().join(" ").contains("mac=52:54:00:77:00:0b"));
    }
}
