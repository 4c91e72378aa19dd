//! Reads the environment of a pod that Rook created (rook-behaviour §13, appendix B).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use kms_core::{
    ConnectionDetails, Error, ErrorKind, KmsSpec, Result, SecretData, SecretSource, SecuritySpec,
};
use zeroize::Zeroizing;

use crate::{Entries, read_entry};

/// The setting that names the provider.
const KMS_PROVIDER: &str = "KMS_PROVIDER";

/// The files that Rook mounts for KMIP, each with its key in the Secret.
const KMIP_FILES: [(&str, &str); 3] =
    [("CA_CERT", "ca.crt"), ("CLIENT_CERT", "client.crt"), ("CLIENT_KEY", "client.key")];

/// How Rook writes the settings of one provider into the environment of a pod (rook-behaviour §13.1, §13.2).
struct Convention {
    /// The value of `KMS_PROVIDER`.
    provider: &'static str,
    /// The beginning of the names of all variables of this provider.
    prefix: &'static str,
    /// Whether Rook puts the prefix in front of the name of the setting, so that it is removed here.
    prefix_is_added: bool,
    /// A variable without which the provider cannot work.
    required: &'static str,
}

const CONVENTIONS: [Convention; 4] = [
    Convention {
        provider: "azure-kv",
        prefix: "AZURE_",
        prefix_is_added: false,
        required: "AZURE_VAULT_URL",
    },
    Convention {
        provider: "ibmkeyprotect",
        prefix: "IBM_",
        prefix_is_added: false,
        required: "IBM_KP_SERVICE_INSTANCE_ID",
    },
    Convention { provider: KMIP, prefix: "KMIP_", prefix_is_added: true, required: "KMIP_KMIP_ENDPOINT" },
    Convention { provider: "vault", prefix: "VAULT_", prefix_is_added: false, required: "VAULT_ADDR" },
];

const KMIP: &str = "kmip";

impl Convention {
    /// The name of the setting that a variable stands for. `None` if the variable is not one of this provider.
    fn setting_name<'a>(&self, variable: &'a str) -> Option<&'a str> {
        let rest = variable.strip_prefix(self.prefix)?;
        Some(if self.prefix_is_added { rest } else { variable })
    }
}

/// The KMS part of a pod's environment, turned back into the `security` block that Rook made it from.
///
/// The block differs from the original where Rook's environment does (rook-behaviour §13.1): `VAULT_BACKEND_PATH` is
/// always present, TLS settings are paths of files, and the Secret with the credentials is this source itself, under the
/// name [`Self::CREDENTIALS`].
#[derive(Debug)]
pub struct PodEnvironment {
    security: SecuritySpec,
    credentials: Entries,
    kmip_mount: Option<PathBuf>,
    passed_over: Vec<String>,
}

impl PodEnvironment {
    /// The name of the Secret that the block has for the credentials in the environment and the files of the pod. No object
    /// of that name exists.
    pub const CREDENTIALS: &str = "pod-environment";

