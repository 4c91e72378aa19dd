//! Describes certificates in words: names, issuer, dates, keys and algorithms.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use rustls_pki_types::UnixTime;
use x509_cert::{
    Certificate, TbsCertificate, Version,
    der::{DateTime, Decode as _, oid::ObjectIdentifier},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
    name::Name,
    spki::SubjectPublicKeyInfoOwned,
};

/// A description marks a certificate that expires within this time.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest text that is shown of a name, in characters.
const LONGEST: usize = 200;
/// How many names of a certificate are shown.
const NAMES: usize = 8;
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// Describes subject, issuer and expiry of a certificate.
pub fn describe(der: &[u8]) -> String {
    let Some(certificate) = Described::of(der) else { return "unreadable".to_owned() };
    let Described { subject, issuer, not_after, .. } = &certificate;
    let left = match certificate.time_left() {
        None => ", EXPIRED",
        Some(left) if left < SOON => ", soon",
        _ => "",
    };
    format!("{subject} issued by {issuer}, ends {}{left}", date(*not_after))
}

/// The warning for a certificate that has expired, or ends within 30 days. `None` for any other certificate.
pub fn ends_soon(der: &[u8]) -> Option<String> {
    let certificate = Described::of(der)?;
    let (subject, end) = (&certificate.subject, date(certificate.not_after));
    match certificate.time_left() {
        None => Some(format!("the certificate {subject} expired on {end}; renew it")),
        Some(left) if left < SOON => Some(format!("the certificate {subject} ends on {end}; renew it")),
        Some(_) => None,
    }
}

/// Describes the type and size of a certificate's public key, such as `RSA of 2048 bits`. `None` if the certificate is
/// malformed.
pub fn public_key(der: &[u8]) -> Option<String> {
    Described::of(der).map(|certificate| certificate.key.to_string())
}

/// Whether a certificate may sign other certificates, as Go decides it. `None` if the certificate is malformed.
pub(crate) fn may_sign(der: &[u8]) -> Option<bool> {
    signs_others(Certificate::from_der(der).ok()?.tbs_certificate())
}

fn signs_others(certificate: &TbsCertificate) -> Option<bool> {
    let constraints = certificate.get_extension::<BasicConstraints>().ok()?;
    let is_ca = constraints.map(|(_, constraints)| constraints.ca);
    let usage = certificate.get_extension::<KeyUsage>().ok()?;
    let may_sign_by_usage = usage.is_none_or(|(_, usage)| usage.0.is_empty() || usage.key_cert_sign());
    // Version 1 has no extensions, so that the version alone says nothing.
    Some(is_ca.unwrap_or_else(|| certificate.version() != Version::V3) && may_sign_by_usage)
}

/// Formats a time in seconds since 1970, as RFC 3339 does.
pub(crate) fn date(time: UnixTime) -> String {
    DateTime::from_unix_duration(Duration::from_secs(time.as_secs()))
        .map_or_else(|_cause| "an unknown time".to_owned(), |time| time.to_string())
}

/// The type and size of a public key.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    Rsa(usize),
    Other(String),
}

impl Key {
    /// Whether the crypto provider verifies signatures of such a key.
    pub(crate) fn is_supported(&self) -> bool {
        match self {
            Self::Rsa(bits) => (2048..=8192).contains(bits),
            Self::Other(name) => !["EC P-224", "EC secp256k1"].contains(&name.as_str()),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::Other(name) => write!(f, "a key of type {name}"),
        }
    }
}

/// What a message says about a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// DNS names and IP addresses.
    pub(crate) names: Vec<String>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) key: Key,
    pub(crate) signature: String,
    /// Whether it may sign other certificates.
    pub(crate) may_sign: bool,
    /// Whether a server may use it.
    pub(crate) is_for_servers: bool,
}

