//! What a VM is made of: memory, programs, and its place in a network of VMs.
//!
//! The network is a hub in one VM's QEMU; the others hang on it by Unix sockets, and this machine reaches one of their
//! ports. Nothing of it needs root or changes this machine's own network.

use std::path::{Path, PathBuf};

/// Ethernet addresses begin with this; the last octet of the IPv4 address ends them.
const MAC: &str = "52:54:00:77:00";

/// A VM to boot.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// MiB.
    pub memory: u32,
    /// What runs in it besides what this machine has installed: programs of this workspace.
    pub programs: &'static [&'static str],
    /// Its network card.
    pub card: Option<Card>,
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
    /// A hub of this VM's own, with a place for this machine, which reaches one TCP port of the card.
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
        let mut netdevs = match &self.socket {
            Socket::Hub { places, forward } => self.hub(places, *forward),
            Socket::Place(path) => vec![format!("stream,id=card,server=off,{}", unix(path))],
        };
        let mut arguments: Vec<String> = netdevs.drain(..).flat_map(|one| ["-netdev".into(), one]).collect();
        let device = format!("virtio-net-pci,netdev=card,mac={MAC}:{:02x},romfile=", self.host);
        arguments.extend(["-device".into(), device]);
        arguments
    }

    fn hub(&self, places: &[PathBuf], forward: u16) -> Vec<String> {
        let net = Self::NET;
        let rule = format!("hostfwd=tcp:127.0.0.1:0-{}:{forward}", self.address());
        let user = format!("user,id=outside,restrict=on,net={net}.0/24,host={net}.254,dns={net}.253,{rule}");
        let mut netdevs = vec!["hubport,id=card,hubid=0".into(), user];
        netdevs.push("hubport,id=to-outside,hubid=0,netdev=outside".into());
        for (index, path) in places.iter().enumerate() {
            netdevs.push(format!("stream,id=place{index},server=on,{}", unix(path)));
            netdevs.push(format!("hubport,id=to-place{index},hubid=0,netdev=place{index}"));
        }
        netdevs
    }
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
        let told = "Hub 0 (to-outside):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 40123      10.77.0.1  3260     0     0\n";
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
