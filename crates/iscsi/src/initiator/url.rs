//! `iscsi://[user[%password]@]HOST[:PORT]/IQN/LUN?initiator=IQN&isid=HEX12`: how a person names one I_T nexus.
//! The form is libiscsi's and QEMU's with the nexus identity added. Used by the command line.

use super::SessionConfig;
use crate::login::{Chap, Credentials};
use scsi::{IscsiName, IscsiNameTextError, Isid};
use std::fmt;
use std::str::FromStr;

/// The port that IANA gave iSCSI.
pub const DEFAULT_PORT: u16 = 3260;

/// A logical unit behind an iSCSI target, and as whom to go there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUrl {
    /// Name or address of the portal; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Target name.
    pub target: IscsiName,
    /// Logical unit number.
    pub lun: u64,
    /// CHAP user and secret.
    pub credentials: Option<Credentials>,
    /// Initiator name; the caller has a default.
    pub initiator: Option<IscsiName>,
    /// ISID; the caller has a default.
    pub isid: Option<Isid>,
}

/// What is wrong with an iSCSI URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("an iSCSI URL starts with iscsi://")]
    Scheme,
    /// The parts between the slashes are not HOST/IQN/LUN.
    #[error("an iSCSI URL has the form iscsi://HOST[:PORT]/IQN/LUN?initiator=IQN&isid=HEX12")]
    Shape,
    /// The host is empty or its brackets are.
    #[error("the iSCSI URL has no proper host")]
    Host,
    /// The port is not 1 to 65535.
    #[error("the iSCSI URL has a bad port {0:?}")]
    Port(String),
    /// A target or initiator name that is no iSCSI name.
    #[error("{:?} is no name: {}", .0, IscsiNameTextError)]
    Name(String),
    /// The LUN is not a number below 2^24.
    #[error("the iSCSI URL has a bad LUN {0:?}")]
    Lun(String),
    /// The ISID is not twelve hexadecimal digits.
    #[error("the iSCSI URL has a bad isid {0:?}: twelve hexadecimal digits are needed")]
    Isid(String),
    /// A parameter nobody knows, or one that stands there twice.
    #[error("the iSCSI URL has an unknown or repeated parameter {0:?}")]
    Parameter(String),
    /// A user without `%password`.
    #[error("the iSCSI URL names a user without a password: write user%password@")]
    Password,
}

impl IscsiUrl {
    /// The session that this URL asks for; `initiator` and `isid` stand in where it names none.
    #[must_use]
    pub fn session(&self, initiator: &IscsiName, isid: Isid) -> SessionConfig {
        let initiator = self.initiator.as_ref().unwrap_or(initiator).clone();
        let mut config =
            SessionConfig::new(self.portal(), self.target.clone(), initiator, self.isid.unwrap_or(isid));
        config.chap =
            self.credentials.clone().map(|credentials| Chap { initiator: credentials, target: None });
        config
    }

    /// `HOST:PORT`, an IPv6 address in brackets.
    #[must_use]
    pub fn portal(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn parse_query(&mut self, query: &str) -> Result<(), UrlError> {
        for item in query.split('&').filter(|item| !item.is_empty()) {
            match item.split_once('=') {
                Some(("initiator", value)) if self.initiator.is_none() => self.initiator = Some(name(value)?),
                Some(("isid", value)) if self.isid.is_none() => {
                    self.isid = Some(Isid::from_hex(value).ok_or_else(|| UrlError::Isid(value.to_owned()))?);
                }
                _ => return Err(UrlError::Parameter(item.to_owned())),
            }
        }
        Ok(())
    }
}

impl FromStr for IscsiUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("iscsi://").ok_or(UrlError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A secret may hold slashes: the authority ends at the last '@', if there is one.
        let (user, address) = match path.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, path),
        };
        let mut parts = address.split('/');
        let (Some(authority), Some(target), Some(lun), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(UrlError::Shape);
        };
        let (host, port) = parse_authority(authority)?;
        let credentials = user.map(parse_credentials).transpose()?;
        let (target, lun) = (name(target)?, parse_lun(lun)?);
        let mut url = Self { host, port, target, lun, credentials, initiator: None, isid: None };
        url.parse_query(query)?;
        Ok(url)
    }
}

fn name(text: &str) -> Result<IscsiName, UrlError> {
    text.parse().map_err(|_: IscsiNameTextError| UrlError::Name(text.to_owned()))
}

fn parse_lun(text: &str) -> Result<u64, UrlError> {
    text.parse().ok().filter(|lun| *lun < 1 << 24).ok_or_else(|| UrlError::Lun(text.to_owned()))
}

fn parse_credentials(text: &str) -> Result<Credentials, UrlError> {
    let (user, secret) = text.split_once('%').ok_or(UrlError::Password)?;
    if user.is_empty() || secret.is_empty() {
        return Err(UrlError::Password);
    }
    Ok(Credentials { user: user.to_owned(), secret: secret.to_owned() })
}

