//! What a host shows, whom it believes, and how TLS is set up: version 1.3, both ends with a certificate, no resumption.

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No such file is longer.
const LONGEST: u64 = 1 << 20;

/// The three files of a host, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the authorities whose hosts are believed.
    pub authority: PathBuf,
    /// This host's certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key, readable by its owner alone.
    pub key: PathBuf,
}

/// Certificates and key, checked and ready.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    names: Vec<String>,
}

/// Why the files are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could read the key, or replace it.
    #[error("{}: a private key must be for its owner alone (chmod 600)", .0.display())]
    Exposed(PathBuf),
    /// It is not what it should be.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// TLS does not take them together.
    #[error("the certificate, its key and the authority")]
    Tls(#[from] rustls::Error),
    /// TLS does not take the authority.
    #[error("the certificates of the authority")]
    Authority(#[from] VerifierBuilderError),
}

impl Credentials {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn load(files: &Files) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.authority)? {
            roots.add(certificate).map_err(|error| content(&files.authority, &error))?;
        }
        let chain = certificates(&files.certificate)?;
        let names = chain.first().map(dns_names).unwrap_or_default();
        let key = read(&files.key, true)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unreadable(&files.key, &error))?;
        let server = server(roots.clone(), chain.clone(), key.clone_key())?;
        Ok(Self { client: client(roots, chain, key)?, server, names })
    }

    /// The DNS names in this host's own certificate: its name must be one of them.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn client(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, CredentialsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, CredentialsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The DNS names of a certificate, in lower case.
pub(crate) fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map(|parsed| parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()).unwrap_or_default()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = read(path, false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unreadable(path, &error))?;
    if found.is_empty() {
        return Err(content(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn read(path: &Path, private: bool) -> Result<Vec<u8>, CredentialsError> {
    let failed = |source| CredentialsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if private && file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(CredentialsError::Exposed(path.to_owned()));
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(content(path, &"it is longer than any such file"));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &pem::Error) -> CredentialsError {
    match error {
        pem::Error::NoItemsFound => content(path, &"there is no private key in it"),
        error => content(path, error),
    }
}

fn content(path: &Path, what: &impl ToString) -> CredentialsError {
    CredentialsError::Content { path: path.to_owned(), what: what.to_string() }
}
