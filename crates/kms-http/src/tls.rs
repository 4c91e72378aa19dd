//! Turns certificates and keys from PEM text into a configuration for rustls.

use std::{fmt, sync::Arc};

use kms_core::{Error, Result};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use tracing::warn;
use zeroize::Zeroize;

/// The trusted certificate authorities.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Roots {
    /// The certificate authorities that the operating system trusts.
    #[default]
    System,
    /// Only these certificate authorities.
    Only(Vec<CertificateDer<'static>>),
}

/// A client certificate with its key, ready to sign.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Makes an identity from two PEM texts: the certificate followed by its chain, and the key (PKCS#8, PKCS#1 or
    /// SEC1). Both may be the same text.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a part is missing or unreadable, or if the key does not match the certificate.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self> {
        let chain = certificates(certificate)?;
        let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|cause| match cause {
            pem::Error::NoItemsFound => Error::config(
                "no private key found: expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY that is \
                 not encrypted",
            ),
            _ => Error::config("the PEM text of the private key is damaged"),
        })?;
        let signer = ring::sign::any_supported_type(&key);
        // The signer has its own form of the key, so the DER copy is wiped.
        key.zeroize();
        let signer = signer.map_err(|cause| Error::config("the private key cannot be used").source(cause))?;
        let identity = CertifiedKey::new(chain, signer);
        match identity.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(Arc::new(identity)))
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(Error::config(
                "certificate and private key do not belong together (were certificate and key swapped, or is the \
                 chain before the certificate?)",
            )),
            Err(cause) => Err(Error::config("the client certificate cannot be read").source(cause)),
        }
    }
}

/// Parses the certificates of a PEM text. Text around the blocks is allowed.
///
/// # Errors
///
/// `ConfigInvalid` if there is no certificate, or if one is damaged.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        found.push(
            certificate.map_err(|_cause| Error::config("the PEM text of the certificates is damaged"))?,
        );
    }
    if found.is_empty() {
        return Err(Error::config("no certificate found: expected a PEM block CERTIFICATE"));
    }
    Ok(found)
}

/// The settings of TLS connections.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The trusted certificate authorities.
    pub roots: Roots,
    /// The client certificate, for servers that ask for one.
    pub identity: Option<Identity>,
    /// Accepts any certificate of the server. An attacker on the network can then read all requests and responses.
    pub skip_verify: bool,
}

impl TlsOptions {
    /// Starts with the system roots and no client certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the configuration for rustls: TLS 1.2 and 1.3 with ring.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a root certificate is malformed, or if the operating system has no roots.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| Error::config("no TLS version can be used").source(cause))?;
        let builder = if self.skip_verify {
            warn!("the server's certificate is not verified: an attacker on the network can read every key");
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
        } else {
            builder.with_root_certificates(self.root_store()?)
        };
        Ok(match &self.identity {
            Some(Identity(identity)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity))))
            }
            None => builder.with_no_client_auth(),
        })
    }

    fn root_store(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        match &self.roots {
            Roots::Only(certificates) => {
                for certificate in certificates {
                    store
                        .add(certificate.clone())
                        .map_err(|cause| Error::config("a CA certificate is not valid").source(cause))?;
                }
            }
            Roots::System => {
                // System stores often have some entries that are too old for rustls; the others are still used.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    return Err(Error::config(
                        "the operating system trusts no CA; name the CA of the server in the settings",
                    ));
                }
            }
        }
        Ok(store)
    }
}

/// Accepts any certificate, for `skip_verify`. It still checks signatures.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    #[test]
    fn a_certificate_and_its_key_make_an_identity_in_any_order() {
        let made = made();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let both = format!("{key}\r\ntext between\n{certificate}").replace('\n', "\r\n");
        let identity = Identity::from_pem(both.as_bytes(), both.as_bytes()).unwrap();
        assert_eq!(format!("{identity:?}"), "Identity(..)");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let (one, other) = (made(), made());
        let (certificate, key) = (one.cert.pem(), other.signing_key.serialize_pem());
        for (certificate, key, why) in [
            (certificate.as_str(), key.as_str(), "do not belong together"),
            (key.as_str(), key.as_str(), "no certificate found"),
            (certificate.as_str(), certificate.as_str(), "no private key found"),
            ("", key.as_str(), "no certificate found"),
            ("garbage", key.as_str(), "no certificate found"),
            (&certificate.replace("MII", "!!!"), key.as_str(), "damaged"),
        ] {
            let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_root_that_is_no_certificate_is_refused() {
        let options = TlsOptions {
            roots: Roots::Only(vec![CertificateDer::from(b"not DER".to_vec())]),
            ..TlsOptions::new()
        };
        assert!(options.client_config().is_err());
    }
}
