//! The name of a host among its peers: what its certificate says and every configuration calls it by.

use rustls::pki_types::{DnsName, ServerName};
use std::fmt;
use std::str::FromStr;

/// A DNS name, in lower case. It need not be in any DNS: it is compared with the names in the certificate, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

/// A text that is no [`HostName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name for a host: letters, digits and hyphens, in parts with dots between them")]
pub struct HostNameError(String);

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as TLS wants it.
    pub(crate) fn to_server_name(&self) -> Result<ServerName<'static>, HostNameError> {
        ServerName::try_from(self.0.clone()).map_err(|_| HostNameError(self.0.clone()))
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let wrong = || HostNameError(text.chars().take(80).collect());
        let name = DnsName::try_from(text.to_ascii_lowercase()).map_err(|_| wrong())?;
        // A name of digits and dots alone would be an address to TLS; with a dot at the end it would never be equal.
        let address = matches!(ServerName::try_from(text.to_owned()), Ok(ServerName::IpAddress(_)));
        if address || text.ends_with('.') || text.contains('_') {
            return Err(wrong());
        }
        Ok(Self(name.as_ref().to_owned()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_regard_to_case() {
        assert_eq!("Host-A.Example.ORG".parse::<HostName>().unwrap().as_str(), "host-a.example.org");
    }

    #[test]
    fn what_no_certificate_can_say_exactly_is_no_name() {
        for text in ["", "*.example.org", "a b", "192.0.2.1", "2001:db8::1", "a.", "a..b", "a_b", "-a"] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
    }
}
