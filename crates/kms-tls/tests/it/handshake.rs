//! Handshakes in memory: what is accepted, and what a refusal says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use kms_core::{Error, ErrorKind, Retry};
use kms_tls::{
    Handshakes, Identity, Roots, SettingNames, TlsOptions, crypto, fault::fault, pem::certificates,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    AlertDescription, ClientConnection, ServerConfig, ServerConnection, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

const NAMES: SettingNames = SettingNames::new("X_CA", "X_CERT", "X_NAME", "X_ADDR");
const HOST: &str = "server.test";

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of `issuer`, or a self-signed one, with its key.
fn issued(params: &CertificateParams, issuer: Option<&CertifiedIssuer<'_, KeyPair>>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    (certificate.pem(), key.serialize_pem())
}

fn trusting(pem: &str) -> TlsOptions {
    let mut options = TlsOptions::named(NAMES);
    options.roots = Roots::Only(certificates(pem.as_bytes()).unwrap());
    options
}

/// The configuration of a server; with `client_ca` it demands a client certificate.
fn server((chain, key): &(String, String), client_ca: Option<&str>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_ca {
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(
                CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap),
            );
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
}

/// Performs a handshake; returns whether the server's certificate was pinned, or the error of the client.
fn connect(options: &TlsOptions, server: ServerConfig, host: &str) -> Result<bool, Error> {
    let tls = options.tls()?;
    let host = host.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(&tls.config), host).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let explain = |cause: rustls::Error| fault(&cause, &tls.handshakes, Retry::Never);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            // Its alert tells the client.
            let _ = server.process_new_packets();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(explain)?;
        }
    }
    assert!(!client.is_handshaking());
    Ok(tls.handshakes.is_pinned())
}

#[track_caller]
fn refused(options: &TlsOptions, server: ServerConfig, host: &str, kind: ErrorKind, parts: &[&str]) {
    let error = connect(options, server, host).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    for unwanted in ["OtherError", "webpki", "1.2.840", "[6, 9"] {
        assert!(!text.contains(unwanted), "{text}");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(!source.contains(unwanted), "{source}");
    }
}

#[test]
fn the_servers_own_certificate_is_accepted_if_the_settings_name_it() {
    // As `openssl req -x509` makes it.
    let mut own = params("own", &[HOST]);
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = issued(&own, None);
    assert!(connect(&trusting(&own.0), server(&own, None), HOST).unwrap());
    // A self-signed one that is no CA, and one of a CA that is not named.
    let plain = issued(&params("plain", &[HOST]), None);
    assert!(connect(&trusting(&plain.0), server(&plain, None), HOST).unwrap());
    let authority = ca("authority");
    let leaf = issued(&params("leaf", &[HOST]), Some(&authority));
    assert!(connect(&trusting(&leaf.0), server(&leaf, None), HOST).unwrap());
    assert!(!connect(&trusting(&authority.pem()), server(&leaf, None), HOST).unwrap());
}

#[test]
fn a_pinned_certificate_is_checked_for_name_dates_purpose_and_key() {
    let own = issued(&params("own", &[HOST]), None);
    let invalid = ErrorKind::ConfigInvalid;
    refused(
        &trusting(&own.0),
        server(&own, None),
        "other.test",
        invalid,
        &["other names: server.test", "X_NAME"],
    );
    let mut old = params("old", &[HOST]);
    old.not_after = date_time_ymd(2021, 1, 1);
    let old = issued(&old, None);
    refused(&trusting(&old.0), server(&old, None), HOST, invalid, &["CN=old", "ended on 2021-01-01"]);
    let mut early = params("early", &[HOST]);
    early.not_before = date_time_ymd(2110, 1, 1);
    let early = issued(&early, None);
    refused(&trusting(&early.0), server(&early, None), HOST, invalid, &["begins on 2110-01-01", "clock"]);
    let mut client = params("client", &[HOST]);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = issued(&client, None);
    refused(&trusting(&client.0), server(&client, None), HOST, invalid, &["not for servers"]);
    // Another certificate of the same name and issuer is not the pinned one.
    let twin = issued(&params("own", &[HOST]), None);
    refused(&trusting(&own.0), server(&twin, None), HOST, invalid, &["self-signed", "X_CA holds \"CN=own\""]);
}

