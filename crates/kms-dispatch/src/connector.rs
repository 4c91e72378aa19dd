//! The steps from a `security` block to a provider, the same for every provider.

use std::{fmt, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use kms_core::{
    KmsProvider, ProviderBuilder, Result, SecretSource, SecuritySpec,
    config::{ConfigKey, Problems, Settings},
};

#[cfg(feature = "k8s-secret")]
use crate::index::index;
use crate::provider_options::ProviderOptions;

/// The entry of `connectionDetails` that names the provider. It is not a setting of any provider.
pub(crate) const KMS_PROVIDER: &str = "KMS_PROVIDER";

/// Checks and connects one provider.
#[async_trait]
pub(crate) trait Connector: fmt::Debug + Send + Sync {
    /// Whether the provider has a setting or an alias of this name; `None` if the provider has no settings.
    fn is_setting(&self, name: &str) -> Option<bool>;

    /// Checks the names of the settings that are not strings. A builder never sees these settings, since they have no
    /// value, so this reports misspelt names.
    fn check_names(&self, spec: &SecuritySpec, problems: &mut Problems);

    /// Checks the settings without I/O.
    fn check(&self, spec: &SecuritySpec, options: &ProviderOptions, problems: &mut Problems);

    /// Builds the provider in the standard layers. `problems` has the problems of the block itself.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with `problems` and the problems of the settings; the errors of `secrets`.
    async fn connect(
        &self,
        spec: &SecuritySpec,
        secrets: &dyn SecretSource,
        options: &ProviderOptions,
        problems: Problems,
    ) -> Result<Arc<dyn KmsProvider>>;
}

/// Connects a provider by its builder.
pub(crate) struct ByBuilder<B>(PhantomData<fn() -> B>);

impl<B: ProviderBuilder> ByBuilder<B> {
    pub(crate) const NEW: Self = Self(PhantomData);

    fn builder(spec: &SecuritySpec, options: &ProviderOptions) -> B {
        let builder = B::new()
            .with_details(&spec.kms.connection_details)
            .with_environment(options.environment())
            .with_token_secret(spec.kms.token_secret_name.trim())
            .with_allow_http(options.allow_http())
            .with_token_lookup(options.token_lookup());
        let builder = match &options.account_token {
            Some(token) => builder.with_account_token(token),
            None => builder,
        };
        match options.cluster() {
            Some(cluster) => builder.with_cluster(format!("{}/{}", cluster.kube_namespace, cluster.name)),
            None => builder,
        }
    }
}

impl<B> fmt::Debug for ByBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<B>())
    }
}

#[async_trait]
impl<B: ProviderBuilder> Connector for ByBuilder<B> {
    fn is_setting(&self, name: &str) -> Option<bool> {
        Some(B::Key::find(name).is_some())
    }

    fn check_names(&self, spec: &SecuritySpec, problems: &mut Problems) {
        for name in spec.kms.connection_details.not_text().filter(|name| *name != KMS_PROVIDER) {
            let _known = Settings::<B::Key>::key_of(name, &[KMS_PROVIDER], problems);
        }
    }

    fn check(&self, spec: &SecuritySpec, options: &ProviderOptions, problems: &mut Problems) {
        Self::builder(spec, options).check(problems);
    }

    async fn connect(
        &self,
        spec: &SecuritySpec,
        secrets: &dyn SecretSource,
        options: &ProviderOptions,
        problems: Problems,
    ) -> Result<Arc<dyn KmsProvider>> {
        let mut builder = Self::builder(spec, options);
        if B::USES_INDEX
            && let Some(index) = index(options).await?
        {
            builder = builder.with_index(index);
        }
        builder.connect(secrets, problems, |limits| options.limits(limits)).await
    }
}

/// Makes no index, since this build has no support for Kubernetes.
#[cfg(not(feature = "k8s-secret"))]
async fn index(_options: &ProviderOptions) -> Result<Option<Arc<dyn kms_core::KeyIndex>>> {
    Ok(None)
}
