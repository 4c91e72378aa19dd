//! Kubernetes Secrets, from the options.

use std::sync::Arc;

use kms_core::{
    Error, KmsProvider, Result,
    layer::{self, LayerOptions},
};
use kms_k8s_secret::KubernetesSecretBuilder;

use crate::Options;

/// The provider with its layers. The namespace has to be known: that of a kubeconfig's context is seldom the one of
/// the cluster, and keys that are stored elsewhere are not found when a disk is to be opened.
pub(crate) async fn connect(options: &Options) -> Result<Arc<dyn KmsProvider>> {
    let Some(cluster) = options.cluster() else {
        return Err(Error::config(
            "keys are in Kubernetes Secrets, and the namespace of the CephCluster is not known: give the cluster, or \
             a CephCluster with metadata.namespace and metadata.name",
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
