//! The registry of the providers that a `security` block can name: the providers of this workspace and further ones.

use std::{collections::BTreeMap, fmt, sync::Arc};

use kms_core::{Error, ProviderBuilder, Result, SecuritySpec, config::nearest};

#[cfg(feature = "k8s-secret")]
use crate::kubernetes::KubernetesSecrets;
use crate::{
    connector::{ByBuilder, Connector, KMS_PROVIDER},
    provider::Provider,
};

/// The providers of this workspace that are compiled in.
const COMPILED: &[(Provider, &dyn Connector)] = &[
    #[cfg(feature = "azure")]
    (Provider::AzureKeyVault, &ByBuilder::<kms_azure::AzureKeyVaultBuilder>::NEW),
    #[cfg(feature = "ibmkp")]
    (Provider::IbmKeyProtect, &ByBuilder::<kms_ibmkp::IbmKeyProtectBuilder>::NEW),
    #[cfg(feature = "k8s-secret")]
    (Provider::KubernetesSecret, &KubernetesSecrets),
    #[cfg(feature = "kmip")]
    (Provider::Kmip, &ByBuilder::<kms_kmip::KmipBuilder>::NEW),
    #[cfg(feature = "vault")]
    (Provider::Vault, &ByBuilder::<kms_vault::VaultBuilder>::NEW),
];

/// A set of providers: the providers of this workspace, and further ones that a program adds.
///
/// A `security` block names an added provider in `KMS_PROVIDER`, like any other:
///
/// ```
/// # fn build<DirectoryBuilder: kms_core::ProviderBuilder>() -> kms_core::Result<()> {
/// use kms_dispatch::{Options, Registry};
///
/// let registry = Registry::new().with::<DirectoryBuilder>("directory")?;
/// let options = Options::default().with_registry(registry);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    own: BTreeMap<&'static str, (Provider, Arc<dyn Connector>)>,
}

impl Registry {
    /// Makes a registry of the providers of this workspace alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider. `name` is its value of `KMS_PROVIDER`.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the name is empty, has white space around it, or is already the name of a provider.
    pub fn with<B: ProviderBuilder>(mut self, name: &'static str) -> Result<Self> {
        if name.is_empty() || name.trim() != name {
            return Err(Error::config(format!("{name:?} cannot be a value of {KMS_PROVIDER}")));
        }
        if is_kubernetes(name) || self.names().any(|taken| taken == name) {
            return Err(Error::config(format!("the provider {name:?} is registered already")));
        }
        let provider = Provider::Own { name, title: B::TITLE };
        self.own.insert(name, (provider, Arc::new(ByBuilder::<B>::NEW)));
        Ok(self)
    }

    /// Returns the provider that a `security` block names (rook-behaviour §1.3). White space around the name is
    /// ignored; its case counts.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the block names no provider, or an unknown one; the error lists the known providers.
    /// Rook treats an unknown name as a KMS in which every put succeeds and stores nothing.
    pub fn provider_of(&self, spec: &SecuritySpec) -> Result<Provider> {
        let details = &spec.kms.connection_details;
        if details.is_empty() {
            return Ok(Provider::KubernetesSecret);
        }
        let known = || format!("known are: {}", self.names().collect::<Vec<_>>().join(", "));
        match details.get(KMS_PROVIDER).map(str::trim) {
            Some("") => Err(Error::config(format!("{KMS_PROVIDER} is empty; {}", known()))),
            Some(name) => self.named(name).ok_or_else(|| {
                if is_kubernetes(name) {
                    return Error::config(format!(
                        "{KMS_PROVIDER} cannot name Kubernetes Secrets: they are used when connectionDetails is \
                         empty, so leave it out"
                    ));
                }
                let near = nearest(name, self.names());
                let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                Error::config(format!("{KMS_PROVIDER} is not a known provider{near} ({})", known()))
            }),
            None => {
                let near = details.iter().any(|(key, _)| nearest(key, [KMS_PROVIDER]).is_some());
                let near = if near { ", only a name that is like it" } else { "" };
                // A block in a file and the environment of a pod end up here alike.
                Err(Error::config(format!(
                    "there are settings of a KMS, but no {KMS_PROVIDER}{near}; set it to one of these: {}",
                    self.names().collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    /// Whether a provider has a setting or an alias of this name. `None` if this build does not know the provider's
    /// settings.
    ///
    /// `provider` is a value of `KMS_PROVIDER`.
    pub fn is_setting(&self, provider: &str, name: &str) -> Option<bool> {
        self.connector(self.named(provider)?)?.is_setting(name)
    }

    /// The connector of a provider; `None` if the provider is not compiled in.
    pub(crate) fn connector(&self, provider: Provider) -> Option<&dyn Connector> {
        match provider {
            Provider::Own { name, .. } => self.own.get(name).map(|(_, connector)| &**connector),
            _ => COMPILED.iter().find(|(compiled, _)| *compiled == provider).map(|(_, connector)| *connector),
        }
    }

    fn named(&self, name: &str) -> Option<Provider> {
        let ours = Provider::ALL.into_iter().find(|provider| provider.as_str() == name && !name.is_empty());
        ours.or_else(|| self.own.get(name).map(|(provider, _)| *provider))
    }

    /// The values of `KMS_PROVIDER`.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let ours = Provider::ALL.into_iter().map(Provider::as_str).filter(|name| !name.is_empty());
        ours.chain(self.own.keys().copied())
    }
}

impl Provider {
    /// Returns the provider that a `security` block names, as [`Registry::provider_of`] does for an empty registry.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::provider_of`].
    pub fn of(spec: &SecuritySpec) -> Result<Self> {
        Registry::new().provider_of(spec)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.own.keys()).finish()
    }
}

/// Whether a name looks like Kubernetes Secrets, which have no value of `KMS_PROVIDER`.
fn is_kubernetes(name: &str) -> bool {
    matches!(&*name.to_ascii_lowercase(), "k8s" | "kubernetes")
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
                "there are settings of a KMS, but no KMS_PROVIDER; \
                 set it to one of these: azure-kv, ibmkeyprotect, kmip, vault",
            ),
            (
                &[("KMS_PROVIDR", "vault")],
                "there are settings of a KMS, but no KMS_PROVIDER, only a name that is like it; \
                 set it to one of these: azure-kv, ibmkeyprotect, kmip, vault",
            ),
        ] {
            let error = of(details).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert_eq!(error.to_string(), message);
        }
    }
}
