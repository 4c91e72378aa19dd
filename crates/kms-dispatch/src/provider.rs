//! Which provider a `security` block names.

use std::fmt;

use kms_core::{Capability, Error, Guarantee, Result, SecuritySpec, config::nearest};

use crate::keys::KMS_PROVIDER;

/// A provider that a `security` block can name, whether or not it is compiled in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Provider {
    /// `azure-kv`
    AzureKeyVault,
    /// `ibmkeyprotect`
    IbmKeyProtect,
    /// `kmip`
    Kmip,
    /// No `connectionDetails` at all.
    KubernetesSecret,
    /// `vault`
    Vault,
}

impl Provider {
    /// Every provider, in alphabetical order.
    pub const ALL: [Self; 5] =
        [Self::AzureKeyVault, Self::IbmKeyProtect, Self::Kmip, Self::KubernetesSecret, Self::Vault];

    /// The provider that a `security` block names (spec 1.3). Its value is trimmed, its case counts.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if it names none, or one that nobody knows; the error lists those that are known.
    /// Rook takes an unknown name for a KMS in which every put succeeds and nothing is stored.
    pub fn of(spec: &SecuritySpec) -> Result<Self> {
        let details = &spec.kms.connection_details;
        if details.is_empty() {
            return Ok(Self::KubernetesSecret);
        }
        match details.get(KMS_PROVIDER).map(str::trim) {
            Some("azure-kv") => Ok(Self::AzureKeyVault),
            Some("ibmkeyprotect") => Ok(Self::IbmKeyProtect),
            Some("kmip") => Ok(Self::Kmip),
            Some("vault") => Ok(Self::Vault),
            Some(name) if matches!(&*name.to_ascii_lowercase(), "k8s" | "kubernetes") => {
                Err(Error::config(format!(
                    "{KMS_PROVIDER} cannot name Kubernetes Secrets: they are used when connectionDetails is \
                     empty, so leave it out"
                )))
            }
            Some("") => Err(Error::config(format!("{KMS_PROVIDER} is empty; {}", known()))),
            Some(name) => {
                let near = nearest(name, Self::names());
                let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                Err(Error::config(format!("{KMS_PROVIDER} is not a known provider{near} ({})", known())))
            }
            None => {
                let near = details.iter().any(|(key, _)| nearest(key, [KMS_PROVIDER]).is_some());
                let near = if near { ", only a name that is like it" } else { "" };
                Err(Error::config(format!(
                    "connectionDetails has settings, but no {KMS_PROVIDER}{near}; {}",
                    known()
                )))
            }
        }
    }

    /// The value of `KMS_PROVIDER`; empty for Kubernetes Secrets.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "azure-kv",
            Self::IbmKeyProtect => "ibmkeyprotect",
            Self::Kmip => "kmip",
            Self::KubernetesSecret => "",
            Self::Vault => "vault",
        }
    }

    /// What people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "Azure Key Vault",
            Self::IbmKeyProtect => "IBM Key Protect",
            Self::Kmip => "KMIP",
            Self::KubernetesSecret => "Kubernetes Secret",
            Self::Vault => "HashiCorp Vault, OpenBao",
        }
    }

    /// What it keeps and how.
    pub const fn description(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "a secret for each key",
            Self::IbmKeyProtect => "an imported standard key with an alias for each key",
            Self::Kmip => "a managed object for each key, and a Secret that has its identifier",
            Self::KubernetesSecret => "a Secret for each key, in the namespace of the cluster",
            Self::Vault => "an entry of a KV mount (version 1 or 2) for each key",
        }
    }

    /// The Cargo feature that compiles it in.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "azure",
            Self::IbmKeyProtect => "ibmkp",
            Self::Kmip => "kmip",
            Self::KubernetesSecret => "k8s-secret",
            Self::Vault => "vault",
        }
    }

    /// Whether this build has it.
    pub const fn is_compiled(self) -> bool {
        match self {
            Self::AzureKeyVault => cfg!(feature = "azure"),
            Self::IbmKeyProtect => cfg!(feature = "ibmkp"),
            Self::Kmip => cfg!(feature = "kmip"),
            Self::KubernetesSecret => cfg!(feature = "k8s-secret"),
            Self::Vault => cfg!(feature = "vault"),
        }
    }

    /// What it can do at best, if it is known: for Vault that is with version 2 of KV, for KMIP with
    /// its identifiers in Kubernetes. What it can do with its present
    /// configuration is what [`KmsProvider::capability`](kms_core::KmsProvider::capability) says.
    pub const fn capability(self) -> Option<Capability> {
        match self {
            Self::AzureKeyVault => Some(
                Capability::full().with_create(Guarantee::CheckThenAct).with_update(Guarantee::CheckThenAct),
            ),
            Self::IbmKeyProtect => Some(Capability::full().with_update(Guarantee::CheckThenAct)),
            Self::Kmip => Some(Capability::full().with_soft_delete(false).with_base64_only(true)),
            Self::KubernetesSecret => Some(Capability::full().with_soft_delete(false).with_versions(false)),
            Self::Vault => Some(Capability::full()),
        }
    }

    /// The values of `KMS_PROVIDER`.
    fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::as_str).filter(|name| !name.is_empty())
    }
}

fn known() -> String {
    format!("known are: {}", Provider::names().collect::<Vec<_>>().join(", "))
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{ConnectionDetails, ErrorKind, KmsSpec};

    use super::*;

    fn of(details: &[(&str, &str)]) -> Result<Provider> {
        let details = ConnectionDetails::from_iter(details.iter().copied());
        Provider::of(&SecuritySpec::new(KmsSpec::new(details, "")))
    }

    #[test]
    fn every_name_leads_to_its_provider_trimmed() {
        for provider in Provider::ALL.into_iter().filter(|provider| !provider.as_str().is_empty()) {
            assert_eq!(of(&[("KMS_PROVIDER", provider.as_str())]).unwrap(), provider);
            let padded = format!(" {}\n", provider.as_str());
            assert_eq!(of(&[("KMS_PROVIDER", &padded)]).unwrap(), provider);
        }
        assert_eq!(of(&[]).unwrap(), Provider::KubernetesSecret);
        assert!(Provider::ALL.is_sorted());
    }

    #[test]
    fn other_names_are_refused_and_never_repeated() {
        for (details, message) in [
            (
                &[("KMS_PROVIDER", "Vault")][..],
                "KMS_PROVIDER is not a known provider; did you mean vault? \
                 (known are: azure-kv, ibmkeyprotect, kmip, vault)",
            ),
            (
                &[("KMS_PROVIDER", "canary-canary")],
                "KMS_PROVIDER is not a known provider (known are: azure-kv, ibmkeyprotect, kmip, vault)",
            ),
            (
                &[("KMS_PROVIDER", " ")],
                "KMS_PROVIDER is empty; known are: azure-kv, ibmkeyprotect, kmip, vault",
            ),
            (
                &[("KMS_PROVIDER", "Kubernetes")],
                "KMS_PROVIDER cannot name Kubernetes Secrets: they are used when connectionDetails is empty, \
                 so leave it out",
            ),
            (
                &[("VAULT_ADDR", "https://canary")],
                "connectionDetails has settings, but no KMS_PROVIDER; \
                 known are: azure-kv, ibmkeyprotect, kmip, vault",
            ),
            (
                &[("KMS_PROVIDR", "vault")],
                "connectionDetails has settings, but no KMS_PROVIDER, only a name that is like it; \
                 known are: azure-kv, ibmkeyprotect, kmip, vault",
            ),
        ] {
            let error = of(details).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert_eq!(error.to_string(), message);
        }
    }
}
