//! The Secrets that the settings name, for messages: what failed may be in one of them.

use kms_core::{Error, ErrorKind};
use kms_source::PodEnvironment;

use crate::{output::chain, target::Target};

/// The settings whose value is the name of a Secret.
const NAMED: [&str; 4] = ["AZURE_CERT_SECRET_NAME", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"];

/// The Secrets that the settings name.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The setting that tells where the credentials are, and the place in words.
    credentials: Option<(&'static str, String)>,
    /// Whether the certificates of TLS are there too.
    has_certificates: bool,
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
        let is_kmip = target.provider().is_ok_and(|provider| provider.feature() == "kmip");
        Self {
            credentials: match kms.token_secret_name.as_str() {
                "" => None,
                // Rook has filled these from a Secret whose name the pod does not know.
                PodEnvironment::CREDENTIALS if is_kmip => Some(("files", "/etc/kmip".to_owned())),
                PodEnvironment::CREDENTIALS => {
                    Some(("credentials", "in the environment of this process".to_owned()))
                }
                name => Some(("tokenSecretName", format!("Secret {place}{name}"))),
            },
            has_certificates: is_kmip,
            named: named.collect(),
        }
    }

    /// Where the credentials are: "Secret rook-ceph/token". `None` if the settings name no Secret.
    pub(super) fn credentials(&self) -> Option<&str> {
        self.credentials.as_ref().map(|(_, place)| place.as_str())
    }

    /// Adds to an error the Secrets that it is about: that of the credentials if the server does not accept them, and those
    /// of the settings that its message names.
    pub(super) fn add_to(&self, error: &Error) -> Error {
        let text = chain(error);
        let mut error = error.clone();
        let is_about_token = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => true,
            ErrorKind::ConfigInvalid => self.has_certificates,
            _ => false,
        };
        if let Some((setting, place)) = self.credentials.as_ref().filter(|_| is_about_token) {
            error = error.context(setting, place);
        }
        for (setting, secret) in self.named.iter().filter(|(setting, _)| text.contains(setting)) {
            error = error.context(setting, format!("Secret {secret}"));
        }
        error
    }
}
