//! Certificate and private key of a service principal, in every form in which people keep them.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, Result};
use p12_keystore::Pkcs12Archive;
use rustls::{
    crypto::ring,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    pem::{PemObject, SectionKind},
};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// A certificate and what signs for it.
pub(crate) struct Certificate {
    pub(crate) signer: Arc<dyn SigningKey>,
    /// The certificate first, then what else was there.
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

/// Everything found in a file.
#[derive(Default)]
struct Found {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
}

impl Drop for Found {
    fn drop(&mut self) {
        self.keys.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl Certificate {
    /// A certificate with its key: PEM in any order with any chain, or PKCS#12, which may be base64.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with a reason of its own for each thing that can be wrong.
    pub(crate) fn parse(bytes: &[u8], password: &str) -> Result<Self> {
        let mut found = if contains(bytes, b"-----BEGIN ") {
            from_pem(bytes)?
        } else {
            match decoded(bytes) {
                Some(der) => from_pkcs12(&der, password)?,
                None => {
                    return Err(Error::config(
                        "neither PEM nor PKCS#12: expected blocks such as BEGIN CERTIFICATE and BEGIN PRIVATE KEY, or \
                         a .pfx file",
                    ));
                }
            }
        };
        let key = match found.keys.as_slice() {
            [key] => key,
            [] => return Err(Error::config("there is no private key in it, only certificates")),
            _ => {
                return Err(Error::config(
                    "there are several private keys in it; leave the one of the certificate",
                ));
            }
        };
        let signer = ring::sign::any_supported_type(key).map_err(|_cause| {
            Error::config(
                "the private key cannot be used: expected RSA of 2,048 bits or more, or EC P-256 or P-384",
            )
        })?;
        Self::of(signer, std::mem::take(&mut found.certificates), now())
    }

    fn of(
        signer: Arc<dyn SigningKey>,
        mut certificates: Vec<CertificateDer<'static>>,
        now: i64,
    ) -> Result<Self> {
        if certificates.is_empty() {
            return Err(Error::config("there is no certificate in it, only a private key"));
        }
        // A renewed certificate often keeps the key: of all that fit, the one that lasts longest counts.
        let mut best: Option<(usize, i64, i64)> = None;
        for (at, certificate) in certificates.iter().enumerate() {
            let (not_before, not_after) = validity(certificate)?;
            let fits = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&signer)).keys_match().is_ok();
            if fits && best.is_none_or(|(.., last)| last < not_after) {
                best = Some((at, not_before, not_after));
            }
        }
        let Some((at, not_before, not_after)) = best else {
            return Err(Error::config("the private key belongs to none of the certificates in it"));
        };
        if not_after < now {
            return Err(Error::config(
                "the certificate has expired; make a new one and upload it to the application",
            ));
        }
        if not_before > now {
            return Err(Error::config("the certificate is not valid yet; check the clock of this host"));
        }
        let leaf = certificates.remove(at);
        let (sha1, sha256) = (Sha1::digest(&leaf).into(), Sha256::digest(&leaf).into());
        certificates.insert(0, leaf);
        Ok(Self { signer, chain: certificates, sha1, sha256, not_after })
    }
}

fn from_pem(bytes: &[u8]) -> Result<Found> {
    if contains(bytes, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(Error::config(
            "the private key is encrypted, which is possible in PKCS#12 only; decrypt it (openssl pkey) or make a \
             .pfx file",
        ));
    }
    let mut found = Found::default();
    for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_cause| {
            Error::config("the PEM text is damaged: a block is cut off or is not base64")
        })?;
        match kind {
            SectionKind::Certificate => found.certificates.push(CertificateDer::from(der)),
            SectionKind::PrivateKey => found.keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => found.keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => found.keys.push(PrivateSec1KeyDer::from(der).into()),
            _ => {}
        }
    }
    Ok(found)
}

fn from_pkcs12(der: &[u8], password: &str) -> Result<Found> {
    let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(|_cause| {
        // The library's words differ by where a wrong password is first noticed, so they are of no help.
        Error::config(if password.is_empty() {
            "the PKCS#12 file cannot be opened without a password; set AZURE_CLIENT_CERT_PASSWORD (or the file is \
             damaged, or something follows it)"
        } else {
            "the PKCS#12 file cannot be opened with this password (or the file is damaged, or something follows it)"
        })
    })?;
    let mut found = Found::default();
    for bag in &archive.keys {
        found.keys.push(PrivatePkcs8KeyDer::from(bag.key.as_der().to_vec()).into());
    }
    for bag in &archive.certs {
        found.certificates.push(CertificateDer::from(bag.cert.as_der().to_vec()));
    }
    Ok(found)
}