#[test]
fn a_pinned_certificate_vouches_for_no_other() {
    // A server's certificate and key must not suffice to issue certificates for other servers.
    let key = KeyPair::generate().unwrap();
    let pinned = params("pinned", &[HOST]);
    let pem = pinned.self_signed(&key).unwrap().pem();
    let issuer = CertifiedIssuer::self_signed(pinned, key).unwrap();
    let forged = issued(&params("forged", &["other.test"]), Some(&issuer));
    let parts = ["issued by \"CN=pinned\"", "CA:FALSE", "X_CA"];
    refused(&trusting(&pem), server(&forged, None), "other.test", ErrorKind::ConfigInvalid, &parts);
}

#[test]
fn a_ca_certificate_of_another_server_is_refused_with_what_to_do() {
    let authority = ca("authority");
    let mut own = params("own", &[HOST]);
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = issued(&own, Some(&authority));
    let parts = ["\"CN=own\" is a CA certificate (CA:TRUE)", "exactly this certificate in X_CA"];
    refused(&trusting(&authority.pem()), server(&own, None), HOST, ErrorKind::ConfigInvalid, &parts);
    let both = authority.pem() + &own.0;
    assert!(connect(&trusting(&both), server(&own, None), HOST).unwrap());
}

#[test]
fn each_refusal_names_what_was_presented_and_expected() {
    let (authority, other) = (ca("authority"), ca("other"));
    let leaf = issued(&params("leaf", &[HOST, "second.test"]), Some(&authority));
    let invalid = ErrorKind::ConfigInvalid;
    let parts = ["\"CN=leaf\" is issued by \"CN=authority\"", "X_CA holds \"CN=other\""];
    refused(&trusting(&other.pem()), server(&leaf, None), HOST, invalid, &parts);
    let parts = ["other names: server.test, second.test", "needs \"third.test\"", "X_ADDR", "X_NAME"];
    refused(&trusting(&authority.pem()), server(&leaf, None), "third.test", invalid, &parts);
    let nameless = issued(&params("nameless", &[]), Some(&authority));
    let parts = ["subjectAltName", "CN=nameless", HOST];
    refused(&trusting(&authority.pem()), server(&nameless, None), HOST, invalid, &parts);
    let mut old = params("old", &[HOST]);
    old.not_after = date_time_ymd(2021, 1, 1);
    let old = issued(&old, Some(&authority));
    refused(
        &trusting(&authority.pem()),
        server(&old, None),
        HOST,
        invalid,
        &["\"CN=old\" ended on 2021-01-01"],
    );
    // A CA of the same name with another key.
    let parts = ["CN=authority", "new key"];
    refused(&trusting(&ca("authority").pem()), server(&leaf, None), HOST, invalid, &parts);
}

#[test]
fn only_a_refused_credential_is_unauthenticated() {
    let (authority, other) = (ca("authority"), ca("other"));
    let leaf = issued(&params("leaf", &[HOST]), Some(&authority));
    let options = trusting(&authority.pem());
    let asking = || server(&leaf, Some(&authority.pem()));
    let denied = ErrorKind::Unauthenticated;
    refused(&options, asking(), HOST, denied, &["asks for a client certificate; set X_CERT"]);
    let (certificate, key) = issued(&params("client", &[]), Some(&other));
    let mut unknown = options.clone();
    unknown.identity = Some(Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap());
    refused(&unknown, asking(), HOST, denied, &["X_CERT is signed by a CA that it does not know"]);
    let (certificate, key) = issued(&params("client", &[]), Some(&authority));
    let mut known = options;
    known.identity = Some(Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap());
    connect(&known, asking(), HOST).unwrap();
}

#[test]
fn faults_of_the_handshake_do_not_blame_the_credential() {
    use AlertDescription as Alert;
    for (alert, kind, part) in [
        (
            Alert::HandshakeFailure,
            ErrorKind::Protocol,
            "no cipher suite, key exchange or signature in common",
        ),
        (Alert::InsufficientSecurity, ErrorKind::Protocol, "no cipher suite"),
        (Alert::ProtocolVersion, ErrorKind::Protocol, "TLS 1.3 and 1.2"),
        (Alert::UnrecognisedName, ErrorKind::ConfigInvalid, "server name"),
        (Alert::InternalError, ErrorKind::Unavailable, "internal error"),
        (Alert::CertificateRequired, ErrorKind::Unauthenticated, "asks for a client certificate"),
    ] {
        let error = fault(&rustls::Error::AlertReceived(alert), &Handshakes::default(), Retry::Never);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let incompatible = rustls::Error::PeerIncompatible(rustls::PeerIncompatible::NoCipherSuitesInCommon);
    let error = fault(&incompatible, &Handshakes::default(), Retry::Never);
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}