fn parse_authority(text: &str) -> Result<(String, u16), UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::Host)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = match port {
        "" => DEFAULT_PORT,
        _ => parse_port(port).ok_or_else(|| UrlError::Port(port.to_owned()))?,
    };
    Ok((host.to_owned(), port))
}

fn parse_port(text: &str) -> Option<u16> {
    text.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)
}

/// The URL again; a secret is shown as `***`, so that logs can hold URLs.
impl fmt::Display for IscsiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("iscsi://")?;
        if let Some(credentials) = &self.credentials {
            write!(f, "{}%***@", credentials.user)?;
        }
        write!(f, "{}/{}/{}", self.portal(), self.target, self.lun)?;
        let initiator = self.initiator.as_ref().map(|name| format!("initiator={name}"));
        let isid = self.isid.map(|isid| format!("isid={isid}"));
        let query: Vec<_> = initiator.into_iter().chain(isid).collect();
        if query.is_empty() { Ok(()) } else { write!(f, "?{}", query.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<IscsiUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn the_full_form_is_read() {
        let url =
            parse("iscsi://u%p/w@[::1]:3261/iqn.2026-01.x:t/7?initiator=iqn.2026-01.x:i&isid=00023d000001")
                .unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("::1", 3261, 7));
        assert_eq!(url.credentials, Some(Credentials { user: "u".into(), secret: "p/w".into() }));
        assert_eq!(url.isid, Some(Isid([0, 2, 0x3D, 0, 0, 1])));
        assert_eq!(url.portal(), "[::1]:3261");
        let config = url.session(&IscsiName::new("iqn.2026-01.x:other").unwrap(), Isid([9; 6]));
        assert_eq!(
            (config.initiator.as_str(), config.isid),
            ("iqn.2026-01.x:i", Isid([0, 2, 0x3D, 0, 0, 1]))
        );
    }

    #[test]
    fn port_and_nexus_identity_have_defaults() {
        let url = parse("iscsi://storage/iqn.2026-01.x:t/0").unwrap();
        assert_eq!((url.portal().as_str(), &url.initiator, url.isid), ("storage:3260", &None, None));
        let config = url.session(&IscsiName::new("iqn.2026-01.x:other").unwrap(), Isid([9; 6]));
        assert_eq!((config.initiator.as_str(), config.isid), ("iqn.2026-01.x:other", Isid([9; 6])));
    }

    #[test]
    fn each_mistake_has_its_own_message() {
        for (text, error) in [
            ("http://h/iqn.2026-01.x:t/0", UrlError::Scheme),
            ("iscsi://h/iqn.2026-01.x:t", UrlError::Shape),
            ("iscsi://h/iqn.2026-01.x:t/0/1", UrlError::Shape),
            ("iscsi:///iqn.2026-01.x:t/0", UrlError::Host),
            ("iscsi://[::1/iqn.2026-01.x:t/0", UrlError::Host),
            ("iscsi://h:0/iqn.2026-01.x:t/0", UrlError::Port(":0".into())),
            ("iscsi://[::1]x/iqn.2026-01.x:t/0", UrlError::Port("x".into())),
            ("iscsi://h/iqn,t/0", UrlError::Name("iqn,t".into())),
            ("iscsi://h/bad/0", UrlError::Name("bad".into())),
            ("iscsi://h/iqn.2026-01.x:t/0?initiator=garbage", UrlError::Name("garbage".into())),
            ("iscsi://h/iqn.2026-01.x:t/x", UrlError::Lun("x".into())),
            ("iscsi://h/iqn.2026-01.x:t/16777216", UrlError::Lun("16777216".into())),
            ("iscsi://h/iqn.2026-01.x:t/0?isid=12", UrlError::Isid("12".into())),
            ("iscsi://h/iqn.2026-01.x:t/0?color=red", UrlError::Parameter("color=red".into())),
            ("iscsi://u@h/iqn.2026-01.x:t/0", UrlError::Password),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_displayed() {
        assert_eq!(
            parse("iscsi://u%hush@h/iqn.2026-01.x:t/0").unwrap().to_string(),
            "iscsi://u%***@h:3260/iqn.2026-01.x:t/0"
        );
    }

    proptest! {
        #[test]
        fn urls_round_trip(
            host in "[a-z0-9.-]{1,20}|[0-9a-f]{1,4}::[0-9a-f]{1,4}", port in 1u16.., lun in 0u64..1 << 24,
            target in "iqn[.]20[0-9]{2}-0[1-9][.][a-z0-9]{1,20}(:[a-z0-9.:-]{1,40})?", initiator in prop::option::of("iqn[.]20[0-9]{2}-0[1-9][.][a-z0-9]{1,20}(:[a-z0-9.:-]{1,40})?"),
            isid in prop::option::of(any::<[u8; 6]>()),
        ) {
            let url = IscsiUrl {
                host, port, lun, credentials: None, isid: isid.map(Isid),
                target: IscsiName::new(&target).unwrap(),
                initiator: initiator.map(|name| IscsiName::new(&name).unwrap()),
            };
            prop_assert_eq!(parse(&url.to_string()), Ok(url));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = parse(&text);
            let _ = parse(&format!("iscsi://{text}"));
        }
    }
}
