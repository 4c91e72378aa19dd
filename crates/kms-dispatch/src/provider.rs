//! The list of providers, and the facts about each without a connection.

use std::fmt;

use kms_core::{
    Capability, Guarantee,
    config::{Setting, Stricter},
};

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
    /// A provider that the author of the program has [registered](crate::Registry::with).
    Own {
        /// The value of `KMS_PROVIDER`.
        name: &'static str,
        /// The usual name of the KMS.
        title: &'static str,
    },
    /// `vault`
    Vault,
}

impl Provider {
    /// Every provider of this workspace, in alphabetical order.
    pub const ALL: [Self; 5] =
        [Self::AzureKeyVault, Self::IbmKeyProtect, Self::Kmip, Self::KubernetesSecret, Self::Vault];

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

    /// The usual name of the KMS.
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

    /// What the provider stores, and how.
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

    /// The Cargo feature that compiles the provider in; empty for a registered provider, which needs no feature.
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

    /// Whether this build has the provider.
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

    /// The settings of the provider. `None` if this build does not know them.
    pub fn settings(self) -> Option<Vec<Setting>> {
        match self {
            #[cfg(feature = "azure")]
            Self::AzureKeyVault => Some(Setting::all::<kms_azure::AzureConfigKey>()),
            #[cfg(feature = "ibmkp")]
            Self::IbmKeyProtect => Some(Setting::all::<kms_ibmkp::IbmKpConfigKey>()),
            #[cfg(feature = "kmip")]
            Self::Kmip => Some(Setting::all::<kms_kmip::KmipConfigKey>()),
            Self::KubernetesSecret => Some(Vec::new()),
            #[cfg(feature = "vault")]
            Self::Vault => Some(Setting::all::<kms_vault::VaultConfigKey>()),
            _ => None,
        }
    }

    /// What the provider refuses and Rook takes. `None` if this build does not know the provider's settings.
    ///
    /// [`SecuritySpec::STRICTER`](kms_core::SecuritySpec::STRICTER) has what every provider refuses.
    pub fn stricter(self) -> Option<Vec<Stricter>> {
        let own = match self {
            #[cfg(feature = "azure")]
            Self::AzureKeyVault => kms_azure::STRICTER,
            #[cfg(feature = "ibmkp")]
            Self::IbmKeyProtect => kms_ibmkp::STRICTER,
            #[cfg(feature = "kmip")]
            Self::Kmip => kms_kmip::STRICTER,
            Self::KubernetesSecret => &[],
            #[cfg(feature = "vault")]
            Self::Vault => kms_vault::STRICTER,
            _ => return None,
        };
        let refused = self.settings()?.into_iter().filter_map(|setting| setting.stricter());
        Some(own.iter().copied().chain(refused).collect())
    }

    /// The best capability of the provider: for Vault with version 2 of KV, for KMIP with its identifiers in
    /// Kubernetes. `None` for a registered provider. It does not state the largest size of a KEK.
    ///
    /// `kms providers` and the CronJobs need it without a connection and in builds that lack the provider.
    /// [`KmsProvider::capability`](kms_core::KmsProvider::capability) is the capability with the present configuration;
    /// a test compares the two.
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
