//! Identifiers of KMIP objects in Kubernetes Secrets, as Rook keeps them (spec 6.6).

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{KeyName, Result};
use kms_k8s_secret::{Identifier, IdentifierStore};
use kms_kmip::{IndexEntry, KeyIndex};
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
    Ok(Some(Arc::new(SecretIndex(store))))
}

/// What the KMIP provider sees of Kubernetes.
#[derive(Debug)]
struct SecretIndex(IdentifierStore);

fn entry(identifier: Identifier) -> IndexEntry {
    let Identifier { mut text, version, .. } = identifier;
    IndexEntry::new(std::mem::take(&mut *text), version)
}

#[async_trait]
impl KeyIndex for SecretIndex {
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        Ok(self.0.get(name).await?.map(entry))
    }

    async fn create(&self, name: &KeyName, uid: &str) -> Result<String> {
        self.0.create(name, uid).await
    }

    async fn swap(&self, name: &KeyName, version: &str, uid: &str) -> Result<String> {
        self.0.swap(name, version, uid).await
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        self.0.delete(name, version).await
    }

    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        let listed = self.0.list().await?;
        Ok(listed.into_iter().map(|(name, identifier)| (name, entry(identifier))).collect())
    }
}
