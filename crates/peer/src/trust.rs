//! Whom a host believes, and in plain words why not.

use crate::credentials::dns_names;
use crate::{Address, HostName, Terms};
use qmp::CodecError;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};
use std::io;

/// Why one end does not believe the other, or is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It shows none.
    #[error("it shows no certificate")]
    NoCertificate,
    /// Its certificate is of an authority that is not configured here.
    #[error("its certificate is of another authority")]
    OtherAuthority,
    /// It is somebody else.
    #[error("its certificate is for {}", list(.0))]
    OtherName(Vec<String>),
    /// It was valid once.
    #[error("its certificate has expired")]
    Expired,
    /// It will be valid; or a clock is wrong.
    #[error("its certificate is not valid yet; is a clock wrong?")]
    NotYetValid,
    /// Some other fault of the certificate.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// The other end says so of this one.
    #[error("it does not accept this host's certificate: {}", alert(*.0))]
    NotAccepted(AlertDescription),
    /// It is none of the peers.
    #[error("the certificate is for {}, which is none of the configured peers", list(.0))]
    Stranger(Vec<String>),
    /// Which one it is cannot be told.
    #[error("the certificate is for several of the configured peers: {}", list(.0))]
    Ambiguous(Vec<String>),
    /// On this host, as a user who has no say here.
    #[error("it runs as user {0}, not as root or as the user of this agent")]
    User(u32),
    /// It calls itself by a name that is not its own.
    #[error("it calls itself {0}, which it is not, or which is not configured as a peer there")]
    Claim(String),
    /// It does not speak TLS 1.3, or somebody is in between.
    #[error("TLS: {0}")]
    Tls(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
}

fn alert(description: AlertDescription) -> String {
    let words = match description {
        AlertDescription::CertificateRequired => "there is none",
        AlertDescription::UnknownCA => "it is of another authority",
        AlertDescription::CertificateExpired => "it has expired or is not valid yet",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it is not for this name or use"
        }
        _ => return format!("{description:?}"),
    };
    words.to_owned()
}

impl Distrust {
    /// What TLS says, if this error is from there.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::AlertReceived(description) => Self::NotAccepted(*description),
            error => Self::Tls(error.to_string()),
        })
    }

    /// What TLS says, if this error is from there.
    pub(crate) fn of_codec(error: &CodecError) -> Option<Self> {
        if let CodecError::Io(error) = error { Self::of(error) } else { None }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::OtherAuthority,
            CertificateError::NotValidForNameContext { presented, .. } => Self::OtherName(presented.clone()),
            error => Self::Certificate(error.to_string()),
        }
    }
}

/// The name must be in the certificate as it is; one that stands for many names is not enough.
pub(crate) fn check_name(chain: Option<&[CertificateDer<'_>]>, name: &HostName) -> Result<(), Distrust> {
    let names = names(chain);
    if names.iter().any(|found| found == name.as_str()) { Ok(()) } else { Err(Distrust::OtherName(names)) }
}

/// Which of the peers shows this certificate.
pub(crate) fn find_peer(chain: Option<&[CertificateDer<'_>]>, terms: &Terms) -> Result<HostName, Distrust> {
    let names = names(chain);
    let over_tcp = terms.peers.iter().filter(|peer| matches!(peer.address, Address::Tcp(_)));
    let mut found = over_tcp.filter(|peer| names.iter().any(|name| name == peer.name.as_str()));
    match (found.next(), found.next()) {
        (Some(peer), None) => Ok(peer.name.clone()),
        (None, _) => Err(Distrust::Stranger(names)),
        (Some(_), Some(_)) => Err(Distrust::Ambiguous(names)),
    }
}

fn names(chain: Option<&[CertificateDer<'_>]>) -> Vec<String> {
    chain.and_then(<[_]>::first).map(dns_names).unwrap_or_default()
}
