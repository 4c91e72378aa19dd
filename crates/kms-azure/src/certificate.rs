//! Parses certificate and private key of a service principal from PEM or PKCS#12.

mod file;

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use azure_core::time::OffsetDateTime;
use kms_core::{Error, Result};
use kms_tls::{certificate::public_key, crypto};
use rustls::{SignatureScheme, sign::SigningKey};
use rustls_pki_types::CertificateDer;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::SubjectPublicKeyInfo};

/// How Entra ID lets a key sign: the scheme, its name in an assertion, and the length of half a signature with ECDSA.
///
/// Microsoft's own libraries send RS256. For ECDSA, the curve of the key decides.
pub(crate) const SCHEMES: [(SignatureScheme, &str, usize); 3] = [
    (SignatureScheme::RSA_PKCS1_SHA256, "RS256", 0),
    (SignatureScheme::ECDSA_NISTP256_SHA256, "ES256", 32),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "ES384", 48),
];

/// A certificate and the signer with its private key.
pub(crate) struct Certificate {
    pub(crate) signer: Arc<dyn SigningKey>,
    /// The certificate first, then all others in the file.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) sha1: [u8; 20],
    pub(crate) sha256: [u8; 32],
    /// Seconds since 1970.
    pub(crate) not_after: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signer: _, chain, sha1, sha256: _, not_after } = self;
        f.debug_struct("Certificate")
            .field("thumbprint", &hex(sha1))
            .field("chain", &chain.len())
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Parses a certificate and its key: PEM in any order with any chain, or PKCS#12. Either may be in base64.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid`, with a message of its own for each defect.
    pub(crate) fn parse(bytes: &[u8], password: &str) -> Result<Self> {
        let mut found = file::read(bytes, password)?;
        let key = match found.keys.as_slice() {
            [key] => key,
            [] => return Err(Error::config("the file holds no private key, only certificates")),
            _ => {
                return Err(Error::config(
                    "the file holds several private keys; keep only the one of the certificate",
                ));
            }
        };
        let signer = crypto::signer(key).map_err(|_cause| {
            Error::config(
                "the private key cannot be used: expected RSA of 2,048 bits or more, or EC P-256 or P-384",
            )
        })?;
        if signer.choose_scheme(&SCHEMES.map(|(scheme, ..)| scheme)).is_none() {
            let kind = found.certificates.first().and_then(|der| public_key(der));
            return Err(Error::config(format!(
                "Entra ID accepts keys that are RSA, EC P-256 or EC P-384, and this is {}; create a certificate with such \
                 a key, and upload it to the application",
                kind.as_deref().unwrap_or("of another type")
            )));
        }
        Self::of(signer, std::mem::take(&mut found.certificates), now())
    }

    fn of(
        signer: Arc<dyn SigningKey>,
        mut certificates: Vec<CertificateDer<'static>>,
        now: i64,
    ) -> Result<Self> {
        if certificates.is_empty() {
            return Err(Error::config("the file holds no certificate, only a private key"));
        }
        let public = signer.public_key();
        let public = public.as_ref().and_then(|der| SubjectPublicKeyInfo::from_der(der).ok());
        let public = public.map(|(_, info)| info.subject_public_key.data).unwrap_or_default();
        // A renewed certificate often keeps the key, so use the certificate that matches the key and expires last. The
        // others may be damaged: ignore them, or send them unchanged in the chain.
        let mut best: Option<(usize, i64, i64)> = None;
        let mut damaged = false;
        for (at, certificate) in certificates.iter().enumerate() {
            let Ok((rest, parsed)) = X509Certificate::from_der(certificate) else {
                damaged = true;
                continue;
            };
            damaged |= !rest.is_empty();
            let fits = rest.is_empty() && parsed.public_key().subject_public_key.data == public;
            let (from, to) =
                (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
            if fits && best.is_none_or(|(.., last)| last < to) {
                best = Some((at, from, to));
            }
        }
        let Some((at, not_before, not_after)) = best else {
            return Err(Error::config(if damaged {
                "a certificate in the file is damaged or followed by other data, and the private key matches none of \
                 the others"
            } else {
                "the private key belongs to none of the certificates in the file"
            }));
        };
        if not_after < now {
            return Err(Error::config(format!(
                "the certificate has expired on {}; create a new one and upload it to the application",
                date(not_after)
            )));
        }
        if not_before > now {
            return Err(Error::config(format!(
                "the certificate is not valid before {}; check the clock of this host",
                date(not_before)
            )));
        }
        let leaf = certificates.remove(at);
        let (sha1, sha256) = (Sha1::digest(&leaf).into(), Sha256::digest(&leaf).into());
        certificates.insert(0, leaf);
        Ok(Self { signer, chain: certificates, sha1, sha256, not_after })
    }
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats the day of a time in seconds since 1970.
pub(crate) fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_cause| "an unknown day".to_owned(), |time| time.date().to_string())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!("../tests/certificates/", $name)).as_slice()
        };
    }

    const PASSWORD: &str = "canary-password";

    fn joined(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(bytes.to_vec()).unwrap().replace(from, to).into_bytes()
    }

    #[test]
    fn every_sane_form_is_taken() {
        let (cert, key, other) = (file!("cert.pem"), file!("key.pem"), file!("other-cert.pem"));
        let both = joined(&[cert, key]);
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes).into_bytes();
        let damaged = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".as_slice();
        for (what, bytes, password) in [
            ("certificate, key", both.clone(), ""),
            ("key, certificate", joined(&[key, cert]), ""),
            ("a password that nothing needs", both.clone(), PASSWORD),
            ("chain in any order", joined(&[other, key, cert, other]), ""),
            ("an unreadable certificate of another key", joined(&[damaged, key, cert]), ""),
            ("an expired one of the same key", joined(&[file!("expired.pem"), key, cert]), ""),
            ("PKCS#1", joined(&[cert, file!("key-pkcs1.pem")]), ""),
            ("PKCS#1 first", joined(&[file!("key-pkcs1.pem"), cert]), ""),
            ("encrypted PKCS#8", joined(&[cert, file!("key-encrypted.pem")]), PASSWORD),
            ("encrypted PKCS#8 first", joined(&[file!("key-encrypted.pem"), cert]), PASSWORD),
            ("CRLF", replaced(&both, "\n", "\r\n"), ""),
            ("CR", replaced(&both, "\n", "\r"), ""),
            ("no line break at the end", both.trim_ascii_end().to_vec(), ""),
            ("indented", replaced(&both, "\n", "\n    "), ""),
            ("byte order mark", joined(&[b"\xef\xbb\xbf", key, cert]), ""),
            (
                "text around the blocks",
                joined(&[
                    b"Bag Attributes\n    friendlyName: \xfc\n",
                    key,
                    b"\nsubject=x\n",
                    cert,
                    b"\njunk",
                ]),
                "",
            ),
            ("PEM in base64", base64(&both), ""),
            ("PKCS#12, AES-256", file!("modern.p12").to_vec(), PASSWORD),
            ("PKCS#12, AES-128 and SHA-512", file!("aes128.p12").to_vec(), PASSWORD),
            ("PKCS#12, 3DES and RC2-40", file!("legacy.p12").to_vec(), PASSWORD),
            ("PKCS#12 with a chain", file!("chain.p12").to_vec(), PASSWORD),
            ("PKCS#12 with an empty password", file!("no-password.p12").to_vec(), ""),
            ("PKCS#12 with an empty password, 3DES", file!("legacy-empty.p12").to_vec(), ""),
            ("PKCS#12 without encryption", file!("none.p12").to_vec(), ""),
            ("PKCS#12 without encryption, of Python", file!("py-none.p12").to_vec(), ""),
            ("PKCS#12 of Python", file!("py-best.p12").to_vec(), PASSWORD),
            ("PKCS#12 without encryption, with a MAC", file!("none-mac.p12").to_vec(), PASSWORD),
            ("PKCS#12 without encryption and MAC", file!("nomac.p12").to_vec(), ""),
            ("PKCS#12 in base64", base64(file!("modern.p12")), PASSWORD),
            ("PKCS#12 with a line break behind it", joined(&[file!("modern.p12"), b"\n"]), PASSWORD),
        ] {
            let found =
                Certificate::parse(&bytes, password).unwrap_or_else(|error| panic!("{what}: {error}"));
            let expected = CertificateDer::from_pem_slice(cert).unwrap();
            assert_eq!(found.chain.first(), Some(&expected), "{what}");
            assert_eq!(found.sha1, <[u8; 20]>::from(Sha1::digest(&expected)), "{what}");
            assert!(!format!("{found:?}").contains("canary"));
        }
        for (bytes, password) in [
            (joined(&[file!("ec-cert.pem"), file!("ec-key.pem")]), ""),
            (joined(&[file!("ec-key-sec1.pem"), file!("ec-cert.pem")]), ""),
            (file!("ec.p12").to_vec(), PASSWORD),
        ] {
            let found = Certificate::parse(&bytes, password).unwrap();
            assert!(found.signer.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_own_reason() {
        let (cert, key) = (file!("cert.pem"), file!("key.pem"));
        let modern = file!("modern.p12");
        let mut seen = std::collections::BTreeSet::new();
        for (bytes, password, why) in [
            (joined(&[cert, file!("key-encrypted.pem")]), "", "is encrypted; set AZURE_CLIENT_CERT_PASSWORD"),
            (
                joined(&[cert, file!("key-encrypted.pem")]),
                "wrong",
                "cannot be opened with AZURE_CLIENT_CERT_PASSWORD",
            ),
            (joined(&[cert, file!("key-encrypted-old.pem")]), PASSWORD, "old form of OpenSSL"),
            (joined(&[file!("expired.pem"), key]), "", "expired on 20"),
            (joined(&[file!("other-cert.pem"), key]), "", "belongs to none"),
            (cert.to_vec(), "", "no private key"),
            (key.to_vec(), "", "no certificate"),
            (joined(&[cert, key, file!("other-key.pem")]), "", "several"),
            (joined(&[cert, key.get(..900).unwrap()]), "", "PEM text is damaged"),
            (modern.to_vec(), "", "without a password"),
            (modern.to_vec(), "wrong", "file cannot be opened with AZURE_CLIENT_CERT_PASSWORD"),
            (modern.get(..900).unwrap().to_vec(), PASSWORD, "cut off"),
            (file!("rc2-128.p12").to_vec(), PASSWORD, "AES-256 or 3DES"),
            (b"canary".to_vec(), "", "neither PEM nor PKCS#12"),
            (b"\xff\xfe-\0-\0".to_vec(), "", "UTF-16"),
            (joined(&[modern, b"junk"]), PASSWORD, "followed by something else"),
        ] {
            let error = Certificate::parse(&bytes, password).unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
            assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
            assert!(seen.insert(error.to_string()), "{error} is the message of two defects");
        }
        let error = Certificate::parse(b"", "").unwrap_err();
        assert!(error.to_string().contains("neither PEM nor PKCS#12"), "{error}");
    }

    #[test]
    fn a_key_that_entra_does_not_accept_is_refused_with_its_name() {
        for (kind, name) in [(&rcgen::PKCS_ED25519, "Ed25519"), (&rcgen::PKCS_ECDSA_P521_SHA512, "EC P-521")]
        {
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
            let file = certificate.pem() + &key.serialize_pem();
            let error = Certificate::parse(file.as_bytes(), "").unwrap_err().to_string();
            assert!(error.contains("Entra ID accepts") && error.contains(name), "{error}");
        }
    }
}
