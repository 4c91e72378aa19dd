//! The index of a provider that uses one: identifiers in Kubernetes Secrets, as Rook keeps them (rook-behaviour §6.6).

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{IndexEntry, KeyIndex, KeyName, Result};
use kms_k8s_secret::{Identifier, IdentifierStore, Owner, connect};
use kms_kube::ClusterRef;

use crate::Options;

/// Makes the index that the options lead to; `None` unless they name the CephCluster and a way to its Kubernetes.
///
/// A cluster alone is not a way to Kubernetes: it may have been read from a file, far away from any.
pub(crate) async fn index(options: &Options) -> Result<Option<Arc<dyn KeyIndex>>> {
    let Some(cluster) = options.cluster() else { return Ok(None) };
    let connection = match options.kube_connection() {
        Some(connection) => connection.clone(),
        None if options.names_kubernetes() => connect(options.kube_options()).await?,
        None => return Ok(None),
    };
    let ClusterRef { kube_namespace, name, uid, .. } = cluster;
    let mut store = IdentifierStore::new(connection, kube_namespace)?;
    if let Some(uid) = uid {
        store = store.with_owner(Owner::new(name, uid));
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
