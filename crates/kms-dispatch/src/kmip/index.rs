//! Identifiers of KMIP objects in Kubernetes Secrets, as Rook keeps them (rook-behaviour §6.6).

use std::sync::Arc;

use kms_core::{KeyIndex, Result};
use kms_k8s_secret::IdentifierStore;
use kms_kube::connect;

use crate::Options;

/// The index that the options lead to: if they name the CephCluster, and a way to its Kubernetes.
///
/// A cluster alone is no such way: it may have been read from a file, far away from any Kubernetes.
pub(super) async fn of(options: &Options) -> Result<Option<Arc<dyn KeyIndex>>> {
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
