//! Connects to Kubernetes Secrets, the provider of a block without settings.

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{
    Error, KmsProvider, Result, SecretSource, SecuritySpec,
    config::Problems,
    layer::{self, LayerOptions},
};
use kms_k8s_secret::KubernetesSecretBuilder;

use crate::{connector::Connector, provider_options::ProviderOptions};

/// Connects to Kubernetes Secrets, at the place that the caller's options name.
#[derive(Debug)]
pub(crate) struct KubernetesSecrets;

#[async_trait]
impl Connector for KubernetesSecrets {
    fn is_setting(&self, _name: &str) -> Option<bool> {
        None
    }

    fn check_names(&self, _spec: &SecuritySpec, _problems: &mut Problems) {}

    fn check(&self, _spec: &SecuritySpec, _options: &ProviderOptions, _problems: &mut Problems) {}

    /// Connects only if the namespace is set. The namespace of a kubeconfig's context is seldom that of the cluster,
    /// and Rook does not find a key in another namespace when it opens the disk.
    async fn connect(
        &self,
        _spec: &SecuritySpec,
        _secrets: &dyn SecretSource,
        options: &ProviderOptions,
        problems: Problems,
    ) -> Result<Arc<dyn KmsProvider>> {
        problems.into_result()?;
        let Some(cluster) = options.cluster() else {
            return Err(Error::config(
                "the settings name no KMS (KMS_PROVIDER), so the keys are Kubernetes Secrets, and the namespace of the \
                 CephCluster is not known: give the cluster, or a CephCluster with metadata.namespace and metadata.name",
            ));
        };
        let mut builder = KubernetesSecretBuilder::new().with_kube_namespace(&cluster.kube_namespace);
        builder = match options.kube_connection() {
            Some(connection) => builder.with_client(connection.clone()),
            None => builder.with_options(options.kube_options()),
        };
        if let Some(owner) = cluster.owner() {
            builder = builder.with_owner(owner);
        }
        let provider = builder.build().await?;
        Ok(layer::standard(Arc::new(provider), &options.limits(LayerOptions::default())))
    }
}
