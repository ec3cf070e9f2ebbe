//! A certificate authority for people who have none, and its hosts' certificates.
//!
//! The authority is a key and a self-signed certificate, nothing else: its name is derived from its key, so that a host's
//! certificate can be issued later from these two files alone. A host's certificate has the host's name as its only DNS
//! name and is good for both ends of a link. All keys are ECDSA P-256.

use crate::{HostName, HostNameError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of two hosts may differ.
const LEEWAY: Duration = DAY;
/// A century: beyond it dates of certificates end sooner or later.
pub const MOST_DAYS: u32 = 36_500;

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// The name cannot be in a certificate.
    #[error(transparent)]
    Name(#[from] HostNameError),
    /// Nobody could check it.
    #[error("a certificate is valid for 1 to {MOST_DAYS} days")]
    Days,
    /// The two files do not belong together, the certificate has expired, or it is another program's.
    #[error(
        "this is not the certificate and the key of an authority that `tenure certs ca` made and that is still valid"
    )]
    NotOurAuthority,
    /// The key or the certificate cannot be made.
    #[error("certificate")]
    Make(#[from] rcgen::Error),
}

/// Makes an authority whose certificate is valid for `days` from now.
///
/// # Errors
/// [`CertsError`].
pub fn authority(days: u32) -> Result<Issued, CertsError> {
    let key = KeyPair::generate()?;
    let mut params = authority_params(&key)?;
    set_validity(&mut params, days)?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Issued { certificate, key: key.serialize_pem() })
}

/// Makes the certificate of one host.
///
/// # Errors
/// [`CertsError`].
pub fn host(authority: &Issued, name: &HostName, days: u32) -> Result<Issued, CertsError> {
    let authority_key = KeyPair::from_pem(&authority.key).map_err(|_| CertsError::NotOurAuthority)?;
    let issuer = Issuer::new(authority_params(&authority_key)?, authority_key);
    let key = KeyPair::generate()?;
    let mut params = host_params(name)?;
    set_validity(&mut params, days)?;
    let certificate = params.signed_by(&key, &issuer)?;
    check(&authority.certificate, certificate.der())?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn authority_params(key: &KeyPair) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let id: String = params.key_identifier(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = named(&format!("Tenure authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn host_params(name: &HostName) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::new(vec![name.to_string()])?;
    params.distinguished_name = named(name.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, days: u32) -> Result<(), CertsError> {
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(CertsError::Days);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(LEEWAY);
    params.not_after = epoch + now + DAY * days;
    Ok(())
}

/// Whether hosts that are given this authority will take the certificate now.
fn check(authority: &str, certificate: &CertificateDer<'_>) -> Result<(), CertsError> {
    let wrong = |_| CertsError::NotOurAuthority;
    let authority =
        CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|_| CertsError::NotOurAuthority)?;
    let anchors = [anchor_from_trusted_cert(&authority).map_err(wrong)?];
    let certificate = EndEntityCert::try_from(certificate).map_err(wrong)?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let usage = KeyUsage::client_auth();
    let verified =
        certificate.verify_for_usage(algorithms, &anchors, &[], UnixTime::now(), usage, None, None);
    verified.map(drop).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> HostName {
        "a.example.org".parse().unwrap()
    }

    #[test]
    fn a_host_gets_a_certificate_from_the_two_files_of_its_authority() {
        let authority = authority(10).unwrap();
        let issued = host(&authority, &name(), 5).unwrap();
        assert!(issued.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(issued.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_ne!(host(&authority, &name(), 5).unwrap().key, issued.key);
    }

    #[test]
    fn the_certificate_of_one_authority_and_the_key_of_another_are_refused() {
        let (one, other) = (authority(10).unwrap(), authority(10).unwrap());
        let mixed = Issued { certificate: one.certificate, key: other.key };
        assert!(matches!(host(&mixed, &name(), 5), Err(CertsError::NotOurAuthority)));
    }

    #[test]
    fn a_host_is_no_authority() {
        let authority = authority(10).unwrap();
        let issued = host(&authority, &name(), 5).unwrap();
        assert!(matches!(host(&issued, &name(), 5), Err(CertsError::NotOurAuthority)));
    }

    #[test]
    fn a_certificate_for_no_time_or_for_ever_is_refused() {
        assert!(matches!(authority(0), Err(CertsError::Days)));
        assert!(matches!(authority(MOST_DAYS + 1), Err(CertsError::Days)));
        assert!(authority(MOST_DAYS).is_ok());
    }
}
