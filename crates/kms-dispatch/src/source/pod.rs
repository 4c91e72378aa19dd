//! The environment of a pod that Rook has made (spec 13, appendix B).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
#[cfg(any(feature = "azure", feature = "ibmkp", feature = "kmip", feature = "vault"))]
use kms_core::config::ConfigKey;
use kms_core::{
    ConnectionDetails, Error, ErrorKind, KmsSpec, Result, SecretData, SecretSource, SecuritySpec,
};
use zeroize::Zeroizing;

use super::{Entries, read_entry};
use crate::{Provider, keys::KMS_PROVIDER};

/// What the `security` block of a pod calls the credentials that are in its environment and in its files.
const CREDENTIALS: &str = "pod-environment";

/// The files that Rook mounts for KMIP, by the keys of the Secret that they come from.
const KMIP_FILES: [(&str, &str); 3] =
    [("CA_CERT", "ca.crt"), ("CLIENT_CERT", "client.crt"), ("CLIENT_KEY", "client.key")];

/// The KMS part of a pod's environment, turned back into the `security` block that it was made of.
///
/// It differs from that block where Rook does (spec 13.1): `VAULT_BACKEND_PATH` is always there, TLS settings are
/// paths of files, and the Secret with the credentials is this source itself, called `pod-environment`.
#[derive(Debug)]
pub struct PodEnvironment {
    security: SecuritySpec,
    credentials: Entries,
    kmip_mount: Option<PathBuf>,
    passed_over: Vec<String>,
}

impl PodEnvironment {
    /// Sorts an environment. `root` is the directory below which `etc/kmip` is: `/`, but for tests.
    ///
    /// Variables that have nothing to do with the KMS are left alone. So are those that Kubernetes adds for Services
    /// (`VAULT_PORT`, `VAULT_SERVICE_HOST` …), and those with the prefix of another provider than the one that
    /// `KMS_PROVIDER` names.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, root: &Path) -> Self {
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

        // `Provider::of` has the say about the value; a name that it refuses is handed on as it is.
        let mut details: Vec<(String, Zeroizing<String>)> =
            vec![(KMS_PROVIDER.to_owned(), Zeroizing::new(provider.to_owned()))];
        let alone = ConnectionDetails::from_iter([(KMS_PROVIDER, provider)]);
        let named = Provider::of(&SecuritySpec::new(KmsSpec::new(alone, ""))).ok();
        for (name, value) in pairs.iter().filter(|(name, _)| *name != KMS_PROVIDER && *name != prefixed) {
            let Some(name) = named.and_then(|provider| setting_name(provider, name)) else { continue };
            match credential(name) {
                Some(_) if value.trim().is_empty() => {}
                Some(key) => pod.credentials.insert(key, value.as_bytes().to_vec()),
                None if named.is_some_and(|provider| is_known(provider, name)) => {
                    details.push((name.to_owned(), Zeroizing::new((*value).to_owned())));
                }
                None if is_service_link(name) => {}
                None => pod.passed_over.push(name.to_owned()),
            }
        }
        if named == Some(Provider::Kmip) {
            pod.kmip_mount = Some(root.join("etc/kmip"));
        }
        let has_credentials = pod.kmip_mount.is_some() || !pod.credentials.is_empty();
        let token_secret_name = if has_credentials { CREDENTIALS } else { "" };
        let details = details.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pod.security =
            SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details), token_secret_name));
        pod
    }

    /// The `security` block.
    pub fn security(&self) -> &SecuritySpec {
        &self.security
    }

    /// The variables that look like settings of the provider, and are none: often a mistyped name.
    pub fn passed_over(&self) -> impl Iterator<Item = &str> {
        self.passed_over.iter().map(String::as_str)
    }
}

/// The settings without which a provider cannot work. If one of them is there and `KMS_PROVIDER` is not, somebody
/// has forgotten it: to keep keys in Kubernetes Secrets is not what they want.
fn without_provider(pairs: &[(&str, &str)]) -> ConnectionDetails {
    const SIGNS: [&str; 4] =
        ["AZURE_VAULT_URL", "IBM_KP_SERVICE_INSTANCE_ID", "KMIP_KMIP_ENDPOINT", "VAULT_ADDR"];
    pairs.iter().filter(|(name, _)| SIGNS.contains(name)).copied().collect()
}

