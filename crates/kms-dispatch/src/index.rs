//! Makes the index of a provider that uses one. Its identifiers are in Kubernetes Secrets, as in Rook
//! (rook-behaviour §6.6).

use std::sync::Arc;

use kms_core::{KeyIndex, Result};
use kms_k8s_secret::IdentifierStore;
use kms_kube::connect;

use crate::provider_options::ProviderOptions;

/// Makes the index; `None` unless the options have the CephCluster and a way to its Kubernetes.
///
/// A CephCluster alone is not enough: it may come from a file on a machine without access to Kubernetes.
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
