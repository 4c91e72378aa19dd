//! Certificates in all supported forms authenticate; the builder refuses all others before any request.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{Setup, key, secret};
use kms_core::{ErrorKind, Freshness, KmsProvider};
use kms_testkit::fake::azure::Azure;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../certificates/", $name)).as_slice()
    };
}

/// The double with a key, where Entra ID knows this certificate in place of the usual one.
async fn double(certificate: &[u8]) -> Azure {
    let double = Azure::start().await.unwrap();
    double.plant(&secret("a"), "YWJj");
    let certificate = String::from_utf8(certificate.to_vec()).unwrap();
    double.switch(|switches| switches.certificate = Some(certificate));
    double
}

#[tokio::test]
async fn every_form_of_a_certificate_signs_in() {
    let (cert, pkey, other) = (file!("cert.pem"), file!("key.pem"), file!("other-cert.pem"));
    let crlf = String::from_utf8([pkey, cert].concat()).unwrap().replace('\n', "\r\n").into_bytes();
    let rsa = double(cert).await;
    let ec = double(file!("ec-cert.pem")).await;
    for (what, double, bytes) in [
        ("certificate, key", &rsa, [cert, pkey].concat()),
        ("key, certificate", &rsa, [pkey, cert].concat()),
        ("a chain around the key", &rsa, [other, pkey, cert].concat()),
        ("PKCS#1", &rsa, [cert, file!("key-pkcs1.pem")].concat()),
        ("CRLF", &rsa, crlf),
        ("trailing junk", &rsa, [pkey, cert, b"\njunk\n"].concat()),
        ("encrypted PEM", &rsa, [cert, file!("key-encrypted.pem")].concat()),
        ("PKCS#12, old", &rsa, file!("legacy.p12").to_vec()),
        ("PKCS#12, new", &rsa, file!("modern.p12").to_vec()),
        ("PKCS#12, not encrypted", &rsa, file!("none-mac.p12").to_vec()),
        ("EC", &ec, [file!("ec-cert.pem"), file!("ec-key.pem")].concat()),
        ("EC, SEC1", &ec, [file!("ec-key-sec1.pem"), file!("ec-cert.pem")].concat()),
        ("EC in PKCS#12", &ec, file!("ec.p12").to_vec()),
    ] {
        for chain in ["false", "true"] {
            let setup = Setup::on(double).certificate(bytes.clone());
            let setup = setup.set("AZURE_CLIENT_CERT_PASSWORD", "canary-password");
            let provider = setup.set("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", chain).build().await;
            let found = provider.get(&key("a"), Freshness::Any).await;
            assert!(found.is_ok(), "{what}: {found:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_sign_in_is_refused_before_anybody_is_asked() {
    let double = double(file!("cert.pem")).await;
    let (cert, pkey) = (file!("cert.pem"), file!("key.pem"));
    for (bytes, why) in [
        ([file!("expired.pem"), pkey].concat(), "has expired on"),
        ([file!("other-cert.pem"), pkey].concat(), "belongs to none of the certificates"),
        ([cert, file!("key-encrypted.pem")].concat(), "is encrypted; set AZURE_CLIENT_CERT_PASSWORD"),
        (file!("modern.p12").to_vec(), "cannot be opened without a password"),
        ([file!("none.p12"), b"junk"].concat(), "is followed by something else"),
        (b"canary".to_vec(), "neither PEM nor PKCS#12"),
    ] {
        let error = Setup::on(&double).certificate(bytes).try_build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        let text = error.to_string();
        for part in ["AZURE_CERT_SECRET_NAME", "\"cert\"", "CLIENT_CERT", why] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    // A valid certificate that Entra ID does not know.
    let stranger = [file!("other-cert.pem"), file!("other-key.pem")].concat();
    let provider = Setup::on(&double).certificate(stranger).build().await;
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.to_string().contains("AADSTS700027"), "{error}");
    assert_eq!(double.counts().issued, 0);
}