/// The name of the setting that a variable stands for, if it has the provider's prefix. KMIP's is taken off once, as
/// Rook puts it on once (spec 13.2).
fn setting_name(provider: Provider, variable: &str) -> Option<&str> {
    match provider {
        Provider::AzureKeyVault => variable.starts_with("AZURE_").then_some(variable),
        Provider::IbmKeyProtect => variable.starts_with("IBM_").then_some(variable),
        Provider::Kmip => variable.strip_prefix("KMIP_"),
        Provider::KubernetesSecret => None,
        Provider::Vault => variable.starts_with("VAULT_").then_some(variable),
    }
}

/// The key in the Secret of credentials, for a variable that Rook fills from there.
fn credential(variable: &str) -> Option<&'static str> {
    match variable {
        "IBM_KP_SERVICE_API_KEY" => Some("IBM_KP_SERVICE_API_KEY"),
        "VAULT_TOKEN" => Some("token"),
        _ => None,
    }
}

fn is_known(provider: Provider, name: &str) -> bool {
    match provider {
        #[cfg(feature = "azure")]
        Provider::AzureKeyVault => kms_azure::AzureConfigKey::find(name).is_some(),
        #[cfg(feature = "ibmkp")]
        Provider::IbmKeyProtect => kms_ibmkp::IbmKpConfigKey::find(name).is_some(),
        #[cfg(feature = "kmip")]
        Provider::Kmip => kms_kmip::KmipConfigKey::find(name).is_some(),
        Provider::KubernetesSecret => false,
        #[cfg(feature = "vault")]
        Provider::Vault => kms_vault::VaultConfigKey::find(name).is_some(),
        // Nobody here knows its settings, and nobody will use them.
        #[cfg(not(feature = "azure"))]
        Provider::AzureKeyVault => !is_service_link(name),
        #[cfg(not(feature = "vault"))]
        Provider::Vault => !is_service_link(name),
        #[cfg(not(feature = "ibmkp"))]
        Provider::IbmKeyProtect => !is_service_link(name),
        #[cfg(not(feature = "kmip"))]
        Provider::Kmip => !is_service_link(name),
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
    // The prefix of KMIP may be off already, which leaves `PORT` and `SERVICE_HOST`.
    let name = format!("_{name}");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || numbered_port(&name)
}

#[async_trait]
impl SecretSource for PodEnvironment {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        if name != CREDENTIALS || self.security.kms.token_secret_name != CREDENTIALS {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("Secret {name:?} was not found in the environment of the pod"),
            ));
        }
        let mut secret = self.credentials.to_secret(CREDENTIALS);
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

    fn pod(pairs: &[(&str, &str)]) -> PodEnvironment {
        PodEnvironment::new(pairs.iter().copied(), Path::new("/nonexistent"))
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
        if Provider::Kmip.is_compiled() {
            assert_eq!(details(&pod), expected);
            assert_eq!(pod.passed_over().collect::<Vec<_>>(), ["READ_TIMEOUTS"]);
        } else {
            assert!(expected.iter().all(|setting| details(&pod).contains(setting)));
        }
    }

    #[tokio::test]
    async fn certificates_of_kmip_come_from_the_mount() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("etc/kmip");
        std::fs::create_dir_all(&mount).unwrap();
        let pairs = [("KMIP_KMS_PROVIDER", "kmip"), ("KMIP_KMIP_ENDPOINT", "kmip:5696")];
        let pod = PodEnvironment::new(pairs, root.path());
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
    fn a_provider_that_is_not_named_is_not_guessed() {
        let forgotten = pod(&[("VAULT_ADDR", "https://v"), ("VAULT_PORT", "x")]);
        assert!(Provider::of(forgotten.security()).is_err());
        // As the webhook of Azure's workload identity adds it to every pod, whatever is in it.
        let unrelated = pod(&[("AZURE_CLIENT_ID", "x"), ("AZURE_TENANT_ID", "x"), ("VAULT_PORT", "x")]);
        assert_eq!(Provider::of(unrelated.security()).unwrap(), Provider::KubernetesSecret);
        assert!(Provider::of(pod(&[("KMS_PROVIDER", "Vault")]).security()).is_err());
    }
}