    /// Sorts an environment into settings and credentials.
    ///
    /// `root` is the directory that contains `etc/kmip`: `/` except in tests. `is_setting` says whether a provider, given
    /// by its `KMS_PROVIDER` name, has a setting of a name; `None` if the settings of that provider are not known here.
    ///
    /// Variables without the prefix of the provider that `KMS_PROVIDER` names are ignored. So are the variables that
    /// Kubernetes adds for Services (`VAULT_PORT`, `VAULT_SERVICE_HOST` …).
    pub fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        root: &Path,
        is_setting: impl Fn(&str, &str) -> Option<bool>,
    ) -> Self {
        let pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
        let value = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let mut pod = Self {
            security: SecuritySpec::default(),
            credentials: Entries::default(),
            kmip_mount: None,
            passed_over: Vec::new(),
        };
        let prefixed = format!("KMIP_{KMS_PROVIDER}");
        let Some(provider) = value(KMS_PROVIDER).or_else(|| value(&prefixed)) else {
            pod.security = SecuritySpec::new(KmsSpec::new(without_provider(&pairs), ""));
            return pod;
        };

        // An unknown provider stays in the block, which is refused where the block is used.
        let mut details: Vec<(String, Zeroizing<String>)> =
            vec![(KMS_PROVIDER.to_owned(), Zeroizing::new(provider.to_owned()))];
        let convention = CONVENTIONS.iter().find(|known| known.provider == provider.trim());
        for (name, value) in pairs.iter().filter(|(name, _)| *name != KMS_PROVIDER && *name != prefixed) {
            let Some(convention) = convention else {
                // Rook has no prefix for another provider, so only its known settings are added.
                if is_setting(provider.trim(), name) == Some(true) {
                    details.push(((*name).to_owned(), Zeroizing::new((*value).to_owned())));
                }
                continue;
            };
            let Some(name) = convention.setting_name(name) else { continue };
            let known = || is_setting(convention.provider, name).unwrap_or_else(|| !is_service_link(name));
            match credential(name) {
                Some(_) if value.trim().is_empty() => {}
                Some(key) => pod.credentials.insert(key, value.as_bytes().to_vec()),
                None if known() => details.push((name.to_owned(), Zeroizing::new((*value).to_owned()))),
                None if is_service_link(name) => {}
                None => pod.passed_over.push(name.to_owned()),
            }
        }
        if convention.is_some_and(|convention| convention.provider == KMIP) {
            pod.kmip_mount = Some(root.join("etc/kmip"));
        }
        let has_credentials = pod.kmip_mount.is_some() || !pod.credentials.is_empty();
        let token_secret_name = if has_credentials { Self::CREDENTIALS } else { "" };
        let details = details.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pod.security =
            SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details), token_secret_name));
        pod
    }

    /// The `security` block.
    pub fn security(&self) -> &SecuritySpec {
        &self.security
    }

    /// The variables that have the provider's prefix but are not settings of it, often because the name is mistyped.
    pub fn passed_over(&self) -> impl Iterator<Item = &str> {
        self.passed_over.iter().map(String::as_str)
    }
}

/// The settings that only make sense together with `KMS_PROVIDER`. They are kept, so that a block without `KMS_PROVIDER`
/// is refused instead of being read as "keys are in Kubernetes Secrets".
fn without_provider(pairs: &[(&str, &str)]) -> ConnectionDetails {
    let is_required = |name: &str| CONVENTIONS.iter().any(|convention| convention.required == name);
    pairs.iter().filter(|(name, _)| is_required(name)).copied().collect()
}

/// The key in the Secret of credentials, for a variable that Rook fills from there.
fn credential(variable: &str) -> Option<&'static str> {
    match variable {
        "IBM_KP_SERVICE_API_KEY" => Some("IBM_KP_SERVICE_API_KEY"),
        "VAULT_TOKEN" => Some("token"),
        _ => None,
    }
}

/// Whether Kubernetes has put this variable there for a Service: `X_SERVICE_HOST`, `X_SERVICE_PORT[_NAME]`, `X_PORT`,
/// `X_PORT_8200_TCP[_PROTO|_PORT|_ADDR]`.
fn is_service_link(name: &str) -> bool {
    let numbered_port = |name: &str| {
        name.match_indices("_PORT_").any(|(at, separator)| {
            let mut parts = name.get(at + separator.len()..).unwrap_or_default().split('_');
            let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
            number && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
        })
    };
    // The prefix of KMIP may be removed already, which leaves `PORT` and `SERVICE_HOST`.
    let name = format!("_{name}");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || numbered_port(&name)
}

