//! Where a peer is: `HOST:PORT`, or `unix:PATH` for a second agent on this host.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TLS over TCP: `HOST:PORT`, as the system's resolver takes it.
    Tcp(String),
    /// A Unix socket by its absolute path.
    Unix(PathBuf),
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: give HOST:PORT, or unix:/PATH for an agent on this host")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.chars().take(200).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(wrong()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let is_port = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
        let bracketed = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || !bracketed || !is_port || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["b.example.org:4434", "192.0.2.1:0", "[2001:db8::1]:4434", "unix:/run/tenure/b"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        for text in ["", "b", ":4434", "b:", "b:+1", "b:65536", "2001:db8::1:4434", "unix:b", "unix:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
