//! Reads a file with certificates and a key: PEM or PKCS#12.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{Error, Result};
use p12_keystore::Pkcs12Archive;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    pem::{PemObject, SectionKind},
};
use zeroize::{Zeroize, Zeroizing};

/// The byte order mark, which programs on Windows write before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const BEGIN: &[u8] = b"-----BEGIN ";
const ENCRYPTED_BEGIN: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &[u8] = b"-----END ENCRYPTED PRIVATE KEY-----";

/// The certificates and keys of a file. The keys are wiped on drop.
#[derive(Default)]
pub(super) struct Found {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
}

impl Drop for Found {
    fn drop(&mut self) {
        self.keys.iter_mut().for_each(Zeroize::zeroize);
    }
}

/// Reads PEM or PKCS#12, either of which may be in base64.
///
/// # Errors
///
/// `ConfigInvalid`, with a message of its own for each defect.
pub(super) fn read(bytes: &[u8], password: &str) -> Result<Found> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::config("the file is text in UTF-16; save it as UTF-8"));
    }
    if contains(bytes, BEGIN) {
        return from_pem(bytes, password);
    }
    if is_der(bytes) {
        return from_pkcs12(bytes, password);
    }
    match from_base64(bytes) {
        Some(pem) if contains(&pem, BEGIN) => from_pem(&pem, password),
        Some(der) if is_der(&der) => from_pkcs12(&der, password),
        _ => Err(Error::config(
            "the file is neither PEM nor PKCS#12: expected blocks such as BEGIN CERTIFICATE and BEGIN PRIVATE KEY, or a .pfx file",
        )),
    }
}

fn from_pem(bytes: &[u8], password: &str) -> Result<Found> {
    // Accept line breaks of every system, and lines that a YAML file has indented.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len() + 1));
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii) {
        if !line.is_empty() {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    if contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(Error::config(
            "the private key is encrypted in the old form of OpenSSL; convert it with openssl pkcs8 -topk8, or decrypt it",
        ));
    }
    let mut found = Found::default();
    for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(&text) {
        let (kind, der) = section.map_err(|_cause| damaged())?;
        match kind {
            SectionKind::Certificate => found.certificates.push(CertificateDer::from(der)),
            SectionKind::PrivateKey => found.keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => found.keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => found.keys.push(PrivateSec1KeyDer::from(der).into()),
            _ => {}
        }
    }
    // The PEM reader skips encrypted keys, whose label it does not know.
    let mut rest = text.as_slice();
    while let Some(at) = position(rest, ENCRYPTED_BEGIN) {
        rest = rest.get(at + ENCRYPTED_BEGIN.len()..).unwrap_or_default();
        let end = position(rest, ENCRYPTED_END).ok_or_else(damaged)?;
        let der = rest.get(..end).and_then(from_base64).ok_or_else(damaged)?;
        found.keys.push(decrypted(&der, password)?);
    }
    Ok(found)
}

fn damaged() -> Error {
    Error::config("the PEM text is damaged: a block is cut off or is not base64")
}

/// Decrypts the key in an encrypted block (PKCS#8, RFC 5958 section 3).
fn decrypted(der: &[u8], password: &str) -> Result<PrivateKeyDer<'static>> {
    let sealed = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_cause| {
        Error::config("the encrypted private key is damaged, or encrypted with an unsupported algorithm")
    })?;
    if password.is_empty() {
        return Err(Error::config(
            "the private key is encrypted; set AZURE_CLIENT_CERT_PASSWORD, or decrypt it",
        ));
    }
    let key = sealed.decrypt(password).map_err(|_cause| {
        Error::config(
            "the encrypted private key cannot be opened with AZURE_CLIENT_CERT_PASSWORD (or it is damaged)",
        )
    })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

fn from_pkcs12(bytes: &[u8], password: &str) -> Result<Found> {
    let (der, rest) = match outermost(bytes) {
        Some(length) => {
            bytes.split_at_checked(length).ok_or_else(|| Error::config("the PKCS#12 file is cut off"))?
        }
        None => (bytes, [].as_slice()),
    };
    // A line break at the end comes from an editor or from echo.
    if !rest.trim_ascii().is_empty() {
        return Err(Error::config(
            "the PKCS#12 file is followed by something else; remove the data after it",
        ));
    }
    let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(|cause| {
        use p12_keystore::error::Error as Cause;
        // In a file without a MAC, a wrong password fails later and with another error.
        Error::config(match cause {
            Cause::UnsupportedEncryptionScheme | Cause::UnsupportedMacAlgorithm => {
                "the PKCS#12 file is encrypted with an unsupported algorithm; export it with AES-256 or 3DES"
            }
            _ if password.is_empty() => {
                "the PKCS#12 file cannot be opened without a password; set AZURE_CLIENT_CERT_PASSWORD (or the file is \
                 damaged)"
            }
            _ => "the PKCS#12 file cannot be opened with AZURE_CLIENT_CERT_PASSWORD (or the file is damaged)",
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

/// Whether the bytes begin like a PKCS#12 file: with a sequence of 128 bytes or more.
fn is_der(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x30) && bytes.get(1).is_some_and(|length| *length >= 0x80)
}

/// The length of the first sequence, with its header. `None` if the length is indefinite (X.690 section 8.1.3).
fn outermost(der: &[u8]) -> Option<usize> {
    let digits = usize::from(der.get(1)? & 0x7f);
    let length = der.get(2..2 + digits)?;
    if length.is_empty() || length.len() > 4 {
        return None;
    }
    let length = length.iter().fold(0_usize, |sum, digit| (sum << 8) | usize::from(*digit));
    length.checked_add(2 + digits)
}

fn from_base64(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    STANDARD.decode(&*text).ok().map(Zeroizing::new)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    position(bytes, part).is_some()
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
