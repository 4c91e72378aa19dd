//! The index of a provider that uses one: identifiers in Kubernetes Secrets, as Rook keeps them (rook-behaviour §6.6).

use std::sync::Arc;

use kms_core::{KeyIndex, Result};
use kms_k8s_secret::IdentifierStore;
use kms_kube::connect;

use crate::provider_options::ProviderOptions;

/// Makes the index that the options lead to; `None` unless they name the CephCluster and a way to its Kubernetes.
///
/// A cluster alone is not a way to Kubernetes: it may have been read from a file, far away from any.
pub(crate) async fn index(options: &ProviderOptions) -> Result<Option<Arc<dyn KeyIndex>>> {
    let Some(cluster) = options.cluster() else { return Ok(None) };
    let connection = match options.kube_connection() {
        Some(connection) => connection.clone(),
        None if options.names_kubernetes() => connect(options.kube_options()).await?,
        None => return Ok(None),
    };
    let mut store = IdentifierStore::new(connection, &cluster.kube_namespace)?;
    if let Some(owner) = cluster.owner() {
        store = store.with_owner(owner);
    }
    Ok(Some(Arc::new(store)))
}
