//! Which provider a `security` block names.

use std::fmt;

use kms_core::{Capability, Guarantee, Result, SecuritySpec};

use crate::Registry;

/// A provider that a `security` block can name, compiled in or not.
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
    /// A provider that the author of the program has [registered](Registry::with).
    Own {
        /// The value of `KMS_PROVIDER`.
        name: &'static str,
        /// What people call it.
        title: &'static str,
    },
    /// `vault`
    Vault,
}

impl Provider {
    /// Every provider of this workspace, in alphabetical order.
    pub const ALL: [Self; 5] =
        [Self::AzureKeyVault, Self::IbmKeyProtect, Self::Kmip, Self::KubernetesSecret, Self::Vault];

    /// Returns the provider that a `security` block names, as [`Registry::provider_of`] does for an empty registry.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::provider_of`].
    pub fn of(spec: &SecuritySpec) -> Result<Self> {
        Registry::new().provider_of(spec)
    }

    /// The value of `KMS_PROVIDER`; empty for Kubernetes Secrets.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "azure-kv",
            Self::IbmKeyProtect => "ibmkeyprotect",
            Self::Kmip => "kmip",
            Self::KubernetesSecret => "",
            Self::Own { name, .. } => name,
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
            Self::Own { title, .. } => title,
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
            Self::Own { .. } => "whatever its author has chosen",
            Self::Vault => "an entry of a KV mount (version 1 or 2) for each key",
        }
    }

    /// The Cargo feature that compiles it in; empty for a registered provider, which needs none.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::AzureKeyVault => "azure",
            Self::IbmKeyProtect => "ibmkp",
            Self::Kmip => "kmip",
            Self::KubernetesSecret => "k8s-secret",
            Self::Own { .. } => "",
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
            Self::Own { .. } => true,
            Self::Vault => cfg!(feature = "vault"),
        }
    }

    /// What the provider can do at best: for Vault with version 2 of KV, for KMIP with its identifiers in Kubernetes.
    /// `None` for a registered provider. The size of a KEK is not stated.
    ///
    /// It is stated here too because it is shown and decided on (`kms providers`, CronJobs) without a connection and in
    /// builds that lack the provider. What a provider can do with its present configuration is what
    /// [`KmsProvider::capability`](kms_core::KmsProvider::capability) says; a test compares the two.
    pub const fn capability(self) -> Option<Capability> {
        match self {
            Self::AzureKeyVault => Some(
                Capability::full().with_create(Guarantee::CheckThenAct).with_update(Guarantee::CheckThenAct),
            ),
            Self::IbmKeyProtect => Some(Capability::full().with_update(Guarantee::CheckThenAct)),
            Self::Kmip => Some(Capability::full().with_soft_delete(false).with_base64_only(true)),
            Self::KubernetesSecret => Some(Capability::full().with_soft_delete(false).with_versions(false)),
            Self::Own { .. } => None,
            Self::Vault => Some(Capability::full()),
        }
    }
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
