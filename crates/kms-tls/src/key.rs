//! A certificate with its private key.

use std::{fmt, sync::Arc};

use kms_core::{Error, ErrorKind, Result};
use rustls::{
    ServerConfig,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use crate::{
    certificate::public_key,
    crypto,
    pem::{Block, blocks, certificates},
};

/// A certificate with its key, ready to sign: of a client, or of a server.
#[derive(Clone)]
pub struct Identity(pub(crate) Arc<CertifiedKey>);

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
        let signer = private_key(key, chain.first())?;
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

    /// The configuration of a server with this certificate, for clients that show none.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the crypto provider has no protocol version in common with rustls.
    pub fn server(&self) -> Result<ServerConfig> {
        let builder =
            ServerConfig::builder_with_provider(crypto::provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "TLS cannot be set up for a server").source(cause)
        })?;
        let certificate = SingleCertAndKey::from(Arc::clone(&self.0));
        Ok(builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate)))
    }

    /// The certificate itself, without its chain.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.0.cert.first()
    }
}

/// Reads the first private key of a PEM text. Like Go, it goes by the content of the block, not by its label.
fn private_key(text: &[u8], certificate: Option<&CertificateDer<'_>>) -> Result<Arc<dyn SigningKey>> {
    let blocks = blocks(text);
    let keys: Vec<_> = blocks.iter().filter(|block| block.is_key()).collect();
    // As in Go, a damaged block is skipped, and the first other one is the key.
    let first = keys.iter().find(|block| block.is_encrypted_key() || block.der.is_some());
    if first.is_some_and(|block| block.is_encrypted_key()) {
        return Err(Error::config(
            "the private key is encrypted, and no setting holds its password: decrypt it with openssl pkey -in KEY \
             -out PLAIN, and keep the result in the Secret",
        ));
    }
    let Some(key) = first.and_then(|block| block.der.as_ref()) else {
        return Err(Error::config(if keys.is_empty() {
            no_key(text, &blocks)
        } else {
            "the PEM text of the private key is damaged: the block is cut off or is not base64"
        }));
    };
    let forms: [PrivateKeyDer<'_>; 3] = [
        PrivatePkcs1KeyDer::from(key.as_slice()).into(),
        PrivatePkcs8KeyDer::from(key.as_slice()).into(),
        PrivateSec1KeyDer::from(key.as_slice()).into(),
    ];
    forms.iter().find_map(|form| crypto::signer(form).ok()).ok_or_else(|| {
        let kind = certificate.and_then(|der| public_key(der));
        let belongs = kind.map(|kind| format!(" (the certificate has {kind})")).unwrap_or_default();
        Error::config(format!("the private key cannot be used{belongs}: expected {SUPPORTED}"))
    })
}

/// The private keys that the crypto provider supports.
pub const SUPPORTED: &str = "RSA of 2,048 to 8,192 bits, EC P-256, P-384 or P-521, or Ed25519";

fn no_key(text: &[u8], blocks: &[Block]) -> &'static str {
    if blocks.iter().any(|block| block.label == "EC PARAMETERS") {
        "no private key found, only EC PARAMETERS: expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY"
    } else if blocks.is_empty() && text.first() == Some(&0x30) {
        "no private key found: the text is DER, not PEM; convert it with openssl pkey -inform DER"
    } else {
        "no private key found: expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY"
    }
}
