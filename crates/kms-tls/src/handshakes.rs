//! What handshakes have shown, and the names of settings: what messages depend on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustls_pki_types::CertificateDer;

/// The names of settings in messages.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SettingNames {
    /// The CA certificates.
    pub ca: &'static str,
    /// The client certificate.
    pub client: &'static str,
    /// The TLS server name.
    pub server_name: &'static str,
    /// The address of the server.
    pub address: &'static str,
}

impl SettingNames {
    /// The names of one provider's settings.
    pub const fn new(
        ca: &'static str,
        client: &'static str,
        server_name: &'static str,
        address: &'static str,
    ) -> Self {
        Self { ca, client, server_name, address }
    }
}

impl Default for SettingNames {
    fn default() -> Self {
        Self::new(
            "the CA certificates of the settings",
            "the client certificate of the settings",
            "the TLS server name of the settings",
            "the address in the settings",
        )
    }
}

/// How a configuration verifies the certificates of servers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Trust {
    /// With the roots of the operating system.
    #[default]
    System,
    /// With the certificates of the settings.
    Settings,
    /// Not at all.
    Unverified,
}

/// What the handshakes of a configuration have shown. Messages depend on it.
#[derive(Debug, Default)]
pub struct Handshakes {
    pub(crate) asked: AtomicBool,
    pub(crate) pinned: AtomicBool,
    pub(crate) trust: Trust,
    pub(crate) has_identity: bool,
    /// Our client certificate. `None` if there is no client certificate, or only the signer knows it.
    pub(crate) identity: Option<CertificateDer<'static>>,
    pub(crate) names: SettingNames,
}

impl Handshakes {
    /// No handshake yet; messages have these names of settings.
    pub fn named(names: SettingNames) -> Self {
        Self { names, ..Self::default() }
    }

    /// Whether a server has asked for a client certificate.
    pub fn has_been_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Whether a server has shown a certificate that the settings name itself.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Relaxed)
    }
}
