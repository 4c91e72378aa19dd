//! The Secrets that the settings name, for messages: what failed may be in one of them.

use kms_core::{Error, ErrorKind};

use crate::{output::chain, target::Target};

/// The settings whose value is the name of a Secret.
const NAMED: [&str; 4] = ["AZURE_CERT_SECRET_NAME", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"];

/// The Secrets that the settings name.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The Secret of `tokenSecretName`.
    token: Option<String>,
    /// Whether that Secret has the certificates of TLS too.
    token_has_certificates: bool,
    /// The name of a setting and its Secret.
    named: Vec<(&'static str, String)>,
}

impl Secrets {
    pub(super) fn of(target: &Target) -> Self {
        let place = target.kube_namespace().map_or_else(String::new, |namespace| format!("{namespace}/"));
        let kms = &target.security().kms;
        let named = NAMED.into_iter().filter_map(|setting| {
            let value = kms.connection_details.get(setting)?;
            // A value with a slash is the path of a file.
            (!value.is_empty() && !value.contains('/')).then(|| (setting, format!("{place}{value}")))
        });
        Self {
            token: Some(&kms.token_secret_name)
                .filter(|name| !name.is_empty())
                .map(|name| format!("{place}{name}")),
            token_has_certificates: target.provider().is_ok_and(|provider| provider.feature() == "kmip"),
            named: named.collect(),
        }
    }

    /// The Secret with the credentials. `None` if the settings name no Secret.
    pub(super) fn credentials(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Adds to an error the Secrets that it is about: that of the credentials if the server does not accept them, and those
    /// of the settings that its message names.
    pub(super) fn add_to(&self, error: &Error) -> Error {
        let text = chain(error);
        let mut error = error.clone();
        let is_about_token = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => true,
            ErrorKind::ConfigInvalid => self.token_has_certificates,
            _ => false,
        };
        if let Some(token) = self.token.as_ref().filter(|_| is_about_token) {
            error = error.context("tokenSecretName", format!("Secret {token}"));
        }
        for (setting, secret) in self.named.iter().filter(|(setting, _)| text.contains(setting)) {
            error = error.context(setting, format!("Secret {secret}"));
        }
        error
    }
}