impl Described {
    /// `None` if the certificate is malformed.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let parsed = Certificate::from_der(der).ok()?;
        let certificate = parsed.tbs_certificate();
        let seconds = |time: x509_cert::time::Time| UnixTime::since_unix_epoch(time.to_unix_duration());
        let purposes = certificate.get_extension::<ExtendedKeyUsage>().ok()?;
        let is_for_servers = purposes.is_none_or(|(_, purposes)| {
            purposes.0.iter().any(|purpose| [SERVER_AUTH, ANY_USAGE].contains(purpose))
        });
        Some(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            names: names(
                certificate.get_extension::<SubjectAltName>().ok().flatten().map(|(_, names)| names),
            ),
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
            key: key(certificate.subject_public_key_info()),
            signature: signature(&parsed.signature_algorithm().oid),
            may_sign: signs_others(certificate)?,
            is_for_servers,
        })
    }

    /// The time until it ends. `None` if it has expired.
    fn time_left(&self) -> Option<Duration> {
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.not_after.as_secs()));
        // A time that the system cannot represent is in the far future.
        end.map_or(Some(Duration::MAX), |end| end.duration_since(SystemTime::now()).ok())
    }

    /// Whether the certificate is its own issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Its names, or that it has none.
    pub(crate) fn shown_names(&self) -> String {
        if self.names.is_empty() {
            return "no name of a host".to_owned();
        }
        let more = if self.names.len() > NAMES { ", …" } else { "" };
        let shown: Vec<_> = self.names.iter().take(NAMES).map(String::as_str).collect();
        shown.join(", ") + more
    }
}

/// Makes one line of a text that a server chose.
pub(crate) fn one_line(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
        .take(LONGEST)
        .collect();
    clean.trim().to_owned()
}

fn name(name: &Name) -> String {
    let text = one_line(&name.to_string());
    if text.is_empty() { "no name".to_owned() } else { format!("\"{text}\"") }
}

fn names(found: Option<SubjectAltName>) -> Vec<String> {
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(one_line(name.as_str())),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            <[u8; 4]>::try_from(bytes)
                .map(|bytes| Ipv4Addr::from(bytes).to_string())
                .or_else(|_cause| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string()))
                .ok()
        }
        _ => None,
    };
    found.map(|names| names.0.iter().filter_map(text).collect()).unwrap_or_default()
}

/// Object identifiers of keys and curves, with their names.
const KEYS: [(&str, &str); 15] = [
    ("1.2.840.10045.3.1.7", "EC P-256"),
    ("1.3.132.0.34", "EC P-384"),
    ("1.3.132.0.35", "EC P-521"),
    ("1.3.132.0.33", "EC P-224"),
    ("1.3.132.0.10", "EC secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "EC brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "EC brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "EC brainpoolP512r1"),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.3.101.110", "X25519"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
];

fn key(info: &SubjectPublicKeyInfoOwned) -> Key {
    const RSA: &str = "1.2.840.113549.1.1.1";
    const EC: &str = "1.2.840.10045.2.1";
    let algorithm = info.algorithm.oid.to_string();
    if algorithm == RSA {
        let bits = info.subject_public_key.as_bytes().and_then(modulus_bits);
        return Key::Rsa(bits.unwrap_or_default());
    }
    let curve =
        info.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    let known = match curve {
        Some(curve) if algorithm == EC => curve.to_string(),
        _ => algorithm,
    };
    let found = KEYS.iter().find(|(identifier, _)| *identifier == known);
    Key::Other(found.map_or("that we do not know", |(_, name)| name).to_owned())
}

/// The size of the first number in an RSA public key (RFC 8017 appendix A.1.1).
fn modulus_bits(der: &[u8]) -> Option<usize> {
    use x509_cert::der::asn1::UintRef;
    let (modulus, _) = <Vec<UintRef<'_>>>::from_der(der).ok().and_then(|numbers| {
        let bytes = numbers.first()?.as_bytes();
        Some((bytes.len() * 8 - usize::try_from(bytes.first()?.leading_zeros()).ok()?, ()))
    })?;
    Some(modulus)
}

/// Object identifiers of signatures, with their names.
const SIGNATURES: [(&str, &str); 16] = [
    ("1.2.840.113549.1.1.2", "RSA with MD2"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
];

fn signature(algorithm: &ObjectIdentifier) -> String {
    let text = algorithm.to_string();
    let found = SIGNATURES.iter().find(|(identifier, _)| *identifier == text);
    found.map_or("an algorithm that we do not know", |(_, name)| name).to_owned()
}
