//! Verifies the certificates of servers.

use std::{error::Error as StdError, fmt, sync::Arc, sync::atomic::Ordering::Relaxed};

use kms_core::{Error, Result};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::{debug, warn};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use crate::{
    certificate::{Described, may_sign},
    crypto,
    handshakes::Handshakes,
};

/// Verifies the certificate of a server with the roots of the settings.
#[derive(Debug)]
pub(crate) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Whether to accept any certificate. Signatures of handshakes are still checked.
    accepts_any: bool,
    anchors: RootCertStore,
    /// The certificates that the settings name; empty with the roots of the operating system.
    configured: Vec<CertificateDer<'static>>,
    handshakes: Arc<Handshakes>,
}

impl Verifier {
    /// Trusts the certificates that the settings name.
    ///
    /// As in Go, a certificate that may not sign others is no CA: the server may show it, but it vouches for no other
    /// certificate.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if no certificate can be used.
    pub(crate) fn of(certificates: &[CertificateDer<'static>], handshakes: Arc<Handshakes>) -> Result<Self> {
        let mut anchors = RootCertStore::empty();
        let mut configured = Vec::new();
        for certificate in certificates {
            let signs_others = may_sign(certificate);
            // webpki reads some certificates that the other parser does not.
            let is_anchor = signs_others == Some(false) || anchors.add(certificate.clone()).is_ok();
            if signs_others.is_none() && !is_anchor {
                warn!("a CA certificate of the settings is malformed and is skipped");
                continue;
            }
            configured.push(certificate.clone());
        }
        if configured.is_empty() {
            return Err(Error::config("no CA certificate is valid: each is malformed"));
        }
        Ok(Self { configured, ..Self::of_system(anchors, handshakes) })
    }

    /// Trusts the roots of the operating system. Nothing is pinned.
    pub(crate) fn of_system(anchors: RootCertStore, handshakes: Arc<Handshakes>) -> Self {
        let (provider, configured) = (crypto::provider(), Vec::new());
        Self { provider, accepts_any: false, anchors, configured, handshakes }
    }

    /// Accepts any certificate.
    pub(crate) fn accept_any(handshakes: Arc<Handshakes>) -> Self {
        Self { accepts_any: true, ..Self::of_system(RootCertStore::empty(), handshakes) }
    }

    /// Verifies chain, purpose, dates and name.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        if self.accepts_any {
            return Ok(());
        }
        let certificate = EndEntityCert::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chained = certificate.verify_for_usage(
            algorithms,
            &self.anchors.roots,
            intermediates,
            now,
            Servers,
            None,
            None,
        );
        if let Err(cause) = chained {
            if !self.configured.iter().any(|configured| configured.as_ref() == leaf.as_ref()) {
                return Err(cause);
            }
            pinned(leaf, now)?;
            debug!("the server shows a certificate that the settings name itself");
            self.handshakes.pinned.store(true, Relaxed);
        }
        match certificate.verify_is_valid_for_subject_name(name) {
            Err(_) if !self.configured.is_empty() && is_below_wildcard(leaf, name) => Ok(()),
            result => result,
        }
    }

    /// The error for a certificate, with what was presented and what is expected.
    fn refuse(&self, cause: webpki::Error, presented: &[&CertificateDer<'_>], name: String) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(Refused {
            cause,
            presented: presented.iter().map(|der| Described::of(der)).collect(),
            trusted: self.configured.iter().filter_map(|der| Described::of(der)).collect(),
            name,
        })))
        .into()
    }

    /// The error for the signature of a handshake. If the library does not know the type of key, the message names it.
    fn refuse_signature(&self, cause: rustls::Error, certificate: &CertificateDer<'_>) -> rustls::Error {
        let is_known = Described::of(certificate).is_none_or(|leaf| leaf.key.is_supported());
        if is_known {
            cause
        } else {
            self.refuse(webpki::Error::InvalidSignatureForPublicKey, &[certificate], String::new())
        }
    }
}

/// Whether a certificate has a name such as `*.internal` that covers `name`. webpki refuses a wildcard directly below the
/// top; Go accepts it, and private CAs issue it. Roots of the operating system never need it.
fn is_below_wildcard(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(name) = name else { return false };
    let Some((_, top)) = name.as_ref().trim_end_matches('.').split_once('.') else { return false };
    let covers =
        |known: &String| known.strip_prefix("*.").is_some_and(|below| below.eq_ignore_ascii_case(top));
    Described::of(leaf).is_some_and(|leaf| leaf.names.iter().any(covers))
}

/// Checks purpose and dates of a certificate that needs no issuer, since the settings name it.
fn pinned(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), webpki::Error> {
    let Some(Described { not_before, not_after, is_for_servers, .. }) = Described::of(leaf) else {
        return Err(webpki::Error::BadDer);
    };
    if now < not_before {
        return Err(webpki::Error::CertNotValidYet { time: now, not_before });
    }
    if now > not_after {
        return Err(webpki::Error::CertExpired { time: now, not_after });
    }
    // The error needs the purposes of the certificate, which only webpki's own check of them provides.
    if is_for_servers { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
}

/// Accepts certificates for servers, and as Go those for any purpose.
struct Servers;

impl ExtendedKeyUsageValidator for Servers {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        /// The encoding of 2.5.29.37.0.
        const ANY: KeyPurposeId<'_> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0x00]);
        const SERVER: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        let mut is_empty = true;
        for purpose in purposes {
            let purpose = purpose?;
            if purpose == ANY || purpose == SERVER {
                return Ok(());
            }
            is_empty = false;
        }
        if is_empty { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(leaf, intermediates, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(cause) => {
                let presented: Vec<_> = std::iter::once(leaf).chain(intermediates).collect();
                Err(self.refuse(cause, &presented, name.to_str().into_owned()))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
            .map_err(|cause| self.refuse_signature(cause, certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
            .map_err(|cause| self.refuse_signature(cause, certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a certificate of a server is refused, with what the server presented.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) cause: webpki::Error,
    /// The server's certificates, its own first. `None` for a malformed one.
    pub(crate) presented: Vec<Option<Described>>,
    /// The certificates of the settings; empty with the roots of the operating system.
    pub(crate) trusted: Vec<Described>,
    /// The name that the certificate must have.
    pub(crate) name: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's certificate is refused: {:?}", self.cause)
    }
}

impl StdError for Refused {}