#[async_trait]
impl SecretSource for PodEnvironment {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        if name != Self::CREDENTIALS || self.security.kms.token_secret_name != Self::CREDENTIALS {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("Secret {name:?} was not found in the environment of the pod"),
            ));
        }
        let mut secret = self.credentials.to_secret(Self::CREDENTIALS);
        if let Some(mount) = &self.kmip_mount {
            for (key, file) in KMIP_FILES {
                let mut bytes = read_entry(&mount.join(file))?;
                secret.insert(key, std::mem::take(&mut *bytes));
            }
        }
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_setting(provider: &str, name: &str) -> Option<bool> {
        match provider {
            "kmip" => Some(matches!(name, "KMIP_ENDPOINT" | "READ_TIMEOUT")),
            "own" => Some(name == "FOLDER"),
            "vault" => Some(name == "VAULT_ADDR"),
            _ => None,
        }
    }

    fn pod(pairs: &[(&str, &str)]) -> PodEnvironment {
        PodEnvironment::new(pairs.iter().copied(), Path::new("/nonexistent"), is_setting)
    }

    fn details(pod: &PodEnvironment) -> Vec<(&str, &str)> {
        pod.security().kms.connection_details.iter().collect()
    }

    #[tokio::test]
    async fn a_token_in_the_environment_is_a_secret_and_no_setting() {
        let pod = pod(&[("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://v"), ("VAULT_TOKEN", "canary\n")]);
        assert_eq!(details(&pod), [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://v")]);
        let name = &pod.security().kms.token_secret_name;
        let secret = pod.secret(name).await.unwrap();
        assert_eq!(kms_core::ExposeSecret::expose_secret(&secret.text("token").unwrap()), "canary");
        assert!(!format!("{pod:?}").contains("canary"));
        assert_eq!(pod.secret("other").await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn variables_of_services_and_of_other_providers_are_left_alone() {
        let pod = pod(&[
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADDR", "https://v"),
            ("VAULT_TOKEN", " "),
            ("VAULT_PORT", "tcp://10.0.0.1:8200"),
            ("VAULT_PORT_8200_TCP", "tcp://10.0.0.1:8200"),
            ("VAULT_PORT_8200_TCP_ADDR", "10.0.0.1"),
            ("VAULT_SERVICE_HOST", "10.0.0.1"),
            ("VAULT_SERVICE_PORT", "8200"),
            ("VAULT_SERVICE_PORT_HTTPS", "8200"),
            ("VAULT_INTERNAL_SERVICE_HOST", "10.0.0.1"),
            ("AZURE_CLIENT_ID", "x"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(details(&pod), [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://v")]);
        assert_eq!(pod.security().kms.token_secret_name, "");
        assert_eq!(pod.passed_over().count(), 0);
    }

    #[test]
    fn the_prefix_of_kmip_is_taken_off_once() {
        let pod = pod(&[
            ("KMIP_KMS_PROVIDER", "kmip"),
            ("KMIP_KMIP_ENDPOINT", "kmip:5696"),
            ("KMIP_READ_TIMEOUT", "20"),
            ("KMIP_PORT", "tcp://10.0.0.1:5696"),
            ("KMIP_PORT_5696_TCP_PROTO", "tcp"),
            ("KMIP_SERVICE_HOST", "10.0.0.1"),
            ("KMIP_READ_TIMEOUTS", "20"),
        ]);
        let expected = [("KMIP_ENDPOINT", "kmip:5696"), ("KMS_PROVIDER", "kmip"), ("READ_TIMEOUT", "20")];
        assert_eq!(details(&pod), expected);
        assert_eq!(pod.passed_over().collect::<Vec<_>>(), ["READ_TIMEOUTS"]);
    }

    #[tokio::test]
    async fn certificates_of_kmip_come_from_the_mount() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("etc/kmip");
        std::fs::create_dir_all(&mount).unwrap();
        let pairs = [("KMIP_KMS_PROVIDER", "kmip"), ("KMIP_KMIP_ENDPOINT", "kmip:5696")];
        let pod = PodEnvironment::new(pairs, root.path(), is_setting);
        let name = &pod.security().kms.token_secret_name;
        let error = pod.secret(name).await.unwrap_err();
        assert!(error.to_string().contains("etc/kmip/ca.crt"), "{error}");
        for (key, file) in KMIP_FILES {
            std::fs::write(mount.join(file), key).unwrap();
        }
        let secret = pod.secret(name).await.unwrap();
        for (key, _) in KMIP_FILES {
            assert_eq!(secret.bytes(key).unwrap(), key.as_bytes());
        }
    }

    #[test]
    fn of_a_provider_that_rook_does_not_know_only_known_settings_are_taken() {
        let pod = pod(&[("KMS_PROVIDER", "own"), ("FOLDER", "/keys"), ("PATH", "/bin")]);
        assert_eq!(details(&pod), [("FOLDER", "/keys"), ("KMS_PROVIDER", "own")]);
    }

    #[test]
    fn where_the_settings_are_not_known_only_service_links_are_left_out() {
        let pairs = [
            ("KMS_PROVIDER", " ibmkeyprotect "),
            ("IBM_KP_BASE_URL", "https://x"),
            ("IBM_KP_PORT", "tcp://10.0.0.1:443"),
        ];
        let expected = [("IBM_KP_BASE_URL", "https://x"), ("KMS_PROVIDER", " ibmkeyprotect ")];
        assert_eq!(details(&pod(&pairs)), expected);
    }
}
