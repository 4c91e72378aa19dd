//! Certificates and keys as files hold them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kms_core::ErrorKind;
use kms_tls::{Identity, Roots, TlsOptions, pem::certificates};
use rustls_pki_types::CertificateDer;

fn made() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_certificate_and_its_key_make_an_identity_in_any_order() {
    let (certificate, key) = made();
    Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let both = format!("{key}\r\ntext between\n{certificate}").replace('\n', "\r\n");
    let identity = Identity::from_pem(both.as_bytes(), both.as_bytes()).unwrap();
    assert_eq!(format!("{identity:?}"), "Identity(..)");
    assert!(identity.certificate().is_some());
    // Go goes by the content of a key, not by its label.
    for label in ["EC PRIVATE KEY", "RSA PRIVATE KEY", "ANY PRIVATE KEY"] {
        let key = key.replace("PRIVATE KEY", label);
        Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    }
}

/// A key that is encrypted in each of the two ways: PKCS#8, and the old form of OpenSSL (SEC1).
const ENCRYPTED: [&str; 2] = [
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIHsMFcGCSqG\n-----END ENCRYPTED PRIVATE KEY-----\n",
    "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0A1B\n\nMIHsMFcGCSqG\n\
     -----END EC PRIVATE KEY-----\n",
];

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let ((certificate, key), (_, other)) = (made(), made());
    let binary = "\x30\u{80}";
    for (certificate, key, why) in [
        (certificate.as_str(), other.as_str(), "do not belong together"),
        (key.as_str(), key.as_str(), "no certificate found"),
        (certificate.as_str(), certificate.as_str(), "no private key found"),
        ("", key.as_str(), "no certificate found"),
        ("garbage", key.as_str(), "no certificate found"),
        (&certificate.replace("MII", "!!!"), key.as_str(), "damaged"),
        (&certificate, &key.replace("MIG", "!!!"), "damaged"),
        (&certificate, &key[..80], "damaged"),
        (&certificate, ENCRYPTED[0], "is encrypted"),
        (&certificate, ENCRYPTED[1], "is encrypted"),
        (&certificate, binary, "DER"),
        (&certificate.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), &key, "TRUSTED"),
    ] {
        let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
}

#[test]
fn a_bundle_with_damaged_or_foreign_blocks_gives_the_other_certificates() {
    let ((one, key), (two, _)) = (made(), made());
    let damaged = one.replace("MII", "!!!");
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    let foreign = "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n";
    for bundle in [
        format!("{damaged}{one}{two}"),
        format!("{one}{damaged}{two}"),
        format!("{cut}{one}{two}{cut}"),
        format!("{foreign}{one}# text\n{key}{two}"),
        format!("\u{feff}{one}{two}"),
    ] {
        assert_eq!(certificates(bundle.as_bytes()).unwrap().len(), 2, "{bundle}");
    }
    let mut options = TlsOptions::new();
    let mut roots = certificates(one.as_bytes()).unwrap();
    // A block of valid base64 that is no certificate.
    roots.insert(0, CertificateDer::from(b"not DER".to_vec()));
    options.roots = Roots::Only(roots);
    options.tls().unwrap();
}

#[test]
fn roots_that_are_all_malformed_are_refused() {
    let mut options = TlsOptions::new();
    options.roots = Roots::Only(vec![CertificateDer::from(b"not DER".to_vec())]);
    assert_eq!(options.tls().unwrap_err().kind(), ErrorKind::ConfigInvalid);
}
