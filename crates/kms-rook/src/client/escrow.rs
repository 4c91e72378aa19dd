//! Records escrows at the CephCluster, so that the operator sees which keys are in one. The record holds no key material.

use kms_core::Result;
use kms_kube::Objects;
use serde_json::json;

use super::{RookNamespace, switch::CephClusterResource};
use crate::names::ESCROWED_AT;

impl RookNamespace {
    /// Records at a CephCluster when an escrow of all its keys was made, in RFC 3339. An earlier record is replaced.
    ///
    /// The call changes the metadata of the CephCluster and not its spec, so Rook does nothing.
    ///
    /// # Errors
    ///
    /// `NotFound` if the CephCluster is absent; `PermissionDenied` if the account may not patch it; otherwise errors of the
    /// connection.
    pub async fn record_escrow(&self, cluster: &str, made: &str) -> Result<()> {
        let objects: Objects<CephClusterResource> = self.objects()?;
        let change = json!({"metadata": {"annotations": {ESCROWED_AT: made}}});
        self.retry("record the escrow", || objects.merge(cluster, &change)).await
    }
}
