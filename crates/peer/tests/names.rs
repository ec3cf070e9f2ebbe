//! Over TCP nobody is believed without a certificate of the authority, in time, with exactly the expected name.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common;

use common::*;
use peer::certs::Issued;
use peer::{Address, ConnectError, Credentials, Distrust, HostName, Link, Request};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

fn distrust(result: Result<Link, ConnectError>) -> Distrust {
    match result {
        Err(ConnectError::Distrust { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// An authority of the test's own, for certificates that `certs` does not make.
fn odd_authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
}

fn odd(
    authority: &(String, Issuer<'static, KeyPair>),
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, &authority.1).unwrap().pem();
    credentials(&authority.0, &Issued { certificate, key: key.serialize_pem() })
}

#[test]
fn two_hosts_of_one_authority_talk() {
    let authority = Authority::new();
    let host = listen(authority.host("b"));
    let link = connect(&host, Some(authority.host("a"))).unwrap();
    assert_eq!(link.agreed().host, name("b"));
    assert!(matches!(host.next(), Heard::Session(agreed) if agreed.host == name("a")));
    link.call(&Request::Ping, LONG).unwrap();
}

#[test]
fn a_peer_without_a_certificate_is_turned_away() {
    let authority = Authority::new();
    let host = listen(authority.host("b"));
    let Address::Tcp(address) = host.listener.address() else { panic!("TCP") };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.0.certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(config), "b".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, TcpStream::connect(address).unwrap());
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    assert_eq!(host.turned_away(), "it shows no certificate");
}

#[test]
fn without_a_certificate_of_its_own_a_host_does_not_even_try() {
    let authority = Authority::new();
    let error = connect(&listen(authority.host("b")), None).unwrap_err();
    assert_eq!(error.to_string(), "this host has no certificate, and b is reached over TCP");
}

#[test]
fn another_authoritys_certificate_is_refused_at_both_ends() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let host = listen(ours.host("b"));
    assert_eq!(distrust(connect(&host, Some(theirs.host("a")))), Distrust::OtherAuthority);
    host.turned_away();
    // One that takes ours for the authority but shows the other's.
    let issued = peer::certs::host(&theirs.0, &name("a"), 1).unwrap();
    let liar = credentials(&ours.0.certificate, &issued);
    let error = distrust(connect(&host, Some(liar)));
    assert_eq!(error.to_string(), "it does not accept this host's certificate: it is of another authority");
    assert_eq!(host.turned_away(), "its certificate is of another authority");
}

#[test]
fn the_right_authority_but_another_name_is_refused_at_both_ends() {
    let authority = Authority::new();
    let host = listen(authority.host("c"));
    let error = connect(&host, Some(authority.host("a"))).unwrap_err().to_string();
    assert!(error.contains("is not taken for b: its certificate is for"), "{error}");
    assert!(error.contains('c'), "{error}");
    let host = listen(authority.host("b"));
    let error = connect(&host, Some(authority.host("c"))).unwrap_err().to_string();
    assert_eq!(
        error,
        "b turns this host away: the certificate is for c, which is none of the configured peers"
    );
    assert_eq!(host.turned_away(), "the certificate is for c, which is none of the configured peers");
}

#[test]
fn an_expired_certificate_is_refused_at_both_ends() {
    let authority = odd_authority();
    let expire = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let (old_a, old_b) = (odd(&authority, &["a"], expire), odd(&authority, &["b"], expire));
    let (a, b) = (odd(&authority, &["a"], |_| ()), odd(&authority, &["b"], |_| ()));
    assert_eq!(distrust(connect(&listen(old_b), Some(a))), Distrust::Expired);
    let host = listen(b);
    let error = distrust(connect(&host, Some(old_a))).to_string();
    assert_eq!(error, "it does not accept this host's certificate: it has expired or is not valid yet");
    assert_eq!(host.turned_away(), "its certificate has expired");
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let authority = odd_authority();
    let late = odd(&authority, &["b"], |params| params.not_before = date_time_ymd(3000, 1, 1));
    let a = odd(&authority, &["a"], |_| ());
    assert_eq!(distrust(connect(&listen(late), Some(a))), Distrust::NotYetValid);
}

#[test]
fn a_name_that_stands_for_many_is_not_enough() {
    let authority = odd_authority();
    let any = odd(&authority, &["*.example.org"], |_| ());
    let nowhere = any_port();
    let host =
        Host::listen(&any_port(), terms("b.example.org", Some(any.clone()), &[("a.example.org", &nowhere)]));
    let exact = odd(&authority, &["a.example.org"], |_| ());
    let to = [("b.example.org", host.listener.address())];
    let b: HostName = name("b.example.org");
    let error = distrust(Link::connect(&terms("a.example.org", Some(exact), &to), &b));
    assert_eq!(error.to_string(), "its certificate is for *.example.org");
}

#[test]
fn a_certificate_for_several_peers_is_refused() {
    let authority = odd_authority();
    let nowhere = any_port();
    let b = odd(&authority, &["b"], |_| ());
    let host = Host::listen(&any_port(), terms("b", Some(b), &[("a", &nowhere), ("c", &nowhere)]));
    let both = odd(&authority, &["a", "c"], |_| ());
    let error = connect(&host, Some(both)).unwrap_err().to_string();
    assert!(error.ends_with("the certificate is for several of the configured peers: a, c"), "{error}");
}

#[test]
fn a_peer_that_calls_itself_otherwise_is_refused() {
    let authority = Authority::new();
    let host = listen(authority.host("b"));
    let to = [("b", host.listener.address())];
    let error = Link::connect(&terms("c", Some(authority.host("a")), &to), &name("b")).unwrap_err();
    assert!(error.to_string().contains("it calls itself c, which it is not"), "{error}");
}

#[test]
fn plain_text_is_not_answered() {
    let authority = Authority::new();
    let host = listen(authority.host("b"));
    let Address::Tcp(address) = host.listener.address() else { panic!("TCP") };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"{\"execute\": \"negotiate\"}\n").unwrap();
    assert!(host.turned_away().starts_with("TLS: "));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::TempDir::new().unwrap();
    let authority = Authority::new();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("ca.pem"), &authority.0.certificate).unwrap();
    std::fs::write(path("key.pem"), &authority.0.key).unwrap();
    std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let files = peer::Files { authority: path("ca.pem"), certificate: path("ca.pem"), key: path("key.pem") };
    let error = Credentials::load(&files).unwrap_err().to_string();
    assert!(error.contains("a private key must be for its owner alone"), "{error}");
    let none = peer::Files { certificate: path("key.pem"), ..files };
    assert!(Credentials::load(&none).unwrap_err().to_string().contains("there is no certificate in it"));
}