/// The DER of a PKCS#12 file, which may be in base64, as Azure gives it out.
fn decoded(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const SEQUENCE: u8 = 0x30;
    if bytes.first() == Some(&SEQUENCE) && bytes.get(1).is_some_and(|length| *length >= 0x80) {
        return Some(Zeroizing::new(bytes.to_vec()));
    }
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let der = Zeroizing::new(STANDARD.decode(&*text).ok()?);
    (der.first() == Some(&SEQUENCE)).then_some(der)
}

/// From when to when a certificate is valid, in seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64)> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_cause| Error::config("a certificate in it is damaged"))?;
    if !rest.is_empty() {
        return Err(Error::config("a certificate in it is followed by something else within its block"));
    }
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn every_sane_form_is_taken() {
        let (cert, key, other) = (file!("cert.pem"), file!("key.pem"), file!("other-cert.pem"));
        let crlf = String::from_utf8(joined(&[key, cert])).unwrap().replace('\n', "\r\n").into_bytes();
        let base64 = STANDARD.encode(file!("modern.p12")).into_bytes();
        for (what, bytes, password) in [
            ("certificate, key", joined(&[cert, key]), ""),
            ("key, certificate", joined(&[key, cert]), ""),
            ("chain in any order", joined(&[other, key, cert, other]), ""),
            ("an expired one of the same key", joined(&[file!("expired.pem"), key, cert]), ""),
            ("PKCS#1", joined(&[cert, file!("key-pkcs1.pem")]), ""),
            ("CRLF", crlf, ""),
            (
                "text around the blocks",
                joined(&[b"Bag Attributes\n", key, b"\nsubject=x\n", cert, b"\njunk"]),
                "",
            ),
            ("PKCS#12, modern encryption", file!("modern.p12").to_vec(), PASSWORD),
            ("PKCS#12, legacy encryption", file!("legacy.p12").to_vec(), PASSWORD),
            ("PKCS#12 without password", file!("no-password.p12").to_vec(), ""),
            ("PKCS#12 in base64", base64, PASSWORD),
        ] {
            let found =
                Certificate::parse(&bytes, password).unwrap_or_else(|error| panic!("{what}: {error}"));
            let expected = CertificateDer::from_pem_slice(cert).unwrap();
            assert_eq!(found.chain.first(), Some(&expected), "{what}");
            assert_eq!(found.sha1, <[u8; 20]>::from(Sha1::digest(&expected)), "{what}");
            assert!(!format!("{found:?}").contains("canary"));
        }
        for key in [file!("ec-key.pem"), file!("ec-key-sec1.pem")] {
            let found = Certificate::parse(&joined(&[file!("ec-cert.pem"), key]), "").unwrap();
            assert!(found.signer.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_own_reason() {
        let (cert, key) = (file!("cert.pem"), file!("key.pem"));
        let mut followed = file!("modern.p12").to_vec();
        followed.extend_from_slice(b"junk");
        let mut seen = std::collections::BTreeSet::new();
        for (bytes, password, why) in [
            (joined(&[cert, file!("key-encrypted.pem")]), PASSWORD, "encrypted"),
            (joined(&[file!("expired.pem"), key]), "", "expired"),
            (joined(&[file!("other-cert.pem"), key]), "", "belongs to none"),
            (cert.to_vec(), "", "no private key"),
            (key.to_vec(), "", "no certificate"),
            (joined(&[cert, key, file!("other-key.pem")]), "", "several"),
            (joined(&[cert, key.get(..900).unwrap()]), "", "damaged"),
            (file!("modern.p12").to_vec(), "", "without a password"),
            (file!("modern.p12").to_vec(), "wrong", "with this password"),
            (b"canary".to_vec(), "", "neither PEM nor PKCS#12"),
            (Vec::new(), "", "neither PEM nor PKCS#12"),
            (followed, PASSWORD, "something follows it"),
        ] {
            let error = Certificate::parse(&bytes, password).unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
            assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
            seen.insert(error.to_string());
        }
        assert!(seen.len() >= 10, "{seen:?}");
    }
}
