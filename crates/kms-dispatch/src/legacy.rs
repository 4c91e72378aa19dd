//! Builders that have not moved to [`kms_core::ProviderBuilder`] yet.

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{
    KmsProvider, Result, SecretSource, SecuritySpec,
    config::{ConfigKey, Problems, Settings},
    layer::{self, LayerOptions},
};

use crate::{
    Options,
    connector::{Connector, KMS_PROVIDER},
};

macro_rules! legacy {
    ($feature:literal, $Name:ident, $Key:ty, $builder:ident) => {
        #[cfg(feature = $feature)]
        #[derive(Debug)]
        pub(crate) struct $Name;

        #[cfg(feature = $feature)]
        #[async_trait]
        impl Connector for $Name {
            fn is_setting(&self, name: &str) -> Option<bool> {
                Some(<$Key>::find(name).is_some())
            }

            fn check_names(&self, spec: &SecuritySpec, problems: &mut Problems) {
                let names = spec.kms.connection_details.not_text().map(|name| (name, ""));
                let _no_values = Settings::<$Key>::from_pairs(names, &[KMS_PROVIDER], problems);
            }

            fn check(&self, spec: &SecuritySpec, options: &Options, problems: &mut Problems) {
                $builder(spec, options).check(problems);
            }

            async fn connect(
                &self,
                spec: &SecuritySpec,
                secrets: &dyn SecretSource,
                options: &Options,
                problems: Problems,
            ) -> Result<Arc<dyn KmsProvider>> {
                let builder = $builder(spec, options);
                let provider = builder.build_noting(secrets, problems).await?;
                let limits = options.limits(provider.layer_options(LayerOptions::default()));
                Ok(layer::standard(Arc::new(provider), &limits))
            }
        }
    };
}

legacy!("ibmkp", IbmKp, kms_ibmkp::IbmKpConfigKey, ibmkp);
legacy!("vault", Vault, kms_vault::VaultConfigKey, vault);

#[cfg(feature = "ibmkp")]
fn ibmkp(spec: &SecuritySpec, options: &Options) -> kms_ibmkp::IbmKeyProtectBuilder {
    let builder = kms_ibmkp::IbmKeyProtectBuilder::new()
        .with_details(&spec.kms.connection_details)
        .with_environment(options.environment())
        .with_token_secret(spec.kms.token_secret_name.trim())
        .with_allow_http(options.allow_http());
    match options.cluster() {
        Some(cluster) => builder.with_cluster(format!("{}/{}", cluster.kube_namespace, cluster.name)),
        None => builder,
    }
}

#[cfg(feature = "vault")]
fn vault(spec: &SecuritySpec, options: &Options) -> kms_vault::VaultBuilder {
    kms_vault::VaultBuilder::new()
        .with_details(&spec.kms.connection_details)
        .with_environment(options.environment())
        .with_token_secret(spec.kms.token_secret_name.trim())
        .with_allow_http(options.allow_http())
}
