//! From settings to a configuration for rustls.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use kms_core::{Error, Result};
use rustls::{ClientConfig, RootCertStore, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::CertificateDer;
use tracing::warn;

use crate::{
    crypto,
    handshakes::{Handshakes, SettingNames, Trust},
    key::Identity,
    verify::Verifier,
};

/// The trusted certificate authorities.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Roots {
    /// The certificate authorities that the operating system trusts.
    #[default]
    System,
    /// Only these certificates. One that a server shows as its own is accepted too.
    Only(Vec<CertificateDer<'static>>),
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
    /// The names of the settings, for messages.
    pub names: SettingNames,
}

/// A configuration for rustls, and what its handshakes have shown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tls {
    /// The configuration.
    pub config: Arc<ClientConfig>,
    /// What the handshakes have shown so far.
    pub handshakes: Arc<Handshakes>,
}

impl TlsOptions {
    /// Starts with the system roots and no client certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts with the system roots, no client certificate, and these names of settings in messages.
    pub fn named(names: SettingNames) -> Self {
        Self { names, ..Self::default() }
    }

    /// Returns the configuration for rustls: TLS 1.2 and 1.3.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if no root certificate can be used, or if the operating system has no roots.
    pub fn tls(&self) -> Result<Tls> {
        let identity = self.identity.as_ref().map(|Identity(identity)| Arc::clone(identity));
        self.tls_with(Arc::new(Fixed(identity)))
    }

    /// Like [`tls`](Self::tls), with the client certificate that a library provides.
    ///
    /// # Errors
    ///
    /// Those of [`tls`](Self::tls).
    pub fn tls_with(&self, source: Arc<dyn ResolvesClientCert>) -> Result<Tls> {
        let handshakes = Arc::new(Handshakes {
            trust: match (&self.roots, self.skip_verify) {
                (_, true) => Trust::Unverified,
                (Roots::Only(_), false) => Trust::Settings,
                (Roots::System, false) => Trust::System,
            },
            has_identity: source.has_certs(),
            identity: self.identity.as_ref().and_then(|Identity(identity)| identity.cert.first().cloned()),
            names: self.names,
            ..Handshakes::default()
        });
        let verifier = if self.skip_verify {
            warn!("the server's certificate is not verified: an attacker on the network can read every key");
            Verifier::accept_any(Arc::clone(&handshakes))
        } else {
            self.verifier(Arc::clone(&handshakes))?
        };
        let builder = ClientConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(|cause| Error::config("no TLS version can be used").source(cause))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let resolver = Resolver { source, handshakes: Arc::clone(&handshakes) };
        Ok(Tls { config: Arc::new(builder.with_client_cert_resolver(Arc::new(resolver))), handshakes })
    }

    pub(crate) fn verifier(&self, handshakes: Arc<Handshakes>) -> Result<Verifier> {
        match &self.roots {
            Roots::Only(certificates) => Verifier::of(certificates, handshakes),
            Roots::System => {
                let mut store = RootCertStore::empty();
                // System stores often have some entries that are too old for rustls; the others are still used.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    return Err(Error::config(format!(
                        "the operating system trusts no CA; name the CA of the server in {}",
                        self.names.ca
                    )));
                }
                Ok(Verifier::of_system(store, handshakes))
            }
        }
    }
}

/// Shows a certificate to a server that asks for one, and notes that it has asked.
#[derive(Debug)]
struct Resolver {
    source: Arc<dyn ResolvesClientCert>,
    handshakes: Arc<Handshakes>,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.handshakes.asked.store(true, Relaxed);
        self.source.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.source.has_certs()
    }
}

/// The client certificate of the settings, whatever the server asks for.
#[derive(Debug)]
struct Fixed(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
